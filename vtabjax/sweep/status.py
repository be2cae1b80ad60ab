"""The state of a sweep, running or finished, from its files alone: ``main.py --config=configs/report.py:status``."""

from __future__ import annotations

import collections
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import options, results, specs
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.runtime import files, memory
from vtabjax.sweep import costs, heartbeat
from vtabjax.sweep.progress import duration, first_line

_GONE = 3.5 * heartbeat.HEARTBEAT  # seconds without a word after which a worker counts as gone
_LISTED = 40  # models that still make sense on a terminal
_LAST = 8  # workers that have ended and are still shown


class ModelState(NamedTuple):
    """A model in a sweep: how many of its tasks are done, have failed or are missing, and which worker runs it."""

    model: str
    done: int
    failed: int
    missing: int
    doing: str


class SweepState(NamedTuple):
    """A sweep.

    Attributes:
      name: protocol and digest.
      models: one state each.
      failures: (cell, stage, message) of those that have failed.
      workers: what workers reported, the latest last, with "state": "running", "gone", or how it ended.
      expected: seconds that one worker needs for the missing cells, judging by the others; None where none has run.
      unread: files that could not be read, each with the reason; what they held counts as missing.
    """

    name: str
    models: list[ModelState]
    failures: list[tuple[Cell, str, str]]
    workers: list[dict[str, Any]]
    expected: float | None
    unread: list[str]


def main(config: Any, workdir: str | os.PathLike) -> int:
    """Prints the state of a workdir's sweeps.

    Returns:
      0 if every cell has a result, 1 if not or if nobody can know.

    Raises:
      UsageError: there is no sweep in the folder.
    """
    if config is not None:
        options.read(options.ReportOptions, config)
    workdir = files.as_path(workdir)
    sweeps, unread = read_sweeps(workdir)
    left_out = [f"left out: {message}" for message in unread]
    if not sweeps:
        none = f"--workdir={workdir} holds no sweep; name the workdir of a sweep"
        raise UsageError("\n".join([none, *left_out]))
    print("\n\n".join([*map(text, sweeps), *left_out]), flush=True)
    return int(bool(unread) or any(m.failed + m.missing > 0 for s in sweeps for m in s.models))


def read(workdir: Path, now: float | None = None) -> list[SweepState]:
    """Every sweep of a workdir that can be read, the one that was started last at the end."""
    return read_sweeps(workdir, now)[0]


@memory.without_collection()
def read_sweeps(workdir: Path, now: float | None = None) -> tuple[list[SweepState], list[str]]:
    """Like `read`, with messages that say which sweeps could not be read, and why."""
    now = time.time() if now is None else now
    found, unread = [], []
    folder = workdir / "sweeps"
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if place.name.startswith(".") or not (place / "sweep.json").exists():
            continue
        try:
            sweep = _checked(place / "sweep.json", _check_sweep)
        except ValueError as e:
            unread.append(str(e))
            continue
        workers, own_unread = _workers(place, now)
        started = workers[0]["started"] if workers else 0.0
        found.append((started, _state(place.name, sweep, workers, own_unread, workdir)))
    return [state for _, state in sorted(found, key=lambda pair: pair[0])], unread


def _checked(path: Path, check: Callable[[Any], None]) -> dict[str, Any]:
    """A JSON file about a sweep. Raises ValueError with its name: damaged, or written by something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{path} was not written by a sweep ({type(e).__name__}: {e}); move it away") from e
    return record


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _check_sweep(record: Any) -> None:
    _require(isinstance(record["models"], list) and isinstance(record["tasks"], list), "no lists of names")
    texts = [record["protocol"], *record["models"], *record["tasks"]]
    _require(all(isinstance(text, str) for text in texts), "a name is not a text")
    _require(bool(record["models"]) and bool(record["tasks"]), "no models or no tasks")
    _require(all(isinstance(record["settings"][t], dict) for t in record["tasks"]), "settings are missing")


def _check_worker(record: Any) -> None:
    for name in ("host", "doing", "share"):
        _require(isinstance(record[name], str), f"{name} is {record[name]!r}")
    for name in ("pid", "started", "seen", "done", "failed", "images"):
        _require(_finite(record[name]), f"{name} is {record[name]!r}")
    _require(record["ended"] is None or _finite(record["ended"]), f"ended is {record['ended']!r}")
    _require(record["status"] is None or isinstance(record["status"], str), "status is not a text")
    for event in record["events"]:
        times = [event["began"], event["ended"]]
        _require(isinstance(event["what"], str) and all(map(_finite, times)), f"an event is {event!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _workers(place: Path, now: float) -> tuple[list[dict[str, Any]], list[str]]:
    found, unread = [], []
    for path in sorted(place.iterdir()):
        if path.name == "sweep.json" or path.name.startswith((".", "shares-")) or path.suffix != ".json":
            continue
        try:
            worker = _checked(path, _check_worker)
        except ValueError as e:
            unread.append(str(e))
            continue
        silent = now - worker["seen"]
        worker["state"] = worker["status"] or ("running" if silent < _GONE else "gone")
        worker["silent"] = silent
        found.append(worker)
    return sorted(found, key=lambda worker: worker["started"]), unread


def _state(
    name: str, sweep: Mapping[str, Any], workers: list[dict[str, Any]], unread: list[str], workdir: Path
) -> SweepState:
    settings = {own: _settings(sweep["settings"], own) for own in (True, False)}
    everything = [
        Cell(sweep["protocol"], model, task, *settings[own][task])
        for model in sweep["models"]
        for own in [specs.parse(model).has_own_features]
        for task in sweep["tasks"]
    ]
    found = results.find_summaries(everything, workdir, unread, remember=False)
    lacking = [cell for cell, record in zip(everything, found, strict=True) if record is None]
    errors = dict(zip(map(_key, lacking), results.failed_before(lacking, workdir), strict=True))
    failures, missing = [], []
    for cell in lacking:
        record = None
        try:
            record = results.read(cell.error_path(workdir)) if errors[_key(cell)] else None
        except ValueError as e:
            unread.append(str(e))
        if record is None:
            missing.append(cell)
        else:
            failures.append((cell, record["stage"], record["message"]))
    failed_of = collections.Counter(cell.model for cell, _, _ in failures)
    missing_of = collections.Counter(cell.model for cell in missing)
    n_tasks = len(sweep["tasks"])
    models = [
        ModelState(m, n_tasks - failed_of[m] - missing_of[m], failed_of[m], missing_of[m], _doing(m, workers))
        for m in sweep["models"]
    ]
    records = (record for record in found if record is not None)
    expected = costs.Costs(records, sweep["protocol"], everything[0].settings).total(missing)
    return SweepState(name, models, failures, workers, expected, list(dict.fromkeys(unread)))


def _settings(
    by_task: Mapping[str, Mapping[str, Any]], own_features: bool
) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Each task's settings with their hash: what chooses features is not for a model that names its own."""
    kept = {
        task: {name: value for name, value in settings.items() if own_features or name != "features"}
        for task, settings in by_task.items()
    }
    return {task: (settings, results.config_hash(settings)) for task, settings in kept.items()}


def _doing(model: str, workers: Sequence[Mapping[str, Any]]) -> str:
    """Which worker runs a model, and which part of it; a spec may contain colons itself."""
    for worker in workers:
        if worker["state"] == "running" and worker["doing"].startswith(f"{model}: "):
            return f"{worker['host']}, {worker['doing'].removeprefix(f'{model}: ')}"
    return ""


def _key(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.task


def text(sweep: SweepState) -> str:
    """The state for a person to read."""
    from tabulate import tabulate

    total = sum(m.done + m.failed + m.missing for m in sweep.models)
    done, failed = (sum(getattr(m, name) for m in sweep.models) for name in ("done", "failed"))
    lines = [f"{sweep.name}: {done} of {total} cells done, {failed} failed, {total - done - failed} missing"]
    running = [worker for worker in sweep.workers if worker["state"] == "running"]
    if total > done + failed:
        if not running:
            lines.append("no worker is running; the command that started it resumes where it stopped")
        elif sweep.expected is not None:
            left = sweep.expected / len(running)
            lines.append(
                f"left: about {duration(left)} with {len(running)} worker{'s' * (len(running) > 1)}, "
                "judging by the cells so far"
            )
    shown = [m for m in sweep.models if m.failed or m.missing or m.doing]
    if shown:
        models = [(m.model, m.done, m.failed or "", m.missing or "", m.doing) for m in shown[:_LISTED]]
        lines.append(tabulate(models, ("model", "done", "failed", "missing", "now"), tablefmt="simple"))
        if len(shown) > _LISTED:
            lines.append(f"and {len(shown) - _LISTED} more")
    workers = [_worker_row(worker) for worker in _shown(sweep.workers)]
    if workers:
        header = ("worker", "share", "state", "ran", "cells", "failed", "images/s", "idle while converting")
        lines.append(tabulate(workers, header, tablefmt="simple"))
    if sweep.failures:
        reasons: dict[tuple[str, str], list[Cell]] = {}
        for cell, stage, message in sweep.failures:
            reasons.setdefault((stage, first_line(message, 120)), []).append(cell)
        for (stage, message), cells in reasons.items():
            lines.append(f"{len(cells)} failed in {stage}, such as {cells[0].model}:\n    {message}")
    lines += [f"left out: {message}" for message in sweep.unread]
    return "\n".join(lines)


def _shown(workers: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Those that run, and the last ones that ended."""
    running = [worker for worker in workers if worker["state"] == "running"]
    return running + [worker for worker in workers if worker["state"] != "running"][-_LAST:]


def _worker_row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    end = worker["ended"] or worker["seen"]
    computing = sum(e["ended"] - e["began"] for e in worker["events"] if e["what"] == "compute")
    rate = f"{worker['images'] / computing:,.0f}" if worker["images"] and computing else ""
    state = worker["state"] if worker["state"] != "gone" else f"gone, silent for {duration(worker['silent'])}"
    converting, idle = heartbeat.conversion_idle_seconds(worker["events"])
    waited = f"{duration(idle)} of {duration(converting)}" if converting else ""
    name = f"{worker['host']} {worker['pid']}"
    ran = duration(end - worker["started"])
    return (name, worker["share"] or "all", state, ran, worker["done"], worker["failed"], rate, waited)
