"""Stages measured: their cells, done by all workers together, and what they found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.results import Cell
from vtabjax.runtime import processes
from vtabjax.sweep import plan, runner, shares
from vtabjax.sweep.select import hours, record, scores, settings, shown, together
from vtabjax.sweep.select.scores import StageScores
from vtabjax.sweep.select.settings import SelectOptions
from vtabjax.sweep.select.stages import Stage


class Part(NamedTuple):
    """Some cells of a stage.

    Attributes:
      tasks: theirs; None: all.
      seeds: with which they are fine-tuned, the first ones; None: all.
    """

    tasks: Sequence[str] | None = None
    seeds: Sequence[int] | None = None


ALL = Part()


@dataclasses.dataclass
class Stages:
    """The stages of one experiment as one worker passes them.

    Attributes:
      config: see configs/select.py.
      own: its fields that no other sweep has.
      chain: the stages.
      workdir: where everything goes.
      share: which worker this is; None: the only one.
      budget: the hours it has.
      failed: whether a cell has failed.
      worked: whether a cell was run.
      models: all that take part.
    """

    config: Any
    own: SelectOptions
    chain: Sequence[Stage]
    workdir: Path
    share: shares.Share | None
    budget: hours.Budget
    failed: bool = False
    worked: bool = False
    models: list[str] = dataclasses.field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, for the file."""
        return {**dataclasses.asdict(self.own), "models": self.models, "seed": self.config.seed}

    def cells(self, number: int, models: Sequence[str], part: Part = ALL) -> list[Cell]:
        """A stage's cells, or some of them."""
        return plan.all_cells(self._asked(number, models, part), self.workdir)

    def read(self, number: int, models: Sequence[str], part: Part = ALL) -> StageScores:
        """What is there of a stage, or of a part of it."""
        cells = self.cells(number, models, part)
        return processes.broadcast_from_first(lambda: scores.read(cells, self.workdir))

    def measure(self, number: int, models: Sequence[str], selection: dict[str, Any]) -> StageScores:
        """A stage's cells, done by all workers together; what they found."""
        self._work(number, models)
        return self._tell(number, models, selection)

    def _asked(self, number: int, models: Sequence[str], part: Part = ALL) -> plan.SweepPlan:
        config = settings.stage_config(self.config, self.chain[number].protocol, models, *part)
        return plan.read(config)

    def _work(self, number: int, models: Sequence[str], part: Part = ALL, seeds_before: int = 0) -> None:
        """Runs the cells that are missing; so many of their seeds are done in others."""
        asked = self._asked(number, models, part)
        may_start = self._deadline(number, models, part.seeds, seeds_before)
        state = together.run_stage(asked, self.workdir, self.share, may_start)
        self.worked |= bool(state.pending)

    def _tell(
        self, number: int, models: Sequence[str], selection: dict[str, Any], stopped: Collection[str] = ()
    ) -> StageScores:
        """Tables and failures, as of any sweep; the results of other workers are read as well."""
        protocol, cells = self.chain[number].protocol, self.cells(number, models)
        found = processes.broadcast_from_first(lambda: scores.read(cells, self.workdir))
        reached = [c for c in cells if found.records[c.model, c.task] or c.error_path(self.workdir).exists()]
        state = runner.WorkerShare(cells, reached, 0, 0, [], self.workdir, {})
        self.failed |= runner.conclude(state, self._asked(number, models).run, self.workdir) != 0
        late = [f"{c.model} {c.task}" for c in cells if c not in reached and c.model not in stopped]
        if late:
            selection["hours"]["not_run"] += [f"{protocol} {name}" for name in late]
            shown.say(f"{protocol}: no time was left for {specs.listed(late, 8)}")
        return found

    def choose_grid(self, models: Sequence[str], selection: dict[str, Any]) -> None:
        """With hours, halves the grid of fine-tuning where there is no time for all of it."""
        if not self.budget.hours or self.chain[-1].protocol != "finetune" or self.config.finetune.halving:
            return

        def decide() -> bool:
            known = self.costs(models)
            known = known._replace(per_model=known.per_model[-1:])
            left, workers = self.budget.seconds_left, self.budget.workers
            return hours.with_grid(self.chain[-1:], len(models), known, left, workers)[1]

        on = {"grid": list(models), "settings": selection["settings"]}
        halved = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, decide))
        selection["hours"]["grid"] = f"halving={hours.HALVING}" if halved else "full"
        if halved:
            self.config = self.config.copy_and_resolve_references()
            self.config.finetune.halving = hours.HALVING
            shown.say(
                f"finetune: the grid is halved (halving={hours.HALVING}), to end in time (config.hours)"
            )

    def _deadline(
        self, number: int, models: Sequence[str], of_seeds: Sequence[int] | None, before: int
    ) -> Callable[[Cell], bool] | None:
        """Which cells of a stage, with some of the seeds, may start, so that the stages after it have their time."""
        if not self.budget.hours:
            return None
        known = self.costs(models)
        costs = [cost or 0.0 for cost in known.per_model]
        number %= len(costs)
        own, *after = (
            n * c / self.budget.workers
            for n, c in zip([len(models), *[hours.FEWEST] * len(costs)], costs[number:], strict=False)
        )
        reserved = hours.reserved(own, after, known.winner * costs[-1], self.budget.seconds_left)
        expected = known.cell[number]
        if of_seeds is not None:
            full = self.cells(number, models)[0].settings
            until, since = (hours.share_of_seeds(full, n) for n in (len(of_seeds), before))
            expected = hours.scaled(expected, until - since)
        return self.budget.may_start(expected, reserved)

    def costs(self, models: Sequence[str]) -> hours.Measured:
        """What models cost in each stage, judging by the results that are there."""
        return processes.broadcast_from_first(
            lambda: hours.measured(self.config, self.chain, models, self.workdir)
        )
