"""The experiment: stage after stage, each an ordinary sweep over the models that are left."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import specs
from vtabjax.options import UsageError
from vtabjax.runtime import files, processes
from vtabjax.sweep import plan, runner
from vtabjax.sweep.progress import working
from vtabjax.sweep.select import (
    adding,
    card,
    expected,
    hours,
    keep,
    missed,
    record,
    settings,
    shown,
    stages,
    stopping,
    together,
    training,
    verdict,
    winner,
)
from vtabjax.sweep.select.measuring import Part
from vtabjax.sweep.select.scores import StageScores


def run(config: Any, workdir: str | os.PathLike, share: str = "") -> int:
    """Runs the whole experiment.

    Args:
      config: see configs/select.py.
      workdir: where everything goes.
      share: "i/n" for the i-th of n workers that pass the stages together; "": what an array job says, or else alone.

    Returns:
      The exit status: 0 if every cell of every stage is done.

    Raises:
      UsageError: before any long work.
    """
    return conduct(config, workdir, share)[1]


def conduct(config: Any, workdir: str | os.PathLike, share: str = "") -> tuple[dict[str, Any], int]:
    """`run`, with what selection.json holds."""
    runner.connect(config.distributed)
    try:
        return _conduct(prepared(config, files.as_path(workdir), share))
    except UsageError as e:
        raise UsageError(_of_always(str(e), settings.read(config).never_dropped, config.models)) from e


def _conduct(experiment: Experiment) -> tuple[dict[str, Any], int]:
    if experiment.config.dry_run:
        return experiment.foretell(), 0
    beat = together.worker(experiment.workdir, experiment.share)
    status = "interrupted"
    try:
        found = experiment.run()
        status = "ended"
        return found
    finally:
        beat.close(status)


def prepared(config: Any, workdir: Path, share: str = "") -> Experiment:
    """An experiment that was checked and may run. Raises UsageError."""
    own, chain = settings.read(config), stages.parse(config.stages)
    own_share = runner.own_share(share)
    budget = hours.Budget(own.hours, own_share.total if own_share else 1)
    experiment = Experiment(config, own, chain, workdir, own_share, budget)
    experiment.check()
    budget.before = record.hours_taken(workdir, experiment.settings)
    return experiment


@dataclasses.dataclass
class Experiment(training.LastStage):
    """One experiment as one worker runs it."""

    def check(self) -> None:
        """Reads every stage's config, and finds out which models there are.

        Raises:
          UsageError: something is wrong with any of the stages.
        """
        own = self.own.never_dropped
        if self.config.folds:
            raise UsageError(
                f"config.folds={self.config.folds}: an experiment would take the folds for tasks, and tell the models "
                "apart by them as if each had new pictures; leave it out here, or run linear or finetune with it"
            )
        given = ",".join([self.config.models, *own])
        for number in range(len(self.chain)):
            self._check_stage(number, given)
        lost = [model for model in own if model not in self.models]
        if lost:
            raise UsageError(
                f"config.always={self.own.always!r}: {lost[0]} is left out by config.filter; change one of them"
            )

    def _check_stage(self, number: int, given: str) -> None:
        """Of the first stage, finds out which models the names that are `given` stand for."""
        config = settings.stage_config(self.config, self.chain[number].protocol, self.models or None)
        if not self.models:
            config.models = given
        cells = plan.all_cells(plan.read(config), self.workdir)
        self.models = self.models or list(dict.fromkeys(cell.model for cell in cells))
        # Its data sets are prepared, before the stages ahead of it take hours.
        if number and not config.dry_run:
            asked = plan.read(config).run
            runner.preflight([c for c in cells if c.model == cells[0].model], asked, self.workdir)

    def run(self) -> tuple[dict[str, Any], int]:
        """All stages, the audit, the verdict, the winner; what selection.json holds, and the exit status."""
        selection = self._empty()
        if self.budget.hours:
            self.plan()
        models, found = self.models, []
        for number, stage in enumerate(self.chain[:-1]):
            found.append(self.measure(number, models, selection))
            if number and selection["hours"]["not_run"] and not found[-1].scored.any():
                self._conclude(selection, found[:-1], found[-1], [])  # the best answer that there is
                return selection, int(self.failed)
            n = self._planned(number, found[-1], selection)
            kept = self._choose(found, n)
            selection["stages"].append(record.stage(stage.protocol, str(stage), n, found[-1], kept))
            selection["stages"][-1]["ranked_by"] = [s.protocol for s in self.chain[: number + 1]]
            self._write(selection)
            models = selection["stages"][-1]["kept"]
            shown.say(shown.stage(selection["stages"][-1], len(found[-1].models)))
            if not models:
                why = "the failures are listed above"
                if selection["hours"]["not_run"]:
                    why = f"config.hours={self.own.hours:g} is too short for it"
                raise UsageError(f"no model has a score in the stage {stage}, so that none goes on; {why}")
        last = self.chain[-1]
        self.choose_grid(models, selection)
        finalists = self.train(models, found, selection)
        selection["stages"].append(
            record.stage(last.protocol, str(last), None, finalists, None, self.stopped, self.added)
        )
        self._write(selection)
        audited = self._audit(selection)
        judged = self._judged(selection, finalists, audited)
        self._conclude(selection, found, judged, audited)
        return selection, int(self.failed)

    def _judged(
        self, selection: dict[str, Any], finalists: StageScores, audited: Sequence[str]
    ) -> StageScores:
        """What the verdict is about: all of the last stage or, if time has run out, the tasks that most models have."""
        protocol, tasks = self.chain[-1].protocol, None
        if any(cell.startswith(f"{protocol} ") for cell in selection["hours"]["not_run"]):
            tasks = finalists.of([m for m in finalists.models if m not in self.stopped]).shared_tasks()
        if tasks and len(tasks) < len(finalists.tasks):
            selection["judged_on"] = tasks
            shown.say(
                f"judged on {len(tasks)} of {len(finalists.tasks)} tasks: no time was left for the others"
            )
        elif not audited:
            return finalists
        return self.read(-1, [*finalists.models, *audited], Part(tasks or finalists.tasks))

    def _conclude(
        self,
        selection: dict[str, Any],
        before: Sequence[StageScores],
        last: StageScores,
        audited: Sequence[str],
    ) -> None:
        """The verdict over all that the last stage measured, and what may have been missed."""
        while not last.scored.any() and before:  # no time was left for it, or everything failed
            before, last = before[:-1], before[-1].of([m for m in last.models if m in before[-1].models])
            selection["judged_by"] = self.chain[len(before)].protocol
            shown.say(f"judged by {selection['judged_by']}: no model has a score in the stages after it")
        scored = [m for m, well in zip(last.models, last.scored, strict=True) if well]
        if not scored:
            selection["verdict"] = "no model has a score in the last stage"
            self._write(selection)
            shown.answer(selection["verdict"])
            return
        best = last.of(scored)
        judged = verdict.judge(best.scores, best.correct, seed=self.config.seed)
        names = [best.models[i] for i in judged.contenders]
        if selection["judged_by"] == self.chain[-1].protocol:
            missing = missed.estimate(
                self.models, before, last, audited, names[0], self.config.seed, stopped=self.stopped
            )
        else:
            missing = missed.unknown(f"judged by {selection['judged_by']}, not by {self.chain[-1].protocol}")
        if audited:
            selection["audit"]["bounds"] = missing.pop("audit_bounds")
        selection |= {
            "winner": names[0] if judged.clear else None,
            "leader": names[0],
            "contenders": names,
            "verdict": shown.verdict(best, judged),
            "method": judged.method,
            "ranking": record.ranking(best, judged, audited),
            "chance_missed": missing["chance_missed"],
            "expected_regret": missing["expected_regret"],
            "finished": True,
        }
        self._write(selection)
        for text in (shown.ranking(selection), selection["verdict"], shown.missed(selection)):
            shown.answer(text)
        self._keep_winner(selection, last)

    def _keep_winner(self, selection: dict[str, Any], found: StageScores) -> None:
        """The fine-tuned winner with its card, made by the first of the workers that are there."""
        if not together.is_first(self.workdir, self.share):
            return
        if selection["judged_by"] != "finetune":
            if earlier := winner.about_there(self.workdir):
                shown.say(
                    f"{winner.folder(self.workdir)} holds {earlier['model']}, the winner of an earlier experiment; "
                    "this one has fine-tuned none"
                )
            return
        model = selection["leader"]
        records = {task: r for task in found.tasks if (r := found.records[model, task]) is not None}
        about = winner.about(model, self.own.winner_on, records)
        trained = processes.broadcast_from_first(lambda: winner.there(self.workdir, about, records))
        self.worked |= not trained
        on_all = self.own.winner_on == "all"
        with working(f"{model}: fine-tuning to keep it"):
            trained = trained or winner.train(self.config, self.workdir, model, records, on_all)
        if processes.is_first():
            text = card.write(selection, trained, self.own.winner_on)
            winner.finish(self.workdir, about, trained, text)
            self._write(selection)  # the hours
            shown.say(
                f"the fine-tuned model, as safetensors, too, and its card: {winner.folder(self.workdir)}"
            )

    def _planned(self, number: int, found: StageScores, selection: dict[str, Any]) -> int:
        """How many models go on after a stage: as `stages` says, or as many as there is time for."""
        stage, entered = self.chain[number], len(found.models)
        if not self.budget.hours:
            return stage.keeps(entered)

        def decide() -> int:
            known = self.costs(found.models)
            # This stage is over; the ones behind it share the time that is left.
            known = known._replace(per_model=[0.0, *known.per_model[number + 1 :]])
            left, workers = self.budget.seconds_left, self.budget.workers
            return hours.with_grid(self.chain[number:], entered, known, left, workers)[0].keeps[0]

        on = {
            "stage": number,
            "settings": selection["settings"],
            "models": found.models,
            "scored": found.scored.tolist(),
        }
        n = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, decide))
        selection["hours"]["stages"].append({"stage": str(stage), "keep": n, "asked": stage.keeps(entered)})
        if n < stage.keeps(entered):
            shown.say(
                f"{stage}: there is time for {n} models instead of {stage.keeps(entered)} (config.hours)"
            )
        return n

    def _choose(self, stages: Sequence[StageScores], n: int) -> keep.Kept:
        never, found = set(self.own.never_dropped), stages[-1]
        before = [earlier.of(found.models) for earlier in stages[:-1]]
        return keep.choose(
            found.scores,
            n,
            correct=found.correct,
            before=[keep.Before(earlier.scores, earlier.correct) for earlier in before],
            keep_chance=self.own.keep_chance,
            keep_at_most=self.own.keep_at_most,
            always=np.array([model in never for model in found.models]),
            seed=self.config.seed,
        )

    def _audit(self, selection: dict[str, Any]) -> list[str]:
        """Measures, by the last stage, models drawn at random from those that were left out on the way."""
        left_out = [
            row["model"]
            for stage in selection["stages"][:-1]
            for row in stage["models"]
            if row["reason"] in ("behind", "capped") and row["model"] not in self.added
        ]
        selection["left_out"] = left_out
        if not (self.own.audit and left_out):
            return []
        drawn = drawn_for_audit(left_out, self.own.audit, self.config.seed)
        selection["audit"] = {"drawn": drawn, "of": len(left_out), "seed": self.config.seed}
        self._write(selection)
        shown.say(f"audit: {len(drawn)} of {len(left_out)} models that were left out: {', '.join(drawn)}")
        last = self.chain[-1]
        found = self.measure(-1, drawn, selection)
        selection["audit"]["stage"] = record.stage(last.protocol, f"{last} (audit)", None, found, None)
        return drawn

    def foretell(self) -> dict[str, Any]:
        """A dry run: what the stages would be, and how long they would take."""
        first = plan.read(settings.stage_config(self.config, self.chain[0].protocol, self.models))
        runner.conclude(runner.work(first, self.workdir, self.share), first.run, self.workdir)
        self.plan()
        return self._empty()

    def plan(self) -> None:
        """Tells how many models each stage will have and, where costs are known, when it ends.

        With config.hours, costs that are not known are measured first, but for a dry run.
        """
        known = self.costs(self.models)
        if self.budget.hours and not self.config.dry_run and self.budget.seconds_left > 0:
            for stage, cost in zip(self.chain, known.per_model, strict=True):
                probing = self.budget.taken - self.budget.before
                if cost is None and probing <= hours.MOST_PROBING * self.budget.hours:
                    shown.say(
                        f"{stage.protocol}: nothing like it has run here; a few models show what it costs"
                    )
                    hours.probe(self.config, stage.protocol, self.models, self.workdir, self.share)
                    self.worked = True
            known = self.costs(self.models)
        seconds, workers = self.budget.seconds_left, self.budget.workers
        stops = len(self.parts(self.models)) > 1
        expected.tell(self.chain, self.own, len(self.models), known, seconds, workers, stops)

    def _empty(self) -> dict[str, Any]:
        return {
            "finished": False,
            "settings": self.settings,
            "stages": [],
            "winner": None,
            "chance_missed": None,
            "expected_regret": None,
            "judged_by": self.chain[-1].protocol,
            "stopped": stopping.listed({}),
            "added": adding.listed([]),
            "hours": {"planned": self.own.hours or None, "taken": None, "stages": [], "not_run": []},
        }

    def _write(self, selection: dict[str, Any]) -> None:
        taken = self.budget.taken if self.worked else self.budget.before
        selection["hours"]["taken"] = round(taken, 4)
        if processes.is_first():
            record.write(self.workdir, selection)


def drawn_for_audit(left_out: Sequence[str], n: int, seed: int) -> list[str]:
    """`n` of the models that were left out, or all of them, drawn at random; their order does not matter."""
    names = sorted(left_out)
    rng = np.random.default_rng([seed, len(names)])
    return [names[i] for i in sorted(rng.choice(len(names), min(n, len(names)), replace=False))]


def _of_always(message: str, always: Sequence[str], models: str) -> str:
    """A message about a model that only config.always names, which says so."""
    for model in set(always) - set(specs.split_list(models)):
        message = message.replace(f"config.models: model {model!r}", f"config.always: model {model!r}")
    return message
