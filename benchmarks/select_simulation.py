"""Is what a selection says about the models it left out true? python benchmarks/select_simulation.py

Populations of models with known accuracies and scores (_populations.py) go through stages as simple as possible (a
quarter, then twenty, by each stage's own scores), with and without an audit, and `vtabjax.ranking.left_out` is compared
with the chance that follows from the population's parameters and with what happened. Moreover the default stages choose
as the engine does (`vtabjax.sweep.select.keep`, with examples), and the stop rule stops. Every draw is appended to
--draws; a run that was interrupted goes on there, and what was neither drawn nor is in --draws keeps its figures in
--out. docs/select.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import _alternate
import _populations
import numpy as np
from _select_tables import choices_table, end_table, plot, table
from scipy import stats

from configs import select
from vtabjax.ranking import left_out
from vtabjax.sweep.select import adding, keep, stages, stopping, verdict

N_DRAWS = 400  # of what is said; one standard error of a share of 90 % is 1.5 points
N_CHOICES = 200
DEFAULT = (0.25, 20)
# Sixteen models are too few for the default stages: half of them are fine-tuned.
HALF = (0.5, 20)
DEFAULTS = select.get_config("vtab")
STAGES = DEFAULTS.stages
# Nearest neighbours are tested on the 1,000 training examples, linear evaluation on test examples.
N_EXAMPLES = (1000, 2000)
RESAMPLES = 200  # instead of the engine's 1,000: enough for a chance of 5 %


class Setting(NamedTuple):
    """A population, how good its scores are, and who is fine-tuned.

    Attributes:
      population: see `_populations.named`; "sixteen" is the published table itself.
      n_tasks: T.
      kendall: weighted Kendall correlation of either stage's scores with accuracy, mean over tasks.
      audit: models drawn at random among those left out.
      n_models: M.
    """

    population: str
    n_tasks: int
    kendall: float
    audit: int
    n_models: int = 300


SETTINGS = [
    *(
        Setting(p, t, k, 10)
        for p, t in (("normal", 1), ("normal", 19), ("published", 19))
        for k in (0.6, 0.3, 0.8)
    ),
    *(Setting(p, t, 0.6, 0) for p, t in (("normal", 1), ("normal", 19), ("published", 19))),
    *(Setting("sixteen", 19, k, 3, 16) for k in (0.3, 0.6, 0.8)),
]

CHOICES = [s for s in SETTINGS if s.audit and s.kendall == 0.6]


def funnel(scores: np.ndarray, stages: tuple[float, int]) -> list[np.ndarray]:
    """Who stays after each stage, bool [S, M]: the first by mean rank over tasks, the mean score deciding ties.

    Args:
      scores: [S, M, T].
      stages: how many, or which share of all that come to the stage.
    """
    stays = np.ones(scores.shape[1], bool)
    kept = []
    for values, count in zip(scores, stages, strict=True):
        here = np.flatnonzero(stays)
        n = int(np.ceil(count * len(here))) if isinstance(count, float) else count
        ranks = stats.rankdata(-values[here], axis=0).mean(1)
        order = here[np.lexsort((-values[here].mean(1), ranks))]
        stays = np.isin(np.arange(len(stays)), order[:n])
        kept.append(stays)
    return kept


def _drawn(
    setting: Setting, seed: int
) -> tuple[_populations.Population, _populations.Drawn, np.random.Generator]:
    rng = np.random.default_rng([seed, SETTINGS.index(setting) if setting in SETTINGS else 99])
    sixteen = setting.population == "sixteen"
    population = _populations.named("published" if sixteen else setting.population, setting.n_tasks)
    noise = _populations.noise_for(setting.population, setting.kendall)
    if not sixteen:
        return population, _populations.draw(population, setting.n_models, noise, rng), rng
    scores = _populations.scores_of(population.centres, noise, rng)
    return population, _populations.Drawn(_populations.published_table(), scores, noise), rng


def chosen(setting: Setting, seed: int) -> dict[str, dict[str, float]]:
    """How far the best of those that are fine-tuned is from the best of all, and how many are, by way of choosing.

    "engine": the default stages, whose second one counts the first one's scores, with those that are close and whoever
    is added in the end, without those that are stopped ("n": all that are trained on any task, "trainings": what that
    takes, in models trained on all); "finalists": with neither of both; "first_20", "first_30", "first_40": nor those
    that are close, so many finalists; "best_30": with both scores of all models and no stages the thirty with the
    largest sum. Since the errors of both are alike, nobody could choose thirty better.
    """
    population, drawn, rng = _drawn(setting, seed)
    mean = drawn.accuracy.mean(1)
    accuracies = population.mean + population.scale * drawn.scores
    finalists, scores = _stages(accuracies, STAGES, rng)
    done = _last_stage(drawn.accuracy, scores, finalists, seed)
    who = {"engine": np.flatnonzero(done.all(1)), "finalists": finalists}
    for n in (20, 30, 40):
        who[f"first_{n}"] = _stages(accuracies, f"knn:25%,linear:{n},finetune", None)[0]
    who["best_30"] = np.argsort(-drawn.scores.sum(0).mean(1))[:30]
    found = {name: {"short": float(mean.max() - mean[i].max()), "n": len(i)} for name, i in who.items()}
    found["engine"] |= {"n": int(done.any(1).sum()), "trainings": float(done.mean(1).sum())}
    if setting.population != "sixteen":
        found["engine"] |= _said_in_the_end(population, drawn, scores, done, seed)
    return found


def _said_in_the_end(
    population: _populations.Population,
    drawn: _populations.Drawn,
    scores: list[np.ndarray],
    done: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """What is said of the models left out when nobody is added any more, and what is true of them."""
    mean, left = drawn.accuracy.mean(1), ~done.any(1)
    winner = int(np.where(done.all(1), mean, -1).argmax())
    said = left_out.estimate(
        np.where(done, drawn.accuracy, np.nan), scores, winner=winner, n_draws=400, seed=seed
    )
    true = _populations.truth(population, drawn, ~np.isnan(scores[1]).any(1), left, mean[winner])
    return {
        "chance": said.chance_missed[:3],
        "true_chance": true.chance,
        "missed": bool(mean[left].max() > mean[winner]),
    }


def _stages(
    accuracies: np.ndarray, text: str, rng: np.random.Generator | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Who is fine-tuned, and each stage's scores [M, T] as far as they are known.

    Args:
      accuracies: what the stages measure, [S, M, T].
      text: the stages.
      rng: of the examples; None: nobody is kept for being close.
    """
    here, before, scores = np.arange(accuracies.shape[1]), list[keep.Before](), list[np.ndarray]()
    for values, stage, n in zip(accuracies, stages.parse(text), N_EXAMPLES, strict=False):
        scores.append(np.where(np.isin(np.arange(len(values)), here)[:, None], values, np.nan))
        now = keep.Before(values[here], rng and _populations.examples(values[here], n, rng))
        wanted = stage.keeps(len(here))
        kept = keep.choose(now.scores, wanted, correct=now.correct, before=before, resamples=RESAMPLES).kept
        before, here = [b.of(kept) for b in (*before, now)], here[kept]
    return here, scores


def _last_stage(
    accuracy: np.ndarray, scores: list[np.ndarray], finalists: np.ndarray, seed: int
) -> np.ndarray:
    """What the engine trains, bool [M, T]: finalists and whoever is added to them, without those that are stopped."""
    done = np.zeros(accuracy.shape, bool)
    n, new = stages.parse(STAGES)[-2].number, np.isin(np.arange(len(done)), finalists)
    while True:
        _train(done, new, accuracy, seed)
        measured, whole = done.any(1), done.all(1)
        found = adding.look(
            np.where(done, accuracy, np.nan),
            scores,
            ~measured,
            n=n,
            room=adding.room(adding.most(n, DEFAULTS.add_at_most), list(done[measured].mean(1))),
            add_chance=DEFAULTS.add_chance,
            winner=int(np.where(whole, accuracy.mean(1), -1).argmax()),
            n_draws=400,
            seed=seed,
        )
        if not found.rows:
            return done
        new = np.isin(np.arange(len(done)), found.rows)


def _train(done: np.ndarray, new: np.ndarray, accuracy: np.ndarray, seed: int) -> None:
    """Trains new models (bool [M]) in rounds of tasks, next to those that are `done` (bool [M, T], changed)."""
    n_tasks, seen = done.shape[1], list[int]()
    left = done.all(1) | new
    for part in stopping.rounds(range(n_tasks)):
        done[np.ix_(left & new, part)] = True
        seen += part
        if len(seen) < n_tasks:
            chance = np.full(len(done), np.inf)
            chance[left] = stopping.chance_of_being_first(
                accuracy[left][:, seen],
                n_tasks - len(seen),
                by_rank=n_tasks >= verdict.FEWEST_TASKS,
                n_draws=5000,
                seed=seed,
            )
            low = (chance < DEFAULTS.stop_chance) & (chance < chance[left].max())
            left &= ~(low & new)


def chosen_summary(draws: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Of one setting's draws: how often the best is near, by way of choosing."""
    found: dict[str, Any] = {"draws": len(draws)}
    for name in draws[0]:
        short, n = (np.array([d[name][what] for d in draws]) for what in ("short", "n"))
        trainings = np.array([d[name].get("trainings", d[name]["n"]) for d in draws])
        found[name] = {f"within_{points}": float((short <= points / 100).mean()) for points in (1, 2)}
        found[name] |= {"mean_regret": float(short.mean()), "fine_tuned": float(n.mean())}
        found[name] |= {"median": float(np.median(n)), "most": int(n.max())}
        found[name] |= {"trainings": float(trainings.mean()), "most_trainings": float(trainings.max())}
        if "chance" in draws[0][name]:
            found["chance_in_the_end"] = _coverage(
                [d[name] for d in draws], "chance", "true_chance", "missed"
            )
    return found


def stop_rule(name: str, n_draws: int) -> dict[str, Any]:
    """The stop rule on finalists that have all results: what it saves, how often the first is stopped, what it says.

    Args:
      name: "published": the sixteen models of VTAB's table, tasks in random orders; "normal": twenty models whose
        accuracies are 60 +- 5 % on each of nineteen tasks, one half of that common to all tasks.
      n_draws: of the order, of the models.
    """
    saved, said, lost = [], [], 0
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        table = _populations.published_table()[:, rng.permutation(19)]
        if name == "normal":
            table = _populations.draw(_populations.named(name, 19), 20, 1.0, rng).accuracy
        best = keep.choose(table, 1).place.argmin()
        left, done, cells, risk = np.arange(len(table)), list[int](), 0, 0.0
        for part in stopping.rounds(range(19)):
            done, cells = [*done, *part], cells + len(part) * len(left)
            if len(done) < 19:
                chance = stopping.chance_of_being_first(
                    table[left][:, done], 19 - len(done), by_rank=True, seed=seed
                )
                left = left[chance >= DEFAULTS.stop_chance]
                risk += chance[chance < DEFAULTS.stop_chance].sum()
        saved.append(1 - cells / table.size)
        said.append(risk)
        lost += best not in left
    return {
        "finalists": name,
        "draws": n_draws,
        "saved": float(np.mean(saved)),
        "said": float(np.mean(said)),
        "first_stopped": lost / n_draws,
    }


def simulate(setting: Setting, seed: int, n_parameters: int = 400) -> dict[str, Any]:
    """One draw: what is said, what somebody would say who knew the population, what is."""
    population, drawn, rng = _drawn(setting, seed)
    sixteen = setting.population == "sixteen"
    second, selected = funnel(drawn.scores, HALF if sixteen else DEFAULT)
    audited = np.zeros(len(selected), bool)
    audited[rng.choice(np.flatnonzero(~selected), setting.audit, replace=False)] = True
    tuned = selected | audited
    mean = drawn.accuracy.mean(1)
    best = np.flatnonzero(tuned)[mean[tuned].argmax()]
    said = left_out.estimate(
        np.where(tuned[:, None], drawn.accuracy, np.nan),
        [drawn.scores[0], np.where(second[:, None], drawn.scores[1], np.nan)],
        audited=audited,
        winner=int(best),
        n_draws=n_parameters,
        seed=seed,
    )
    true = None if sixteen else _populations.truth(population, drawn, second, ~tuned, mean[best])
    return {
        "chance": said.chance_missed[:3],
        "regret": said.expected_regret[:3],
        "true_chance": true and true.chance,
        "true_regret": true and true.regret,
        "missed": bool(mean[~tuned].max() > mean[best]),
        "short": max(0.0, float(mean[~tuned].max() - mean[best])),
        # Enough of them to see that it is what was asked for.
        "kendall": _populations.weighted_kendall(drawn.accuracy, drawn.scores[0]) if seed < 20 else None,
    }


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage, means and the funnel's regret of one setting's draws."""
    out: dict[str, Any] = {"draws": len(draws), "kendall": _mean_known([d["kendall"] for d in draws])}
    for said, true, happened in (("chance", "true_chance", "missed"), ("regret", "true_regret", "short")):
        out[said] = _coverage(draws, said, true, happened)
    return out


def _coverage(draws: list[dict[str, Any]], said: str, true: str, happened: str) -> dict[str, float]:
    """What was said [value, low, high], what was true (None: not known) and what happened, on average."""
    values = np.array([d[said] for d in draws], float)
    found = {"said": values[:, 0].mean(), "happened": float(np.mean([d[happened] for d in draws]))}
    if draws[0][true] is not None:
        known = np.array([d[true] for d in draws])
        found["true"] = known.mean()
        found["true_below_interval"] = (known < values[:, 1] - 1e-12).mean()
        found["true_above_interval"] = (known > values[:, 2] + 1e-12).mean()
        found["coverage"] = 1 - found["true_below_interval"] - found["true_above_interval"]
    return {k: float(v) for k, v in found.items()}


def _mean_known(values: list[float | None]) -> float:
    return float(np.mean([v for v in values if v is not None]))


def reliability(draws: list[dict[str, Any]]) -> list[dict[str, float]]:
    """How often a better model was missed, by the chance that was said."""
    said = np.array([d["chance"][0] for d in draws])
    missed = np.array([d["missed"] for d in draws])
    edges = (0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0001)
    rows = []
    for low, high in zip(edges, edges[1:], strict=False):
        here = (said >= low) & (said < high)
        if here.any():
            rows.append({"from": low, "to": min(high, 1), "draws": int(here.sum())})
            rows[-1] |= {"said": float(said[here].mean()), "happened": float(missed[here].mean())}
    return rows


def summarise(
    draws: dict[Setting, list[dict[str, Any]]],
    choices: dict[Setting, list[dict[str, Any]]],
    old: dict[str, Any],
) -> dict[str, Any]:
    """The record; `old`, the one that is there, has what was not drawn again."""
    record = {
        **_alternate.environment("numpy", "scipy"),
        "stages": STAGES,
        "settings": old.get("settings", []),
    }
    record["reliability"] = old.get("reliability")
    if all(draws.values()):
        record["settings"] = [
            # Sixteen models can be too few to say anything.
            {**setting._asdict(), "nominal_kendall": setting.kendall}
            | summary([d for d in found if d["chance"][0] is not None])
            for setting, found in draws.items()
        ]
        everything = [d for s, found in draws.items() if s.audit for d in found if d["chance"][0] is not None]
        record["reliability"] = reliability(everything)
    record["choices"] = [
        {**setting._asdict(), "nominal_kendall": setting.kendall} | chosen_summary(found)
        for setting, found in choices.items()
        if found
    ]
    record["stop_rule"] = [stop_rule(name, N_CHOICES) for name in ("published", "normal")]
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--n",
        type=int,
        default=0,
        help=f"draws of each setting; 0: {N_DRAWS}, and {N_CHOICES} of the choices",
    )
    parser.add_argument("--only", choices=("", "missed", "choices"), default="", help="which part is drawn")
    parser.add_argument("--draws", type=Path, default=Path(tempfile.gettempdir()) / "select_simulation.jsonl")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "select_simulation.json")
    parser.add_argument(
        "--plot", type=Path, default=_alternate.ROOT / "docs" / "img" / "select_simulation.svg"
    )
    args = parser.parse_args()
    parts = {"missed": (simulate, SETTINGS), "choices": (chosen, CHOICES)}
    done: dict[tuple[str, Setting, int], Any] = {}
    if args.draws.exists():
        for line in args.draws.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[entry["part"], Setting(*entry["setting"]), entry["seed"]] = entry["found"]
    begun = time.perf_counter()
    with args.draws.open("a", encoding="utf-8") as f:
        for part, (function, settings) in parts.items():
            for setting in settings if args.only in ("", part) else ():
                for seed in range(args.n or {"missed": N_DRAWS, "choices": N_CHOICES}[part]):
                    if (part, setting, seed) not in done:
                        done[part, setting, seed] = found = function(setting, seed)
                        entry = {"part": part, "setting": setting, "seed": seed, "found": found}
                        f.write(json.dumps(entry) + "\n")
                        f.flush()
                print(f"{part} {setting}: {time.perf_counter() - begun:.0f} s", flush=True)
    # Those of an earlier, longer run count as well.
    missed, choices = (
        {s: [found for (p, own, _), found in done.items() if (p, own) == (part, s)] for s in settings}
        for part, (_, settings) in parts.items()
    )
    old = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    record = summarise(missed, choices, old)
    _alternate.write(args.out, record)
    plot(record, args.plot)
    print(table(record), choices_table(record), end_table(record), sep="\n\n")


if __name__ == "__main__":
    main()
