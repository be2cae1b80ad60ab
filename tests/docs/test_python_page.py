"""The page "From Python" and the notebooks run as they stand."""

import ast
import json
import re

import conftest
import numpy as np
import pytest
from PIL import Image

import vtabjax
from vtabjax import results
from vtabjax.results import Cell

ROOT = conftest.ROOT
PAGE = ROOT / "docs" / "python.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


pytestmark = pytest.mark.xdist_group("python_page")  # what one has computed the next one finds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reader's folder, with pictures."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for name, colour in (("cat", 60), ("dog", 160)):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(colour, 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")
    return folder


@pytest.fixture
def reader(folder, monkeypatch):
    """Who works there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


def run(blocks, folder):
    """Runs blocks of code in one namespace; what there is then, and what their last lines show, as in a notebook."""
    found, shown = {}, []
    for block in blocks:
        tree = ast.parse(block.replace("/path/to/pictures", str(folder / "pictures")))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "block", "exec"), found)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "block", "eval"), found)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    return found, shown


def test_page(reader):
    text = PAGE.read_text(encoding="utf-8")
    found, _ = run(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S), reader)
    assert repr(found["model"]) in text  # as the page has it
    assert set(found["wide"].index) == set(found["strengths"].to_frame().index) == set(found["table"].index)
    assert found["wide"]["mean"].to_dict() == found["table"]["mean"].to_dict()


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, reader):
    rng = np.random.default_rng(0)
    for model in ("baseline/pixels", "tiny/a", "tiny/b"):
        for task in ("digits", "sprites_location"):
            right = rng.random(100) < 0.5
            metrics = {"accuracy": float(right.mean())}
            cell = Cell("knn", model, task, {"k": 1})
            results.save(
                cell, "runs/mini", metrics=metrics, correct=right, provenance={}, seconds={"features": 1.0}
            )
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert not any(c["outputs"] or c["execution_count"] for c in cells)  # what it shows is the reader's
    _, shown = run(["".join(c["source"]) for c in cells], reader)
    assert len(shown) >= 4 and all(len(text) < 20_000 for text in shown)


def test_what_the_package_shows():
    """`vtabjax.` and Tab: what a person needs, and packages that are there without having been imported."""
    assert dir(vtabjax) == sorted([*vtabjax.__all__, *vtabjax._PACKAGES, "__version__"])
    assert all(getattr(vtabjax, name) is not None for name in dir(vtabjax))
    assert all(name in vtabjax.__doc__ for name in vtabjax._PACKAGES)
    assert vtabjax.protocols.knn.__name__ == "vtabjax.protocols.knn"
