import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import finetune as tuning
from configs import knn, linear, transferability
from vtabjax import (
    artefacts,
    cells,
    conversions,
    costs,
    features,
    inputs,
    plan,
    protocols,
    results,
    status,
    sweep,
    tables,
    watch,
    work,
)
from vtabjax.conversions import Limits
from vtabjax.results import Cell


@pytest.fixture
def extractions(monkeypatch):
    """Counts the passes over images."""
    seen = []
    extractor = features.extractor

    def counted(parts, **options):
        run = extractor(parts, **options)
        return lambda images: seen.append((parts.info["spec"], len(images))) or run(images)

    monkeypatch.setattr(features, "extractor", counted)
    return seen


def test_sweep_and_again(config, converters, extractions, tmp_path, capsys):
    config.tasks = "digits,sprites_location"
    assert sweep.run(config, tmp_path) == 0
    assert [c[0] for c in converters.calls()] == ["check", "convert", "convert"]
    assert extractions == [(m, n) for m in ("tiny/a", "tiny/b") for _ in range(2) for n in (800, 200)]
    table = results.collect(tmp_path)
    assert len(table) == 4 and set(table["settings.task"]) == {"digits", "sprites_location"}
    out, err = capsys.readouterr()
    assert (
        "2 models x 2 tasks = 4 cells; 0 done, 4 to do" in err and "[4/4] knn tiny/b sprites_location" in err
    )
    assert "(chance)" in out and "mean (cosine)" in out

    converters.forget()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.json")}
    assert sweep.run(config, tmp_path) == 0
    assert converters.calls() == [] and len(extractions) == 8
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.json")} == before
    again, err = capsys.readouterr()
    assert "nothing to do: every cell has a result" in err and again == out


def test_record_of_a_cell(config, converters, tmp_path):
    config.models = "tiny/a"
    assert sweep.run(config, tmp_path) == 0
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
    assert record["weight_hash"] == "tiny/a" and record["input"]["mean"] == [0.5, 0.4, 0.3]
    assert set(record["data"]) == {"train800", "val200"} and all(record["data"].values())
    assert {split: n["images"] for split, n in record["passes"].items()} == {"train800": 800, "val200": 200}
    assert all(n["seconds"] > 0 for n in record["passes"].values())
    assert set(record["source"]) == set(results.SOURCE) and record["source"]["num_features"] == 24
    assert record["device"]["platform"] == "cpu" and record["device"]["count"] >= 1
    assert {"convert", "load", "data", "features", "knn"} <= set(record["seconds"])
    assert record["seconds"]["convert"] == 0.5  # what the converters said, not how long was waited


def test_protocols_share_features(config, converters, extractions, tmp_path, monkeypatch):
    config.models = "tiny/head"
    assert sweep.run(config, tmp_path) == 0
    assert len(extractions) == 2

    def take(name, logits):
        def run(given, settings):
            found = given.split(name, logits=logits)
            assert (found.logits is not None) == logits
            return protocols.Outcome({"accuracy": float(len(found.features))})

        return run

    for i, (split, logits, passes) in enumerate(
        [("train800", False, 2), ("train800val200", True, 2), ("val200", False, 2), ("test", True, 3)]
    ):
        protocol = cells.Protocol(lambda _, split=split: {"splits": [split]}, take(split, logits))
        monkeypatch.setitem(cells.PROTOCOLS, f"p{i}", protocol)
        config.protocol = f"p{i}"
        assert sweep.run(config, tmp_path) == 0
        assert len(extractions) == passes
    converted = [c for c in converters.calls() if c[0] == "convert"]
    assert len(converted) == 1


def test_other_settings_extract_again_only_where_features_change(config, converters, extractions, tmp_path):
    config.models = "tiny/a"
    for changes, passes in [({}, 2), ({"k": 3}, 2), ({"dtype": "bfloat16"}, 4), ({"resize": "bilinear"}, 6)]:
        config.update(changes)
        assert sweep.run(config, tmp_path) == 0
        assert len(extractions) == passes
    assert len(results.collect(tmp_path)) == 4
    folder = tmp_path / "results" / "knn" / "tiny--a"
    assert len(list(folder.iterdir())) == 4 and (folder / "digits.json").exists()


def test_failures_do_not_stop_the_rest(config, converters, tmp_path, capsys):
    config.models = "tiny/a,tiny/bad,tiny/nan,tiny/crash,tiny/b"
    assert sweep.run(config, tmp_path) == 1
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
    converters.forget()
    assert sweep.run(config, tmp_path) == 1
    out, err = capsys.readouterr()
    assert converters.calls() == [] and "3 failed before" in err and "3 cells failed:" in err
    config.retry_failed = True
    assert sweep.run(config, tmp_path) == 1
    # The one with NaN weights is converted already.
    assert converters.calls() == [
        ["check", "tiny/bad", "tiny/crash"],
        ["convert", "tiny/bad"],
        ["convert", "tiny/crash"],
    ]
    assert "2 done, 3 to do" in capsys.readouterr().err


def test_twenty_models_on_three_tasks(config, converters, tmp_path, capsys, monkeypatch):
    """One that does not convert, one with NaN features, one without weights: 17 complete rows, three errors told."""
    ill = {"tiny/bad": "convert", "tiny/nan": "features", "tiny/missing": "convert"}
    well = [f"tiny/m{i}" for i in range(17)]
    config.models = ",".join([*well[:5], "tiny/bad", "tiny/nan", *well[5:], "tiny/missing"])
    config.tasks = "digits,sprites_location,sprites_orientation"
    assert sweep.run(config, tmp_path) == 1
    out, err = capsys.readouterr()
    table = results.collect(tmp_path)
    assert len(table) == 51 and set(table["model"]) == set(well)
    assert {r["model"]: r["stage"] for _, r in results.errors(tmp_path)} == ill
    rows = (tmp_path / "tables" / "knn.csv").read_text().splitlines()[1:-1]
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
    converters.forget()
    assert sweep.run(config, tmp_path) == 1 and converters.calls() == []
    config.retry_failed = True
    ran = []
    run = cells.PROTOCOLS["knn"].run
    counted = cells.Protocol(cells.PROTOCOLS["knn"].settings, lambda i, s: ran.append(i.cell) or run(i, s))
    monkeypatch.setitem(cells.PROTOCOLS, "knn", counted)
    assert sweep.run(config, tmp_path) == 1
    assert {c.model for c in ran} == {"tiny/nan"} and len(ran) == 3
    assert [c for c in converters.calls() if c[0] == "convert"] == [
        ["convert", "tiny/bad"],
        ["convert", "tiny/missing"],
    ]


def test_one_compilation_for_each_protocol_that_needs_one(config, converters, tmp_path, monkeypatch):
    """All tasks of a model share one; protocols that find their features need none."""
    from vtabjax import model
    from vtabjax.protocols import finetune

    traced, trainers = [], []
    apply, trainer = model.apply, finetune.Trainer
    monkeypatch.setattr(
        model, "apply", lambda *a, **k: traced.append(k.get("train", False)) or apply(*a, **k)
    )
    monkeypatch.setattr(
        finetune, "Trainer", lambda *a, **k: trainers.append(trainer(*a, **k)) or trainers[-1]
    )
    tasks = "digits,sprites_location,sprites_orientation"
    counts = {}
    for module in (knn, transferability, linear, tuning):
        c = module.get_config()
        c.models, c.tasks, c.image_size = "tiny/head", tasks, 16
        c.update({"scores": "leep"} if module is transferability else {})
        c.update({"c_count": 2} if module is linear else {})
        if module is tuning:
            c.finetune.update({"steps": "4,8", "batch_size": 8})
        traced.clear()
        assert sweep.run(c, tmp_path) == 0
        counts[module] = list(traced)
    assert counts[knn] == [False]
    assert counts[transferability] == []  # on features that are there
    assert counts[linear] == [False]  # of the test splits
    (one,) = trainers  # for all tasks and grid points
    # A training and an evaluation program (and a look at the shapes, which compiles nothing).
    assert one.traces == 1 and sorted(counts[tuning]) == [False, False, True]


def test_what_a_sweep_tells(config, converters, tmp_path, capsys, monkeypatch):
    """status, while it runs and afterwards, from files alone."""
    with pytest.raises(plan.UsageError, match="holds no sweep"):
        status.main(None, tmp_path)
    config.models, config.tasks = "tiny/a,tiny/bad,tiny/b", "digits,sprites_location"
    seen = []
    run = cells.PROTOCOLS["knn"].run

    def watched(inputs, settings):
        if inputs.cell.model == "tiny/b" and inputs.task == "sprites_location":
            inputs_worker[0]._write()  # as once a minute
            (state,) = status.read(tmp_path)
            seen.append((state, status.text(state)))
        return run(inputs, settings)

    inputs_worker = []
    monkeypatch.setitem(cells.PROTOCOLS, "knn", cells.Protocol(cells.PROTOCOLS["knn"].settings, watched))
    worker = watch.Worker
    monkeypatch.setattr(
        watch, "Worker", lambda *a, **k: inputs_worker.append(worker(*a, **k)) or inputs_worker[-1]
    )
    assert sweep.run(config, tmp_path) == 1
    ((state, said),) = seen
    assert [(m.model, m.done, m.failed, m.missing) for m in state.models] == [
        ("tiny/a", 2, 0, 0),
        ("tiny/bad", 0, 2, 0),
        ("tiny/b", 1, 0, 1),
    ]
    assert "3 of 6 cells done, 2 failed, 1 missing" in said and "sprites_location" in said
    assert "with 1 worker(s), by what cells took so far" in said and "running" in said
    assert state.expected > 0
    capsys.readouterr()
    assert status.main(None, tmp_path) == 1
    said = capsys.readouterr().out
    assert "4 of 6 cells done, 2 failed, 0 missing" in said and "ended" in said
    assert "operator aten.nonsense is not known" in said

    # A worker that was killed: silent, and no end.
    (path,) = [p for p in tmp_path.glob("sweeps/*/*.json") if p.name != "sweep.json"]
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "ended": None, "status": None, "seen": record["seen"] - 1000}))
    (tmp_path / "results" / "knn" / "tiny--b" / "digits.json").unlink()
    (state,) = status.read(tmp_path)
    said = status.text(state)
    assert state.workers[0]["state"] == "gone" and "gone, silent for" in said
    assert "nobody works on it; the command that started it goes on where it was" in said


def test_waiting_for_conversions():
    def event(what, began, ended):
        return {"what": what, "began": began, "ended": ended}

    events = [
        event("convert", 0, 4),
        event("compute", 4, 10),
        event("convert", 4, 6),
        event("convert", 9, 12),
    ]
    assert watch.waited(events) == (9, 6)  # 0 to 4 and 10 to 12
    assert watch.waited([]) == (0, 0)


def test_costs():
    def taken(model, task, seconds, **settings):
        settings = {"image_size": 64, "dtype": "float32", "splits": ["train800"]} | settings
        return {"protocol": "knn", "model": model, "task": task, "settings": settings, "seconds": seconds}

    records = [
        taken("timm/a@random", "digits", {"convert": 100.0, "features": 8.0}),
        taken("timm/b@random", "digits", {"features": 16.0}),
        taken("timm/c@random", "digits", {"features": 32.0}),
        taken("baseline/pixels", "digits", {"features": 0.8}),
        taken("timm/a@random", "digits", {"features": 999.0}, image_size=224),
        taken("timm/a@random", "digits", {"knn": 999.0}) | {"protocol": "linear"},
    ]
    settings = {"image_size": 64, "dtype": "float32", "splits": ["train800", "val200"]}
    known = costs.Costs(records, "knn", settings)
    cell = {m: Cell("knn", m, "digits", settings) for m in ("timm/a@random", "timm/new@random", "tiny/x")}
    assert known.known == 4 and known.has("timm/a@random") and not known.has("tiny/x")
    assert known.seconds(cell["timm/a@random"]) == pytest.approx(10)  # 0.01 s each, 1,000 of them
    assert known.seconds(cell["timm/new@random"]) == pytest.approx(20)  # its source's median
    assert known.seconds(cell["tiny/x"]) == pytest.approx(15)  # that of all
    assert known.total(list(cell.values())) == pytest.approx(45)
    assert costs.Costs([], "knn", settings).total(list(cell.values())) is None
    assert costs.images("dtd", ["train800val200", "test"]) == 2880
    assert costs.images("folder:/no/such/folder", ["test"]) == 1000


def test_retry_that_succeeds(config, converters, tmp_path, monkeypatch):
    config.models = "tiny/a"
    monkeypatch.setattr(inputs.Inputs, "examples", lambda *_: 1 / 0)
    assert sweep.run(config, tmp_path) == 1
    ((path, record),) = results.errors(tmp_path)
    assert record["message"] == "ZeroDivisionError: division by zero" and record["stage"] == "knn"
    monkeypatch.undo()
    monkeypatch.setattr(artefacts, "COMMAND", converters.command)
    config.retry_failed = True
    assert sweep.run(config, tmp_path) == 0
    assert not path.exists() and len(results.collect(tmp_path)) == 1


def test_conversion_that_hangs(tmp_path, converters):
    with conversions.Conversions(["tiny/a", "tiny/hang", "tiny/b"], tmp_path, 16, Limits(5)) as queue:
        assert queue.result("tiny/a").path == tmp_path / "tiny--a-16"
        with pytest.raises(artefacts.ConversionError, match=r"stopped after 5 s \(config\.convert_timeout\)"):
            queue.result("tiny/hang")
        assert queue.result("tiny/b").path.is_dir()


def test_converters_that_cannot_run(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(artefacts, "COMMAND", [sys.executable, "-c", "import no_such_torch"])
    with conversions.Conversions(["tiny/a", "tiny/b"], tmp_path, 16, Limits(60)) as queue:
        for model in ("tiny/a", "tiny/b"):
            with pytest.raises(artefacts.ConversionError, match="No module named 'no_such_torch'; see .*log"):
                queue.result(model)
    with pytest.raises(
        artefacts.ConversionError, match="converters check: .*No module named 'no_such_torch'"
    ):
        artefacts.check(["tiny/a"])


def test_closing_ends_the_converters(tmp_path, converters):
    queue = conversions.Conversions(["tiny/hang"], tmp_path, 16, Limits(600))
    while queue._process is None:
        time.sleep(0.01)
    queue.close()
    assert queue._process.poll() is not None and not queue._thread.is_alive()


def test_conversion_that_eats_the_memory(tmp_path, converters):
    limits = Limits(60, bytes=5e8)
    with conversions.Conversions(["tiny/a", "tiny/eats", "tiny/b"], tmp_path, 16, limits) as queue:
        assert queue.result("tiny/a").path.is_dir()
        message = r"stopped at \d\.\d GB of memory, 0\.5 GB are allowed \(config\.convert_memory_gb\)"
        with pytest.raises(artefacts.ConversionError, match=message):
            queue.result("tiny/eats")
        assert queue.result("tiny/b").path.is_dir()


def test_conversions_stay_a_few_models_ahead(tmp_path, converters):
    models = [f"tiny/m{i}" for i in range(6)]

    def converted(n):
        deadline = time.monotonic() + 30
        while sum(map(queue.ready, models)) < n and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # and no more than those
        return sum(map(queue.ready, models)) == n

    told = []
    with conversions.Conversions(
        models, tmp_path, 16, Limits(60), ahead=2, told=lambda *e: told.append(e)
    ) as queue:
        assert converted(2)
        queue.result("tiny/m0")
        assert converted(3)
        queue.result("tiny/m3")
        assert converted(6)
    assert [e[0] for e in told] == models and all(b <= c and well for _, b, c, well in told)
    assert converters.calls() == [["convert", model] for model in models]


def test_models_that_are_there_are_computed_first(config, converters, tmp_path, capsys):
    config.models = "tiny/b"
    assert sweep.run(config, tmp_path) == 0
    converters.forget()
    config.models, config.k = "tiny/a,tiny/b", 2
    assert sweep.run(config, tmp_path) == 0
    order = [line.split()[2] for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert order == ["tiny/b", "tiny/b", "tiny/a"]
    assert converters.calls() == [["check", "tiny/a"], ["convert", "tiny/a"]]


def test_own_image_size(config, converters, tmp_path):
    config.models, config.image_size = "tiny/a", 0
    assert sweep.run(config, tmp_path) == 0
    ((_, record),) = results.records(tmp_path)
    assert record["settings"]["image_size"] == 0 and record["input"]["input_size"] == [3, 16, 16]


def test_patterns(config, converters, tmp_path):
    config.models = "baseline/pixels,tiny/m*,tiny/m1"
    assert sweep.run(config, tmp_path) == 0
    assert sorted(results.collect(tmp_path)["model"]) == ["baseline/pixels", "tiny/m0", "tiny/m1", "tiny/m2"]
    converters.forget()
    assert sweep.run(config, tmp_path) == 0
    assert converters.calls() == []  # not even to know what the pattern stands for


def test_dry_run(config, converters, tmp_path, capsys):
    config.dry_run = True
    assert sweep.run(config, tmp_path) == 0
    assert "nothing to estimate the time from" in capsys.readouterr().err
    assert converters.calls() == [] and not (tmp_path / "results").exists()
    config.dry_run, config.models = False, "tiny/a"
    sweep.run(config, tmp_path)
    capsys.readouterr()
    config.dry_run, config.models = True, "tiny/a,tiny/b"
    assert sweep.run(config, tmp_path) == 0
    err = capsys.readouterr().err
    assert "1 done, 1 to do" in err and "by what 1 similar cell took here, 1 would take about 0:" in err
    assert "  tiny/b: 1 cell (to convert; about 0:" in err and "as similar models took)" in err


def test_shares_make_the_whole(config, converters, tmp_path):
    config.tasks = "digits,sprites_location"
    for i in range(3):
        assert sweep.run(config, tmp_path, f"{i}/3") == 0
        assert len(results.collect(tmp_path)) == (1, 3, 4)[i]
    assert len(list(tmp_path.glob("sweeps/knn-*/shares-3.json"))) == 1


def shares(everything, n, seconds=lambda cell: None):
    numbers = plan.assign(everything, n, seconds)
    assert len(numbers) == len(everything)
    return [[c for c, i in zip(everything, numbers, strict=True) if i == k] for k in range(n)]


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 12))
def test_every_cell_has_one_worker(models, tasks, n):
    everything = [Cell("knn", f"tiny/{m}", f"t{t}", {"t": t}) for m in range(models) for t in range(tasks)]
    found = shares(everything, n)
    assert sorted(map(str, everything)) == sorted(str(c) for share in found for c in share)
    sizes = [len(share) for share in found]
    if n <= models:  # whole models
        assert all(len({c.model for c in s}) * tasks == len(s) for s in found)
        assert max(sizes) - min(sizes) <= tasks
    else:
        assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=12), st.integers(1, 12))
def test_shares_are_balanced_by_cost(seconds, n):
    """Graham's bound for the longest first: at most 4/3 of the best; whose bounds are the mean and the largest."""
    everything = [Cell("knn", f"tiny/{m}", "t", {}) for m in range(len(seconds))]
    if n > len(seconds):
        n = len(seconds)
    found = shares(everything, n, lambda cell: seconds[int(cell.model.removeprefix("tiny/"))])
    loads = [sum(seconds[int(c.model.removeprefix("tiny/"))] for c in share) for share in found]
    ordered = sorted(seconds, reverse=True)
    pair = ordered[n - 1] + ordered[n] if n < len(seconds) else 0  # two of the n + 1 largest share a worker
    assert max(loads) <= sum(seconds) / n + max(seconds) * (1 - 1 / n) + 1e-9
    assert max(loads) <= 4 / 3 * 2 * max(sum(seconds) / n, ordered[0], pair) + 1e-9
    known = lambda cell: 5.0 if cell.model == "tiny/0" else None  # noqa: E731
    assert sum(map(len, shares(everything, n, known))) == len(everything)  # unknown: like the others


def test_the_first_worker_writes_down_the_shares(tmp_path):
    """Results that come meanwhile change what cells are taken to cost, not who does them."""
    everything = [Cell("knn", f"tiny/{m}", "t", {}) for m in range(6)]
    file = tmp_path / "shares.json"
    costs = iter([lambda cell: 1.0, lambda cell: 100.0 if cell.model == "tiny/0" else 1.0])
    found = [
        plan.share_of(everything, plan.Share(i, 2, "--cells"), file, lambda: next(costs)) for i in range(2)
    ]
    assert sorted(map(str, found[0] + found[1])) == sorted(map(str, everything))
    assert [len(f) for f in found] == [3, 3]
    assert plan.share_of(everything, None, tmp_path / "none", lambda: 1 / 0) == everything
    assert plan.share_of(everything, plan.Share(0, 1, ""), tmp_path / "none", lambda: 1 / 0) == everything


@pytest.mark.parametrize("share", ["3/3", "-1/3", "1", "a/b", "1/0", "/", "1/2/3"])
def test_bad_shares(share):
    with pytest.raises(plan.UsageError, match="is not i/n with 0 <= i < n"):
        plan.which_share(share, {})


def slurm(number, count, least, most):
    values = {"ID": number, "COUNT": count, "MIN": least, "MAX": most}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (slurm(0, 8, 0, 7), "0/8"),
        (slurm(8, 8, 1, 8), "7/8"),
        (slurm(5, 3, 1, 5), "2/3"),  # --array=1-5:2
        (slurm(7, 2, 3, 7), "1/2"),  # --array=3,7
        (slurm(4, 1, 4, 4), "0/1"),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, "2/3"),
    ],
)
def test_shares_of_array_jobs(environment, expected):
    found = plan.which_share("", environment)
    assert (found and str(found)) == expected
    assert str(plan.which_share("1/2", environment)) == "1/2"  # what is said counts


@pytest.mark.parametrize(
    "environment, why",
    [
        (slurm(3, 3, 1, 7), "not evenly spaced"),
        (slurm(2, 3, 1, 7), "not evenly spaced"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETIONS is not set"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "3"}, "JOB_COMPLETIONS=3"),
    ],
)
def test_arrays_that_are_no_shares(environment, why):
    with pytest.raises(plan.UsageError, match=f"is set, but not which share .*{why}.*--cells=i/n"):
        plan.which_share("", environment)


def record(value, **more):
    return {"metrics": {"accuracy": value, **more}}


def test_table_of_accuracies():
    found = {
        ("a", "digits"): record(0.5, accuracy_cosine=0.25),
        ("a", "sprites_location"): record(0.25, accuracy_cosine=0.75),
        ("b", "digits"): record(0.9),
        ("b", "sprites_location"): None,
        ("c", "digits"): record(1.0, accuracy_cosine=0.0),
        ("c", "sprites_location"): record(0.5, accuracy_cosine=0.5),
    }
    table = tables.accuracy_table(found)
    assert table.header == ["model", "digits", "sprites_location", "mean", "mean (cosine)"]
    assert table.rows == [
        ["c", 1.0, 0.5, 0.75, 0.25],
        ["a", 0.5, 0.25, 0.375, 0.5],
        ["b *", 0.9, None, None, None],  # never a mean over what is there
        ["(chance)", 0.1, 1 / 16, (0.1 + 1 / 16) / 2, (0.1 + 1 / 16) / 2],
    ]
    assert table.remarks == ["1 of 3 models lack tasks (*): no mean over the others"]
    assert tables.in_percent(table).rows[0] == ["c", "100.00", "50.00", "75.00", "25.00"]


def test_vtab_means_are_named():
    from vtabjax import tasks

    value = {"Natural": 0.7, "Specialized": 0.4, "Structured": 0.1}
    found = {("m", t): record(value[tasks.get(t).group]) for t in tasks.VTAB}
    found |= {("lacking", t): None if t == "svhn" else record(0.5) for t in tasks.VTAB}
    table = tables.accuracy_table(found)
    assert table.header[-5:] == ["Natural", "Specialized", "Structured", "mean", "mean of groups"]
    plain = (7 * 0.7 + 4 * 0.4 + 8 * 0.1) / 19
    assert table.rows[0][0] == "m"
    assert table.rows[0][-5:] == pytest.approx([0.7, 0.4, 0.1, plain, 0.4])
    assert table.rows[1][0] == "lacking *" and table.rows[1][-5:] == [None, 0.5, 0.5, None, None]


def test_table_files(tmp_path):
    found = {("a", "digits"): record(0.123456789), ("b", "digits"): None}
    text = tables.report("knn", found, tmp_path)
    assert "12.35" in text and str(tmp_path / "tables" / "knn.csv") in text
    assert (tmp_path / "tables" / "knn.csv").read_text().splitlines() == [
        "model,digits,mean",
        "a,0.123456789,0.123456789",
        "b *,,",
        "(chance),0.1,0.1",
    ]
    markdown = (tmp_path / "tables" / "knn.md").read_text()
    assert "12.35" in markdown and "accuracy in percent" in markdown and markdown.startswith("|")


def test_table_of_scores(tmp_path):
    found = {
        ("a", "digits"): {"metrics": {"leep": None, "logme": 0.5}},
        ("a", "dtd"): None,
        ("b", "digits"): {"metrics": {"leep": -1.5, "logme": 0.25}},
        ("b", "dtd"): {"metrics": {"leep": -2.0, "logme": 1.5}, "notes": {"logme": "of 64 components"}},
    }
    table = tables.score_table(found)
    assert table.remarks[1:] == ["logme: of 64 components"]
    assert table.header == ["task", "model", "leep", "logme"]
    assert table.rows == [
        ["digits", "a", None, 0.5],
        ["digits", "b", -1.5, 0.25],
        ["dtd", "a", None, None],
        ["dtd", "b", -2.0, 1.5],
    ]
    assert "not applicable" in tables.report("transferability", found, tmp_path)
    assert (tmp_path / "tables" / "transferability.csv").read_text().splitlines()[1] == "digits,a,,0.5"


def test_long_tables_are_in_the_files(tmp_path):
    found = {(f"m{i}", "digits"): record(i / 1000) for i in range(100)}
    text = tables.report("knn", found, tmp_path)
    assert "the first 80 of 101 rows" in text and len(text.splitlines()) < 90
    assert len((tmp_path / "tables" / "knn.csv").read_text().splitlines()) == 102


def test_log_lines(capsys):
    from vtabjax.progress import Progress, duration

    progress = Progress(2)
    progress.doing("nothing to see in a log")
    progress.step("one")
    progress.step("two")
    progress.close()
    Progress(1, enabled=False).step("silent")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/2] one  (left: 0:") and second == "[2/2] two  (left: 0:00)"
    assert [duration(s) for s in (7.4, 750, 11100)] == ["0:07", "12:30", "3:05:00"]


def test_bar_on_a_terminal():
    import io

    from vtabjax.progress import Progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(2, stream=stream)
    progress.doing("tiny/a")
    progress.step("one")
    progress.say("a word")
    progress.close()
    assert "one\n" in stream.getvalue() and "a word\n" in stream.getvalue() and "1/2" in stream.getvalue()


def test_slow_work_in_another_process_overlaps(config, converters, tmp_path, monkeypatch, capsys):
    """While tiny/a is computed, tiny/b becomes ready: its cell did not wait for its conversion."""
    states = []
    run_model = work.run_model

    def watched(model, todo, session):
        if model == "tiny/a":
            session.conversions.result("tiny/a")
            deadline = time.monotonic() + 30
            while not session.conversions.ready("tiny/b") and time.monotonic() < deadline:
                time.sleep(0.01)
        states.append((model, session.conversions.ready(model)))
        return run_model(model, todo, session)

    monkeypatch.setattr(work, "run_model", watched)
    assert sweep.run(config, tmp_path) == 0
    assert states == [("tiny/a", True), ("tiny/b", True)]


def test_linear_config_needs_no_knn_fields(converters, tmp_path):
    config = linear.get_config()
    config.dry_run = True
    assert sweep.run(config, tmp_path) == 0


def test_info_has_the_graph_in_it(tmp_path, converters):
    with conversions.Conversions(["tiny/a", "tiny/head"], tmp_path, 16, Limits(60)) as queue:
        infos = [artefacts.read_info(queue.result(m).path) for m in ("tiny/a", "tiny/head")]
    assert len({i["graph_hash"] for i in infos}) == 2
    assert json.loads((tmp_path / "tiny--a-16" / "model.json").read_text())["weight_hash"] == "tiny/a"


def test_other_settings_are_told(config, converters, tmp_path, capsys):
    config.models = "tiny/a"
    assert sweep.run(config, tmp_path) == 0
    config.k, config.models = 3, "tiny/a,tiny/b"
    assert sweep.run(config, tmp_path) == 0
    assert "1 of those to do have results with other settings here" in capsys.readouterr().err


def test_folder_of_pictures(config, converters, tmp_path, monkeypatch):
    from PIL import Image

    from vtabjax.data import folder

    pictures, rng = tmp_path / "my birds", np.random.default_rng(0)
    for name in ("crow", "wren"):
        (pictures / name).mkdir(parents=True)
        for i in range(12):
            array = rng.integers(0, 256, (20, 20, 3), np.uint8) // (2 if name == "crow" else 1)
            Image.fromarray(array).save(pictures / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    config.models, config.tasks = "tiny/a", "folder:my birds"
    assert sweep.run(config, tmp_path / "w") == 0
    ((path, record),) = results.records(tmp_path / "w")
    assert record["task"] == f"folder:{pictures}" and path.name.startswith("folder-my_birds-")
    assert sweep.run(config, tmp_path / "w") == 0 and len(results.collect(tmp_path / "w")) == 1

    # A picture more: what is there says nothing about it.
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(pictures / "crow" / "new.png")
    folder._task.cache_clear()
    assert sweep.run(config, tmp_path / "w") == 0
    assert len(results.collect(tmp_path / "w")) == 2


def test_labels_out_of_range(config, converters, tmp_path, monkeypatch):
    from vtabjax import data

    load = data.load
    config.models = "tiny/a"
    monkeypatch.setattr(data, "load", lambda *a, **k: load(*a, **k)._replace(labels=np.full(800, 10)))
    assert sweep.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert "labels from 10 to 10; the task has the classes 0 to 9" in record["message"]
    assert record["stage"] == "data"


def test_all_protocols_on_one_pass(config, converters, extractions, tmp_path, capsys):
    config.models = "tiny/a,tiny/head"
    assert sweep.run(config, tmp_path) == 0 and len(extractions) == 4
    for module, passes in ((transferability, 4), (linear, 6)):  # linear evaluation adds the test split
        c = module.get_config()
        c.models, c.tasks, c.image_size = config.models, config.tasks, config.image_size
        if module is linear:
            c.c_count = 3
        else:
            c.scores = "leep,nce,logme,parc"
        assert sweep.run(c, tmp_path) == 0
        assert len(extractions) == passes
    table = results.collect(tmp_path).set_index(["protocol", "model"])
    assert len(table) == 6
    assert np.isnan(table.loc[("transferability", "tiny/a"), "leep"])
    assert table.loc[("transferability", "tiny/head"), "leep"] < 0
    assert table.loc[("linear", "tiny/a"), "accuracy"] > 0.7
    assert table.loc[("linear", "tiny/a"), "n_examples"] == 797
    out = capsys.readouterr().out
    assert "not applicable or undefined" in out


def test_what_a_protocol_gets(config, converters, tmp_path, monkeypatch, capsys):
    """The hooks that training needs: images, parameters, one trainer per model, a folder, a word in between."""
    made, folders = [], set()

    def run(given, settings):
        examples = given.examples("val200")
        trainer = given.model.once("trainer", lambda: made.append(given.model.spec) or len(made))
        given.folder.mkdir(parents=True)
        folders.add(given.folder)
        with given.stages("train"):
            given.say(f"training {given.task}")
        assert examples.images.shape == (200, 16, 16, 3) and given.model.parts.variables["w"].shape == (
            24,
            48,
        )
        return protocols.Outcome({"accuracy": 0.5}, examples.labels == 1, {"learning_rate": 0.1 * trainer})

    monkeypatch.setitem(cells.PROTOCOLS, "train", cells.Protocol(lambda _: {"splits": ["val200"]}, run))
    config.protocol, config.tasks = "train", "digits,sprites_location"
    assert sweep.run(config, tmp_path) == 0
    assert made == ["tiny/a", "tiny/b"] and len(folders) == 4
    assert all(tmp_path / "cells" / "train" in folder.parents for folder in folders)
    assert "training sprites_location" in capsys.readouterr().err
    table = results.collect(tmp_path)
    assert "seconds.train" in table and set(table["chosen.learning_rate"]) == {0.1, 0.2}


def test_a_protocol_with_another_protocols_config(config, tmp_path):
    config.protocol = "linear"
    with pytest.raises(plan.UsageError, match="config.protocol='linear' needs fields .*configs/linear.py"):
        sweep.run(config, tmp_path)


@pytest.mark.parametrize("damaged", ["model.json", "graph.json"])
def test_damaged_artefact(config, converters, tmp_path, damaged):
    config.models = "tiny/a"
    assert sweep.run(config, tmp_path) == 0
    path = tmp_path / "models" / "tiny--a-16" / damaged
    whole = path.read_text()
    path.write_text("{") if damaged == "model.json" else path.unlink()
    config.k = 2
    assert sweep.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert record["stage"] == "load"
    assert "tiny--a-16 is not a complete converted model" in record["message"]
    assert "remove the folder and run again" in record["message"]
    path.write_text(whole)
    config.retry_failed = True
    assert sweep.run(config, tmp_path) == 0
