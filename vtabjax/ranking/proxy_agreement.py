"""How far a cheap proxy can be trusted to order models as fine-tuning does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

TOP = (1, 3, 5)
CORRELATIONS = ("weighted_kendall", "kendall", "pearson", "spearman")


def agreement(proxy: ArrayLike, accuracy: ArrayLike, *, top: tuple[int, ...] = TOP) -> dict[str, float]:
    """How well a proxy orders models as fine-tuning does, on one task.

    With a* the best accuracy and T_k the k models of highest proxy (equal ones by index):

      - "weighted_kendall": Vigna, "A Weighted Correlation Index for Rankings with Ties" (WWW 2015), additive
        hyperbolic weights, averaged over both rank orders, as `scipy.stats.weightedtau` does by default.
      - "kendall": Kendall's tau-b; "pearson"; "spearman".
      - "rel@k" = max accuracy in T_k / a*; "regret@k" = a* - max accuracy in T_k;
        "hit@k" = 1 if T_k holds a model of accuracy a*, else 0.
      - "n": how many models were compared.

    Args:
      proxy: the proxy's value for each model, higher meaning better, [M]. NaN where the model has none (not
        applicable, not run): such models are left out.
      accuracy: what fine-tuning reached, [M]; NaN where it was not run.
      top: the values of k. Where k exceeds the number of models, T_k is all of them.

    Returns:
      The names above with their values. Correlations are NaN where an input is constant or fewer than two models
      remain; Pearson's also where a proxy is infinite; everything is NaN where no model remains.

    Raises:
      ValueError: shapes differ or are not [M].

    >>> agreement([0.1, 0.2, 0.3, 0.4], [0.6, 0.7, 0.9, 0.8])["hit@3"]
    1.0
    """
    p, a = np.asarray(proxy, np.float64), np.asarray(accuracy, np.float64)
    if p.ndim != 1 or p.shape != a.shape:
        raise ValueError(
            f"proxy has shape {p.shape} and accuracy {a.shape}; give one number per model to each, [M]"
        )
    both = ~(np.isnan(p) | np.isnan(a))
    p, a = p[both], a[both]
    out: dict[str, float] = dict.fromkeys(CORRELATIONS, np.nan)
    if len(p) > 1 and np.ptp(_ranks(p)) > 0 and np.ptp(_ranks(a)) > 0:
        from scipy import stats

        out["weighted_kendall"] = float(stats.weightedtau(p, a).statistic)
        out["kendall"] = float(stats.kendalltau(p, a, variant="b").statistic)
        out["spearman"] = float(stats.spearmanr(p, a).statistic)
        if np.isfinite(p).all() and np.isfinite(a).all():
            out["pearson"] = float(stats.pearsonr(p, a).statistic)
    best = a.max() if len(a) else np.nan
    chosen = a[np.argsort(-p, kind="stable")]
    for k in top:
        reached = chosen[:k].max() if len(a) else np.nan
        out[f"rel@{k}"] = float(reached / best) if best != 0 else np.nan
        out[f"regret@{k}"] = float(best - reached)
        out[f"hit@{k}"] = float(reached == best) if len(a) else np.nan
    return out | {"n": int(both.sum())}


def _ranks(x: np.ndarray) -> np.ndarray:
    return np.unique(x, return_inverse=True)[1]


class ProxyAgreement(NamedTuple):
    """How well one proxy orders models as fine-tuning does.

    Attributes:
      per_task: measure -> its value on each task, [T]; NaN where undefined.
      mean: measure -> mean over the tasks where it is defined.
      low: measure -> lower end of the 95 % interval over models (drawn with replacement) of that mean.
      high: its upper end.
      n_tasks: measure -> over how many tasks the mean is.
      n_models: how many models were compared on each task, [T].
    """

    per_task: dict[str, np.ndarray]
    mean: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    n_tasks: dict[str, int]
    n_models: np.ndarray


# A few dozen models: threads of the linear algebra wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def compare_with_finetuning(
    proxy: ArrayLike,
    accuracy: ArrayLike,
    *,
    top: tuple[int, ...] = (1, 3),
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> ProxyAgreement:
    """Agreement of a proxy with fine-tuning, task by task and on average, with intervals over models.

    A task never meets another one, so proxies without a common scale can be compared. The interval answers: what if
    others of the same kind of models had been compared? All tasks share a draw of models. Where copies of a model
    are drawn, they count in the correlations and count once in regret, rel and hit.

    Args:
      proxy: [M, T], or [M] for one that is the same for every task (a static baseline); NaN where there is none.
      accuracy: what fine-tuning reached, [M, T]; NaN where not run.
      top: the values of k in regret@k, rel@k and hit@k.
      n_resamples: draws of models.
      seed: of the draws.
      level: of the interval.

    >>> accuracy = [[0.5, 0.6], [0.7, 0.7], [0.9, 0.8]]
    >>> compare_with_finetuning([1.0, 2.0, 3.0], accuracy, n_resamples=0).mean["kendall"]
    1.0
    """
    a = np.asarray(accuracy, np.float64)
    p = np.asarray(proxy, np.float64)
    p = np.broadcast_to(p[:, None] if p.ndim == 1 else p, a.shape)
    tasks = range(a.shape[1])
    by_task = [agreement(p[:, t], a[:, t], top=top) for t in tasks]
    measures = [name for name in by_task[0] if name != "n"] if by_task else []
    per_task = {name: np.array([values[name] for values in by_task]) for name in measures}
    low, high = dict.fromkeys(measures, np.nan), dict.fromkeys(measures, np.nan)
    if n_resamples and len(a) > 2:
        weights = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), n_resamples)
        drawn = [resampled_agreement(p[:, t], a[:, t], weights, top=top) for t in tasks]
        for name in measures:
            # A task counts where it does in the mean.
            counted = [d[name] for d, v in zip(drawn, per_task[name], strict=True) if not np.isnan(v)]
            low[name], high[name] = _interval_of_mean(counted, level)
    return ProxyAgreement(
        per_task=per_task,
        mean={name: _mean(values) for name, values in per_task.items()},
        low=low,
        high=high,
        n_tasks={name: int((~np.isnan(values)).sum()) for name, values in per_task.items()},
        n_models=np.array([values["n"] for values in by_task], int),
    )


def _interval_of_mean(resampled: Sequence[np.ndarray], level: float) -> tuple[float, float]:
    """The interval of the mean over tasks, from each task's values in the resamples of models, [B] each.

    A draw of models that leaves a task undefined leaves it out.
    """
    if not resampled:
        return np.nan, np.nan
    values = np.array(resampled)
    there = ~np.isnan(values)
    means = np.where(there, values, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan)
    if np.isnan(means).all():
        return np.nan, np.nan
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def without_each_group(
    proxy: ArrayLike, accuracy: ArrayLike, groups: Sequence[str], measure: str = "weighted_kendall"
) -> dict[str, float]:
    """The mean of a measure over tasks without each group of models (a family): what one family decides.

    Args:
      proxy: as in `compare_with_finetuning`.
      accuracy: as in `compare_with_finetuning`.
      groups: each model's group, [M].
      measure: a name `agreement` returns.

    Returns:
      group -> the mean without it; only groups that leave at least three models.

    >>> accuracy = [[0.5, 0.6], [0.7, 0.7], [0.9, 0.8], [0.6, 0.7]]
    >>> sorted(without_each_group([1.0, 2.0, 3.0, 1.5], accuracy, ["vit", "resnet", "resnet", "vgg"]))
    ['vgg', 'vit']
    """
    p, a, labels = np.asarray(proxy), np.asarray(accuracy), np.asarray(groups)
    means = {}
    for group in dict.fromkeys(labels.tolist()):
        keep = labels != group
        if keep.sum() > 2:
            means[group] = compare_with_finetuning(p[keep], a[keep], n_resamples=0).mean[measure]
    return means


def mean_of_other_tasks(accuracy: ArrayLike) -> np.ndarray:
    """The static ranker: for each task the model's mean accuracy on the others, [M, T]; NaN where one is missing.

    >>> mean_of_other_tasks([[0.5, 0.75, 1.0]])
    array([[0.875, 0.75 , 0.625]])
    """
    a = np.asarray(accuracy, np.float64)
    n = a.shape[1] - 1
    return (a.sum(1, keepdims=True) - a) / n if n > 0 else np.full_like(a, np.nan)


def resampled_agreement(
    proxy: np.ndarray, accuracy: np.ndarray, weights: np.ndarray, *, top: tuple[int, ...] = TOP
) -> dict[str, np.ndarray]:
    """`agreement` in resamples of the models, all at once.

    A resample is how often each model was drawn, w. Pairs of copies tie in both and drop out, so tau-b's sums over
    pairs are quadratic forms in w; the weighted tau's, whose weights 1 / (1 + rank) are additive, are bilinear in w
    and each model's sum of weights over the ranks of its copies.

    Args:
      proxy: [M]; NaN where there is none.
      accuracy: [M]; NaN where not run.
      weights: how often each model was drawn, integers [B, M].
      top: the values of k.

    Returns:
      As `agreement`, [B] each, without "n".

    >>> proxy, accuracy = np.array([0.1, 0.2, 0.3]), np.array([0.6, 0.8, 0.7])
    >>> resampled_agreement(proxy, accuracy, np.array([[1, 1, 1], [2, 0, 1]]))["kendall"].round(3)
    array([0.333, 1.   ])
    """
    there = ~(np.isnan(proxy) | np.isnan(accuracy))
    p, a, w = proxy[there], accuracy[there], weights[:, there].astype(np.float64)
    if len(p) == 0:
        names = [*CORRELATIONS, *(f"{kind}@{k}" for k in top for kind in ("rel", "regret", "hit"))]
        return {name: np.full(len(w), np.nan) for name in names}
    return _resampled_correlations(p, a, w) | _resampled_choices(p, a, w > 0, top)


def _resampled_correlations(p: np.ndarray, a: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    # Ranks instead of values: infinite proxies have no differences.
    sp, sa = (np.sign(r[:, None] - r[None, :]) for r in (_ranks(p), _ranks(a)))
    signs = sp * sa

    def tau(left: np.ndarray) -> np.ndarray:
        concordance = np.einsum("bi,bi->b", left @ signs, w)
        return _ratio(concordance, np.sqrt(_unequal(left, w, p) * _unequal(left, w, a)))

    by_proxy, by_accuracy = np.lexsort((a, p))[::-1], np.lexsort((p, a))[::-1]
    finite = np.isfinite(p).all() and np.isfinite(a).all()
    return {
        "weighted_kendall": (tau(_hyperbolic(w, by_proxy)) + tau(_hyperbolic(w, by_accuracy))) / 2,
        "kendall": tau(w),
        "pearson": _pearson(p[None], a[None], w) if finite else np.full(len(w), np.nan),
        "spearman": _pearson(_average_ranks(p, w), _average_ranks(a, w), w),
    }


def _resampled_choices(
    p: np.ndarray, a: np.ndarray, drawn: np.ndarray, top: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """rel, regret and hit of the models that were drawn, bool [B, M]."""
    some = drawn.any(1)
    best = np.where(some, np.where(drawn, a, -np.inf).max(1), np.nan)
    order = np.argsort(-p, kind="stable")
    position = np.cumsum(drawn[:, order], axis=1)
    values = {}
    for k in top:
        chosen = drawn[:, order] & (position <= k)
        reached = np.where(some, np.where(chosen, a[order], -np.inf).max(1), np.nan)
        values[f"rel@{k}"] = _ratio(reached, best)
        values[f"regret@{k}"] = best - reached
        values[f"hit@{k}"] = np.where(np.isnan(best), np.nan, reached == best)
    return values


def _hyperbolic(w: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Each model's sum of 1 / (1 + rank) over its copies, [B, M], ranks counted from 0 along `order`."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, w.sum(1).max() + 1))])
    ends = np.cumsum(w[:, order], axis=1).astype(int)
    out = np.empty_like(w)
    out[:, order] = harmonic[ends] - harmonic[ends - w[:, order].astype(int)]
    return out


def _by_value(x: np.ndarray, *weights: np.ndarray) -> list[np.ndarray]:
    """Of weights [B, M] the sums over equal x, [B, G] in ascending order of x."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.r_[True, x[order][1:] != x[order][:-1]])
    return [np.add.reduceat(w[:, order], starts, axis=1) for w in weights]


def _unequal(left: np.ndarray, right: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sum of left_i right_j over the pairs with x_i != x_j, [B]; left and right [B, M]."""
    every = left.sum(1) * right.sum(1)
    pairs = every - np.einsum("bg,bg->b", *_by_value(x, left, right))
    return np.where(pairs > 1e-11 * every, pairs, 0.0)  # less is rounding: one pair is more than 1 / M^2


def _average_ranks(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Ranks of x among the copies, equal ones sharing their mean, [B, M]."""
    (size,) = _by_value(x, w)
    below = np.cumsum(size, axis=1) - size
    return (below + (size + 1) / 2)[:, np.unique(x, return_inverse=True)[1]]


def _pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    total = np.where(w.sum(1, keepdims=True) > 0, w.sum(1, keepdims=True), np.nan)
    x, y = (v - (w * v).sum(1, keepdims=True) / total for v in (x, y))
    varies = [((w > 0) & (np.abs(v) > 1e-12 * np.abs(v).max(1, keepdims=True))).any(1) for v in (x, y)]
    r = _ratio((w * x * y).sum(1), np.sqrt((w * x * x).sum(1) * (w * y * y).sum(1)))
    return np.where(varies[0] & varies[1], r, np.nan)


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y != 0, x / np.where(y != 0, y, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan
