"""Is what a selection says about the models it left out true? python benchmarks/select_simulation.py

Populations of models with known accuracies and scores (_populations.py) go through the default stages
(knn:25%,linear:20,finetune) as the engine decides them, with and without an audit, and `vtabjax.ranking.left_out` is
compared with the chance that follows from the population's parameters and with what happened. Every draw is appended to
--draws; a run that was interrupted goes on there. docs/select.md has the figures.
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

from vtabjax.ranking import left_out
from vtabjax.sweep.select import keep, stages

N_DRAWS = 200
DEFAULT = "knn:25%,linear:20,finetune"
# Sixteen models are too few for the default stages: half of them are fine-tuned.
HALF = "knn:50%,linear:20,finetune"
# Nearest neighbours are tested on the 1,000 training examples, the others on test examples.
N_EXAMPLES = (1000, 2000)
RESAMPLES = 200  # instead of 1,000: enough for a chance of 5 %


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


def funnel(
    population: _populations.Population, drawn: _populations.Drawn, chain: str, rng: np.random.Generator
) -> dict[str, list[np.ndarray]]:
    """Who stays after each stage, bool [M]: as `vtabjax.sweep.select` decides, and without those that are close."""
    found: dict[str, list[np.ndarray]] = {}
    accuracies = population.mean + population.scale * drawn.scores
    for name, close in (("engine", 1.5), ("first_n", 1.0)):
        here, found[name] = np.arange(drawn.scores.shape[1]), []
        before: list[keep.Before] = []
        for number, stage in enumerate(stages.parse(chain)[:-1]):
            values = accuracies[number, here]
            drawn_now = None
            if close > 1:
                drawn_now = _populations.examples(values, N_EXAMPLES[number], rng)
            kept = keep.choose(
                values,
                stage.keeps(len(here)),
                correct=drawn_now,
                before=before,
                keep_at_most=close,
                resamples=RESAMPLES,
            ).kept
            before = [b.of(kept) for b in (*before, keep.Before(values, drawn_now))]
            here = here[kept]
            found[name].append(np.isin(np.arange(drawn.scores.shape[1]), here))
    return found


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


def regret_of_stages(draws: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How far the best of those that are fine-tuned is from the best of all; for 30 by both scores, see `simulate`."""
    found = {}
    for name in ("engine", "first_n", "best_30"):
        short, tuned = (np.array([d[name][what] for d in draws]) for what in ("short", "fine_tuned"))
        found[name] = {f"within_{points}": float((short <= points / 100).mean()) for points in (1, 2)}
        found[name] |= {
            "mean_regret": float(short.mean()),
            "fine_tuned": float(tuned.mean()),
            "draws": len(draws),
        }
    return found


def simulate(setting: Setting, seed: int, n_parameters: int = 400) -> dict[str, Any]:
    """One draw: what is said, what somebody would say who knew the population, what is."""
    population, drawn, rng = _drawn(setting, seed)
    sixteen = setting.population == "sixteen"
    stays = funnel(population, drawn, HALF if sixteen else DEFAULT, rng)
    second, selected = stays["engine"]
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
    # With both scores of all models, and the errors of both stages alike, nobody could choose better than by their sum.
    by_sum = np.argsort(-drawn.scores.sum(0).mean(1))[:30]
    chosen = {"engine": selected, "first_n": stays["first_n"][-1], "best_30": by_sum}
    true = None if sixteen else _populations.truth(population, drawn, second, ~tuned, mean[best])
    regrets = {
        name: {"short": float(mean.max() - mean[who].max()), "fine_tuned": len(mean[who])}
        for name, who in chosen.items()
    }
    return {
        **regrets,
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
        values = np.array([d[said] for d in draws], float)
        found = {"said": values[:, 0].mean(), "happened": float(np.mean([d[happened] for d in draws]))}
        if draws[0][true] is not None:
            known = np.array([d[true] for d in draws])
            found["true"] = known.mean()
            found["true_below_interval"] = (known < values[:, 1] - 1e-12).mean()
            found["true_above_interval"] = (known > values[:, 2] + 1e-12).mean()
            found["coverage"] = 1 - found["true_below_interval"] - found["true_above_interval"]
        out[said] = {k: float(v) for k, v in found.items()}
    return out


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


def plot(record: dict[str, Any], path: Path) -> None:
    """Coverage, reliability and the funnel's regret, side by side."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = {
        "normal, 1": "#1f5fbf",
        "normal, 19": "#0a8f6a",
        "published, 19": "#b4540a",
        "sixteen, 19": "#5a6675",
    }
    style = {"svg.fonttype": "none", "svg.hashsalt": "select", "font.size": 8, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False}):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        cover, bins, regret = figure.subplots(1, 3)
        cover.axhspan(0.85, 0.95, color="#e3e8ef")
        for name, colour in colours.items():
            rows = [r for r in record["settings"] if f"{r['population']}, {r['n_tasks']}" == name]
            audited = [r for r in rows if r["audit"] and "coverage" in r["chance"]]
            for kind, marker in (("chance", "o"), ("regret", "x")):
                x = [r["nominal_kendall"] for r in sorted(audited, key=lambda r: r["nominal_kendall"])]
                y = [r[kind]["coverage"] for r in sorted(audited, key=lambda r: r["nominal_kendall"])]
                cover.plot(x, y, marker + "-", color=colour, ms=4, lw=0.8)
            rows = sorted((r for r in rows if r["audit"]), key=lambda r: r["nominal_kendall"])
            x = [r["nominal_kendall"] for r in rows]
            regret.plot(
                x, [r["engine"]["within_1"] for r in rows], "o-", color=colour, ms=4, lw=0.8, label=name
            )
        cover.set(ylim=(0.5, 1), xlabel="weighted Kendall", ylabel="intervals that hold the truth")
        cover.set_title("90 % intervals (o chance, x regret)", loc="left")
        bins.plot([0, 1], [0, 1], color="#c5ccd6", lw=0.8)
        rows = record["reliability"]
        bins.plot(
            [r["said"] for r in rows], [r["happened"] for r in rows], "o-", color="#1f5fbf", ms=4, lw=0.8
        )
        bins.set(xlabel="chance missed, as said", ylabel="a better one was missed")
        bins.set_title("Reliability", loc="left")
        regret.axhline(0.9, color="#c5ccd6", lw=0.8)
        regret.set(ylim=(0, 1.02), xlabel="weighted Kendall", ylabel="winner within a point of the best")
        regret.set_title("The stages", loc="left")
        regret.legend(frameon=False)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def table(record: dict[str, Any]) -> str:
    """The settings as rows of Markdown."""
    head = "population | tasks | weighted Kendall | audit | chance: truth in 90 % interval | said | true | happened"
    head += " | regret: truth in 90 % interval | winner within a point | fine-tuned | without close ones"
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for r in sorted(
        record["settings"], key=lambda r: (r["audit"] == 0, -r["n_models"], r["population"], r["n_tasks"])
    ):
        chance, regret = r["chance"], r["regret"]
        cells = [
            r["population"],
            r["n_tasks"],
            r["nominal_kendall"],
            r["audit"],
            _percent(chance.get("coverage")),
        ]
        cells += [_percent(chance["said"]), _percent(chance.get("true")), _percent(chance["happened"])]
        cells += [
            _percent(regret.get("coverage")),
            _percent(r["engine"]["within_1"]),
            f"{r['engine']['fine_tuned']:.0f}",
            _percent(r["first_n"]["within_1"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def summarise(draws: dict[Setting, list[dict[str, Any]]]) -> dict[str, Any]:
    record = {
        **_alternate.environment("numpy", "scipy"),
        "stages": DEFAULT,
        "settings": [],
    }
    for setting, found in draws.items():
        # Sixteen models can be too few to say anything.
        row = {**setting._asdict(), "nominal_kendall": setting.kendall}
        record["settings"].append(
            row | summary([d for d in found if d["chance"][0] is not None]) | regret_of_stages(found)
        )
    everything = [d for s, found in draws.items() if s.audit for d in found if d["chance"][0] is not None]
    return record | {"reliability": reliability(everything)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=N_DRAWS, help="draws of each setting")
    parser.add_argument("--draws", type=Path, default=Path(tempfile.gettempdir()) / "select_simulation.jsonl")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "select_simulation.json")
    parser.add_argument(
        "--plot", type=Path, default=_alternate.ROOT / "docs" / "img" / "select_simulation.svg"
    )
    args = parser.parse_args()
    done = {}
    if args.draws.exists():
        for line in args.draws.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[Setting(*entry["setting"]), entry["seed"]] = entry["found"]
    begun = time.perf_counter()
    with args.draws.open("a", encoding="utf-8") as f:
        for seed in range(args.n):
            for setting in SETTINGS:
                if (setting, seed) not in done:
                    done[setting, seed] = found = simulate(setting, seed)
                    f.write(json.dumps({"setting": setting, "seed": seed, "found": found}) + "\n")
                    f.flush()
            print(f"{seed + 1} of {args.n} draws, {time.perf_counter() - begun:.0f} s", flush=True)
    # Those of an earlier, longer run count as well.
    draws = {setting: [found for (own, _), found in done.items() if own == setting] for setting in SETTINGS}
    record = summarise(draws)
    _alternate.write(args.out, record)
    plot(record, args.plot)
    print(table(record))


if __name__ == "__main__":
    main()
