"""How a sweep stands, running or finished, from its files alone: ``main.py --config=configs/report.py:status``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import costs, files, results, watch
from vtabjax.plan import UsageError
from vtabjax.progress import duration
from vtabjax.results import Cell

_GONE = 3.5 * watch.HEARTBEAT  # seconds without a word after which a worker counts as gone
_LISTED = 40  # models that still make sense on a terminal


class ModelState(NamedTuple):
    """A model in a sweep: how many of its tasks are done, have failed, are missing; and who works on it."""

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
      workers: what workers told, the latest last, with "state": "running", "gone", or how it ended.
      expected: seconds that the missing cells take one worker, judged by the others; None where none has run.
    """

    name: str
    models: list[ModelState]
    failures: list[tuple[Cell, str, str]]
    workers: list[dict[str, Any]]
    expected: float | None


def main(config: Any, workdir: Any) -> int:
    """Prints how the sweeps of a workdir stand.

    Returns:
      0 if every cell has a result, 1 otherwise.

    Raises:
      UsageError: there is no sweep in the folder.
    """
    workdir = files.as_path(workdir)
    sweeps = read(workdir)
    if not sweeps:
        raise UsageError(f"--workdir={workdir} holds no sweep; name the folder that a sweep was given")
    print("\n\n".join(text(sweep) for sweep in sweeps), flush=True)
    return int(any(m.failed + m.missing > 0 for s in sweeps for m in s.models))


def read(workdir: Path, now: float | None = None) -> list[SweepState]:
    """Every sweep of a workdir, the one that was started last at the end."""
    now = time.time() if now is None else now
    found = []
    folder = workdir / "sweeps"
    for place in sorted(folder.iterdir()) if folder.exists() else ():
        if place.name.startswith(".") or not (place / "sweep.json").exists():
            continue
        plan = json.loads((place / "sweep.json").read_text())
        workers = _workers(place, now)
        started = workers[0]["started"] if workers else 0.0
        found.append((started, _state(place.name, plan, workers, workdir)))
    return [state for _, state in sorted(found, key=lambda pair: pair[0])]


def _workers(place: Path, now: float) -> list[dict[str, Any]]:
    found = []
    for path in place.iterdir():
        if path.name == "sweep.json" or path.name.startswith((".", "shares-")) or path.suffix != ".json":
            continue
        worker = json.loads(path.read_text())
        silent = now - worker["seen"]
        worker["state"] = worker["status"] or ("running" if silent < _GONE else "gone")
        worker["silent"] = silent
        found.append(worker)
    return sorted(found, key=lambda worker: worker["started"])


def _state(name: str, plan: Mapping[str, Any], workers: list[dict[str, Any]], workdir: Path) -> SweepState:
    everything = [
        Cell(plan["protocol"], model, task, plan["settings"][task])
        for model in plan["models"]
        for task in plan["tasks"]
    ]
    found = dict(zip(map(_key, everything), results.find_all(everything, workdir), strict=True))
    failures, missing, models = [], [], []
    doing = {w["doing"].partition(":")[0]: w for w in workers if w["state"] == "running"}
    for model in plan["models"]:
        cells = [cell for cell in everything if cell.model == model]
        failed = []
        for cell in cells:
            if found[_key(cell)] is None:
                record = results.read(cell.error_path(workdir))
                if record is None:
                    missing.append(cell)
                else:
                    failed.append((cell, record["stage"], record["message"]))
        failures += failed
        done = sum(found[_key(cell)] is not None for cell in cells)
        at = f"{doing[model]['host']}, {doing[model]['doing'].partition(': ')[2]}" if model in doing else ""
        models.append(ModelState(model, done, len(failed), len(cells) - done - len(failed), at))
    records = [record for record in found.values() if record is not None]
    expected = costs.Costs(records, plan["protocol"], everything[0].settings).total(missing)
    return SweepState(name, models, failures, workers, expected)


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
            lines.append("nobody works on it; the command that started it goes on where it was")
        elif sweep.expected is not None:
            left = sweep.expected / len(running)
            lines.append(
                f"left: about {duration(left)} with {len(running)} worker(s), by what cells took so far"
            )
    shown = [m for m in sweep.models if m.failed or m.missing or m.doing]
    if shown:
        rows = [(m.model, m.done, m.failed or "", m.missing or "", m.doing) for m in shown[:_LISTED]]
        lines.append(tabulate(rows, ("model", "done", "failed", "missing", "now"), tablefmt="simple"))
        if len(shown) > _LISTED:
            lines.append(f"and {len(shown) - _LISTED} more")
    rows = [_worker_row(worker) for worker in _shown(sweep.workers)]
    if rows:
        header = ("worker", "share", "state", "ran", "cells", "failed", "images/s", "idle while converting")
        lines.append(tabulate(rows, header, tablefmt="simple"))
    if sweep.failures:
        reasons: dict[tuple[str, str], list[Cell]] = {}
        for cell, stage, message in sweep.failures:
            reasons.setdefault((stage, message.strip().splitlines()[0][:120]), []).append(cell)
        rows = [(len(cells), stage, cells[0].model, message) for (stage, message), cells in reasons.items()]
        lines.append(tabulate(rows, ("failed", "in", "such as", "because"), tablefmt="simple"))
    return "\n".join(lines)


def _shown(workers: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Those that run, and the last ones that ended."""
    return [w for w in workers if w["state"] == "running"] + [w for w in workers if w["state"] != "running"][
        -8:
    ]


def _worker_row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    end = worker["ended"] or worker["seen"]
    computing = sum(e["ended"] - e["began"] for e in worker["events"] if e["what"] == "compute")
    rate = f"{worker['images'] / computing:,.0f}" if worker["images"] and computing else ""
    state = worker["state"] if worker["state"] != "gone" else f"gone, silent for {duration(worker['silent'])}"
    converting, idle = watch.waited(worker["events"])
    waited = f"{duration(idle)} of {duration(converting)}" if converting else ""
    name = f"{worker['host']} {worker['pid']}"
    ran = duration(end - worker["started"])
    return (name, worker["share"] or "all", state, ran, worker["done"], worker["failed"], rate, waited)
