"""Damaged files of a workdir: named and left out, or refused in one line; never a traceback, the others still shown."""

import json
import os
import shutil

import numpy as np
import pytest
import report_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtabjax import report, results
from vtabjax.options import UsageError
from vtabjax.sweep import plan, runner, shares, status

GARBAGE = ["", "\0\1garbage", "null", "{}", "[]", "3", '"x"', "{", "NaN", "[" * 100_000]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _converters):
    """A workdir with three results and one failure."""
    from configs import knn
    from vtabjax.sweep import converters_client

    before, converters_client.COMMAND = converters_client.COMMAND, _converters.command
    workdir = tmp_path_factory.mktemp("finished")
    c = knn.get_config()
    c.models, c.tasks, c.image_size = "tiny/a,tiny/b,tiny/c,tiny/bad", "digits", 16
    try:
        assert runner.run(c, workdir) == 1
    finally:
        converters_client.COMMAND = before
    return workdir, c


@pytest.fixture
def copy(finished, fake_converters, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("features", "cache", "models"))
    return workdir


def run_report(workdir):
    from configs import report as report_config

    c = report_config.get_config()
    c.resamples, c.figures = 100, False
    assert report.run(c, workdir) == 0


def damage(path, how):
    """Damages a file: a text in its place, a key without its value, another value, half of it, or a folder."""
    kind, value = how
    if kind == "text":
        path.write_text(value)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "half":
        text = path.read_text()
        path.write_text(text[: len(text) // 2])
    else:
        record = json.loads(path.read_text())
        name = sorted(record)[value[0] % len(record)]
        if kind == "lacks":
            del record[name]
        else:
            record[name] = value[1]
        path.write_text(json.dumps(record))


VALUES = (None, 3, -1, "x", [], {}, [1, "a"], {"a": None}, {"accuracy": "high"}, {"accuracy": 42.0}, True)
HOW = st.one_of(
    st.sampled_from([("text", t) for t in GARBAGE] + [("folder", None), ("half", None)]),
    st.tuples(st.just("lacks"), st.tuples(st.integers(0, 30))),
    st.tuples(st.just("other"), st.tuples(st.integers(0, 30), st.sampled_from(VALUES))),
)


def files_of(workdir):
    found = [*workdir.glob("results/*/*/*.json"), *workdir.glob("sweeps/*/*.json")]
    return sorted(p for p in found if p.is_file())


@settings(
    max_examples=int(os.environ.get("VTABJAX_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(which=st.integers(0, 100), how=HOW)
def test_whatever_is_in_a_file(finished, fake_converters, tmp_path_factory, capsys, which, how):
    workdir = tmp_path_factory.mktemp("fuzz") / "w"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("features", "cache", "models"))
    paths = files_of(workdir)
    path = paths[which % len(paths)]
    result = path.parent.parent.name == "knn" and not path.name.endswith(".error.json")
    damage(path, how)
    capsys.readouterr()

    def shown(command):
        try:
            command()
        except UsageError as e:
            assert str(path) in str(e), e
            return str(e)
        out, err = capsys.readouterr()
        return out + err

    told = shown(lambda: status.main(None, workdir))
    if path.name == "sweep.json":
        assert str(path) in told or "of 4 cells done" in told or "holds no sweep" in told
    else:
        assert "of 4 cells done" in told and "tiny/bad" in told
    assert shown(lambda: run_report(workdir)).count("report.html") == 1
    page = (workdir / "report" / "report.html").read_text()
    others = [m for m in ("tiny/a", "tiny/b", "tiny/c") if f"tiny--{m[-1]}" not in str(path)]
    assert all(f"{m[:5]}<wbr>{m[5:]}" in page or m in page for m in others)
    told = shown(lambda: runner.run(finished[1], workdir))
    assert all(m in told for m in ("tiny/a", "tiny/b", "tiny/c", "(chance)")) or (
        result and str(path) in told
    )


def test_a_damaged_failure_is_named_and_can_be_tried_again(copy, finished, capsys):
    (path,) = copy.glob("results/knn/*/*.error.json")
    path.write_text("{}")
    assert runner.run(finished[1], copy) == 1
    out, err = capsys.readouterr()
    assert "tiny/a" in out and "(chance)" in out
    assert f"{path} is not a result of this version" in " ".join(err.split()) and "retry_failed=true" in err


def test_another_workers_damaged_result_is_left_out_of_the_table(copy, finished, capsys):
    path = copy / "results" / "knn" / "tiny--b" / "digits.json"
    path.write_text("{}")
    mine = next(i for i in range(4) if _has(copy, finished[1], i, "tiny/a"))
    assert runner.run(finished[1], copy, f"{mine}/4") == 0
    out, err = capsys.readouterr()
    assert "tiny/b *" in out and f"left out of the table: {path}" in err


def _has(workdir, config, i, model):
    asked = plan.read(config)
    cells = plan.all_cells(asked, workdir)
    numbers = shares.assign(cells, 4, lambda cell: None)
    return dict(zip([c.model for c in cells], numbers, strict=True))[model] == i


@pytest.mark.parametrize(
    "text",
    ["{}", "garbage", '{"cells": [0]}', '{"cells": [0, 1, 2, 0]}', '{"cells": [0, 1, "0", 0]}', "null"],
)
def test_shares_that_nobody_wrote(copy, finished, text):
    (place,) = copy.glob("sweeps/knn-*")
    (place / "shares-2.json").write_text(text)
    with pytest.raises(
        UsageError, match=r"shares-2\.json does not say which of 2 workers does what .*remove the file"
    ):
        runner.run(finished[1], copy, "0/2")


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"accuracy": 42.0}},
        {"metrics": {"accuracy": "0.9"}},
        {"metrics": None},
        {"seconds": {"knn": None}},
        {"n_examples": 3},
        {"correct": {"count": 1000, "packed": "gYA="}},
        {"settings": []},
    ],
)
def test_a_result_is_checked_field_by_field(copy, changes):
    path = copy / "results" / "knn" / "tiny--a" / "digits.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=r"digits\.json is not a result of this version .*move it away"):
        results.read(path)
    damaged = []
    assert len(list(results.records(copy, None, damaged))) == 2 and len(damaged) == 1


def test_a_weight_file_that_was_moved_away(fake_converters, tmp_path, capsys):
    """Results that exist stay readable; only new work needs the file."""
    from configs import knn

    file, workdir = tmp_path / "weights.pth", tmp_path / "w"
    file.write_bytes(b"weights")
    model = f"tiny/a@{file}"
    cell = results.Cell("knn", model, "digits", {"k": 1, "splits": ["train800val200"]})
    c = knn.get_config()
    c.models, c.tasks, c.image_size = model, "digits", 16
    (cell,) = plan.all_cells(plan.read(c), workdir)
    metrics = {"accuracy": 0.5, "accuracy_cosine": 0.25}
    results.save(
        cell, workdir, metrics=metrics, correct=np.arange(10) < 5, provenance={}, seconds={"knn": 1.0}
    )
    from vtabjax.sweep import heartbeat

    heartbeat.describe(heartbeat.folder(workdir, "knn", shares.digest([cell])), [cell])
    file.unlink()
    results.file_stem.cache_clear()
    assert runner.run(c, workdir) == 0
    out, err = capsys.readouterr()
    assert " 50.0 " in out and "nothing to do: every cell has a result" in err
    assert status.main(None, workdir) == 0 and "1 of 1 cells done" in capsys.readouterr().out
    assert len(results.collect(workdir)) == 1
    run_report(workdir)
    c.k = 3
    with pytest.raises(UsageError, match=r"there is no weight file .*weights\.pth"):
        runner.run(c, workdir)


def test_a_worker_at_a_model_with_a_seed(tmp_path):
    """A spec may hold colons: ``timm/test_resnet@random:7``."""
    models = ["timm/test_resnet@random", "timm/test_resnet@random:7"]
    place = tmp_path / "sweeps" / "knn-x"
    place.mkdir(parents=True)
    sweep_record = {"protocol": "knn", "models": models, "tasks": ["digits"], "settings": {"digits": {}}}
    (place / "sweep.json").write_text(json.dumps(sweep_record))
    worker = {
        "host": "h",
        "pid": 1,
        "share": "",
        "started": 0.0,
        "seen": 100.0,
        "ended": None,
        "status": None,
    }
    worker |= {"doing": f"{models[1]}: digits", "done": 0, "failed": 0, "images": 0, "events": []}
    (place / "h-1-0.json").write_text(json.dumps(worker))
    (state,) = status.read(tmp_path, now=100.0)
    assert {m.model: m.doing for m in state.models} == {models[0]: "", models[1]: "h, digits"}


def test_what_a_killed_report_left_is_removed(tmp_path):
    import subprocess
    import sys

    from vtabjax.runtime import files

    report_data.sweep(tmp_path, 2, ("digits",), ("knn",))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / "report" / "figures" / f".a.pdf.{files.host()}.{ended.pid}.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    run_report(tmp_path)
    assert not left.exists() and not list((tmp_path / "report").rglob(".*"))


def test_a_dry_run_writes_nothing(fake_converters, finished, tmp_path, copy):
    config = finished[1].copy_and_resolve_references()
    config.dry_run, config.models = True, "tiny/m*,tiny/a"
    for share in ("", "0/2"):
        assert runner.run(config, tmp_path / "new", share) == 0
    assert not (tmp_path / "new").exists()
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    assert runner.run(config, copy, "0/2") == 0
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_models_that_are_one_are_one(fake_converters, config, tmp_path, capsys):
    config.models = "tiny/a@random,tiny/a@random:0,tiny/a@random:00,tiny/a@random:1"
    cells = plan.all_cells(plan.read(config), tmp_path)
    assert [c.model for c in cells] == ["tiny/a@random", "tiny/a@random:1"]
    config.models = "tiny/a:b,tiny/a-b"
    cells = plan.all_cells(plan.read(config), tmp_path)
    assert len({results.file_stem(c.model, str(tmp_path)) for c in cells}) == 2


def test_a_dry_run_knows_models_of_their_own_size(fake_converters, config, tmp_path, capsys):
    config.models, config.image_size = "tiny/a", 0
    assert runner.run(config, tmp_path) == 0
    config.dry_run, config.k, config.models = True, 3, "tiny/a,tiny/b"
    capsys.readouterr()
    assert runner.run(config, tmp_path) == 0
    err = capsys.readouterr().err
    assert "tiny/a: 1 cell (converted at 16 pixels; to convert if its own size differs" in err
    assert "tiny/b: 1 cell (to convert" in err


def test_a_result_that_is_damaged_while_the_sweep_runs(
    fake_converters, config, tmp_path, monkeypatch, capsys
):
    from vtabjax.sweep import adapters

    path = tmp_path / "results" / "knn" / "tiny--b" / "digits.json"
    protocol = adapters.PROTOCOLS["knn"]

    def run(inputs, settings):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
        return protocol.run(inputs, settings)

    monkeypatch.setitem(adapters.PROTOCOLS, "knn", protocol._replace(run=run))
    assert runner.run(config, tmp_path) == 1
    out, err = capsys.readouterr()
    assert (
        "tiny/a" in out
        and "tiny/b *" in out
        and f"{path} is not a result of this version" in " ".join(err.split())
    )
    assert [r["model"] for _, r in results.records(tmp_path, None, [])] == ["tiny/a"]
