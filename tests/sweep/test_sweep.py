"""A sweep: what is computed, what is already there, what is said about failures."""

import numpy as np
import pytest

from vtabjax import installation, results, tasks
from vtabjax.sweep import adapters, artefacts, converters_client, inputs, plan, runner, status


def test_sweep_and_again(config, fake_converters, extractions, tmp_path, capsys):
    config.tasks = "digits,sprites_location"
    assert runner.run(config, tmp_path) == 0
    assert [c[0] for c in fake_converters.calls()] == ["check", "convert", "convert"]
    assert extractions == [(m, n) for m in ("tiny/a", "tiny/b") for _ in range(2) for n in (800, 200)]
    table = results.collect(tmp_path)
    assert len(table) == 4 and set(table["settings.task"]) == {"digits", "sprites_location"}
    out, err = capsys.readouterr()
    assert (
        "2 models x 2 tasks = 4 cells; 0 done, 4 to do" in err and "[4/4] knn tiny/b sprites_location" in err
    )
    assert "(chance)" in out and "mean (cosine)" in out

    fake_converters.forget()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.json")}
    assert runner.run(config, tmp_path) == 0
    assert fake_converters.calls() == [] and len(extractions) == 8
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.json")} == before
    again, err = capsys.readouterr()
    assert "nothing to do: every cell has a result" in err and again == out


def test_results_are_read_once_in_a_run(config, fake_converters, tmp_path, monkeypatch, capsys):
    """Those that were there at the start are not read again at the end; those that others wrote meanwhile are."""
    config.models, config.tasks = "tiny/a,tiny/b", "digits"
    assert runner.run(config, tmp_path, "0/2") == 0
    read, seen = results.read, []

    def counted(path):
        record = read(path)
        seen.extend([str(path)] * (record is not None))
        return record

    monkeypatch.setattr(results, "read", counted)
    state = runner.assess(plan.read(config), tmp_path, None)
    (first,) = results.paths(tmp_path)
    assert (state.n_done, len(state.pending)) == (1, 1) and seen == [str(first)]
    assert runner.run(config, tmp_path, "1/2") == 0  # another worker, meanwhile
    seen.clear()
    capsys.readouterr()
    assert runner.conclude(state, plan.read(config).run, tmp_path) == 0
    (second,) = set(results.paths(tmp_path)) - {first}
    assert seen == [str(second)] and "lack tasks" not in capsys.readouterr().out


def test_record_of_a_cell(config, fake_converters, tmp_path):
    config.models = "tiny/a"
    assert runner.run(config, tmp_path) == 0
    ((_, record),) = results.records(tmp_path)
    assert record["n_examples"] == 1000
    accuracy = results.unpack(record["correct"]).mean()
    assert record["metrics"]["accuracy"] == pytest.approx(accuracy)
    assert record["settings"] == {
        "splits": ["train800val200"],
        "k": 1,
        "metric": ["euclidean", "cosine"],
        "image_size": 16,
        "resize": "vtab",
        "dtype": "float32",
        "task": "digits",
    }
    made = artefacts.read_info(tmp_path / "models" / "tiny--a-16")
    assert [record[k] for k in ("weight_hash", "graph_hash")] == [made["weight_hash"], made["graph_hash"]]
    assert record["input"]["mean"] == [0.5, 0.4, 0.3]
    assert set(record["data"]) == {"train800", "val200"} and all(record["data"].values())
    assert {split: n["images"] for split, n in record["passes"].items()} == {"train800": 800, "val200": 200}
    assert all(n["seconds"] > 0 for n in record["passes"].values())
    assert set(record["source"]) == set(results.SOURCE) and record["source"]["num_features"] == 24
    assert record["device"]["platform"] == "cpu" and record["device"]["count"] >= 1
    assert {"convert", "load", "data", "features", "knn"} <= set(record["seconds"])
    assert record["seconds"]["convert"] == 0.5  # what the converters said, not how long was waited


def test_other_settings_extract_again_only_where_features_change(
    config, fake_converters, extractions, tmp_path
):
    config.models = "tiny/a"
    for changes, passes in [({}, 2), ({"k": 3}, 2), ({"dtype": "bfloat16"}, 4), ({"resize": "bilinear"}, 6)]:
        config.update(changes)
        assert runner.run(config, tmp_path) == 0
        assert len(extractions) == passes
    assert len(results.collect(tmp_path)) == 4
    folder = tmp_path / "results" / "knn" / "tiny--a"
    assert len(list(folder.iterdir())) == 4 and (folder / "digits.json").exists()


def test_each_model_sees_pictures_as_its_source_resizes_them(config, fake_converters, tmp_path):
    config.models, config.resize = "tiny/a,embedded/sprites_resnet", "source"
    assert runner.run(config, tmp_path) == 1
    (record,) = [r for _, r in results.records(tmp_path)]
    assert record["input"]["resize"] == "bilinear shortest 16" and record["settings"]["resize"] == "source"
    ((_, error),) = results.errors(tmp_path)
    assert (
        error["stage"] == "data"
        and "config.resize is 'source', and of tiny/a how its source" in error["message"]
    )


def test_failures_do_not_stop_the_rest(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/a,tiny/bad,tiny/nan,tiny/crash,tiny/b"
    assert runner.run(config, tmp_path) == 1
    assert sorted(results.collect(tmp_path)["model"]) == ["tiny/a", "tiny/b"]
    errors = {r["model"]: r for _, r in results.errors(tmp_path)}
    assert {m: r["stage"] for m, r in errors.items()} == {
        "tiny/bad": "convert",
        "tiny/nan": "features",
        "tiny/crash": "convert",
    }
    assert errors["tiny/bad"]["message"] == "operator aten.nonsense is not known"
    assert "NaN or infinite" in errors["tiny/nan"]["message"]
    assert "SIGKILL" in errors["tiny/crash"]["message"] and "memory" in errors["tiny/crash"]["message"]
    assert any("NotFiniteError" in line for line in errors["tiny/nan"]["traceback"])
    out, err = capsys.readouterr()
    told = err.split("3 cells failed:")[1]
    for model, record in errors.items():
        assert model in told and record["stage"] in told
    assert "tiny--nan/digits" in told and "config.retry_failed=true" in told
    assert "3 of 5 models lack tasks" in out

    # Told again and not tried again, until asked.
    fake_converters.forget()
    assert runner.run(config, tmp_path) == 1
    out, err = capsys.readouterr()
    assert fake_converters.calls() == [] and "3 failed before" in err and "3 cells failed:" in err
    config.retry_failed = True
    assert runner.run(config, tmp_path) == 1
    # The one with NaN weights is converted already.
    assert fake_converters.calls() == [
        ["check", "tiny/bad", "tiny/crash"],
        ["convert", "tiny/bad"],
        ["convert", "tiny/crash"],
    ]
    assert "2 done, 3 to do" in capsys.readouterr().err


def test_twenty_models_on_three_tasks(config, fake_converters, tmp_path, capsys, monkeypatch):
    """One that does not convert, one with NaN features, one without weights: 17 complete rows, three errors told."""
    ill = {"tiny/bad": "convert", "tiny/nan": "features", "tiny/missing": "convert"}
    well = [f"tiny/m{i}" for i in range(17)]
    config.models = ",".join([*well[:5], "tiny/bad", "tiny/nan", *well[5:], "tiny/missing"])
    config.tasks = "digits,sprites_location,sprites_orientation"
    assert runner.run(config, tmp_path) == 1
    out, err = capsys.readouterr()
    table = results.collect(tmp_path)
    assert len(table) == 51 and set(table["model"]) == set(well)
    assert {r["model"]: r["stage"] for _, r in results.errors(tmp_path)} == ill
    rows = (
        (tmp_path / "tables" / "knn.csv").read_text().splitlines()[1:-3]
    )  # without chance, majority, uncertainty
    complete = [row for row in rows if "" not in row.split(",")]
    assert len(complete) == 17 and {row.split(",")[0] for row in rows[17:]} == {f"{m} *" for m in ill}
    assert all(set(row.split(",")[1:]) == {""} for row in rows[17:])  # no mean over what is missing
    told = err.split("9 cells failed:")[1]
    assert all(told.count(f"{model} ") == 1 for model in ill)  # one row each
    assert "operator aten.nonsense is not known" in told and "weights: no such file" in told
    assert "are NaN or infinite" in told and "3 of 20 models lack tasks" in out

    # The models were converted while others were computed, and the file about the worker has the times.
    (state,) = status.read(tmp_path)
    (worker,) = state.workers
    computed = {e["model"]: e for e in worker["events"] if e["what"] == "compute"}
    converted = [e for e in worker["events"] if e["what"] == "convert"]
    assert len(converted) == 20 and len(computed) == 18  # the one with NaN got so far
    ahead = [e["model"] for e in converted if e["began"] < computed["tiny/m0"]["ended"]]
    assert set(ahead) >= {"tiny/m0", "tiny/m1"}
    assert len(ahead) <= 1 + config.convert_ahead  # a few, not all
    assert "; converted meanwhile: " in err and "tiny/m16: 3 of 3 cells in 0:0" in err

    # Again: only those that failed, and only when asked.
    fake_converters.forget()
    assert runner.run(config, tmp_path) == 1 and fake_converters.calls() == []
    config.retry_failed = True
    ran = []
    run = adapters.PROTOCOLS["knn"].run
    counted = adapters.Protocol(
        adapters.PROTOCOLS["knn"].settings, lambda i, s: ran.append(i.cell) or run(i, s)
    )
    monkeypatch.setitem(adapters.PROTOCOLS, "knn", counted)
    assert runner.run(config, tmp_path) == 1
    assert {c.model for c in ran} == {"tiny/nan"} and len(ran) == 3
    assert [c for c in fake_converters.calls() if c[0] == "convert"] == [
        ["convert", "tiny/bad"],
        ["convert", "tiny/missing"],
    ]


def test_own_image_size(config, fake_converters, tmp_path):
    config.models, config.image_size = "tiny/a", 0
    assert runner.run(config, tmp_path) == 0
    ((_, record),) = results.records(tmp_path)
    assert record["settings"]["image_size"] == 0 and record["input"]["input_size"] == [3, 16, 16]


def test_patterns(config, fake_converters, tmp_path):
    config.models = "baseline/pixels,tiny/m*,tiny/m1"
    assert runner.run(config, tmp_path) == 0
    assert sorted(results.collect(tmp_path)["model"]) == ["baseline/pixels", "tiny/m0", "tiny/m1", "tiny/m2"]
    fake_converters.forget()
    assert runner.run(config, tmp_path) == 0
    assert fake_converters.calls() == []  # not even to know what the pattern stands for


def test_patterns_are_looked_up_again_after_a_change_of_sources(
    config, fake_converters, tmp_path, monkeypatch
):
    root, workdir = tmp_path / "code", tmp_path / "work"
    monkeypatch.setattr(installation, "CONVERTERS", root / "converters")
    source = root / "converters" / "sources" / "lab.py"
    source.parent.mkdir(parents=True)
    config.models = "tiny/m*"
    asked = plan.read(config)
    for text in ("A = 1", "A = 2"):
        source.write_text(text)
        fake_converters.forget()
        assert len(plan.all_cells(asked, workdir)) == 3
        assert len(fake_converters.calls()) == 1
    fake_converters.forget()
    assert len(plan.all_cells(asked, workdir)) == 3 and fake_converters.calls() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("tiny/m1", "tiny/m7"),
        lambda text: text[:-9],
        lambda text: "",
        lambda text: '{"installed": "x", "patterns": []}',
    ],
)
def test_damaged_patterns_are_looked_up_again(config, fake_converters, tmp_path, caplog, damage):
    config.models = "tiny/m*"
    cells = plan.all_cells(plan.read(config), tmp_path)
    path = tmp_path / "cache" / "patterns.json"
    sound = path.read_text()
    path.write_text(damage(sound))
    fake_converters.forget()
    assert plan.all_cells(plan.read(config), tmp_path) == cells
    assert len(fake_converters.calls()) == 1 and path.read_text() == sound
    assert f"{path} is written again" in caplog.text


def test_dry_run(config, fake_converters, tmp_path, capsys):
    config.dry_run = True
    assert runner.run(config, tmp_path) == 0
    assert "nothing to estimate the time from" in capsys.readouterr().err
    assert fake_converters.calls() == [] and not (tmp_path / "results").exists()
    config.dry_run, config.models = False, "tiny/a"
    runner.run(config, tmp_path)
    capsys.readouterr()
    config.dry_run, config.models = True, "tiny/a,tiny/b"
    assert runner.run(config, tmp_path) == 0
    err = capsys.readouterr().err
    assert "1 done, 1 to do" in err and "judging by 1 similar cell here, 1 would take about 0:" in err
    assert "  tiny/b: 1 cell (to convert; about 0:" in err and "judging by similar models)" in err


def test_other_settings_are_told(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/a"
    assert runner.run(config, tmp_path) == 0
    config.k, config.models = 3, "tiny/a,tiny/b"
    assert runner.run(config, tmp_path) == 0
    assert "1 of the cells to do have results with other settings here" in capsys.readouterr().err


def test_folder_of_pictures(config, fake_converters, tmp_path, monkeypatch):
    from PIL import Image

    pictures, rng = tmp_path / "my birds", np.random.default_rng(0)
    for name in ("crow", "wren"):
        (pictures / name).mkdir(parents=True)
        for i in range(12):
            array = rng.integers(0, 256, (20, 20, 3), np.uint8) // (2 if name == "crow" else 1)
            Image.fromarray(array).save(pictures / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    config.models, config.tasks = "tiny/a", "folder:my birds"
    assert runner.run(config, tmp_path / "w") == 0
    ((path, record),) = results.records(tmp_path / "w")
    assert record["task"] == f"folder:{pictures}" and path.name.startswith("folder-my_birds-")
    assert runner.run(config, tmp_path / "w") == 0 and len(results.collect(tmp_path / "w")) == 1

    # A picture more: what is there says nothing about it.
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(pictures / "crow" / "new.png")
    tasks.forget_folders()
    assert runner.run(config, tmp_path / "w") == 0
    assert len(results.collect(tmp_path / "w")) == 2


def test_damaged_caches_change_no_number(config, fake_converters, tmp_path, capsys, caplog):
    """One flipped bit in every cached file: each is named and built again, and the numbers are those of a fresh run."""
    config.tasks, config.k = "digits,sprites_location", 2
    assert runner.run(config, tmp_path / "fresh") == 0
    config.k, config.models = 1, "tiny/a"
    assert runner.run(config, tmp_path / "w") == 0
    config.k, config.models = 2, "tiny/a,tiny/b"
    cached = [p for name in ("features", "cache/images") for p in (tmp_path / "w" / name).glob("*.*")]
    cached = [p for p in cached if p.suffix in (".npz", ".npy", ".json")]
    rng = np.random.default_rng(0)
    for path in cached:
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    capsys.readouterr()
    assert runner.run(config, tmp_path / "w") == 0
    for path in cached:
        assert str(path.with_suffix("")) in caplog.text, path
    assert "Traceback" not in capsys.readouterr().err + caplog.text

    def numbers(workdir):
        found = (r for _, r in results.records(workdir) if r["settings"]["k"] == 2)
        return {(r["model"], r["task"]): (r["metrics"], r["correct"], r["data"], r["copies"]) for r in found}

    assert numbers(tmp_path / "w") == numbers(tmp_path / "fresh") and len(numbers(tmp_path / "w")) == 4


def test_labels_out_of_range(config, fake_converters, tmp_path, monkeypatch):
    from vtabjax import data

    load = data.load
    config.models = "tiny/a"
    monkeypatch.setattr(data, "load", lambda *a, **k: load(*a, **k)._replace(labels=np.full(800, 10)))
    assert runner.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert "labels from 10 to 10; the task has the classes 0 to 9" in record["message"]
    assert record["stage"] == "data"


@pytest.mark.parametrize("damaged", ["model.json", "graph.json"])
def test_damaged_artefact(config, fake_converters, tmp_path, damaged):
    config.models = "tiny/a"
    assert runner.run(config, tmp_path) == 0
    path = tmp_path / "models" / "tiny--a-16" / damaged
    whole = path.read_text()
    path.write_text("{") if damaged == "model.json" else path.unlink()
    config.k = 2
    assert runner.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert record["stage"] == "load"
    assert "tiny--a-16 is not a complete converted model" in record["message"]
    assert "remove the folder and run again" in record["message"]
    path.write_text(whole)
    config.retry_failed = True
    assert runner.run(config, tmp_path) == 0


def test_retry_that_succeeds(config, fake_converters, tmp_path, monkeypatch):
    config.models = "tiny/a"
    monkeypatch.setattr(inputs.CellContext, "examples", lambda *_: 1 / 0)
    assert runner.run(config, tmp_path) == 1
    ((path, record),) = results.errors(tmp_path)
    assert record["message"] == "ZeroDivisionError: division by zero" and record["stage"] == "knn"
    monkeypatch.undo()
    monkeypatch.setattr(converters_client, "COMMAND", fake_converters.command)
    config.retry_failed = True
    assert runner.run(config, tmp_path) == 0
    assert not path.exists() and len(results.collect(tmp_path)) == 1
