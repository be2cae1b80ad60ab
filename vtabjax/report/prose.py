"""What the report says in words: who wins, what is missing, how the numbers were made."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import installation
from vtabjax.report.analysis import Analysis, Options
from vtabjax.report.boards import PROTOCOLS, Board, Gathered, Model, value_text
from vtabjax.report.proxies import Judged
from vtabjax.report.sheet import text

# What a protocol is, in a sentence.
_WHAT = {
    "finetune": "Every weight is trained: a grid of learning rates and durations on train800, chosen on val200, "
    "trained again on all 1,000 examples and tested once (VTAB-1k, arXiv 1910.04867).",
    "linear": "L2-regularised softmax regression on frozen features; its strength is chosen on val200, fitted again on "
    "all training examples and tested once.",
    "knn": "Share of training examples whose nearest other training example, by its features, has the same label "
    "(Expert Models, arXiv 2009.13239). No test example is used.",
    "transferability": "Scores computed from one pass over the training examples (docs/scores.md). They have no common "
    "scale, so they are compared within a task only.",
    "published": "Numbers that others published, as they stand. Their settings differ from ours and from each other.",
}


def short(model: Model) -> str:
    """A model's name in a sentence."""
    return model.label + (" (published)" if model.published else "")


def headline(a: Analysis) -> dict[str, Any]:
    """Who wins, by how much, how sure: {"lead", "sentences", "tiles": [(value, what)]}."""
    b, s = a.board, a.strengths
    first = a.order[0]
    out: dict[str, Any] = {"lead": short(b.models[first]), "sentences": [], "tiles": []}
    say, tile = out["sentences"].append, out["tiles"].append
    where = b.tasks[0] if len(b.tasks) == 1 else f"{len(b.tasks)} tasks"
    if a.leader is None:
        say(
            f"No model has all {len(b.tasks)} tasks, so there are no means to compare; models are in the order "
            "of their strength on the tasks they share."
        )
    else:
        tile((f"{text(a.mean[first], 'percent')} %", f"mean accuracy, {where}"))
        rest = [i for i in a.order[1:] if a.complete[i]]
        if rest:
            second = rest[0]
            gap = a.mean[first] - a.mean[second]
            say(f"{short(b.models[second])} follows, {100 * gap:.2f} points behind.")
            d = a.differences
            if d and second in d.rows:
                k = d.rows.index(second)
                sure = (
                    "so the test examples settle it"
                    if d.low[k] > 0
                    else "so the test examples do not settle it"
                )
                say(
                    f"Other test examples of these tasks would put the lead between {100 * d.low[k]:.2f} and "
                    f"{100 * d.high[k]:.2f} points (95 %), {sure}."
                )
    if s and len(b.models) > 1:
        best = int(np.argmax(s.fit.scores))
        if (
            s.fit.scores[best] - s.fit.scores[first] < 0.005
        ):  # equal as shown: the one with the better mean is named
            best = first
        if len(b.tasks) > 1:
            tile(
                (
                    f"{text(s.best[best], 'percent')} %",
                    f"of resampled tasks put {short(b.models[best])} first",
                )
            )
        if best != first:
            say(f"By strength (EPP), which counts wins and not margins, {short(b.models[best])} is first.")
        others = [i for i in np.argsort(-s.fit.scores, kind="stable") if i != best]
        p, low, high = (m[best, others[0]] for m in s.wins)
        if np.isfinite(p):
            tile(
                (
                    f"{text(p, 'percent')} %",
                    f"chance that {short(b.models[best])} beats {short(b.models[others[0]])} on a new task",
                )
            )
            if np.isfinite(low):
                say(
                    f"On a new task like these, {short(b.models[best])} would beat {short(b.models[others[0]])} with "
                    f"probability {p:.2f} (95 %: {low:.2f} to {high:.2f})."
                )
        n = s.fit.n_clusters
        if n < 8:
            few = "One task says" if n == 1 else f"{n} tasks say"
            say(f"{few} little about new ones: intervals over tasks are rough.")
    tile((f"{len(b.models)}", "model" + "s" * (len(b.models) != 1)))
    return out


def missing(found: Gathered, judged: Judged, workdir: Path) -> list[str]:
    """What is not there, and how to get it."""
    out = []
    own = [b for b in found.boards if not b.published and "-beside-" not in b.key]
    if not found.records and not found.errors:
        out.append(
            f"There are no results in {workdir}. First: "
            f"{installation.command()} --config=configs/knn.py --workdir={workdir}"
        )
    elif not found.records:
        out.append("Every cell failed, so there is nothing to rank; the failures are listed below.")
    elif not own:
        out.append(
            "There are no accuracies to rank, only scores (configs/knn.py, linear.py and finetune.py make some)."
        )
    if found.records:
        ran = {b.protocol for b in found.proxies}
        if "finetune" not in ran:
            out.append(
                "Nothing was fine-tuned, so how far the proxies can be trusted is not known here "
                f"({installation.command()} --config=configs/finetune.py --workdir={workdir})."
            )
        elif not ran - {"finetune"}:
            out.append(
                "Only fine-tuning was run, so there are no proxies to judge "
                f"({installation.command()} --config=configs/knn.py --workdir={workdir})."
            )
        elif judged.missing:
            out.append(f"Proxies cannot be judged: {judged.missing}.")
    for board in own:
        out += _gaps(board)
    return out


def _gaps(board: Board) -> list[str]:
    gaps = np.isnan(board.values)
    if not gaps.any():
        return []
    tasks = [t for t, n in zip(board.tasks, gaps.sum(0), strict=True) if n]
    shown = ", ".join(tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
    return [
        f"{board.title}: {int(gaps.sum())} of {gaps.size} cells have no result ({int(gaps.any(1).sum())} of "
        f"{len(board.models)} models, on {shown}). Models that lack a task have no mean and are ranked by strength "
        "only."
    ]


def failures(found: Gathered) -> list[dict[str, Any]]:
    """Failed cells; those of a model that failed alike share a row."""
    alike = collections.defaultdict(list)
    for path, record in found.errors:
        key = record["protocol"], record["model"], record["stage"], record["message"]
        alike[key].append((record["task"], path))
    return [
        {"protocol": PROTOCOLS.get(protocol, protocol), "model": model, "stage": stage, "message": message,
         "tasks": [t for t, _ in cells], "path": cells[0][1]}
        for (protocol, model, stage, message), cells in alike.items()
    ]  # fmt: skip


def methods(found: Gathered) -> list[dict[str, Any]]:
    """How the numbers were made, from the results' own settings: {"title", "what", "settings": [(name, value)]}."""
    seen, out = set(), []
    for board in [*found.boards, *found.proxies]:
        key = (board.protocol, str(sorted(board.settings.items(), key=str)))
        if key in seen or "-beside-" in board.key:
            continue
        seen.add(key)
        title = PROTOCOLS["transferability"] if board.protocol == "transferability" else board.title
        settings = [(name, value_text(v)) for name, v in board.settings.items()]
        settings.append(("models x tasks", f"{len(board.models)} x {len(board.tasks)}"))
        out.append({"title": title, "what": _WHAT.get(board.protocol, ""), "settings": settings})
    return out


def statistics(options: Options) -> list[tuple[str, str]]:
    """What the statistics are: (term, definition)."""
    n = f"{options.resamples:,}"
    rounds = (
        "a task"
        if not options.example_rounds
        else f"one of {options.example_rounds} resamples of a task's examples"
    )
    tie = (
        f" A difference of at most {100 * options.tie_margin:g} points is a tie."
        if options.tie_margin
        else ""
    )
    return [
        (
            "EPP",
            "Elo-based Predictive Power (Gosiewska, Woznica, Biecek, arXiv 2006.02293): the Bradley-Terry model over "
            f"matches. Two models with a result in the same round play one match; a round is {rounds}; "
            f"equal accuracies are half a win for each.{tie} Elo = 1500 + 400 / ln 10 x EPP.",
        ),
        (
            "Standard errors",
            "Clustered by task, because all matches on a task share it (the naive errors are several times too small); "
            "intervals use Student's t with as many degrees of freedom as tasks, less one.",
        ),
        (
            "Bootstrap over tasks",
            f"{n} draws of the tasks with replacement (seed {options.seed}); a draw in which some model "
            "wins everything is fitted with a small penalty. 'Best in' and rank intervals come from it.",
        ),
        ("Interval of one accuracy", "Wilson's 95 % interval for so many test examples."),
        (
            "Paired bootstrap",
            f"{n} draws of each task's test examples, the same ones for every model: what the difference of two means "
            "would be with other test examples of the same tasks.",
        ),
        (
            "Agreement",
            "Weighted Kendall (Vigna, WWW 2015; additive hyperbolic weights), Kendall's tau-b, Pearson, Spearman, "
            f"regret@k and hit@k on each task, then the mean over tasks; intervals from {n} draws of the models.",
        ),
        (
            "Chance and majority",
            "What is reached without looking at a picture: by a uniform guess, and by the most frequent class of the "
            "test set as the only answer, where that is known.",
        ),
        (
            "Copies",
            "Pictures with equal pixels before they are resized, counted among all those that a result was computed "
            "from. A test picture that was trained on says nothing about new ones; the nearest neighbour of a picture "
            "that is there twice is its copy.",
        ),
        ("Means", "Only over models that have every task of the board; never over different settings."),
    ]


def versions(found: Gathered) -> list[tuple[str, str]]:
    """Packages and devices behind the results."""

    def said(counted: Mapping[str, int]) -> str:
        return ", ".join(f"{name} ({n})" if len(counted) > 1 else name for name, n in counted.items())

    out = [(package, said(counted)) for package, counted in sorted(found.versions.items())]
    return out + ([("devices", said(found.devices))] if found.devices else [])
