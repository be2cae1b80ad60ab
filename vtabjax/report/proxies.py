"""Which proxy to trust: every proxy, and baselines that know nothing of the task, against fine-tuned accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vtabjax.ranking import proxy_agreement
from vtabjax.report.analysis import Options
from vtabjax.report.boards import PROTOCOLS, Board, ReportData

_CHORES = ("convert", "load", "data", "write", "features")
# Proxies that have this share of the fine-tuned results are compared on those that all of them have.
_WIDE = 0.75
# Scores that differ by less than this share of their size tell no models apart.
_RESOLUTION = 1e-3


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A proxy compared with fine-tuning.

    Attributes:
      key: unique.
      title: for people.
      static: whether it is a baseline that does not look at the task.
      values: [M, T], for the models and tasks of the fine-tuned board.
      agreement: how well it orders models as fine-tuning does.
      without: family -> mean weighted Kendall without that family.
      seconds: median per model and task beyond the features; None for baselines.
      with_features: with the pass over the images; None where that was not timed.
      flat_on: on how many tasks most models have nearly the same value, so that their order is noise.
    """

    key: str
    title: str
    static: bool
    values: np.ndarray
    agreement: proxy_agreement.ProxyAgreement
    without: dict[str, float]
    seconds: float | None
    with_features: float | None
    flat_on: int = 0

    @property
    def n_models(self) -> int:
        """How many models it was judged on, of the task with the most."""
        return int(self.agreement.n_models.max())

    @property
    def noise(self) -> bool:
        """Whether its order is noise on at least half of the tasks it was judged on."""
        n_tasks = int((self.agreement.n_models > 0).sum())
        return n_tasks > 0 and 2 * self.flat_on >= n_tasks


@dataclasses.dataclass(frozen=True)
class ProxyComparison:
    """All proxies against one board of fine-tuned accuracy.

    Attributes:
      finetuned: the fine-tuned one; None where there is none.
      proxies: the most trusted first.
      seconds: median of fine-tuning per model and task; None where unknown.
      missing: why there is nothing, or "".
      others: titles of fine-tuned boards that were not used.
      n_models: how many models most proxies were judged on; a proxy with fewer says so.
    """

    finetuned: Board | None
    proxies: list[Proxy]
    seconds: float | None
    missing: str
    others: list[str]
    n_models: int = 0

    def weighted_kendall(self) -> tuple[list[Proxy], np.ndarray, np.ndarray, np.ndarray]:
        """(the proxies that have a finite one, its mean over tasks, the interval's lower ends, its upper ends)."""
        shown = [p for p in self.proxies if np.isfinite(p.agreement.mean["weighted_kendall"])]
        mean, low, high = (
            np.array([getattr(p.agreement, k)["weighted_kendall"] for p in shown])
            for k in ("mean", "low", "high")
        )
        return shown, mean, low, high


def compare_proxies(data: ReportData, options: Options) -> ProxyComparison:
    """Compares every proxy of a workdir with its fine-tuned accuracies."""
    tuned = [b for b in data.boards if b.protocol == "finetune" and not b.beside_published]
    cheap = [b for b in data.proxies if b.protocol != "finetune"]
    if not tuned:
        return _nothing("there are no fine-tuned accuracies (configs/finetune.py)")
    if not cheap:
        return _nothing("there are no proxies (configs/knn.py, linear.py, transferability.py)")
    truth = max(tuned, key=lambda b: (len(b.models), int((~np.isnan(b.values)).sum())))
    others = [b.title for b in tuned if b is not truth]
    if len(truth.models) < 3:
        why = f"only {len(truth.models)} models were fine-tuned; a ranking needs three"
        return _nothing(why, truth, others)
    measured, common = _all_measured(cheap, truth, options)
    proxies = [p for p in (*measured, *_baselines(truth, common, options)) if p is not None]
    if not proxies:
        return _nothing("no proxy was computed for the models and tasks that were fine-tuned", truth, others)

    def place(proxy: Proxy) -> tuple[bool, float]:
        tau = proxy.agreement.mean["weighted_kendall"]
        return bool(np.isnan(tau)), 0.0 if np.isnan(tau) else -tau

    return ProxyComparison(
        finetuned=truth,
        proxies=sorted(proxies, key=place),
        seconds=_cost(truth),
        missing="",
        others=others,
        n_models=max(p.n_models for p in proxies),
    )


def _nothing(why: str, truth: Board | None = None, others: Sequence[str] = ()) -> ProxyComparison:
    seconds = None if truth is None else _cost(truth)
    return ProxyComparison(finetuned=truth, proxies=[], seconds=seconds, missing=why, others=list(others))


def _all_measured(boards: Sequence[Board], truth: Board, options: Options) -> tuple[list[Proxy], np.ndarray]:
    """The proxies that boards hold, for the models and tasks of the fine-tuned one; on which results they are compared,
    bool [M, T].

    Those that have most of the fine-tuned results are compared on the results that all of them have; one with few
    would take too many from the others, and stands on its own.
    """
    tuned = ~np.isnan(truth.values)
    values = {board.key: _placed(board, board.values, truth) for board in boards}
    there = {key: tuned & ~np.isnan(v) for key, v in values.items()}
    wide = [mask for mask in there.values() if mask.sum() >= _WIDE * tuned.sum()]
    common = np.logical_and.reduce([tuned, *wide])
    proxies = []
    for board in boards:
        if not there[board.key].any():
            continue
        title = board.title if board.protocol in PROTOCOLS else f"{board.protocol}: {board.title}"
        compared = np.where(common & there[board.key], values[board.key], np.nan)
        proxy = _proxy(board.key, title, compared, truth, options)
        if proxy is None:
            continue
        seconds, features = _cost(board), _features(board, boards)
        proxies.append(
            dataclasses.replace(
                proxy,
                seconds=seconds,
                with_features=None if seconds is None or features is None else seconds + features,
                flat_on=_flat_on(board, compared, truth),
            )
        )
    return proxies, common


def _placed(board: Board, values: np.ndarray, truth: Board) -> np.ndarray:
    """A board's values, [M, T] of another board's models and tasks; NaN where it has none."""
    rows = {model.label: i for i, model in enumerate(truth.models)}
    columns = {task: j for j, task in enumerate(truth.tasks)}
    placed = np.full(truth.values.shape, np.nan)
    for i, model in enumerate(board.models):
        for j, task in enumerate(board.tasks):
            if model.label in rows and task in columns:
                placed[rows[model.label], columns[task]] = values[i, j]
    return placed


def _flat_on(board: Board, values: np.ndarray, truth: Board) -> int:
    """On how many tasks at least half of the models are nearer to the median than the proxy can resolve."""
    accuracies = board.accuracy or board.metric == "val_accuracy"
    n_examples = _placed(board, board.n_examples.astype(float), truth)
    flat = 0
    for column, n in zip(values.T, n_examples.T, strict=True):
        known = ~np.isnan(column)
        if known.sum() < 5:  # too few to say what most do
            continue
        middle = np.median(column[known])
        largest = np.nanmax(n[known], initial=0)
        resolution = 1 / largest if accuracies and largest > 0 else _RESOLUTION * abs(middle)
        # The tolerance lets two accuracies that are one example apart be so in floating point.
        flat += bool(np.mean(np.abs(column[known] - middle) <= resolution + 1e-12) >= 0.5)
    return flat


def _proxy(key: str, title: str, values: np.ndarray, truth: Board, options: Options) -> Proxy | None:
    if np.isnan(values).all():
        return None
    families = [model.family for model in truth.models]
    several = len(set(families)) > 1
    return Proxy(
        key=key,
        title=title,
        static=False,
        values=values,
        agreement=proxy_agreement.compare_with_finetuning(
            values, truth.values, n_resamples=options.resamples, seed=options.seed
        ),
        without=proxy_agreement.without_each_group(values, truth.values, families) if several else {},
        seconds=None,
        with_features=None,
    )


def _baselines(truth: Board, common: np.ndarray, options: Options) -> list[Proxy | None]:
    """What can be known of a model without looking at the task."""

    def column(values: Sequence[float | None]) -> np.ndarray:
        known = np.array([np.nan if v is None else v for v in values], float)
        return np.repeat(known[:, None], len(truth.tasks), axis=1)

    models = truth.models
    baselines = [
        (
            "static-others",
            "mean accuracy on the other tasks",
            proxy_agreement.mean_of_other_tasks(truth.values),
        ),
        ("static-imagenet", "ImageNet top-1", column([m.imagenet_top1 for m in models])),
        ("static-parameters", "number of parameters", column([m.parameters for m in models])),
        ("static-width", "feature width", column([m.num_features for m in models])),
    ]
    proxies = [
        _proxy(key, title, np.where(common, values, np.nan), truth, options)
        for key, title, values in baselines
    ]
    return [proxy and dataclasses.replace(proxy, static=True) for proxy in proxies]


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
