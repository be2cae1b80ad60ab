"""An experiment that ends in time: what stages cost, how many models each may have, and when to stop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import results
from vtabjax.results import Cell
from vtabjax.sweep import costs, plan, runner, shares, worker
from vtabjax.sweep.select import settings
from vtabjax.sweep.select.stages import Stage

HALVING = 3  # of `config.finetune.halving`, where the whole grid takes too long
FEWEST = 2  # finalists that are planned for in any case: one alone is no comparison
MOST_PROBING = 0.25  # of the hours, before a later stage is left to be found out when its turn comes
_PROBED = 3  # models that are measured where nothing is known of the costs


class Forecast(NamedTuple):
    """What is expected of the stages that are still to come.

    Attributes:
      keeps: how many models each keeps (the last one all that reach it).
      seconds: what each takes.
    """

    keeps: list[int]
    seconds: list[float]


def forecast(
    chain: Sequence[Stage], entering: int, per_model: Sequence[float], seconds: float, once: float = 0.0
) -> Forecast:
    """The counts with which the stages end in time: the largest common share of those that were asked for.

    Args:
      chain: the stages that are left.
      entering: how many models the first of them has.
      per_model: seconds that a model takes in each.
      seconds: that are left.
      once: seconds of the first stage whatever the counts (conversions).

    Returns:
      The counts as asked for where these fit; never fewer than `FEWEST` per stage, even where these do not.

    >>> from vtabjax.sweep.select.stages import parse
    >>> forecast(parse("knn:50%,linear:20,finetune"), 100, [1, 2, 60], 1600).keeps
    [50, 20, 20]
    >>> forecast(parse("knn:50%,linear:20,finetune"), 100, [1, 2, 60], 800).keeps
    [27, 10, 10]
    """

    def made(share: float) -> Forecast:
        keeps, taken, n = [], [], entering
        asked = entering  # what would enter the stage if everything fitted
        for number, (stage, cost) in enumerate(zip(chain, per_model, strict=True)):
            taken.append(n * cost + (once if number == 0 else 0.0))
            asked = stage.keeps(asked)
            n = min(n, max(FEWEST, int(share * asked + 1e-9))) if stage is not chain[-1] else n
            keeps.append(n)
        return Forecast(keeps, taken)

    if sum(made(1.0).seconds) <= seconds:
        return made(1.0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(made(middle).seconds) <= seconds else (low, middle)
    return made(low)


def reserved(own: float, after: Sequence[float], winner: float, seconds: float) -> float:
    """How many seconds a stage leaves to those after it: to as many of them, the next ones first, as there is time for.

    A later stage for which there is none must not keep the ones before it from giving an answer.

    Args:
      own: what the stage takes.
      after: what the next ones take at least.
      winner: what it takes to train the winner again, after all of them.
      seconds: that are left.

    >>> reserved(10, [5, 60], 4, 100), reserved(10, [5, 60], 4, 50), reserved(60, [5, 60], 4, 50)
    (69, 5, 0)
    """
    needed = [*after, winner]
    while needed and own + sum(needed) > seconds:
        needed.pop()
    return sum(needed)


class Measured(NamedTuple):
    """What is known of the costs.

    Attributes:
      per_model: seconds of a model in each stage; None where no such cell has run here.
      cell: for each stage, a cell's expected seconds (None: unknown).
      convert: seconds that the conversions of models that are not converted take.
      winner: what part of a model's fine-tuning it takes to train the winner again.
      halved: what part of it is left with `config.finetune.halving`; 1 where that would change nothing.
    """

    per_model: list[float | None]
    cell: list[Callable[[Cell], float | None]]
    convert: float
    winner: float
    halved: float = 1.0


def measured(config: Any, chain: Sequence[Stage], models: Sequence[str], workdir: Path) -> Measured:
    """Looks at the results that are there."""
    per_model: list[float | None] = []
    functions: list[Callable[[Cell], float | None]] = []
    winner, halved = 0.0, 1.0
    for stage in chain:
        asked = plan.read(settings.stage_config(config, stage.protocol, models))
        cells = plan.all_cells(asked, workdir)
        own = cells[0].settings
        records = [_as_with(r, own) for _, r in results.records(workdir, stage.protocol, damaged=[])]
        known = costs.Costs(records, stage.protocol, own)
        total = known.total(cells)
        per_model.append(None if total is None else total / len(models))
        functions.append(known.seconds)
        if stage is chain[-1] and stage.protocol == "finetune":
            kept = own["save"] and config.winner_on == "train"
            points = (
                len(own["learning_rates"]) * len(own["weight_decay"]) * len(own["epochs"] or own["steps"])
            )
            winner = 0.0 if kept else 2 / (1 + points)
            halved = 1.0 if own["halving"] else _steps({**own, "halving": HALVING}) / _steps(own)
    taken = [
        record["seconds"]["convert"]
        for _, record in results.records(workdir, None, damaged=[])
        if record["seconds"].get("convert")
    ]
    first = plan.read(settings.stage_config(config, chain[0].protocol, models))
    left = len(worker.to_convert(plan.all_cells(first, workdir), first.run, workdir))
    return Measured(per_model, functions, left * statistics.median(taken) if taken else 0.0, winner, halved)


def _steps(own: Mapping[str, Any]) -> float:
    """How long settings of fine-tuning train, the grid and the best of it again: in steps, or in epochs."""
    lengths = own.get("epochs") or own["steps"]
    rates = len(own["learning_rates"]) * len(own["weight_decay"])
    n, longest = rates * len(lengths), max(lengths)
    grid = rates * sum(lengths)
    halving = own.get("halving")
    if halving and n > 1:
        grid = grid / halving + max(1, n // halving) * (1 - 1 / halving) * longest
    return grid + len(own["seeds"]) * longest


def share_of_seeds(own: Mapping[str, Any], n: int) -> float:
    """What part of fine-tuning with these settings it takes with the first n of their seeds; of none, nothing.

    >>> own = {"learning_rates": [0.1], "weight_decay": [0.0], "steps": [50, 100], "seeds": [0, 1, 2]}
    >>> share_of_seeds(own, 2) - share_of_seeds(own, 0)
    0.7777777777777778
    """
    return _steps({**own, "seeds": own["seeds"][:n]}) / _steps(own) if n else 0.0


def scaled(seconds: Callable[[Cell], float | None], share: float) -> Callable[[Cell], float | None]:
    """What a part of a cell is expected to take, from what all of it is."""

    def part(cell: Cell) -> float | None:
        whole = seconds(cell)
        return None if whole is None else share * whole

    return part


def _as_with(record: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A result of fine-tuning, with the seconds that it would have taken with other settings."""
    there = record["settings"]
    if record["protocol"] != "finetune" or bool(there.get("epochs")) != bool(own["epochs"]):
        return record
    factor = _steps(own) / _steps(there)
    return {**record, "seconds": {stage: factor * s for stage, s in record["seconds"].items()}}


def with_grid(
    chain: Sequence[Stage],
    entering: int,
    known: Measured,
    seconds: float,
    workers: int = 1,
    once: float = 0.0,
) -> tuple[Forecast, bool]:
    """`forecast`, and whether the grid of fine-tuning should be halved: where that lets more models be fine-tuned.

    Args:
      chain: the stages that are left.
      entering: how many models the first of them has.
      known: the costs, of these stages.
      seconds: that are left to each worker, with what training the winner again takes.
      workers: how many there are.
      once: see `forecast`.
    """
    *earlier, last = (cost or 0.0 for cost in known.per_model)
    pool = workers * (seconds - known.winner * last)
    full, halved = (
        forecast(chain, entering, [*earlier, share * last], pool, once) for share in (1.0, known.halved)
    )
    too_long = sum(halved.seconds) < sum(full.seconds) and sum(full.seconds) > pool
    return (halved, True) if too_long or halved.keeps[-1] > full.keeps[-1] else (full, False)


def probe(
    config: Any, protocol: str, models: Sequence[str], workdir: Path, share: shares.Share | None
) -> None:
    """Measures some models on the first task, to know what a stage costs; the results are ordinary ones.

    Three of them, evenly spaced in the list; where they are fine-tuned, one.
    """
    if share is not None and share.number:
        return  # the first worker does
    networks = [m for m in models if not m.startswith("baseline/")] or list(models)
    n = 1 if protocol == "finetune" else min(_PROBED, len(networks))
    chosen = [networks[(2 * i + 1) * len(networks) // (2 * n)] for i in range(n)]
    asked = plan.read(settings.stage_config(config, protocol, chosen))
    task = plan.all_cells(asked, workdir)[0].task
    runner.work(asked, workdir, None, only={(model, task) for model in chosen})


class Budget:
    """The hours that an experiment has, and what is left of them.

    Args:
      hours: in all, with earlier runs; 0: as many as it takes.
      workers: how many there are.

    Attributes:
      before: hours that earlier runs took.
    """

    def __init__(self, hours: float, workers: int = 1):
        self.hours, self.workers, self.before = hours, workers, 0.0
        self._began = time.monotonic()

    @property
    def taken(self) -> float:
        """Hours, with earlier runs."""
        return self.before + (time.monotonic() - self._began) / 3600

    @property
    def seconds_left(self) -> float:
        """Until the end; infinite without one."""
        return 3600 * (self.hours - self.taken) if self.hours else float("inf")

    def may_start(
        self, expected: Callable[[Cell], float | None], reserved: float
    ) -> Callable[[Cell], bool] | None:
        """Whether a cell ends in time, leaving some seconds `reserved` for what comes after its stage."""
        if not self.hours:
            return None
        return lambda cell: (expected(cell) or 0.0) + reserved <= self.seconds_left
