"""What select_simulation.py found, as tables and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(record: dict[str, Any], path: Path) -> None:
    """Coverage and reliability, side by side."""
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
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        cover, bins = figure.subplots(1, 2)
        cover.axhspan(0.85, 0.95, color="#e3e8ef")
        for name, colour in colours.items():
            rows = [r for r in record["settings"] if f"{r['population']}, {r['n_tasks']}" == name]
            audited = [r for r in rows if r["audit"] and "coverage" in r["chance"]]
            if not audited:
                continue
            for kind, marker in (("chance", "o"), ("regret", "x")):
                x = [r["nominal_kendall"] for r in sorted(audited, key=lambda r: r["nominal_kendall"])]
                y = [r[kind]["coverage"] for r in sorted(audited, key=lambda r: r["nominal_kendall"])]
                cover.plot(
                    x, y, marker + "-", color=colour, ms=4, lw=0.8, label=name if kind == "chance" else None
                )
        cover.set(ylim=(0.5, 1), xlabel="weighted Kendall", ylabel="intervals that hold the truth")
        cover.legend(frameon=False, loc="lower right")
        cover.set_title("90 % intervals (o chance, x regret)", loc="left")
        bins.plot([0, 1], [0, 1], color="#c5ccd6", lw=0.8)
        rows = record["reliability"]
        bins.plot(
            [r["said"] for r in rows], [r["happened"] for r in rows], "o-", color="#1f5fbf", ms=4, lw=0.8
        )
        bins.set(xlabel="chance missed, as said", ylabel="a better one was missed")
        bins.set_title("Reliability", loc="left")
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def table(record: dict[str, Any]) -> str:
    """The settings as rows of Markdown."""
    head = "population | tasks | weighted Kendall | audit | chance: truth in 90 % interval | said | true | happened"
    head += " | regret: truth in 90 % interval"
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
        cells.append(_percent(regret.get("coverage")))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def choices_table(record: dict[str, Any]) -> str:
    """How often a model within a point of the best is fine-tuned, as rows of Markdown."""
    head = "population | tasks | weighted Kendall | within a point | within two | fine-tuned: models"
    head += " | trainings | at most | none added | of them | 20 | 30 | 40 | best 30 of both scores"
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in record["choices"]:
        cells = [row["population"], row["n_tasks"], row["nominal_kendall"]]
        cells += [f"{100 * row['engine'][near]:.1f} %" for near in ("within_1", "within_2")]
        cells += [f"{row['engine'][what]:.1f}" for what in ("fine_tuned", "trainings", "most_trainings")]
        cells += [f"{100 * row['finalists']['within_1']:.1f} %", f"{row['finalists']['fine_tuned']:.1f}"]
        others = ("first_20", "first_30", "first_40", "best_30")
        cells += [f"{100 * row[name]['within_1']:.1f} %" for name in others]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def end_table(record: dict[str, Any]) -> str:
    """What is said in the end of runs that add and stop finalists, as rows of Markdown."""
    lines = ["| population | tasks | said | true | happened | truth in 90 % interval | below | above |"]
    lines.append("|" + "---|" * 8)
    for row in record["choices"]:
        if found := row.get("chance_in_the_end"):
            shares = [found[what] for what in ("said", "true", "happened", "coverage")]
            shares += [found["true_below_interval"], found["true_above_interval"]]
            cells = [row["population"], row["n_tasks"], *map(_percent, shares)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
