"""Packs in the report: which rows stand on one board with ours, paired, and what is told."""

import pytest
import report_data
from report_data import make, rows

from vtabjax import report, results
from vtabjax.options import UsageError
from vtabjax.report import analysis, gather
from vtabjax.results import Cell

TASKS = ("digits", "sprites_location")


def others(folder, start, stop, *, who="Ada", changes=None, **rest):
    """A pack of nearest neighbours of some models, all with the same bits as `report_data.sweep` would give."""
    report_data.sweep(folder / "all", stop, TASKS, ("knn",))
    for path, record in list(results.records(folder / "all")):
        if record["model"] in map(report_data.spec, range(start)):
            path.unlink()
    for _, record in list(results.records(folder / "all")) if changes or rest else []:
        cell = Cell("knn", record["model"], record["task"], {**record["settings"], **(changes or {})})
        correct = results.unpack(record["correct"])
        provenance = {
            k: record[k] for k in ("weight_hash", "source", "input", "data", "passes", "device")
        } | rest
        folder_of = folder / "changed"
        results.save(
            cell, folder_of, metrics=record["metrics"], correct=correct, provenance=provenance, seconds={}
        )
    return results.pack(
        folder / ("changed" if changes or rest else "all"), folder / f"{who}.parquet", who=who
    )


def boards(workdir, *packs):
    found = gather.gather(workdir, workdir / "models", packs=[results.read_pack(p.path) for p in packs])
    return {b.key: b for b in found.boards}, found.notices


def test_rows_of_others_are_paired_with_ours(tmp_path):
    report_data.sweep(tmp_path / "run", 2, TASKS, ("knn",))
    pack = others(tmp_path / "ada", 2, 5)
    found, notices = boards(tmp_path / "run", pack)
    board = found["knn"]
    assert (
        len(board.models) == 5
        and [m.source.partition(",")[0] for m in board.models] == [""] * 2 + ["Ada"] * 3
    )
    differences = analysis.analyse(board, analysis.Options(100, 0, 0.0, 0, "")).differences
    assert len(differences.rows) == 5
    assert any(n.startswith("Ada.parquet: 6 results of 3 models by Ada, 2") for n in notices)


def test_the_page_and_its_table_say_who(tmp_path):
    report_data.sweep(tmp_path / "run", 2, TASKS, ("knn",))
    pack = others(tmp_path / "ada", 2, 3)
    text = make(tmp_path / "run", published=str(pack.path))
    assert "6 results of 3 models by Ada" not in text and "2 results of 1 models by Ada" in text
    table = {r["model"]: r.get("by", "") for r in rows(tmp_path / "run", "knn-accuracy")}
    assert table[report_data.spec(0)] == "" and table[f"{report_data.spec(2)} (published)"].startswith(
        "Ada, 2"
    )


def test_other_settings_have_their_own_board(tmp_path):
    report_data.sweep(tmp_path / "run", 2, TASKS, ("knn",))
    found, notices = boards(tmp_path / "run", others(tmp_path / "ada", 2, 5, changes={"k": 5}))
    assert [len(found[k].models) for k in ("knn", "knn-2")] == [3, 2]
    assert any("run in 2 ways (different k)" in n for n in notices)


def test_other_examples_have_their_own_board(tmp_path):
    report_data.sweep(tmp_path / "run", 2, TASKS, ("knn",))
    other = others(tmp_path / "ada", 2, 5, data={"train800": "other", "test": "other"})
    found, notices = boards(tmp_path / "run", other)
    assert sorted(len(b.models) for b in found.values() if b.metric == "accuracy") == [2, 3]
    assert any("were computed on different examples" in n for n in notices)
    sized = others(tmp_path / "bob", 2, 5, who="Bob", data={"test": "x"}, input={"input_size": [3, 96, 96]})
    found, notices = boards(tmp_path / "run", sized)
    assert sorted(len(b.models) for b in found.values() if b.metric == "accuracy") == [2, 3]
    assert any(n.startswith("Nothing shows that results of others on digits (Bob, 2") for n in notices)


def test_a_model_that_is_here_is_shown_once(tmp_path):
    report_data.sweep(tmp_path / "run", 4, TASKS, ("knn",))
    found, notices = boards(tmp_path / "run", others(tmp_path / "ada", 1, 4))
    assert sorted(m.label for m in found["knn"].models) == sorted(report_data.spec(i) for i in range(4))
    (said,) = [n for n in notices if "not shown" in n]
    assert (
        said.startswith("6 results by Ada")
        and "on 6 of them both judge 100.00 % of the examples alike" in said
    )


def test_tasks_that_nobody_here_has_leave_ours_their_means(tmp_path):
    report_data.sweep(tmp_path / "run", 2, TASKS[:1], ("knn",))
    found, notices = boards(tmp_path / "run", others(tmp_path / "ada", 2, 4))
    assert found["knn"].tasks == [TASKS[0]] and len(found["knn"].models) == 4
    assert any("Results of others on sprites_location are not shown" in n for n in notices)


def test_packs_alone_are_a_leaderboard(tmp_path):
    first, second = others(tmp_path / "ada", 0, 2), others(tmp_path / "bob", 1, 4, who="Bob")
    (tmp_path / "empty").mkdir()
    found, _ = boards(tmp_path / "empty", first, second)
    assert [m.source.partition(",")[0] for m in found["knn"].models] == ["Ada", "Ada", "Bob", "Bob"]


def test_own_pictures_are_known_by_their_fingerprints(tmp_path):
    here, there = "folder:/data/birds", "folder:/home/ada/birds"
    seen = {"data": {"test": "same"}}
    report_data.finetuned(tmp_path / "run", 0, here, **seen)
    report_data.finetuned(tmp_path / "ada", 1, there, **seen)
    pack = results.pack(tmp_path / "ada", tmp_path / "ada.parquet", who="Ada")
    found, _ = boards(tmp_path / "run", pack)
    assert found["finetune"].tasks == [here] and len(found["finetune"].models) == 2


def test_command(tmp_path, capsys):
    report_data.sweep(tmp_path, 1, TASKS, ("knn",))
    config = report_data.report_config.get_config("pack")
    config.update({"pack": str(tmp_path / "mine.parquet"), "who": "Ada"})
    assert report.run(config, tmp_path) == 0
    said = capsys.readouterr().err
    assert "not stated: licence; --config.licence=..." in said and "2 results of 1 models: " in said
    assert results.read_pack(tmp_path / "mine.parquet").who == "Ada"
    config.pack = str(tmp_path / "mine.csv")
    with pytest.raises(UsageError, match="ends in .parquet"):
        report.run(config, tmp_path)


def test_a_damaged_pack_is_told(tmp_path):
    report_data.sweep(tmp_path, 1, TASKS, ("knn",))
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(UsageError, match="x.parquet cannot be read as a Parquet file"):
        make(tmp_path, published=str(tmp_path / "x.parquet"))
