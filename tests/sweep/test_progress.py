"""What a sweep says while it runs."""

import json

import pytest

from vtabjax.sweep import adapters, heartbeat, plan, runner, status


def test_what_a_sweep_tells(config, fake_converters, tmp_path, capsys, monkeypatch):
    """status, while it runs and afterwards, from files alone."""
    with pytest.raises(plan.UsageError, match="holds no sweep"):
        status.main(None, tmp_path)
    config.models, config.tasks = "tiny/a,tiny/bad,tiny/b", "digits,sprites_location"
    seen = []
    run = adapters.PROTOCOLS["knn"].run

    def watched(inputs, settings):
        if inputs.cell.model == "tiny/b" and inputs.task == "sprites_location":
            inputs_worker[0]._write()  # as once a minute
            (state,) = status.read(tmp_path)
            seen.append((state, status.text(state)))
        return run(inputs, settings)

    inputs_worker = []
    monkeypatch.setitem(
        adapters.PROTOCOLS, "knn", adapters.Protocol(adapters.PROTOCOLS["knn"].settings, watched)
    )
    worker = heartbeat.Worker
    monkeypatch.setattr(
        heartbeat, "Worker", lambda *a, **k: inputs_worker.append(worker(*a, **k)) or inputs_worker[-1]
    )
    assert runner.run(config, tmp_path) == 1
    ((state, said),) = seen
    assert [(m.model, m.done, m.failed, m.missing) for m in state.models] == [
        ("tiny/a", 2, 0, 0),
        ("tiny/bad", 0, 2, 0),
        ("tiny/b", 1, 0, 1),
    ]
    assert "3 of 6 cells done, 2 failed, 1 missing" in said and "sprites_location" in said
    assert "with 1 worker(s), judging by the cells so far" in said and "running" in said
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
    assert "no worker is running; the command that started it resumes where it stopped" in said


def test_waiting_for_conversions():
    def event(what, began, ended):
        return {"what": what, "began": began, "ended": ended}

    events = [
        event("convert", 0, 4),
        event("compute", 4, 10),
        event("convert", 4, 6),
        event("convert", 9, 12),
    ]
    assert heartbeat.conversion_idle_seconds(events) == (9, 6)  # 0 to 4 and 10 to 12
    assert heartbeat.conversion_idle_seconds([]) == (0, 0)


def test_log_lines(capsys):
    from vtabjax.sweep.progress import Progress, duration

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

    from vtabjax.sweep.progress import Progress

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
