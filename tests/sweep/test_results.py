import concurrent.futures
import json
import math
import multiprocessing
import os
import subprocess
import sys

import conftest
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import results
from vtabjax.results import Cell
from vtabjax.runtime import files

CELL = Cell("knn", "timm/resnet18@random", "digits", {"k": 1, "image_size": 64})


def save(cell, workdir, **changes):
    given = {"metrics": {"accuracy": 0.75}, "correct": np.array([True, False, True, True])}
    given |= {
        "chosen": {},
        "provenance": {"weight_hash": "w", "seed": None},
        "seconds": {"features": 1.23456},
    }
    return results.save(cell, workdir, **(given | changes))


@given(st.lists(st.booleans(), max_size=40))
def test_correctness_survives_packing(bits):
    packed = json.loads(json.dumps(results.pack_correct(np.array(bits, bool))))
    assert packed["count"] == len(bits)
    assert results.unpack(packed).tolist() == bits
    assert results.unpack(packed).dtype == bool


def test_packing_is_what_it_says():
    assert results.pack_correct(np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], bool)) == {
        "count": 9,
        "packed": "gYA=",
    }  # 0x81 0x80


def test_hash_depends_on_settings_and_not_on_their_order():
    assert results.config_hash({"k": 1, "a": [1, 2]}) == results.config_hash({"a": [1, 2], "k": 1})
    different = [{"k": 1}, {"k": 2}, {"k": "1"}, {"k": 1, "a": None}, {}, {"k": [1]}]
    assert len({results.config_hash(s) for s in different}) == len(different)


def test_record(tmp_path):
    assert results.find(CELL, tmp_path) is None
    assert save(CELL, tmp_path, chosen={"c": 0.5})
    path = tmp_path / "results" / "knn" / "timm--resnet18@random" / "digits.json"
    record = json.loads(path.read_text())
    assert results.find(CELL, tmp_path) == record
    assert record["metrics"] == {"accuracy": 0.75} and record["n_examples"] == 4
    assert results.unpack(record["correct"]).tolist() == [True, False, True, True]
    assert record["settings"] == CELL.settings and record["config_hash"] == CELL.hash
    assert record["chosen"] == {"c": 0.5} and record["seconds"] == {"features": 1.2346}
    assert record["weight_hash"] == "w" and record["seed"] is None
    assert {"jax", "jaxlib", "vtabjax", "numpy"} <= set(record["versions"])
    assert os.listdir(path.parent) == ["digits.json"]


def test_a_result_is_never_written_again(tmp_path):
    assert save(CELL, tmp_path)
    before = results.find(CELL, tmp_path)
    assert not save(CELL, tmp_path, metrics={"accuracy": 0.1})
    assert results.find(CELL, tmp_path) == before


def test_other_settings_lie_beside(tmp_path):
    others = [Cell("knn", CELL.model, "digits", {**CELL.settings, "k": k}) for k in (3, 5)]
    for i, cell in enumerate([CELL, *others]):
        assert save(cell, tmp_path, metrics={"accuracy": i / 10})
    folder = CELL.folder(tmp_path)
    assert {p.name for p in folder.iterdir()} == {"digits.json"} | {
        f"digits.{c.hash[:8]}.json" for c in others
    }
    assert [results.find(c, tmp_path)["metrics"]["accuracy"] for c in (CELL, *others)] == [0, 0.1, 0.2]
    assert not save(others[0], tmp_path) and not save(CELL, tmp_path)
    table = results.collect(tmp_path)
    assert len(table) == 3 and sorted(table["settings.k"]) == [1, 3, 5]


def test_numbers_that_are_none(tmp_path):
    save(
        CELL,
        tmp_path,
        metrics={"leep": None, "logme": math.nan, "gbc": -math.inf, "parc": 1.0},
        correct=None,
        notes={"leep": "not applicable"},
    )
    record = results.find(CELL, tmp_path)
    assert record["metrics"] == {"leep": None, "logme": None, "gbc": None, "parc": 1.0}
    assert record["notes"] == {"leep": "not applicable", "logme": "nan", "gbc": "-inf"}
    assert record["correct"] is None and record["n_examples"] is None
    row = results.collect(tmp_path).iloc[0]
    assert math.isnan(row["leep"]) and row["parc"] == 1.0


def test_errors(tmp_path):
    path = results.save_error(CELL, tmp_path, stage="features", message="no", traceback="a\nb")
    assert path == CELL.error_path(tmp_path) and path.name == f"digits.{CELL.hash[:8]}.error.json"
    assert results.find(CELL, tmp_path) is None and results.collect(tmp_path).empty
    ((found, record),) = results.errors(tmp_path)
    assert found == path and record["stage"] == "features" and record["traceback"] == ["a", "b"]
    save(CELL, tmp_path)
    assert not path.exists() and not list(results.errors(tmp_path, "knn"))


@pytest.mark.parametrize("text", ['{"format": 99}', "{", "[]", "", "{}"])
def test_foreign_file_is_told(tmp_path, text):
    save(CELL, tmp_path)
    path = CELL.folder(tmp_path) / "digits.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"digits\.json is not a result of this version .* move it away"):
        results.find(CELL, tmp_path)


def test_collect(tmp_path):
    assert results.collect(tmp_path).empty
    for model in ("tiny/a", "tiny/b"):
        for task in ("digits", "folder:/data/my birds"):
            save(Cell("knn", model, task, {"k": 1}), tmp_path)
    save(Cell("linear", "tiny/a", "digits", {}), tmp_path, chosen={"c": 0.1})
    table = results.collect(tmp_path)
    assert len(table) == 5 and table["accuracy"].eq(0.75).all()
    assert set(table["task"]) == {"digits", "folder:/data/my birds"}
    assert table.loc[table.protocol == "linear", "chosen.c"].tolist() == [0.1]
    assert all(
        results.read(path)["config_hash"] == h for path, h in zip(table.path, table.config_hash, strict=True)
    )
    assert [r["model"] for _, r in results.records(tmp_path, "linear")] == ["tiny/a"]


def test_file_names():
    assert results.file_name("digits") == "digits"
    names = {
        results.file_name(t) for t in ("folder:/a/birds", "folder:/b/birds", "folder:/a/my birds", "folder:/")
    }
    assert len(names) == 4
    assert all(n.startswith("folder-") and "/" not in n and " " not in n for n in names)


def _race(argument):
    cell, workdir, i = argument
    return save(cell, workdir, metrics={"accuracy": i / 100})


def test_of_several_writers_one_wins(tmp_path):
    other = Cell("knn", CELL.model, "digits", {"k": 2})
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        wrote = list(pool.map(_race, [(c, tmp_path, i) for i in range(20) for c in (CELL, other)]))
    assert sum(wrote[::2]) == 1 and sum(wrote[1::2]) == 1
    assert len(results.collect(tmp_path)) == 2
    assert results.find(CELL, tmp_path) and results.find(other, tmp_path)


def test_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert files.create_text(tmp_path / "a", "1") and not files.create_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1" and os.listdir(tmp_path) == ["a"]


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_what_dead_processes_left_is_removed(tmp_path):
    program = conftest.PROGRAMS / "half_written_file.py"
    subprocess.run([sys.executable, str(program), str(tmp_path / "x" / "a")])
    with files.replacing(tmp_path / "b") as mine:
        mine.write_text("")
        (tmp_path / "other.tmp").write_text("")
        (tmp_path / ".a.otherhost.1.tmp").write_text("")
        assert len(list(tmp_path.rglob("*.tmp"))) + len(list(tmp_path.rglob(".*.tmp"))) >= 4
        assert files.remove_stale_temporaries(tmp_path) == 1
        assert mine.exists()
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"b", "other.tmp", ".a.otherhost.1.tmp"}


def test_types_of_columns(tmp_path):
    settings = {"k": 3, "metric": "cosine", "keep": True, "rates": [0.1, 0.2]}
    for protocol, more in (("knn", {}), ("linear", {"c": 0.5})):
        cell = Cell(protocol, "tiny/a", "digits", settings | more)
        save(cell, tmp_path, metrics={"accuracy": 1.0})
    both, table = results.collect(tmp_path), results.collect(tmp_path, protocol="knn")
    assert len(both) == 2 and both["settings.c"].isna().tolist() == [True, False]
    assert table["protocol"].tolist() == ["knn"] and "settings.c" not in table
    types = {
        "model": "string", "n_examples": "Int64", "accuracy": "float64", "settings.k": "Int64",
        "settings.metric": "string", "settings.keep": "boolean", "settings.rates": "object",
    }  # fmt: skip
    assert {name: str(table[name].dtype) for name in types} == types
    assert str(table["finished"].dt.tz) == "UTC" and table["settings.rates"].iloc[0] == [0.1, 0.2]
    with pytest.raises(ValueError, match="protocol='knm': .* has results of knn, linear only"):
        results.collect(tmp_path, protocol="knm")


def test_pivot(tmp_path):
    from vtabjax import tasks

    groups = tasks.VTAB_GROUPS
    value = {"Natural": 0.75, "Specialized": 0.5, "Structured": 0.25}
    for model, better in (("tiny/a", 0.0), ("tiny/b", 0.125)):
        for group, names in groups.items():
            for name in names:
                if (model, name) != ("tiny/a", "dtd"):
                    save(
                        Cell("knn", model, name, {"k": 1}),
                        tmp_path,
                        metrics={"accuracy": value[group] + better},
                    )
    wide = results.pivot(results.collect(tmp_path))
    assert wide.index.tolist() == ["tiny/b", "tiny/a"]
    assert wide.columns.tolist()[-5:] == [*groups, "mean", "mean of groups"] and len(wide.columns) == 24
    row = wide.loc["tiny/b"]
    assert [row[group] for group in groups] == [0.875, 0.625, 0.375] and row["mean of groups"] == 0.625
    assert row["mean"] == pytest.approx((7 * 0.875 + 4 * 0.625 + 8 * 0.375) / 19)
    lacking = wide.loc["tiny/a"]  # never a mean over what is there
    assert (
        lacking[["dtd", "Natural", "mean", "mean of groups"]].isna().all() and lacking["Structured"] == 0.25
    )


def test_pivot_mixes_nothing(tmp_path):
    save(CELL, tmp_path, metrics={"accuracy": 0.5})
    save(Cell("linear", CELL.model, "digits", {}), tmp_path, metrics={"accuracy": 0.75})
    with pytest.raises(ValueError, match="results of knn, linear are different things; take one"):
        results.pivot(results.collect(tmp_path))
    assert results.pivot(results.collect(tmp_path, "knn"))["digits"].tolist() == [0.5]
    with pytest.raises(ValueError, match="score='accurcy' is not a column of results; there are accuracy"):
        results.pivot(results.collect(tmp_path, "knn"), "accurcy")
    save(Cell("knn", CELL.model, "digits", {**CELL.settings, "k": 5}), tmp_path, metrics={"accuracy": 0.25})
    with pytest.raises(
        ValueError, match=r"digits has 2 results with different settings \(settings.k: 1, 5\)"
    ):
        results.pivot(results.collect(tmp_path, "knn"))
