"""The last stage: finalists in rounds, without those who have too little chance, and whoever is added to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax.runtime import processes
from vtabjax.sweep.select import adding, hours, missed, record, scores, seeds, shown, stopping
from vtabjax.sweep.select.measuring import ALL, Part, Stages
from vtabjax.sweep.select.scores import StageScores


@dataclasses.dataclass
class LastStage(Stages):
    """The stages of one experiment, the last one in rounds.

    Attributes:
      stopped: finalists whose training was not taken to its end.
      added: who was measured by the last stage besides the finalists -> its chance of being much better than the best.
    """

    stopped: dict[str, stopping.Stopped] = dataclasses.field(default_factory=dict)
    added: dict[str, float] = dataclasses.field(default_factory=dict)

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
        self._in_time(measured, stopped, selection)
        found = self._with_seconds(self._tell(-1, measured, selection, stopped), stopped)
        ended = {m for m, well in zip(found.models, found.scored, strict=True) if well}
        # Somebody may have run the rest by hand.
        self.stopped = {m: row for m, row in stopped.items() if m not in ended}
        selection["stopped"] = stopping.listed(self.stopped)
        selection["added"] = adding.listed(rounds, self._cap(selection), self._trained(measured, stopped))
        return found

    def parts(self, models: Sequence[str]) -> list[Part]:
        """The rounds of the last stage: of tasks or, where these are too few, of seeds."""
        cells = self.cells(-1, models)
        tasks = stopping.rounds(list(dict.fromkeys(cell.task for cell in cells)))
        given = cells[0].settings.get("seeds", [])
        lengths = seeds.rounds(len(given))
        if not self.own.stop_chance or len(models) < 2 or len(tasks) == len(lengths) == 1:
            return [ALL]
        if len(tasks) > 1:
            return [Part(tasks=part) for part in tasks]
        return [Part(seeds=given[:n]) for n in lengths]

    def _rounds(
        self, models: Sequence[str], these: Sequence[str], stopped: Mapping[str, stopping.Stopped]
    ) -> dict[str, stopping.Stopped]:
        """The last stage for some models, in rounds; who was stopped, those from before included.

        Args:
          models: all that it measures.
          these: who is measured now. The others have been, and are not stopped any more.
          stopped: from before.
        """
        parts = self.parts(models)
        stopped, left = dict(stopped), [m for m in models if m not in stopped]
        # Somebody may have run all seeds by hand.
        whole = self.read(-1, left) if parts[0].seeds else None
        done = {m for m, well in zip(whole.models, whole.scored, strict=True) if well} if whole else set()
        for i, part in enumerate(parts):
            now = [m for m in left if m in these and m not in done]
            if now:
                self._work(-1, now, part, len(parts[i - 1].seeds or ()) if i else 0)
            if i + 1 < len(parts):
                never = [*self.own.never_dropped, *(m for m in left if m not in these)]
                out = (self._stop_seeds if part.seeds else self._stop)(left, parts, i, never)
                shown.stopped(out)
                stopped |= out
                left = [m for m in left if m not in out]
        return stopped

    def _cap(self, selection: dict[str, Any]) -> float:
        """What the last stage may cost, see `adding.most`."""
        asked = selection["stages"][-1]["keep"] if selection["stages"] else 0
        return adding.most(asked, self.own.add_at_most)

    def _trained(self, models: Sequence[str], stopped: Mapping[str, stopping.Stopped]) -> list[float]:
        """Which share of the last stage's work was done for models, those that are never dropped aside."""
        own = self.cells(-1, models)[0].settings

        def share(row: stopping.Stopped) -> float:
            return hours.share_of_seeds(own, row.after) if row.unit == "seeds" else row.after / row.total

        these = [m for m in models if m not in self.own.never_dropped]
        return [share(stopped[m]) if m in stopped else 1.0 for m in these]

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
        self, models: list[str], parts: Sequence[Part], i: int, never: Sequence[str]
    ) -> dict[str, stopping.Stopped]:
        """Whom all workers, and all later runs, stop after some tasks of the last stage: those of parts 0 to i."""
        done, ahead = (sum((list(p.tasks or ()) for p in ps), []) for ps in (parts[: i + 1], parts[i + 1 :]))
        found = self.read(-1, models, Part(done))

        def decide() -> dict[str, stopping.Stopped]:
            chances = stopping.decide(found, ahead, self.own.stop_chance, never, self.config.seed)
            there = self.read(-1, models, Part(ahead)).records
            missing = [c for c in self.cells(-1, models, Part(ahead)) if there[c.model, c.task] is None]
            seconds, total = self.costs(models).cell[-1], len(done) + len(ahead)
            return {m: stopping.of(m, len(done), total, c, missing, seconds) for m, c in chances.items()}

        on = {"unit": "tasks", "done": done, "of": [models, ahead], "settings": self.settings}
        return self._agreed_to_stop(on, found.scores, decide)

    def _stop_seeds(
        self, models: list[str], parts: Sequence[Part], i: int, never: Sequence[str]
    ) -> dict[str, stopping.Stopped]:
        """The same after the first of the seeds: those of part i."""
        cells = self.cells(-1, models)
        given, n = cells[0].settings["seeds"], len(parts[i].seeds or ())
        records: dict[tuple[str, str], scores.Record | None] = {}
        # Those with more seeds were run by hand, or before others were added.
        for part in reversed(parts[i:]):
            records |= {key: r for key, r in self.read(-1, models, part).records.items() if r}
        found = seeds.scores(models, list(dict.fromkeys(c.task for c in cells)), records, n)

        def decide() -> dict[str, stopping.Stopped]:
            chances = seeds.decide(found, len(given) - n, self.own.stop_chance, never, self.config.seed)
            there, known = self.read(-1, models).records, self.costs(models).cell[-1]
            missing = [c for c in cells if there[c.model, c.task] is None]
            left = 1 - hours.share_of_seeds(cells[0].settings, n)
            seconds = hours.scaled(known, left)
            return {m: seeds.stopped(found, m, c, len(given), missing, seconds) for m, c in chances.items()}

        on = {"unit": "seeds", "done": given[:n], "of": [models, given[n:]], "settings": self.settings}
        return self._agreed_to_stop(on, found.scores, decide)

    def _agreed_to_stop(
        self, on: dict[str, Any], found: np.ndarray, decide: Callable[[], dict[str, stopping.Stopped]]
    ) -> dict[str, stopping.Stopped]:
        """`decide`, or what was decided before on the same scores."""
        on["scores"] = [[record.number(s) for s in row] for row in found]

        def plain() -> dict[str, Any]:
            return {m: row._asdict() for m, row in decide().items()}

        decided = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, plain))
        return {m: stopping.Stopped(**row) for m, row in decided.items()}

    def _in_time(self, models: Sequence[str], stopped: Collection[str], selection: dict[str, Any]) -> None:
        """Where hours end between rounds of seeds, goes on with the seeds that most models have."""
        parts, left = self.parts(models), [m for m in models if m not in stopped]
        if not self.budget.hours or not parts[0].seeds:
            return
        found = [self.read(-1, left, part) for part in parts]
        missing = [c for c in self.cells(-1, left) if not found[-1].records[c.model, c.task]]
        late = processes.broadcast_from_first(
            lambda: [c for c in missing if not c.error_path(self.workdir).exists()]
        )
        if not late:
            return

        def decide() -> int:
            # Of equals the one with more models.
            return max(
                range(len(parts)), key=lambda i: (len(parts[i].seeds or ()) * int(found[i].scored.sum()), -i)
            )

        on = {
            "judged_on_seeds": models,
            "settings": self.settings,
            "scored": [f.scored.tolist() for f in found],
        }
        chosen = processes.broadcast_from_first(lambda: record.agree(self.workdir, on, decide))
        n, given = len(parts[chosen].seeds or ()), list(parts[-1].seeds or ())
        if n == len(given):
            return
        told = [c for c in late if found[chosen].records[c.model, c.task]]
        selection["hours"]["not_run"] += [f"{c} with {len(given)} seeds" for c in told]
        selection["judged_on_seeds"] = given[:n]
        self.config = self.config.copy_and_resolve_references()
        self.config.finetune.seeds = ",".join(map(str, given[:n]))
        shown.say(f"judged on {n} of {len(given)} seeds: no time was left for the others")

    def _with_seconds(self, found: StageScores, stopped: Mapping[str, stopping.Stopped]) -> StageScores:
        """What was stopped between seeds has taken its time, too."""
        taken = found.seconds.copy()
        for i, model in enumerate(found.models):
            if model in stopped and stopped[model].unit == "seeds" and not found.scored[i]:
                given = self.cells(-1, [model])[0].settings["seeds"][: stopped[model].after]
                taken[i] = self.read(-1, [model], Part(None, given)).seconds[0]
        return found._replace(seconds=taken)
