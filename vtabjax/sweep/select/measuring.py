"""Stages measured: their cells, done by all workers together, and what they found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import specs
from vtabjax.results import Cell
from vtabjax.runtime import processes
from vtabjax.sweep import plan, runner, shares
from vtabjax.sweep.select import adding, hours, missed, record, scores, settings, shown, stopping, together
from vtabjax.sweep.select.scores import StageScores
from vtabjax.sweep.select.settings import SelectOptions
from vtabjax.sweep.select.stages import Stage


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
      stopped: finalists whose training was not taken to its end.
      added: who was measured by the last stage besides the finalists -> its chance of being much better than the best.
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
    stopped: dict[str, stopping.Stopped] = dataclasses.field(default_factory=dict)
    added: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, for the file."""
        return {**dataclasses.asdict(self.own), "models": self.models, "seed": self.config.seed}

    def cells(self, number: int, models: Sequence[str], tasks: Sequence[str] | None = None) -> list[Cell]:
        """A stage's cells, of all tasks or of some."""
        return plan.all_cells(self._asked(number, models, tasks), self.workdir)

    def read(self, number: int, models: Sequence[str], tasks: Sequence[str] | None = None) -> StageScores:
        """What is there of a stage, or of some of its tasks."""
        cells = self.cells(number, models, tasks)
        return processes.broadcast_from_first(lambda: scores.read(cells, self.workdir))

    def measure(self, number: int, models: Sequence[str], selection: dict[str, Any]) -> StageScores:
        """A stage's cells, done by all workers together; what they found."""
        self._work(number, models)
        return self._tell(number, models, selection)

    def train(
        self, models: Sequence[str], before: Sequence[StageScores], selection: dict[str, Any]
    ) -> StageScores:
        """The last stage: finalists, without those who have too little chance, and whoever is added to them.

        Args:
          models: the finalists.
          before: what the stages before found.
          selection: gets what was decided.
        """
        stopped = self._rounds(models, models, {})
        measured, rounds = list(models), list[dict[str, Any]]()
        while more := self._added(measured, before, stopped, selection):
            rounds.append(more)
            if not more["models"]:
                break
            measured += more["models"]
            stopped = self._rounds(measured, more["models"], stopped)
        self.added = {m: own for r in rounds for m, own in zip(r["models"], r["own"], strict=True)}
        found = self._tell(-1, measured, selection, stopped)
        ended = {m for m, well in zip(found.models, found.scored, strict=True) if well}
        # Somebody may have run the rest by hand.
        self.stopped = {m: row for m, row in stopped.items() if m not in ended}
        selection["stopped"] = stopping.listed(self.stopped)
        shares_of_tasks = self._trained(measured, stopped)
        selection["added"] = adding.listed(rounds, self._cap(selection), shares_of_tasks)
        return found

    def _rounds(
        self, models: Sequence[str], these: Sequence[str], stopped: dict[str, stopping.Stopped]
    ) -> dict[str, stopping.Stopped]:
        """The last stage for some models, in rounds of tasks; who was stopped, those from before included.

        Args:
          models: all that it measures.
          these: who is measured now. The others have been, and are not stopped any more.
          stopped: from before.
        """
        tasks = list(dict.fromkeys(cell.task for cell in self.cells(-1, models)))
        parts = stopping.rounds(tasks) if self.own.stop_chance and len(models) > 1 else [tasks]
        stopped, left = dict(stopped), [m for m in models if m not in stopped]
        for i, part in enumerate(parts):
            now = [m for m in left if m in these]
            if now:
                self._work(-1, now, part if len(parts) > 1 else None)
            done, ahead = (sum(p, []) for p in (parts[: i + 1], parts[i + 1 :]))
            if ahead:
                never = [*self.own.never_dropped, *(m for m in left if m not in these)]
                out = self._stop(left, done, ahead, never)
                shown.stopped(out, len(tasks))
                stopped |= out
                left = [m for m in left if m not in out]
        return stopped

    def _cap(self, selection: dict[str, Any]) -> float:
        """What the last stage may cost, see `adding.most`."""
        asked = selection["stages"][-1]["keep"] if selection["stages"] else 0
        return adding.most(asked, self.own.add_at_most)

    def _trained(self, models: Sequence[str], stopped: Mapping[str, stopping.Stopped]) -> list[float]:
        """Which share of the last stage's tasks models were measured on, those that are never dropped aside."""
        n_tasks = len({cell.task for cell in self.cells(-1, models)})
        these = [m for m in models if m not in self.own.never_dropped]
        return [stopped[m].after / n_tasks if m in stopped else 1.0 for m in these]

    def _added(
        self,
        models: list[str],
        before: Sequence[StageScores],
        stopped: Mapping[str, stopping.Stopped],
        selection: dict[str, Any],
    ) -> dict[str, Any]:
        """Whom all workers, and all later runs, measure next; {} where nobody is added in any case."""
        measured = self._trained(models, stopped)
        room = adding.room(self._cap(selection), measured)
        if not before or room <= 0 or self.own.add_chance >= 1:
            return {}
        last = self.read(-1, models)

        def decide() -> dict[str, Any]:
            found, names = missed.look(
                self.models,
                before,
                last,
                stopped,
                n=selection["stages"][-1]["keep"],
                room=min(room, self._affordable(models, measured)),
                add_chance=self.own.add_chance,
                seed=self.config.seed,
            )
            return {**found._asdict(), "models": names}

        on: dict[str, Any] = {"added": models, "settings": self.settings}
        on["scores"] = [[record.number(s) for s in row] for row in last.scores]
        decided = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, decide))
        shown.added(decided, self.own.add_chance)
        return decided

    def _affordable(self, models: Sequence[str], measured: Sequence[float]) -> int:
        """How many models more the last stage has time for, measured on as many tasks as those until now."""
        known = self.costs(models)
        cost = known.per_model[-1]
        if not self.budget.hours or not cost:
            return len(self.models)
        left = self.budget.workers * (self.budget.seconds_left / cost - known.winner)
        return adding.room(left + sum(measured), measured)

    def _stop(
        self, models: list[str], done: list[str], ahead: list[str], never: Sequence[str]
    ) -> dict[str, stopping.Stopped]:
        """Whom all workers, and all later runs, stop after some tasks of the last stage."""
        found = self.read(-1, models, done)

        def decide() -> dict[str, Any]:
            chances = stopping.decide(found, ahead, self.own.stop_chance, never, self.config.seed)
            there = self.read(-1, models, ahead).records
            missing = [c for c in self.cells(-1, models, ahead) if there[c.model, c.task] is None]
            seconds = self.costs(models).cell[-1]
            stopped = {m: stopping.of(m, len(done), c, missing, seconds) for m, c in chances.items()}
            return {m: row._asdict() for m, row in stopped.items()}

        on = {"done": done, "of": [models, ahead], "settings": self.settings}
        on["scores"] = [[record.number(s) for s in row] for row in found.scores]
        decided = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, decide))
        return {m: stopping.Stopped(**row) for m, row in decided.items()}

    def _asked(
        self, number: int, models: Sequence[str], tasks: Sequence[str] | None = None
    ) -> plan.SweepPlan:
        config = settings.stage_config(self.config, self.chain[number].protocol, models, tasks)
        return plan.read(config)

    def _work(self, number: int, models: Sequence[str], tasks: Sequence[str] | None = None) -> None:
        """Runs the cells that are missing."""
        asked, may_start = self._asked(number, models, tasks), self._deadline(number, models)
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

    def _deadline(self, number: int, models: Sequence[str]) -> Callable[[Cell], bool] | None:
        """Which cells of a stage may start, so that the ones after it have their time."""
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
        return self.budget.may_start(known.cell[number], reserved)

    def costs(self, models: Sequence[str]) -> hours.Measured:
        """What models cost in each stage, judging by the results that are there."""
        return processes.broadcast_from_first(
            lambda: hours.measured(self.config, self.chain, models, self.workdir)
        )
