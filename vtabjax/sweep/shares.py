"""Who does what: each worker's share of a sweep's cells."""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vtabjax import specs
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.runtime import files


class Share(NamedTuple):
    """A worker's part of a sweep.

    Attributes:
      number: which worker, from 0.
      total: how many there are.
      source: where that was read, for messages.
    """

    number: int
    total: int
    source: str

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def which_share(flag: str, environment: Mapping[str, str]) -> Share | None:
    """This worker's share: what --cells says, or else what an array job says; None: everything.

    A SLURM array's elements are counted in the order of their numbers, so that ``--array=0-7`` and ``--array=1-8``
    are eight shares alike. Kubernetes tells an Indexed Job's pods their index, and the number of indices only where
    the manifest hands it on as JOB_COMPLETIONS.

    Raises:
      UsageError: not i/n with 0 <= i < n, or an array that cannot be read.
    """
    if flag:
        i, slash, n = flag.partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
            raise UsageError(
                f"--cells={flag!r} is not i/n with 0 <= i < n, such as --cells=0/4 ... --cells=3/4"
            )
        return Share(int(i), int(n), "--cells")
    array = "SLURM_ARRAY_TASK"
    try:
        if f"{array}_ID" in environment:
            number, count, least, most = (
                int(environment[f"{array}_{name}"]) for name in ("ID", "COUNT", "MIN", "MAX")
            )
            step = (most - least) // (count - 1) if count > 1 else 1
            place, rest = divmod(number - least, step)
            if rest or not 0 <= place < count or least + step * (count - 1) != most:
                raise ValueError("the array's numbers are not evenly spaced")
            return Share(place, count, f"{array}_ID={number}")
        if "JOB_COMPLETION_INDEX" in environment:
            number, count = int(environment["JOB_COMPLETION_INDEX"]), int(environment["JOB_COMPLETIONS"])
            if not 0 <= number < count:
                raise ValueError(f"JOB_COMPLETIONS={count}")
            return Share(number, count, f"JOB_COMPLETION_INDEX={number}")
    except (KeyError, ValueError) as e:
        name = f"{array}_ID" if f"{array}_ID" in environment else "JOB_COMPLETION_INDEX"
        why = f"{e.args[0]} is not set" if isinstance(e, KeyError) else str(e)
        raise UsageError(
            f"{name}={environment[name]} is set, but does not say which share to run ({why}); give --cells=i/n, or "
            "--cells=0/1 for everything"
        ) from e
    return None


def assign(cells: Sequence[Cell], count: int, seconds: Callable[[Cell], float | None]) -> list[int]:
    """Which of `count` workers gets each cell, by expected cost.

    Whole models, with every choice of their features, while there are enough of them, so that each is converted and
    compiled once: the most expensive
    first, each to the worker with the least so far. With more workers than models: equally expensive pieces of the
    list.

    Args:
      cells: the cells, model by model.
      count: workers.
      seconds: expected cost of a cell; None: unknown, as much as the mean of the others.

    Returns:
      Numbers of the workers, one per cell.
    """
    given = [seconds(cell) for cell in cells]
    known = [g for g in given if g is not None]
    mean = sum(known) / len(known) if known and sum(known) > 0 else 1.0
    costs = [mean if g is None else max(g, 1e-6 * mean) for g in given]
    models: dict[str, float] = {}
    bases = [str(specs.parse(cell.model).base) for cell in cells]
    for model, cost in zip(bases, costs, strict=True):
        models[model] = models.get(model, 0.0) + cost
    if count <= len(models):
        loads = [(0.0, worker) for worker in range(count)]
        worker_of = {}
        for model in sorted(models, key=models.__getitem__, reverse=True):  # stable: ties in the given order
            load, worker = heapq.heappop(loads)
            worker_of[model] = worker
            heapq.heappush(loads, (load + models[model], worker))
        return [worker_of[model] for model in bases]
    total, before, found = sum(costs), 0.0, []
    for cost in costs:
        found.append(min(count - 1, int(count * (before + cost / 2) / total)))
        before += cost
    return found


def share_of(
    cells: Sequence[Cell],
    share: Share | None,
    file: Path,
    estimate: Callable[[], Callable[[Cell], float | None]],
    remember: bool = True,
) -> list[int]:
    """A worker's cells, by their positions in the list of all.

    What cells cost is estimated from the existing results, of which there are more when the next worker starts. So the
    first worker writes down who does what, and the others read that.

    Args:
      cells: all cells of the sweep, the same for each worker.
      share: which worker; None: everything.
      file: where it is written down, one for each number of workers.
      estimate: gives the function from a cell to its expected seconds; called only where it is needed.
      remember: write it down (a dry run does not).

    Raises:
      UsageError: the file is there and does not say who does what.
    """
    if share is None or share.total == 1:
        return list(range(len(cells)))
    if file.exists():
        numbers = _written_shares(file, len(cells), share.total)
    else:
        numbers = assign(cells, share.total, estimate())
        text = json.dumps({"workers": share.total, "cells": numbers}) + "\n"
        if remember and not files.create_text(file, text):
            numbers = _written_shares(file, len(cells), share.total)  # another worker was faster
    return [position for position, number in enumerate(numbers) if number == share.number]


def digest(cells: Sequence[Cell]) -> str:
    """A short name for a sweep; equal cells give the same name."""
    quoted = functools.cache(json.dumps)
    # What json.dumps makes of the list of all, several times as fast.
    rows = (f"[{quoted(cell.model)}, {quoted(cell.task)}, {quoted(cell.hash)}]" for cell in cells)
    text = f"[{', '.join(rows)}]"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _written_shares(file: Path, cells_in_all: int, workers: int) -> list[int]:
    """Who does what, as the first worker wrote it down: a worker's number for each cell."""
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))["cells"]
        if len(numbers) != cells_in_all:
            raise ValueError(f"{len(numbers)} entries for {cells_in_all} cells")
        if not all(type(n) is int and 0 <= n < workers for n in numbers):
            raise ValueError(f"an entry is not a worker's number, 0 to {workers - 1}")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(
            f"{file} does not say which of {workers} workers does what ({type(e).__name__}: {e}); stop the workers of "
            "this sweep, remove the file and start them again"
        ) from e
    return numbers
