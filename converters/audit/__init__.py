"""Every architecture of a source, with random weights, in Flax against torch; one line of a table for each.

Each model has a process of its own with a memory and a time limit, so that none takes the audit down. Rows are
written as they come; a later run does those that are missing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from vtabjax.runtime import files, memory
from vtabjax.specs import SpecError

from .model import Limits, family, measure
from .table import COLUMNS, describe, read, summary, write

STATUSES = ("passed", "failed", "memory", "timeout", "crashed")


def audit(
    source: str, pattern: str, out: str | Path, limits: Limits, *, jobs: int = 1, again: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Audits the architectures that match and are not in the table yet. Returns the table's rows.

    Args:
      source: "timm", "torchvision", "transformers" or "open_clip".
      pattern: glob over architecture names.
      out: the table, a CSV file.
      limits: for one model.
      jobs: models at the same time.
      again: statuses of rows to do once more.

    Raises:
      SpecError: nothing matches.
    """
    from .. import sources

    names = (
        sources.list_models(f"{source}/{pattern}@random")
        if _is_glob(pattern)
        else [f"{source}/{pattern}@random"]
    )
    names = [n.removeprefix(f"{source}/").removesuffix("@random") for n in names]
    for name in names[:1]:
        sources.check(f"{source}/{name}@random")
    rows = {(r["source"], r["name"]): r for r in read(out)}
    rows = {k: r for k, r in rows.items() if r["status"] not in again or k[0] != source or k[1] not in names}
    todo = [n for n in names if (source, n) not in rows]
    print(f"{len(names)} {source} models, {len(names) - len(todo)} of them in {out}", file=sys.stderr)
    start, done = time.monotonic(), 0
    for row in _run_all(source, todo, limits, jobs):
        rows[source, row["name"]] = {k: "" if v is None else str(v) for k, v in row.items()}
        write(out, rows.values())
        done += 1
        left = (time.monotonic() - start) / done * (len(todo) - done)
        print(f"[{done}/{len(todo)}] {describe(row)}  (left: {_duration(left)})", file=sys.stderr, flush=True)
    return [rows[source, n] for n in names]


# The process that starts them and watches.


def _run_all(source: str, names: list[str], limits: Limits, jobs: int) -> Iterable[dict[str, Any]]:
    """Rows in the order in which they are done."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.imports"])
    waiting = list(reversed(names))
    running: list[_Run] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Run(context, source, waiting.pop(), limits, 0))
            time.sleep(0.05)
            for run in list(running):
                row = run.poll()
                if row is None:
                    continue
                running.remove(run)
                # torch's float64 depthwise convolutions can take minutes: float32 gets a chance, once.
                if (row["status"] == "memory" and run.attempt < 2) or (
                    row["status"] == "timeout" and not run.attempt
                ):
                    running.append(_Run(context, source, run.name, limits, run.attempt + 1, run.start))
                else:
                    yield row
    finally:
        for run in running:
            run.kill()


class _Run:
    """One model's process."""

    def __init__(
        self,
        context: ForkServerContext,
        source: str,
        name: str,
        limits: Limits,
        attempt: int,
        start: float | None = None,
    ):
        self.source, self.name, self.limits, self.attempt = source, name, limits, attempt
        self.start = time.monotonic() if start is None else start
        self.began = time.monotonic()
        self.row: dict[str, Any] = {}
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=measure, args=(source, name, limits, attempt, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def poll(self) -> dict[str, Any] | None:
        """The finished row, or None while the process runs."""
        alive = self.process.is_alive()
        self._receive()
        if "status" in self.row:
            return self._end({})
        if not alive:
            code = self.process.exitcode
            if code == -9:  # what the system does when memory runs out
                return self._end({"status": "memory", "message": "ended by the system"})
            return self._end({"status": "crashed", "message": f"the process ended with status {code}"})
        if time.monotonic() - self.began > self.limits.seconds:
            return self._end({"status": "timeout", "message": f"not done after {self.limits.seconds:g} s"})
        used = memory.rss(self.process.pid or 0)
        if used > self.limits.memory:
            return self._end(
                {"status": "memory", "message": f"needs more than {self.limits.memory / 1e9:.0f} GB"}
            )
        return None

    def _receive(self) -> None:
        try:
            while self.pipe.poll():
                self.row = self.pipe.recv()
        except EOFError:
            pass

    def _end(self, changes: dict[str, Any]) -> dict[str, Any]:
        self.kill()
        seconds = round(time.monotonic() - self.start, 1)
        fixed = {"source": self.source, "name": self.name, "family": family(self.source, self.name)}
        row = dict.fromkeys(COLUMNS) | self.row | changes | fixed | {"seconds": seconds}
        if row["status"] == "memory" and not row["message"]:
            row["message"] = f"needs more than {self.limits.memory / 1e9:.0f} GB"
        row["message"] = row["message"] or ""
        return row

    def kill(self) -> None:
        """Ends the process, if it has not ended."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min {int(seconds % 60):02d} s"
    )


def run(args: Any) -> int:
    """The command. Returns 0 if every model that was asked for passes."""
    limit = args.memory_gb * 1e9 if args.memory_gb else 0.9 * memory.available() / args.jobs
    again = [s for s in args.again.split(",") if s]
    unknown = set(again) - set(STATUSES)
    if unknown:
        raise SpecError(
            f"--again: {', '.join(sorted(unknown))} is not a status; choose from {', '.join(STATUSES)}"
        )
    if args.jobs < 1 or args.timeout <= 0:
        raise SpecError("--jobs and --timeout must be positive")
    rows = audit(args.source, args.models, args.out, Limits(limit, args.timeout), jobs=args.jobs, again=again)
    files.write_text(Path(args.out).with_suffix(".md"), summary(read(args.out)))
    failed = [r for r in rows if r["status"] != "passed"]
    for row in failed:
        print(describe(row))
    print(f"{len(rows) - len(failed)} of {len(rows)} pass; table: {args.out}")
    return 1 if failed else 0
