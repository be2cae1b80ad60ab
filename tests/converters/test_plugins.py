"""Sources that other packages add by entry points."""

import json
import subprocess
import sys

import conftest
import pytest

import converters
from converters import sources
from converters.sources import plugins
from vtabjax.specs import SpecError
from vtabjax.sweep import artefacts

_LAB = """
import fnmatch
import torch
from torch import nn
from vtabjax.specs import SpecError


def names(spec):
    return fnmatch.filter(["small", "large"], spec.name)


def check(spec):
    if spec.name == "odd":
        raise TypeError("of two\\nlines")
    if spec.name not in names(spec._replace(name="*")):
        raise SpecError(f"model {str(spec)!r}: lab has small and large")


def describe(spec):
    known = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    return {} if spec.name == "large" else known


def parameters(spec):
    return 12


def build(spec, input_size):
    torch.manual_seed(0)
    size = input_size or 16
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), {**describe(spec), "input_size": [3, size, size]}
"""


def install(folder, package, version="1.0", **points):
    """What pip leaves of a package with such entry points."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[vtabjax.sources]\n{lines}")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder for packages, with one that adds the source `lab`."""
    (tmp_path / "lab_models.py").write_text(_LAB)
    install(tmp_path, "lab-models", lab="lab_models")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plugins.found.cache_clear()
    yield tmp_path
    plugins.found.cache_clear()
    sys.modules.pop("lab_models", None)


def test_an_added_source_is_one_like_the_others(site, tmp_path):
    assert sources.list_models("lab/*") == ["lab/large", "lab/small"]
    assert "lab/small" in sources.list_models("*/small")
    assert sources.check("lab/small").source == "lab" and sources.parameters("lab/small") == 12
    info = sources.describe("lab/small")
    assert info["license"] is None and info["spec"] == "lab/small"  # what it does not say is unknown
    info = json.loads((converters.convert("lab/small", tmp_path / "out") / "model.json").read_text())
    assert info["num_features"] == 4 * 16 * 16 and info["source"] == "lab"
    with pytest.raises(SpecError, match="there is no source 'labs'; did you mean lab"):
        sources.check("labs/small")


def test_the_command_lists_it(site):
    command = [sys.executable, "-m", "converters", "list", "lab/sm*"]
    process = subprocess.run(command, cwd=conftest.ROOT, text=True, capture_output=True, timeout=300)
    assert process.returncode == 0 and process.stdout.split()[:2] == ["lab/small", "16x16"], process.stderr


@pytest.mark.parametrize(
    "value, message",
    [
        ("nowhere_at_all", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("lab_models:names", "lacks names, check, describe, parameters, build"),
        ("raises_at_import", "cannot be loaded: ZeroDivisionError"),
    ],
)
def test_one_that_is_broken_breaks_nothing_else(site, caplog, value, message):
    (site / "raises_at_import.py").write_text("1 / 0\n")
    install(site, "broken-models", "2.0", broken=value)
    plugins.found.cache_clear()
    assert sources.list_models("*/small") == ["lab/small"]
    (record,) = [r for r in caplog.records if "broken-models 2.0" in r.getMessage()]
    assert "\n" not in record.getMessage()
    assert sources.list_models("timm/resnet18@random") == ["timm/resnet18@random"]
    with pytest.raises(SpecError, match=f"the source 'broken' of the package broken-models 2.0 ({message})"):
        sources.check("broken/any")


def test_what_its_functions_raise_is_one_line(site):
    with pytest.raises(
        SpecError, match="'lab/odd': the source 'lab' of the package lab-models 1.0 failed in check"
    ) as e:
        sources.check("lab/odd")
    assert str(e.value).endswith("TypeError: of two lines")
    with pytest.raises(SpecError, match="describes a model without input_size, mean, std"):
        sources.describe("lab/large")


def test_names_of_the_projects_own_are_not_taken(site, caplog):
    install(site, "shadow", timm="lab_models", **{"a/b": "lab_models"})
    plugins.found.cache_clear()
    assert sources.list_models("timm/resnet18") == ["timm/resnet18"]
    sources.list_models("*/small")
    said = [r.getMessage() for r in caplog.records]
    assert (
        "the source 'timm' of the package shadow 1.0 is not taken: the name belongs to a source of vtabjax itself"
        in said
    )
    assert any("'a/b'" in text and "letters, digits" in text for text in said)


def test_two_packages_with_one_name(site):
    install(site, "other-lab", lab="lab_models:other")
    plugins.found.cache_clear()
    with pytest.raises(SpecError, match="added by lab-models 1.0, other-lab 1.0, and none is taken"):
        sources.check("lab/small")


def test_patterns_are_looked_up_again_when_a_package_changes(site, tmp_path, monkeypatch):
    asked = []

    def ask(arguments):
        asked.append(arguments)
        return [{"spec": "lab/small"}]

    monkeypatch.setattr(artefacts, "ask", ask)
    cache = tmp_path / "patterns.json"
    for _ in range(2):
        assert artefacts.expand(["lab/*"], cache) == ["lab/small"]
    assert len(asked) == 1
    install(site, "more-models", "3.1", more="lab_models")
    artefacts.expand(["lab/*"], cache)
    assert len(asked) == 2
