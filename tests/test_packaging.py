"""The package: what it depends on, what is in it, how it says what is missing, by which name its messages call it."""

import ast
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib

import conftest
import pytest

from vtabjax import installation
from vtabjax.sweep import runner

PROJECT = tomllib.loads((conftest.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements):
    """Names of distributions, as the index writes them."""
    return {re.match(r"[\w.-]+", r)[0].lower().replace("_", "-") for r in requirements}


def same(requirement):
    return requirement.replace('"', "'").replace(" ", "")


def test_requirements_txt_is_the_whole_set():
    text = (conftest.ROOT / "requirements.txt").read_text(encoding="utf-8")
    listed = [same(line) for line in text.splitlines() if line and not line.startswith("#")]
    parts = [PROJECT["dependencies"], *(rows for extra, rows in EXTRAS.items() if extra != "all")]
    assert sorted(listed) == sorted(same(row) for rows in parts for row in rows if "vtabjax[" not in row)
    assert EXTRAS["all"] == [f"vtabjax[{','.join(sorted(set(EXTRAS) - {'all'}))}]"]
    for extra, modules in installation._EXTRAS.items():
        providers = importlib.metadata.packages_distributions()
        brought = {d.lower().replace("_", "-") for m in modules for d in providers.get(m, [m])}
        # tensorflow comes under two names
        assert {d.replace("tensorflow-cpu", "tensorflow") for d in brought} <= names(EXTRAS[extra])


def test_nobody_imports_what_the_bare_installation_lacks():
    providers = importlib.metadata.packages_distributions()
    allowed = {  # what is checked for before
        "vtabjax/data/sources/tfds.py": "data", "vtabjax/data/prepare.py": "data", "vtabjax/sweep/slurm.py": "slurm",
        "vtabjax/tasks/_hub.py": "hub", "vtabjax/tasks/_table_files.py": "hub", "vtabjax/tasks/_tfds.py": "data",
        "vtabjax/runtime/tfds_records.py": "data", "vtabjax/results/_pack.py": "report",
    }  # fmt: skip
    for path in [*(conftest.ROOT / "vtabjax").rglob("*.py"), *(conftest.ROOT / "configs").glob("*.py")]:
        file = path.relative_to(conftest.ROOT).as_posix()
        extra = "report" if file.startswith("vtabjax/report/") else allowed.get(file)
        have = names(PROJECT["dependencies"]) | names(EXTRAS.get(extra, ()))
        have |= {"huggingface-hub", "pyarrow"} if extra == "hub" else set()  # datasets' own
        have |= {"jaxlib"} | ({"markupsafe"} if extra == "report" else set())  # jax's and jinja2's own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.partition(".")[0] for name in found}:
                if top in sys.stdlib_module_names | {"vtabjax", "configs", "converters"}:
                    continue
                by = {d.lower().replace("_", "-").replace("-cpu", "") for d in providers.get(top, [top])}
                assert by & have, f"{file} imports {top}"


def test_metadata():
    assert PROJECT["authors"] == [{"name": "vtabjax developers"}] and "urls" not in PROJECT
    assert "Typing :: Typed" in PROJECT["classifiers"] and (conftest.ROOT / "vtabjax" / "py.typed").exists()
    assert all(extra in EXTRAS for extra in installation._EXTRAS)


def test_every_package_is_in_the_wheel(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    monkeypatch.chdir(conftest.ROOT)
    runpy.run_path("setup.py")
    wanted = set()
    for top, name in (
        ("vtabjax", "vtabjax"),
        ("configs", "vtabjax.configs"),
        ("converters", "vtabjax.converters"),
    ):
        for folder in {path.parent for path in (conftest.ROOT / top).rglob("*.py")}:
            wanted.add(".".join([name, *folder.relative_to(conftest.ROOT / top).parts]))
    assert sorted(given["packages"]) == sorted(wanted)
    assert given["package_dir"] == {"vtabjax.configs": "configs", "vtabjax.converters": "converters"}


@pytest.mark.parametrize(
    "program, installed, command, converters",
    [
        ("main.py", False, "python main.py", "python -m converters"),
        ("/usr/bin/vtabjax", True, "vtabjax", "vtabjax"),
        ("/home/me/.venv/bin/vtabjax", False, "vtabjax", "vtabjax"),
        (str(conftest.ROOT / "vtabjax" / "__main__.py"), True, "python -m vtabjax", "python -m vtabjax"),
        ("my_program.py", True, "vtabjax", "vtabjax"),
        ("", False, "python main.py", "python -m converters"),
    ],
)
def test_messages_name_the_command(monkeypatch, program, installed, command, converters):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(installation, "INSTALLED", installed)
    assert (installation.command(), installation.converters_command()) == (command, converters)


# What is missing.


@pytest.fixture
def bare(monkeypatch):
    """No extra is installed."""
    monkeypatch.setattr(
        installation, "_EXTRAS", {extra: (f"no_such_{extra}",) for extra in installation._EXTRAS}
    )


def test_converting_says_what_is_missing(bare, config, fake_converters, tmp_path, capsys, monkeypatch):
    from converters import __main__

    message = (
        r"config\.models: tiny/a \(and 1 more\) needs no_such_convert, which is not installed: pip install -r"
    )
    with pytest.raises(installation.MissingExtraError, match=message):
        runner.run(config, tmp_path)
    assert fake_converters.calls() == []
    assert __main__.main(["list", "timm/*"]) == 2
    monkeypatch.setattr(installation, "INSTALLED", True)
    assert __main__.main(["convert", "timm/x", "--out=x"]) == 2
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.endswith("needs no_such_convert, which is not installed: pip install -r requirements.txt")
    assert second.endswith("needs no_such_convert, which is not installed: pip install 'vtabjax[convert]'")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--config=configs/report.py"],
            "error: the report needs no_such_module, which is not installed: pip",
        ),
        (
            ["--config=configs/knn.py", "--executor=slurm"],
            "error: --executor=slurm needs no_such_module, which is not installed: pip",
        ),
        (
            ["--config=configs/prepare.py", "--config.tasks=dtd", "--config.data_dir={folder}"],
            "error: preparing data sets needs no_such_module, which is not installed: pip",
        ),
        (
            ["--config=configs/knn.py", "--workdir={folder}", "--config.models=timm/resnet18@random"],
            "error: config.models: timm/resnet18@random needs no_such_module, which is not installed: pip",
        ),
    ],
)
def test_a_missing_extra_is_one_line(tmp_path, arguments, message):
    program = conftest.PROGRAMS / "main_without_extras.py"
    command = [sys.executable, str(program), *(a.format(folder=tmp_path) for a in arguments)]
    done = subprocess.run(command, cwd=conftest.ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


# As it lies when it is installed. .ci/run builds and installs the wheel itself.

ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs `python -m vtabjax` of an installed package, in an empty folder: `installed(folder, "--config=...")`."""
    site = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(conftest.ROOT / "vtabjax", site / "vtabjax", ignore=ignore)
    for name in ("configs", "converters"):
        shutil.copytree(conftest.ROOT / name, site / "vtabjax" / name, ignore=ignore)

    def run(folder, *arguments):
        environment = {**ENVIRONMENT, "PYTHONPATH": str(site)}
        command = [sys.executable, "-m", "vtabjax", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_installed_configs_are_found_from_anywhere(installed, tmp_path):
    options = ("--config.models=baseline/*,embedded/*", "--config.tasks=digits", "--config.dry_run=true")
    done = installed(tmp_path, "--config=configs/knn.py", *options)
    assert done.returncode == 0 and "2 models x 1 task = 2 cells" in done.stderr, done.stderr
    done = installed(tmp_path, "--config=configs/kn.py")
    assert done.returncode == 2 and "choose from configs/data.py, configs/finetune.py, " in done.stderr


def test_a_config_of_ones_own_builds_on_those_that_ship(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.py").write_text("TASKS = 'digits'\n")
    (tmp_path / "configs" / "mine.py").write_text(
        "from configs import knn, own\n"
        "def get_config(suite='mini'):\n"
        "    c = knn.get_config(suite)\n"
        "    c.models, c.tasks, c.dry_run = 'baseline/pixels', own.TASKS, True\n"
        "    return c\n"
    )
    done = installed(tmp_path, "--config=configs/mine.py")
    assert done.returncode == 0 and "1 model x 1 task = 1 cell" in done.stderr, done.stderr


def test_the_installed_converters_are_a_part_of_the_command(installed, tmp_path):
    done = installed(tmp_path, "list", "baseline/*")
    assert done.returncode == 0 and done.stdout.startswith("baseline/pixels"), done.stderr
    done = installed(tmp_path, "check", "timm/zzzzqqqq")
    assert done.returncode == 1 and "python -m vtabjax list 'timm/*' lists them" in done.stdout, done.stderr
