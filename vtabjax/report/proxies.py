"""Which proxy to trust: every proxy, and baselines that know nothing of the task, against fine-tuned accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtabjax import trust
from vtabjax.report.analysis import Options
from vtabjax.report.boards import PROTOCOLS, Board, Gathered

_CHORES = ("convert", "load", "data", "write", "features")


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A proxy judged.

    Attributes:
      key: unique.
      title: for people.
      static: whether it is a baseline that does not look at the task.
      values: [M, T], for the models and tasks of the fine-tuned board.
      trust: how far it can be trusted.
      without: family -> mean weighted Kendall without that family.
      seconds: median per model and task beyond the features; None for baselines.
      with_features: with the pass over the images; None where that was not timed.
    """

    key: str
    title: str
    static: bool
    values: np.ndarray
    trust: trust.Trust
    without: dict[str, float]
    seconds: float | None
    with_features: float | None


@dataclasses.dataclass(frozen=True)
class Judged:
    """All proxies against one board of fine-tuned accuracy.

    Attributes:
      board: the fine-tuned one.
      proxies: the most trusted first.
      seconds: median of fine-tuning per model and task; None where unknown.
      missing: why there is nothing, or "".
      others: titles of fine-tuned boards that were not used.
    """

    board: Board | None
    proxies: list[Proxy]
    seconds: float | None
    missing: str
    others: list[str]

    def weighted_kendall(self) -> tuple[list[Proxy], np.ndarray, np.ndarray, np.ndarray]:
        """(the proxies that have a finite one, its mean over tasks, the interval's lower ends, its upper ends)."""
        shown = [p for p in self.proxies if np.isfinite(p.trust.mean["weighted_kendall"])]
        mean, low, high = (
            np.array([getattr(p.trust, k)["weighted_kendall"] for p in shown])
            for k in ("mean", "low", "high")
        )
        return shown, mean, low, high


def judge(found: Gathered, options: Options) -> Judged:
    """Judges every proxy of a workdir."""
    tuned = [b for b in found.boards if b.protocol == "finetune" and "-beside-" not in b.key]
    cheap = [b for b in found.proxies if b.protocol != "finetune"]
    if not tuned:
        return Judged(None, [], None, "there are no fine-tuned accuracies (configs/finetune.py)", [])
    if not cheap:
        return Judged(
            None, [], None, "there are no proxies (configs/knn.py, linear.py, transferability.py)", []
        )
    truth = max(tuned, key=lambda b: int((~np.isnan(b.values)).sum()))
    others = [b.title for b in tuned if b is not truth]
    if len(truth.models) < 3:
        return Judged(
            truth,
            [],
            _cost(truth),
            f"only {len(truth.models)} models were fine-tuned; an order needs three",
            others,
        )
    labels = [m.label for m in truth.models]
    families = [m.family for m in truth.models]
    proxies = []
    for board in cheap:
        values = np.full(truth.values.shape, np.nan)
        for i, model in enumerate(board.models):
            for j, task in enumerate(board.tasks):
                if model.label in labels and task in truth.tasks:
                    values[labels.index(model.label), truth.tasks.index(task)] = board.values[i, j]
        if not np.isnan(values).all():
            own, features = _cost(board), _features(board, cheap)
            together = None if own is None or features is None else own + features
            proxies.append(
                _proxy(board.key, _title(board), False, values, truth, families, options, own, together)
            )
    for key, title, values in _baselines(truth):
        if not np.isnan(values).all():
            proxies.append(_proxy(key, title, True, values, truth, families, options, None, None))
    rank = [p.trust.mean["weighted_kendall"] for p in proxies]
    order = sorted(
        range(len(proxies)), key=lambda i: (np.isnan(rank[i]), -rank[i] if rank[i] == rank[i] else 0)
    )
    missing = "" if proxies else "no proxy was computed for the models and tasks that were fine-tuned"
    return Judged(truth, [proxies[i] for i in order], _cost(truth), missing, others)


def _title(board: Board) -> str:
    return board.title if board.protocol in PROTOCOLS else f"{board.protocol}: {board.title}"


def _proxy(key, title, static, values, truth, families, options, own, together) -> Proxy:
    judged = trust.trust(values, truth.values, n_resamples=options.resamples, seed=options.seed)
    without = trust.leave_one_out(values, truth.values, families) if len(set(families)) > 1 else {}
    return Proxy(key, title, static, values, judged, without, own, together)


def _baselines(truth: Board) -> list[tuple[str, str, np.ndarray]]:
    def column(values: Sequence[float | None]) -> np.ndarray:
        known = np.array([np.nan if v is None else v for v in values], float)
        return np.repeat(known[:, None], len(truth.tasks), axis=1)

    return [
        ("static-others", "mean accuracy on the other tasks", trust.mean_of_other_tasks(truth.values)),
        ("static-imagenet", "ImageNet top-1", column([m.imagenet_top1 for m in truth.models])),
        ("static-parameters", "number of parameters", column([m.parameters for m in truth.models])),
        ("static-width", "feature width", column([m.num_features for m in truth.models])),
    ]


def _cost(board: Board) -> float | None:
    """Median seconds per cell of what belongs to the board's metric alone."""
    if board.protocol == "transferability":
        stages = [board.seconds[board.metric]] if board.metric in board.seconds else []
    else:
        stages = [s for name, s in board.seconds.items() if name not in _CHORES]
    if not stages:
        return None
    total = np.nansum(stages, axis=0)[~np.isnan(board.values)]
    return float(np.median(total)) if total.size else None


def _features(board: Board, boards: Sequence[Board]) -> float | None:
    """Median over models of the longest time any protocol spent on features of the training images on a task.

    Protocols share features, so only the first one that ran was charged; linear evaluation also needs the test set's.
    """
    if board.protocol == "linear":
        alike = [b for b in boards if b.protocol == "linear"]
    else:
        alike = [b for b in boards if b.protocol != "linear"]
    longest: dict[tuple[str, str], float] = {}
    for other in alike:
        if "features" in other.seconds:
            for (i, j), taken in np.ndenumerate(other.seconds["features"]):
                key = other.models[i].label, other.tasks[j]
                if not np.isnan(taken):
                    longest[key] = max(longest.get(key, 0.0), float(taken))
    return float(np.median(list(longest.values()))) if longest else None
