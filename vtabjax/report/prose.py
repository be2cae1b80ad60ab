"""What the report says in words: who wins, what is missing, how the numbers were made."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import installation, specs
from vtabjax.report import naming
from vtabjax.report.analysis import Analysis, Options
from vtabjax.report.boards import PROTOCOLS, Board, ReportData, value_text
from vtabjax.report.proxies import ProxyComparison
from vtabjax.specs import pooling
from vtabjax.tables import text

# What a protocol is, in a sentence.
_WHAT = {
    "finetune": "{trained} trained: a grid of learning rates and durations is tried on {train}, and the choice "
    "made on {val} is trained again on both and tested once (VTAB-1k, arXiv 1910.04867).",
    "linear": "L2-regularised softmax regression on frozen features; the regularisation strength is chosen on {val}, "
    "and the classifier is then refitted on all training examples and tested once.",
    "knn": "The share of training examples whose nearest neighbour among the other training examples, in feature "
    "space, has the same label (Expert Models, arXiv 2009.13239). No test examples are used.",
    "transferability": "Scores computed from one pass over the training examples (docs/scores.md). They have no common "
    "scale, so they are compared within a task only.",
    "published": "Numbers published by others, as they stand. Their settings differ from ours and from one another.",
}


_TRAINED = {
    "all": "All weights are",
    "head": "A linear layer on the features is",
    "bias": "All biases and a linear layer on the features are",
    "norm": "All weights of norms and a linear layer on the features are",
    "lora": "Updates of low rank to the weights (LoRA, arXiv 2106.09685) and a linear layer on the features are",
    "prompt": "Tokens before the first block (VPT-shallow, arXiv 2203.12119) and a linear layer on the features are",
    "prompt_deep": "Tokens before every block (VPT-deep, arXiv 2203.12119) and a linear layer on the features are",
}


def missing(data: ReportData, comparison: ProxyComparison, workdir: Path) -> list[str]:
    """What is missing, and how to get it."""
    out = []
    own = [b for b in data.boards if not b.published and not b.beside_published]
    if not data.records and not data.errors:
        out.append(
            f"There are no results in {workdir}. Start with: "
            f"{installation.command()} --config=configs/knn.py --workdir={workdir}"
        )
    elif not data.records:
        out.append("Every cell failed, so there is nothing to rank; the failures are listed below.")
    elif not own:
        out.append(
            "There are no accuracies to rank, only scores (configs/knn.py, linear.py and finetune.py produce them)."
        )
    if data.records:
        ran = {b.protocol for b in data.proxies}
        if "finetune" not in ran:
            out.append(
                "Nothing was fine-tuned, so it is not known how far the proxies can be trusted here "
                f"({installation.command()} --config=configs/finetune.py --workdir={workdir})."
            )
        elif not ran - {"finetune"}:
            out.append(
                "Only fine-tuning was run, so there are no proxies to judge "
                f"({installation.command()} --config=configs/knn.py --workdir={workdir})."
            )
        elif comparison.missing:
            out.append(f"Proxies cannot be judged: {comparison.missing}.")
    for board in own:
        out += _gaps(board)
    return out


def _gaps(board: Board) -> list[str]:
    gaps = np.isnan(board.values)
    if not gaps.any():
        return []
    tasks = [t for t, n in zip(naming.of_tasks(board.tasks), gaps.sum(0), strict=True) if n]
    shown = specs.listed(tasks, 4)
    return [
        f"{board.title}: {int(gaps.sum())} of {gaps.size} cells have no result ({int(gaps.any(1).sum())} of "
        f"{len(board.models)} models, on {shown}). Models that lack a task have no mean and are ranked by strength "
        "only."
    ]


def failures(data: ReportData) -> list[dict[str, Any]]:
    """Failed cells; those of a model that failed in the same way share a row."""
    alike = collections.defaultdict(list)
    for path, record in data.errors:
        key = record["protocol"], record["model"], record["stage"], record["message"]
        alike[key].append((record["task"], path))
    return [
        {
            "protocol": PROTOCOLS.get(protocol, protocol),
            "model": model,
            "stage": stage,
            "message": message,
            "tasks": naming.of_tasks([t for t, _ in cells]),
            "path": cells[0][1],
        }
        for (protocol, model, stage, message), cells in alike.items()
    ]


def methods(data: ReportData, analyses: Sequence[Analysis] = ()) -> list[dict[str, Any]]:
    """How the numbers were made, from the results' own settings: {"title", "what", "settings": [(name, value)]}."""
    seen, out = set(), []
    fits = {a.board.key: _goodness(a) for a in analyses}
    for board in [*data.boards, *data.proxies]:
        key = (board.protocol, str(sorted(board.settings.items(), key=str)))
        if key in seen or board.beside_published:
            continue
        seen.add(key)
        title = PROTOCOLS["transferability"] if board.protocol == "transferability" else board.title
        settings = [(name, value_text(v)) for name, v in board.settings.items()]
        settings.append(("models x tasks", f"{len(board.models)} x {len(board.tasks)}"))
        settings += fits.get(board.key, [])
        pooled = pooling.remarks({model.display_name: model.features for model in board.models})
        settings += [("features", remark.removeprefix("features: ")) for remark in pooled]
        out.append({"title": title, "what": _what(board), "settings": settings})
    return out


def _goodness(a: Analysis) -> list[tuple[str, str]]:
    """How well one number per model explains who wins."""
    if a.strengths is None or not np.isfinite(a.strengths.goodness.concordance):
        return []
    g = a.strengths.goodness
    said = f"the stronger model won {text(g.concordance, 'percent')} % of {text(g.matches, 'whole')} matches"
    if np.isfinite(g.explained):
        said += f"; strengths explain {text(g.explained, 'percent')} % of the deviance of equal ones"
    said += f" (deviance {g.deviance:.1f} on {g.df} degrees of freedom"
    if np.isfinite(g.p_value):
        said += f", p = {g.p_value:.2g} if matches were independent, which they are not"
    return [("fit of the strengths", said + ")")]


def _what(board: Board) -> str:
    """What a board's protocol is, with the splits that it used."""
    splits = board.settings.get("splits") or []
    train, val = splits[:2] if len(splits) > 2 else ("train800", "val200")
    what = _WHAT.get(board.protocol, "").format(
        train=train,
        val=val,
        trained=_TRAINED.get(str(board.settings.get("scope")), _TRAINED["all"]),
    )
    if folds := board.settings.get("folds"):
        what += (
            f" Every example was tested once: the pictures were divided into {folds} folds, each of which was tested "
            "after training on the others, and the accuracy is that over all of them."
        )
    return what


# When an order is called sure.
_SURE = [
    (
        "Interval of a mean",
        "Of the mean over all tasks: the paired bootstrap. Of that over a group of tasks, and where there are no "
        "results on each example: the tasks' own intervals, added up as those of independent samples. A ± is half its "
        "width.",
    ),
    (
        "Intervals in the ranking",
        "Of the difference between a model's mean and the first one's: the paired bootstrap, or where there are no "
        "results on each example, Student's t over the differences on each task. An interval that reaches the "
        "first model's mean is no difference.",
    ),
    (
        "No clear winner",
        "A headline names one winner only where the interval of its lead is above zero and that of its chance to "
        "beat the second on a new task is above one half, as far as they are known.",
    ),
]


def _agreement(n: str) -> str:
    """How proxies are compared with fine-tuning, with so many draws."""
    return (
        "Weighted Kendall (Vigna, WWW 2015; additive hyperbolic weights), Kendall's tau-b, Pearson, Spearman, "
        f"regret@k and hit@k on each task, then the mean over tasks; intervals from {n} draws of the models. "
        "Proxies that three quarters of the fine-tuned results have are compared on the results that all of these "
        "have. A proxy is marked as noise where on at least half of the tasks at least half of the models are within "
        "its resolution of the median: one example of an accuracy, a thousandth of a score."
    )


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
            f"matches. Any two models with a result in the same round play one match; a round is {rounds}; "
            f"equal accuracies are half a win for each.{tie} Elo = 1500 + 400 / ln 10 x EPP. "
            "The difference between two EPP is the log odds of winning on a new task; the chance to beat an average "
            "model is 1 / (1 + exp(-EPP)), EPP counted from the mean.",
        ),
        (
            "Standard errors",
            "Clustered by task, because all matches on a task share it (the naive errors are several times too small); "
            "intervals use Student's t with one degree of freedom fewer than there are tasks.",
        ),
        (
            "Bootstrap over tasks",
            f"{n} draws of the tasks with replacement (seed {options.seed}); a draw in which some model "
            "wins everything is fitted with a small penalty. 'Best in' and rank intervals come from it.",
        ),
        (
            "Interval of one accuracy",
            "Wilson's 95 % interval for the number of test examples; where these belong together in groups, "
            "percentiles of 2,000 draws of whole groups. Of a balanced accuracy it is Wilson's for the effective "
            "number of examples where every class weighs the same (Kish), K^2 / sum of 1 / n_k.",
        ),
        (
            "Paired bootstrap",
            f"{n} draws of each task's test examples (of whole groups, where they belong together), the same ones for "
            "every model: how the difference between two means would vary with other test examples of the same tasks.",
        ),
        *_SURE,
        ("Agreement", _agreement(n)),
        (
            "Chance and majority",
            "The accuracy reached without looking at a picture: by guessing uniformly, and by always answering the "
            "test set's most frequent class, where that is known.",
        ),
        (
            "Copies",
            "Pictures with equal pixels before they are resized, counted among all those that a result was computed "
            "from. A test picture that was trained on says nothing about new ones; the nearest neighbour of a picture "
            "that occurs twice is its copy.",
        ),
        ("Means", "Only over models that have every task of the board; never over different settings."),
    ]


def versions(data: ReportData) -> list[tuple[str, str]]:
    """Packages and devices behind the results."""

    def said(counted: Mapping[str, int]) -> str:
        return ", ".join(f"{name} ({n})" if len(counted) > 1 else name for name, n in counted.items())

    out = [(package, said(counted)) for package, counted in sorted(data.versions.items())]
    return out + ([("devices", said(data.devices))] if data.devices else [])
