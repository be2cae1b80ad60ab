"""What a sweep says while it runs."""

import io
import itertools
import json
import re
import time

import pyte
import pytest

from vtabjax.results import Cell
from vtabjax.runtime import bars
from vtabjax.sweep import adapters, heartbeat, plan, runner, status
from vtabjax.sweep.progress import Progress, duration


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
    assert "with 1 worker, judging by the cells so far" in said and "running" in said
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


def cells(n, model="tiny/a"):
    return [Cell("knn", model, f"task{i}", {}) for i in range(n)]


def test_log_lines(capsys, monkeypatch):
    """One for a cell, one for a model; while a cell takes long one a minute says how far it is."""
    todo = cells(2)
    progress = Progress(todo)
    progress.doing("tiny/a: task0")
    clock = itertools.count(time.monotonic() + 100, 45)
    with monkeypatch.context() as patched:
        patched.setattr("vtabjax.sweep.progress.time.monotonic", lambda: next(clock))
        with bars.bar(desc="linear", total=8, delay=0) as bar:
            for _ in range(3):
                bar.update(2)
                bar.refresh()
    progress.step(todo[0], "accuracy 50.0 %", seconds=0.1, converting=2.0)
    progress.step(todo[1], "FAILED in convert: no such file", failed=True)
    progress.model("tiny/a: 1 of 2 cells in 0:01")
    progress.close()
    silent = Progress(todo, enabled=False)
    silent.say("silent")
    silent.step(todo[0], "silent")
    silent.close()
    told = capsys.readouterr().err
    assert "\r" not in told and "\x1b" not in told
    *within, first, second, last = told.splitlines()
    assert within and all(line.startswith("[0/2] tiny/a: task0: linear ") for line in within)
    assert first.startswith(
        "[1/2] knn tiny/a task0: accuracy 50.0 %  0.1 s after 2.0 s of converting  (left: 0:"
    )
    assert second == "[2/2] knn tiny/a task1: FAILED in convert: no such file  (left: 0:00)"
    assert last.startswith("tiny/a: 1 of 2 cells in 0:01") and last.endswith("1 of 1 models, 2 of 2 cells)")
    assert [duration(s) for s in (7.4, 750, 11100)] == ["0:07", "12:30", "3:05:00"]


def test_a_log_has_no_bars(capsys):
    assert list(bars.bar(range(3), "nothing to see", delay=0)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_the_time_that_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vtabjax.sweep.progress.time.monotonic", lambda: now[0])
    todo = cells(4)
    progress = Progress(todo, enabled=False)
    assert progress.left is None
    now[0] += 10
    progress.step(todo[0], "")
    assert progress.left == 30
    now[0] += 4
    assert progress.left == 26  # the clock goes on between two cells
    now[0] += 100
    assert progress.left == 20  # never less than the cells that have not begun
    for cell in todo[1:]:
        progress.step(cell, "")
    assert progress.left == 0
    progress.close()


class Screen(io.StringIO):
    """A terminal of so many columns, and what stands on it."""

    def __init__(self, columns):
        super().__init__()
        self._screen = pyte.HistoryScreen(columns, 24, history=1000)
        self._stream = pyte.Stream(self._screen)

    def isatty(self):
        return True

    @property
    def lines(self):
        """All lines that have anything, those that have scrolled away, too."""
        self._stream.feed(self.getvalue().replace("\n", "\r\n"))
        self.seek(0)
        self.truncate()
        gone = ["".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top]
        return [line.rstrip() for line in [*gone, *self._screen.display] if line.strip()]


@pytest.fixture(params=[80, 140])
def screen(request, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(request.param))
    return Screen(request.param)


def test_a_terminal_has_one_region(screen):
    """What runs, for how long, the bars within it, what is done, one time that is left; lines of the cells above."""
    models = ["timm/mobilenetv3_small_100.lamb_in1k", "tiny/b"]
    todo = [
        Cell("knn", model, task, {}) for model in models for task in ("digits", "folder:/a/long/path/birds")
    ]
    progress = Progress(todo, stream=screen)
    progress.doing(f"{models[0]}: digits")
    with bars.bar(desc="nearest neighbours", total=4, delay=0) as inner:
        inner.update()
        progress._view._live.refresh()
        now, bar, counts = screen.lines
        assert now.startswith(f"{models[0]}: digits") and now.endswith(" 0:00")
        assert bar.startswith("  nearest neighbours") and bar.endswith(" 25 %")
        assert counts.endswith("0/4 cells, 0/2 models, 0:00")
    progress.step(todo[0], "accuracy 98.3 %  accuracy_cosine 97.1 %", seconds=1.5)
    progress.step(todo[1], "FAILED in knn: no such file", failed=True)
    progress.model("said in a log", 1)
    progress.step(todo[2], "accuracy 8.3 %  accuracy_cosine 7.1 %", seconds=12.0)
    progress.doing("tiny/b: folder:/a/long/path/birds")
    progress._view._live.refresh()
    first, second, third, now, counts = screen.lines
    assert first.startswith(f"✓ {models[0]}  digits  accuracy  98.3 %") and first.endswith("  1.5 s")
    assert second == f"✗ {models[0]}  birds: FAILED in knn: no such file"
    assert third.startswith(f"✓ {'tiny/b':{len(models[0])}}  digits  accuracy   8.3 %") and third.endswith(
        "12.0 s"
    )
    assert len(first) == len(third) <= screen._screen.columns
    assert now.startswith("tiny/b: birds") and "3/4 cells, 1/2 models, 1 failed, 0:00, 0:00 left" in counts
    progress.step(todo[3], "accuracy 1.0 %", seconds=1.5)
    progress.say("a word")
    progress.close()
    assert len(screen.lines) == 5 and screen.lines[-1] == "a word"  # the region is gone


def test_names_that_are_too_long_are_cut_in_the_middle(screen):
    (cell,) = cells(1, "timm/" + "very_" * 40 + "long.tag@random")
    progress = Progress([cell], stream=screen)
    progress.step(cell, "accuracy 98.3 %", seconds=1.5)
    progress.close()
    (line,) = screen.lines
    assert len(line) <= screen._screen.columns and "…" in line
    assert line.startswith("✓ timm/very_") and "@random  task0  accuracy  98.3 %" in line


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours(screen, monkeypatch, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    progress = Progress(cells(1), stream=screen)
    progress.step(cells(1)[0], "accuracy 1.0 %")
    progress.close()
    styles = re.findall(r"\x1b\[[\d;]*m", screen.getvalue())
    assert bool(styles) != bool(no_color)


def test_a_dumb_terminal_gets_lines(screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    progress = Progress(cells(1), stream=screen)
    progress.doing("tiny/a")
    progress.step(cells(1)[0], "accuracy 1.0 %")
    progress.close()
    assert (
        screen.getvalue().startswith("[1/1] knn tiny/a task0: accuracy 1.0 %")
        and "\x1b" not in screen.getvalue()
    )


def test_a_notebook_has_bars(monkeypatch, capsys):
    monkeypatch.setattr("vtabjax.runtime.terminal.is_notebook", lambda: True)
    todo = cells(2)
    progress = Progress(todo)
    progress.doing("tiny/a: task0")
    progress.step(todo[0], "accuracy 1.0 %")
    progress.step(todo[1], "FAILED in knn: why", failed=True)
    progress.close()
    out, err = capsys.readouterr()
    assert "2/2" in err and "knn tiny/a task1: FAILED in knn: why" in out + err
