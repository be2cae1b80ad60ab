"""Converters as child processes: limits, failures, a few models ahead of the cells."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vtabjax.runtime import files
from vtabjax.sweep import artefacts, conversions, converters_client, runner, worker
from vtabjax.sweep.conversions import Limits


def test_conversion_that_hangs(tmp_path, fake_converters):
    with conversions.Conversions(["tiny/a", "tiny/hang", "tiny/b"], tmp_path, 16, Limits(5)) as queue:
        assert queue.result("tiny/a").path == tmp_path / "tiny--a-16"
        with pytest.raises(
            converters_client.ConversionError, match=r"stopped after 5 s \(config\.convert_timeout\)"
        ):
            queue.result("tiny/hang")
        assert queue.result("tiny/b").path.is_dir()


def test_converters_that_cannot_run(tmp_path, monkeypatch):
    monkeypatch.setattr(converters_client, "COMMAND", [sys.executable, "-c", "import no_such_torch"])
    with conversions.Conversions(["tiny/a", "tiny/b"], tmp_path, 16, Limits(60)) as queue:
        for model in ("tiny/a", "tiny/b"):
            with pytest.raises(
                converters_client.ConversionError, match="No module named 'no_such_torch'; see .*log"
            ):
                queue.result(model)
    with pytest.raises(
        converters_client.ConversionError, match="converters check: .*No module named 'no_such_torch'"
    ):
        artefacts.unavailable_models(["tiny/a"])


def test_converters_that_were_asked_convert(tmp_path, fake_converters):
    """Their libraries are imported once; when they die in a model, others go on with the next."""
    models = ["tiny/a", "tiny/crash", "tiny/b"]
    started = conversions.Started(models, tmp_path, 16)
    unavailable = artefacts.unavailable_models([*models, "tiny/unknown"], started.check)
    assert list(unavailable) == ["tiny/unknown"] and "does not exist" in unavailable["tiny/unknown"]
    with conversions.Conversions(models, tmp_path, 16, Limits(60), started=started) as queue:
        assert queue.result("tiny/a").path.is_dir()
        with pytest.raises(converters_client.ConversionError, match="ended by SIGKILL"):
            queue.result("tiny/crash")
        assert started.process.returncode is not None
        assert queue.result("tiny/b").path.is_dir() and queue._process is not started.process
    started.close()


def test_started_converters_that_cannot_run_and_that_are_not_needed(tmp_path, monkeypatch, fake_converters):
    idle = conversions.Started(["tiny/a"], tmp_path, 16)
    idle.close()
    assert idle.process.returncode is not None
    monkeypatch.setattr(converters_client, "COMMAND", [sys.executable, "-c", "import no_such_torch"])
    started = conversions.Started(["tiny/a"], tmp_path, 16)
    with pytest.raises(
        converters_client.ConversionError, match="converters check: .*No module named 'no_such_torch'"
    ):
        started.check(["tiny/a"])
    started.close()


def test_closing_ends_the_converters(tmp_path, fake_converters):
    queue = conversions.Conversions(["tiny/hang"], tmp_path, 16, Limits(600))
    while queue._process is None:
        time.sleep(0.01)
    queue.close()
    assert queue._process.poll() is not None and not queue._thread.is_alive()


def test_conversion_that_eats_the_memory(tmp_path, fake_converters):
    limits = Limits(60, bytes=5e8)
    with conversions.Conversions(["tiny/a", "tiny/eats", "tiny/b"], tmp_path, 16, limits) as queue:
        assert queue.result("tiny/a").path.is_dir()
        message = r"stopped at \d\.\d GB of memory, 0\.5 GB are allowed \(config\.convert_memory_gb\)"
        with pytest.raises(converters_client.ConversionError, match=message):
            queue.result("tiny/eats")
        assert queue.result("tiny/b").path.is_dir()


def test_conversions_stay_a_few_models_ahead(tmp_path, fake_converters):
    models = [f"tiny/m{i}" for i in range(6)]

    def converted(n):
        deadline = time.monotonic() + 30
        while sum(map(queue.ready, models)) < n and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # and no more than those
        return sum(map(queue.ready, models)) == n

    told = []
    with conversions.Conversions(
        models, tmp_path, 16, Limits(60), ahead=2, on_converted=lambda *e: told.append(e)
    ) as queue:
        assert converted(2)
        queue.result("tiny/m0")
        assert converted(3)
        queue.result("tiny/m3")
        assert converted(6)
    assert [e[0] for e in told] == models and all(b <= c and well for _, b, c, well in told)
    assert fake_converters.calls() == [["convert", model] for model in models]


def test_no_model_ahead(tmp_path, fake_converters):
    with conversions.Conversions(["tiny/a", "tiny/b"], tmp_path, 16, Limits(60), ahead=0) as queue:
        assert queue.result("tiny/a").path.is_dir()
        assert not queue.ready("tiny/b")
        assert queue.result("tiny/b").path.is_dir()
    with pytest.raises(ValueError, match="ahead=-1 must be at least 0"):
        conversions.Conversions(["tiny/a"], tmp_path, 16, Limits(60), ahead=-1)


def test_models_that_are_there_are_computed_first(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/b"
    assert runner.run(config, tmp_path) == 0
    fake_converters.forget()
    config.models, config.k = "tiny/a,tiny/b", 2
    assert runner.run(config, tmp_path) == 0
    order = [line.split()[2] for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert order == ["tiny/b", "tiny/b", "tiny/a"]
    assert fake_converters.calls() == [["check", "tiny/a"], ["convert", "tiny/a"]]


def test_slow_work_in_another_process_overlaps(config, fake_converters, tmp_path, monkeypatch, capsys):
    """While tiny/a is computed, tiny/b becomes ready: its cell did not wait for its conversion."""
    states = []
    run_model = worker.run_model

    def watched(model, todo, session, *rest):
        if model == "tiny/a":
            session.conversions.result("tiny/a")
            deadline = time.monotonic() + 30
            while not session.conversions.ready("tiny/b") and time.monotonic() < deadline:
                time.sleep(0.01)
        states.append((model, session.conversions.ready(model)))
        return run_model(model, todo, session, *rest)

    monkeypatch.setattr(worker, "run_model", watched)
    assert runner.run(config, tmp_path) == 0
    assert states == [("tiny/a", True), ("tiny/b", True)]


def test_info_has_the_graph_in_it(tmp_path, fake_converters):
    with conversions.Conversions(["tiny/a", "tiny/head"], tmp_path, 16, Limits(60)) as queue:
        infos = [artefacts.read_info(queue.result(m).path) for m in ("tiny/a", "tiny/head")]
    assert len({i["graph_hash"] for i in infos}) == 2
    assert infos[0]["spec"] == "tiny/a"


def test_what_a_killed_conversion_left_goes(tmp_path, fake_converters):
    """A folder that was half saved, of a process that is gone; not one that is being saved."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".tiny--a-16.1234.{files.host()}.{ended.pid}.tmp"
    (left / "variables").mkdir(parents=True)
    at_work = tmp_path / f".tiny--b-16.1234{files.owner()}.tmp"
    elsewhere = tmp_path / f".tiny--b-16.1234.elsewhere.{ended.pid}.tmp"
    at_work.mkdir()
    elsewhere.mkdir()
    with conversions.Conversions(["tiny/a"], tmp_path, 16, Limits(60)) as queue:
        queue.result("tiny/a")
    assert not left.exists() and at_work.is_dir() and elsewhere.is_dir()


def test_several_that_save_the_same_model(tmp_path):
    """Each succeeds, and one folder is there, whole; a reader's stays where it should."""
    target = tmp_path / "m"
    for unless, wanted in (("", "second"), ("model.json", "first")):
        with files.replacing_folder(target) as one:
            (one / "model.json").write_text("first")
            with files.replacing_folder(target) as other:
                (other / "model.json").write_text("earlier")
        assert (target / "model.json").read_text() == "first"
        with files.replacing_folder(target, unless) as two:
            (two / "model.json").write_text("second")
        assert (target / "model.json").read_text() == wanted
    assert os.listdir(tmp_path) == ["m"]


def test_a_model_of_another_user(config, fake_converters, tmp_path, monkeypatch):
    """Made under umask 077: one line before anything is converted."""
    exists = Path.exists

    def forbidden(path):
        if path.parent.name == "tiny--a-16":
            raise PermissionError(13, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(runner.UsageError, match="tiny--a-16 cannot be read .*config.models_dir=DIR"):
        runner.run(config, tmp_path)
    assert fake_converters.calls() == []
