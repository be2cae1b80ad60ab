"""The page "From Python" and the notebooks run as they stand."""

import ast
import os
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
    """In a kernel of its own, as a reader runs it; what its cells show is looked at."""
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    rng = np.random.default_rng(0)
    for model in ("baseline/pixels", "tiny/a", "tiny/b"):
        for task in ("digits", "sprites_location"):
            right = rng.random(100) < 0.5
            metrics = {"accuracy": float(right.mean())}
            cell = Cell("knn", model, task, {"k": 1})
            results.save(
                cell, "runs/mini", metrics=metrics, correct=right, provenance={}, seconds={"features": 1.0}
            )
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)  # what it shows is the reader's
    for cell in cells:
        cell.source = cell.source.replace("/path/to/pictures", str(reader / "pictures"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(reader)}}).execute(
        env=environment
    )
    shown = [shown_by(cell) for cell in cells if cell.outputs]
    assert len(shown) >= 4 and all(0 < len(text) < 20_000 for text in shown)
    for expected in SHOWN[path.stem]:
        assert any(re.search(expected, text) for text in shown), expected


# What a reader sees in the notebooks, among other things.
SHOWN = {
    "rank_on_a_folder": [
        r"(?s)<table.*embedded/sprites_resnet.*baseline/pixels",
        r"^LeaveOneOut\(",
        r"Embedding\(\d+ pictures",
    ],
    "look_into_a_sweep": [r"(?s)<table.*tiny/a.*tiny/b", r"^digits: only \S+ is right on \d+ examples"],
}


def shown_by(cell):
    """The text of a cell's outputs as a browser shows them: progress in lines, no warning."""
    texts = []
    for output in cell.outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/html") or data["text/plain"])
        assert output.output_type != "error" and not re.search("Warning|Traceback|\x1b", texts[-1]), output
    return "\n".join(texts)


def test_what_the_package_shows():
    """`vtabjax.` and Tab: what a person needs, and packages that are there without having been imported."""
    assert dir(vtabjax) == sorted([*vtabjax.__all__, *vtabjax._PACKAGES, "__version__"])
    assert all(getattr(vtabjax, name) is not None for name in dir(vtabjax))
    assert all(name in vtabjax.__doc__ for name in vtabjax._PACKAGES)
    assert vtabjax.protocols.knn.__name__ == "vtabjax.protocols.knn"
