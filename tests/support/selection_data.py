"""An experiment that nobody ran: what selection.json would hold, decided by the program's own functions."""

import numpy as np
import report_data

from vtabjax.sweep.select import adding, keep, missed, record, run, shown, stopping, verdict
from vtabjax.sweep.select.scores import StageScores

EXAMPLES = 300
TASKS = ("flowers", "dtd", "eurosat", "camelyon", "dsprites_orientation")
SECONDS = {"knn": 8.0, "linear": 40.0, "finetune": 1500.0}  # of a cell


class Population:
    """Models whose accuracies are known, and cheap scores that tell some of it.

    Args:
      models: how many; the last one fails.
      tasks: names.
      seed: of all draws.
    """

    def __init__(self, models, tasks=TASKS, seed=0):
        self.rng = np.random.default_rng(seed)
        self.names = [report_data.spec(i) for i in range(models)]
        self.tasks = list(tasks)
        self.ability = self.rng.normal(size=(models, 1)) + 0.4 * self.rng.normal(size=(models, len(tasks)))
        self.found = {}

    def measured(self, protocol, models):
        """A stage's scores of some of them."""
        noise, shift = {"knn": (0.9, -0.5), "linear": (0.7, 0.0), "finetune": (0.0, 0.3)}[protocol]
        if protocol not in self.found:
            hard = self.rng.logistic(size=(len(self.tasks), EXAMPLES))
            # A cheap score errs alike on all tasks, as real ones do.
            logit = shift + self.ability + noise * self.rng.normal(size=(len(self.names), 1))
            own = self.rng.logistic(size=(len(self.names), len(self.tasks), EXAMPLES))
            self.found[protocol] = logit[:, :, None] > 0.8 * hard + 0.5 * own
        rows = [self.names.index(m) for m in models]
        right = self.found[protocol][rows]
        scores = right.mean(2)
        why = {}
        if self.names[-1] in models:
            scores[models.index(self.names[-1])] = np.nan
            why[self.names[-1]] = f"{self.tasks[0]}: failed in convert: operator aten.<b>foo</b> is not known"
        return StageScores(
            list(models),
            self.tasks,
            "accuracy",
            scores,
            list(right.transpose(1, 0, 2)),
            np.full(len(models), SECONDS[protocol] * len(self.tasks)),
            {},
            why,
        )


def selection(models=300, *, keep_share=0.25, n=20, audit=6, seed=0, tasks=TASKS, always=()):
    """What selection.json would hold of knn:25%,linear:20,finetune, with added and stopped finalists and an audit."""
    people = Population(models, tasks, seed)
    stages, before, left = [], [], people.names
    for protocol, count in (("knn", max(1, round(keep_share * models))), ("linear", n)):
        found = people.measured(protocol, left)
        before.append(found)
        kept = keep.choose(
            found.scores,
            count,
            correct=found.correct,
            before=[keep.Before(b.of(left).scores, b.of(left).correct) for b in before[:-1]],
            always=np.array([m in always for m in left]),
        )
        asked = f"{protocol}:{keep_share:.0%}" if protocol == "knn" else f"{protocol}:{count}"
        stages.append(record.stage(protocol, asked, count, found, kept))
        stages[-1]["ranked_by"] = [b for b in ("knn", "linear") if b in (protocol, "knn")]
        left = stages[-1]["kept"]
    finalists, rounds = list(left), []
    while len(finalists) < 2.5 * n:
        last = people.measured("finetune", finalists)
        room = int(2.5 * n) - len(finalists)
        more, names = missed.look(
            people.names, before, last, (), n=n, room=room, add_chance=0.1, n_draws=200, seed=0
        )
        rounds.append({**more._asdict(), "models": names})
        finalists += names
        if not names:
            break
    added = {m: own for r in rounds for m, own in zip(r["models"], r["own"], strict=True)}
    last = people.measured("finetune", finalists)
    behind = np.argsort(last.scores.mean(1))[: len(finalists) // 2]
    early = {finalists[i]: stopping.Stopped(3, 0.002, 2, 0.8) for i in behind}
    ended = last._replace(scores=last.scores.copy())
    ended.scores[behind, -2:] = np.nan
    dropped = [
        row["model"]
        for stage in stages
        for row in stage["models"]
        if row["reason"] in ("behind", "capped") and row["model"] not in added
    ]
    drawn = run.drawn_for_audit(dropped, audit, seed) if audit else []
    made = {
        "finished": True,
        "settings": {"models": people.names, "seed": seed},
        "stages": [*stages, record.stage("finetune", "finetune", None, ended, None, early, added)],
        "left_out": dropped,
        "judged_by": "finetune",
        "stopped": stopping.listed(early),
        "added": adding.listed(rounds, int(2.5 * n)),
        "hours": {"planned": 40.0, "taken": 37.42, "stages": [], "not_run": []},
    }
    if drawn:
        made["audit"] = {"drawn": drawn, "of": len(dropped), "seed": seed}
        found = people.measured("finetune", drawn)
        made["audit"]["stage"] = record.stage("finetune", "finetune (audit)", None, found, None)
    both = people.measured("finetune", [*finalists, *drawn])
    both.scores[behind, -2:] = np.nan
    ranked = both.of([m for m in both.models if m not in early])
    judged = verdict.judge(ranked.scores, ranked.correct)
    names = [ranked.models[i] for i in judged.contenders]
    missing = missed.estimate(people.names, before, both, drawn, names[0], 0, stopped=early)
    bounds = missing.pop("audit_bounds")
    if drawn:
        made["audit"]["bounds"] = bounds
    made |= {
        "winner": names[0] if judged.clear else None,
        "leader": names[0],
        "contenders": names,
        "verdict": shown.verdict(ranked, judged),
        "method": judged.method,
        "ranking": record.ranking(ranked, judged, drawn),
        **missing,
    }
    return made, people


def results(workdir, made, people):
    """The results of its stages, for the report's boards."""
    for stage in [*made["stages"], *([made["audit"]["stage"]] if "audit" in made else [])]:
        models = [row["model"] for row in stage["models"]]
        found = people.measured(stage["protocol"], models)
        for row in stage["models"]:
            i = models.index(row["model"])
            for t, task in enumerate(stage["tasks"]):
                if row["scores"][task] is not None:
                    right = found.correct[t][i]
                    metrics = {"accuracy": float(right.mean())}
                    if stage["protocol"] == "knn":
                        metrics |= {"n_tied": 0, "accuracy_cosine": metrics["accuracy"], "n_tied_cosine": 0}
                    number = people.names.index(row["model"])
                    report_data.save(workdir, stage["protocol"], row["model"], task, metrics, right, i=number)
