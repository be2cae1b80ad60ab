"""A stage that several workers pass together: they wait for files, and do what a dead one left."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.sweep import heartbeat, plan, runner, shares
from vtabjax.sweep.shares import Share

GONE = 3.5 * heartbeat.HEARTBEAT  # seconds without a word after which a worker counts as dead
POLL = 2.0  # seconds between two looks at the others' files


def worker(workdir: Path, share: Share | None) -> heartbeat.Worker:
    """This worker's sign of life for the whole experiment, in ``WORKDIR/select/workers``."""
    enabled = share is not None and processes.is_first()
    return heartbeat.Worker(_workers(workdir), {"share": str(share or "")}, enabled=enabled)


def is_first(workdir: Path, share: Share | None) -> bool:
    """Whether this worker has the lowest number among those that are at work."""
    if share is None or share.number == 0:
        return True

    def look() -> bool:
        records = [r for r in _records(_workers(workdir)) if _lives(r)]
        return not any(f"{n}/{share.total}" == r.get("share") for r in records for n in range(share.number))

    return processes.broadcast_from_first(look)


def run_stage(
    asked: plan.SweepPlan,
    workdir: Path,
    share: Share | None,
    may_start: Callable[[Cell], bool] | None = None,
) -> runner.WorkerShare:
    """Runs this worker's cells of a stage, and returns when all workers' cells are done or have failed.

    Args:
      asked: the stage as a sweep.
      workdir: where everything goes.
      share: which worker this is; None: the only one.
      may_start: see `runner.work`; cells it refuses are not waited for.

    Raises:
      UsageError: before any long work.
    """
    state = runner.work(asked, workdir, share, may_start=may_start)
    if share is None or share.total == 1 or asked.run.dry_run:
        return state
    since = time.time()
    waiting = _Waiting(state, workdir, share)
    while True:
        missing = processes.broadcast_from_first(lambda: waiting.missing(may_start, asked.run.retry_failed))
        if not missing:
            return state
        taken = processes.broadcast_from_first(
            functools.partial(waiting.take_over, missing, time.time() - since)
        )
        if taken:
            runner.work(asked, workdir, None, only={(c.model, c.task) for c in taken}, may_start=may_start)
        else:
            time.sleep(POLL)


class _Waiting:
    """What a worker looks at while it waits for the others.

    Args:
      state: the stage as this worker saw it at its start.
      workdir: the sweep's folder.
      share: which worker this is.
    """

    def __init__(self, state: runner.WorkerShare, workdir: Path, share: Share):
        self._state, self._workdir, self._share = state, workdir, share
        self._left = list(range(len(state.cells)))
        self._owner: list[int] | None = None

    def missing(self, may_start: Callable[[Cell], bool] | None, retry_failed: bool) -> list[int]:
        """Positions of the cells that have neither a result nor a failure, and could still be started."""
        from vtabjax import results

        cells = self._state.cells
        found = results.find_all([cells[i] for i in self._left], self._workdir, [])
        self._left = [i for i, record in zip(self._left, found, strict=True) if record is None]
        # What failed is tried again by whoever lives and is still at work in this stage.
        again = retry_failed and self._somebody_works()
        failed = set() if again else {i for i in self._left if cells[i].error_path(self._workdir).exists()}
        waiting = [i for i in self._left if i not in failed]
        return waiting if may_start is None else [i for i in waiting if may_start(cells[i])]

    def take_over(self, missing: Sequence[int], waited: float) -> list[Cell]:
        """The cells of a dead worker that this one takes; [] where the others are alive or somebody has taken them."""
        owner = self._owners()
        records = _records(_workers(self._workdir))
        for number in sorted({owner[i] for i in missing} - {self._share.number}):
            own = [r for r in records if r.get("share") == f"{number}/{self._share.total}"]
            # One that has not been seen may be about to start.
            if any(map(_lives, own)) or (not own and waited < GONE):
                continue
            if self._claim(number, records):
                print(
                    f"worker {number}/{self._share.total} is gone; {self._share} does what it left",
                    flush=True,
                )
                return [self._state.cells[i] for i in missing if owner[i] == number]
        mine = [i for i in missing if owner[i] == self._share.number]
        return [self._state.cells[i] for i in mine]

    def _owners(self) -> list[int]:
        """Whose each cell is."""
        if self._owner is None:
            self._owner = [self._share.number] * len(self._state.cells)
            file = self._state.folder / f"shares-{self._share.total}.json"
            for number in range(self._share.total):
                other = Share(number, self._share.total, "")
                for i in shares.share_of(self._state.cells, other, file, lambda: lambda cell: None):
                    self._owner[i] = number
        return self._owner

    def _claim(self, number: int, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this worker may do a dead one's cells: exactly one of the living may."""
        attempt = 0
        while True:
            path = self._state.folder / f"taken-{number}-of-{self._share.total}-{attempt}.json"
            if files.create_text(path, json.dumps({"share": str(self._share)}) + "\n"):
                return True
            try:
                by = json.loads(path.read_text(encoding="utf-8"))["share"]
            except (OSError, ValueError, KeyError, TypeError):
                by = ""
            if by == str(self._share):
                return True
            if any(_lives(r) for r in records if r.get("share") == by):
                return False
            attempt += 1

    def _somebody_works(self) -> bool:
        return any(_lives(r) for r in _records(self._state.folder))


def _workers(workdir: Path) -> Path:
    return workdir / "select" / "workers"


def _records(folder: Path) -> list[dict[str, Any]]:
    """What workers have said in a folder; what cannot be read is no sign of life."""
    found = []
    for path in sorted(folder.glob("*-*-*.json")) if folder.exists() else ():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and "pid" in record and "seen" in record:
            found.append(record)
    return found


def _lives(record: Mapping[str, Any]) -> bool:
    """Whether a worker is at work: it has not ended, was heard of, and its process is there if it is this machine's."""
    if record.get("ended") is not None or time.time() - float(record["seen"]) > GONE:
        return False
    return not files.is_abandoned(f".{record.get('host')}.{record.get('pid')}")
