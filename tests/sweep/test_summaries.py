"""What tables need of results is remembered, and read again where a file is new, changed or damaged."""

import json
import os
import zlib

import numpy as np
import pytest

from vtabjax import results
from vtabjax.results import Cell

TASKS = ("a", "b", "c", "d", "e")


def cell(task, model="tiny/a", **changes):
    return Cell("knn", model, task, {"k": 1, **changes})


def save(cell, workdir, accuracy=0.5, **more):
    metrics = {"accuracy": accuracy, "interval": [0.0, 1.0]}
    correct = np.arange(8) < 8 * accuracy
    assert results.save(
        cell, workdir, metrics=metrics, correct=correct, provenance={}, seconds={"knn": 1.0}, **more
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A workdir with a result of each task, and the names of files as they are read."""
    cells = [cell(task) for task in TASKS]
    for i, each in enumerate(cells):
        save(each, tmp_path, i / 8, groups=np.arange(8) // 2, notes={"n": "a note"})
    read, names = results.read, []
    monkeypatch.setattr(results, "read", lambda path: names.append(os.path.basename(path)) or read(path))
    return tmp_path, cells, names


def accuracies(found):
    return [None if r is None else r["metrics"]["accuracy"] for r in found]


def test_a_summary_is_the_result_without_single_examples(made):
    workdir, cells, _ = made
    for found in (results.find_summaries(cells, workdir) for _ in range(2)):
        whole = results.find_all(cells, workdir)
        for summary, record in zip(found, whole, strict=True):
            assert summary.pop("groups") == {"count": 4}
            assert "correct" not in summary and summary.items() <= record.items()
            assert {
                "metrics",
                "notes",
                "settings",
                "seconds",
                "n_examples",
                "model",
                "task",
            } <= summary.keys()
            summary["groups"] = {"count": 4}


def test_only_what_changed_is_read_again(made):
    workdir, cells, names = made
    assert accuracies(results.find_summaries(cells, workdir)) == [i / 8 for i in range(5)]
    assert sorted(names) == [f"{task}.json" for task in TASKS]
    names.clear()
    assert accuracies(results.find_summaries(cells, workdir)) == [i / 8 for i in range(5)] and not names
    path = cells[1].folder(workdir) / "b.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"metrics": {"accuracy": 1.0}}))
    save(cell("b", k=5), workdir, 0.25)
    others = [*cells, cell("b", k=5), cell("f"), cell("a", model="tiny/b")]
    assert accuracies(results.find_summaries(others, workdir)) == [0, 1.0, 0.25, 0.375, 0.5, 0.25, None, None]
    assert sorted(set(names)) == [f"b.{cell('b', k=5).hash[:8]}.json", "b.json"]
    path.unlink()
    assert accuracies(results.find_summaries(cells, workdir))[1] is None


def test_damage_is_told_although_it_was_read_before(made):
    workdir, cells, _ = made
    results.find_summaries(cells, workdir)
    path = cells[2].folder(workdir) / "c.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"c\.json is not a result of this version"):
        results.find_summaries(cells, workdir)
    damaged = []
    assert accuracies(results.find_summaries(cells, workdir, damaged)) == [0, 0.125, None, 0.375, 0.5]
    (message,) = damaged
    assert str(path) in message


def sealed(text):
    return f"{zlib.crc32(text.encode()):08x}\n{text}"


ODD = {
    "empty": lambda text: "",
    "not JSON": lambda text: sealed("{"),
    "no dict": lambda text: sealed("null"),
    "another format": lambda text: sealed(text.splitlines()[1].replace('"format":2', '"format":1')),
    "no row": lambda text: sealed('{"format": 2, "texts": [], "together": [], "files": {"a.json": 3}}'),
    "another number": lambda text: text.replace("0.125", "0.625"),
    "no checksum": lambda text: text.splitlines()[1],
}


@pytest.mark.parametrize("how", ODD)
def test_a_damaged_memory_is_no_matter(made, how):
    workdir, cells, names = made
    results.find_summaries(cells, workdir)
    (memory,) = (workdir / "cache" / "results" / "knn").iterdir()
    before = memory.read_text()
    memory.write_text(ODD[how](before))
    assert memory.read_text() != before
    names.clear()
    assert accuracies(results.find_summaries(cells, workdir)) == [i / 8 for i in range(5)] and len(names) == 5
    names.clear()
    assert results.find_summaries(cells, workdir) and not names


def test_nothing_is_written_where_nothing_may_be(made):
    workdir, cells, _ = made
    assert accuracies(results.find_summaries(cells, workdir, remember=False))[4] == 0.5
    assert not (workdir / "cache").exists()
    (workdir / "cache").write_text("a file in the way")
    assert accuracies(results.find_summaries(cells, workdir))[4] == 0.5


def test_folds_are_whole(tmp_path):
    folds = [cell(f"t{i}", fold=i, folds=4) for i in range(1, 5)]
    for each in folds:
        save(each, tmp_path)
    for _ in range(2):
        assert all(r["correct"]["count"] == 8 for r in results.find_summaries(folds, tmp_path))


def test_failures_and_other_settings(tmp_path):
    cells = [cell("a"), cell("b"), cell("a", model="tiny/b")]
    results.save_error(cells[0], tmp_path, stage="features", message="no", traceback="")
    save(cell("b", k=5), tmp_path)
    assert results.failed_before(cells, tmp_path) == [True, False, False]
    assert results.with_other_settings(cells, tmp_path) == 1
