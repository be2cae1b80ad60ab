"""What a selection may have missed: would a model that was not fine-tuned have beaten the winner, and by how much?

M models went through stages; some were fine-tuned, L were left out. With a_m the mean accuracy over the tasks that
model m has or would have had, and w the winner, given everything that was measured,

    chance missed   = P(max over left-out m of a_m > a_w),
    expected regret = E[max(0, max over left-out m of a_m - a_w)].

Two answers, which assume different things:

`estimate` regresses accuracy on the stages' scores. With x_ms the mean over the tasks of model m's standardised score
in stage s, (x_m1, ..., x_mS, a_m) is taken for jointly normal, and its parameters theta are drawn from their posterior
(`_joint_normal`). Given theta the left-out models are independent, with the mean mu_m and the standard deviation
s_m that follow from those of their scores that are known, so that

    chance(theta) = 1 - prod_m Phi((a_w - mu_m) / s_m),
    regret(theta) = integral from 0 to 1 - a_w of [1 - prod_m Phi((a_w + r - mu_m) / s_m)] dr.

Of the worse half of the fine-tuned models only that counts, that they are worse (a regression censored at the median;
Tobin, "Estimation of relationships for limited dependent variables", Econometrica 1958). Models that fail to transfer
are far behind by whatever it may be, which says nothing about the best, and would bend the line. A model that was
stopped after some tasks counts with the error that these leave of its mean on all (`_errors_of_means`).

The value is the mean over the draws of theta: the predictive probability, to be compared with how often it happens. The
interval has the draws' quantiles: it is for the chance that somebody would state who knew theta. That finalists were
chosen by their scores does no harm: the regressions are conditional on these scores.

Value and lower end take Jeffreys' rule as the prior (for n models and p coefficients s^2 = SSE / chi^2_n), with which
the mean is nearly unbiased. They are draws under the reference prior (s^2 = SSE / chi^2_{n - p}) with weights s^-p. The
upper end, more cautious, lies half way between these priors, with weights s^(-p / 2): with Jeffreys' it is a little too
low, with the reference prior too high. Draws in which accuracy falls with a stage's score are left out, unless the
data speak for it (fewer than a tenth would remain).

`auditing.audit` assumes nothing but a random draw: of m models drawn among the L left out, k beat the winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from vtabjax.ranking import _joint_normal as jn
from vtabjax.ranking import _tails as tails
from vtabjax.ranking.auditing import Audit, audit

# Fewer degrees of freedom leave a spread that is known to no more than a factor of three.
FEWEST_DEGREES = 4
# With fewer models whose accuracy counts as it is, the line and the spread have next to nothing to follow from.
_FEWEST_EXACT = 10
_AT_ONCE = 2_000_000  # numbers in a block of draws x models
ASSUMPTIONS = (
    "mean accuracy follows the mean scores in a straight line, with normal deviations from it that are the same "
    "among the models left out as among the better half of those fine-tuned",
    "who was fine-tuned depended on these scores and on chance only",
    "models deviate from the line independently of each other; close relatives do not",
    "a task shifts the accuracy of all models alike",
)
AS_MEASURED = "accuracies as measured here, with the noise of their test examples"
AS_TRUE = "accuracies without the noise of the test examples, which is independent between models"
AUDIT_ASSUMPTIONS = ("the audited models were drawn at random from all that were left out",)


class Estimate(NamedTuple):
    """A number about what was missed, or why it cannot be said.

    Attributes:
      value: None where it cannot be said; `low` and `high` may bound it nevertheless.
      low: lower end of the interval, None where nothing can be said.
      high: upper end.
      level: of the interval.
      method: "regression", "audit", "nothing was left out" or "cannot be said".
      assumptions: in sentences.
      counts: "fine_tuned", "left_out", "audited", "without_scores" (of those left out): numbers of models.
      reason: why `value` is None, else "".
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    method: str
    assumptions: tuple[str, ...]
    counts: dict[str, int]
    reason: str


class LeftOut(NamedTuple):
    """What may have been missed.

    Attributes:
      chance_missed: probability that a model that was left out would have beaten the winner.
      expected_regret: by how much the best of them would have beaten it (0 where none), in accuracy's units.
      audit: what the audit says about the best of the selected models, None without one.
      by_model: each left-out model's own chance of beating the winner, [M]; NaN for the others, and without an answer.
    """

    chance_missed: Estimate
    expected_regret: Estimate
    audit: Audit | None
    by_model: np.ndarray


def chance_missed(accuracy: ArrayLike, scores: Sequence[ArrayLike], **settings: Any) -> Estimate:
    """The probability that a model that was left out would have beaten the winner: see `estimate`.

    >>> x = np.arange(30.0)
    >>> chance_missed(np.where(x >= 20, x / 100, np.nan), [x]).value
    0.0
    """
    return estimate(accuracy, scores, **settings).chance_missed


def expected_regret(accuracy: ArrayLike, scores: Sequence[ArrayLike], **settings: Any) -> Estimate:
    """By how much the best model that was left out would have beaten the winner: see `estimate`.

    >>> x = np.arange(30.0)
    >>> expected_regret(np.where(x >= 20, x / 100, np.nan), [x]).value
    0.0
    """
    return estimate(accuracy, scores, **settings).expected_regret


# Matrices of a few rows and columns: threads of the linear algebra wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def estimate(
    accuracy: ArrayLike,
    scores: Sequence[ArrayLike],
    *,
    audited: ArrayLike | None = None,
    winner: int | None = None,
    margin: float = 0.0,
    test_error: float = 0.0,
    ceiling: float = 1.0,
    level: float = 0.9,
    n_draws: int = 1000,
    seed: int = 0,
) -> LeftOut:
    """Chance missed and expected regret, by regression on the stages' scores (see the module).

    Args:
      accuracy: what fine-tuning reached, [M, T] (or [M] on one task), NaN where it was not run. A model with a number
        on any task counts as fine-tuned; means over different tasks are made comparable by the tasks' effects.
      scores: for each stage before fine-tuning, in order, higher meaning better, [M, tasks] or [M]; NaN where a model
        was dropped before, or failed. Scales do not matter. Every stage that selected has to be among them.
      audited: bool [M], the models that were drawn at random among those left out and fine-tuned as well.
      winner: the winner's index; None: the best mean accuracy.
      test_error: standard error of a mean accuracy that its test examples cause. 0: the question is what would have
        been measured. Otherwise it is about true accuracies, the winner's own included.
      ceiling: the largest accuracy there is.
      level: of the intervals.
      n_draws: draws of the regression's parameters.
      seed: of these.

    Raises:
      ValueError: shapes that do not fit, nobody or a winner that was not fine-tuned, settings out of range.
    """
    _check_level(level)
    a, stages, was_audited = _validated(accuracy, scores, audited)
    if not (np.isfinite(test_error) and test_error >= 0) or n_draws < 100:
        raise ValueError(
            f"test_error={test_error} and n_draws={n_draws}: give one of 0 or more, and 100 or more"
        )
    means = mean_over_tasks(a)
    tuned = ~np.isnan(means)
    best = int(np.nanargmax(means)) if winner is None else int(winner)
    if not (0 <= best < len(means) and tuned[best]):
        raise ValueError(f"winner={winner} is not the index of a model that was fine-tuned")
    columns = np.column_stack([*(_standardised(s) for s in stages), means])
    left = ~tuned
    counts = {
        "fine_tuned": int(tuned.sum()),
        "left_out": int(left.sum()),
        "audited": int((was_audited & tuned).sum()),
        "without_scores": int(np.isnan(columns[left, :-1]).all(1).sum()),
    }
    found = _audited(means, tuned, was_audited, level)
    by_model = np.full(len(means), np.nan)
    if not left.any():
        nothing = Estimate(0.0, 0.0, 0.0, level, "nothing was left out", (), counts, "")
        return LeftOut(nothing, nothing, found, by_model)
    reason = _too_little(columns)
    if reason:
        return LeftOut(*_without_regression(found, counts, reason, level), found, by_model)
    rng = np.random.default_rng(seed)
    joint = _plausible(jn.fit(columns, n_draws, rng, _floor(means[tuned]), _errors_of_means(a)))
    weights = _jeffreys(joint)
    chances, regrets, by_model[left] = _simulate(joint, weights, columns, best, margin, test_error, ceiling)
    said = (*ASSUMPTIONS, AS_TRUE if test_error else AS_MEASURED)
    values = [_summary(draws, weights, level, said, counts) for draws in (chances, regrets)]
    return LeftOut(values[0], values[1], found, by_model)


def mean_over_tasks(values: np.ndarray) -> np.ndarray:
    """Each row's mean over all columns, [M, T] -> [M], NaN for an empty row.

    Where numbers are missing they are taken to be the sum of a row's and a column's effect (least squares).

    >>> mean_over_tasks(np.array([[0.5, 0.75], [0.25, np.nan]]))
    array([0.625, 0.375])
    """
    there = ~np.isnan(values)
    some = there.any(1)
    if there[some].all():
        return values.mean(1)
    rows, columns = _effects(values)
    return np.where(some, rows + columns[there.any(0)].mean(), np.nan)


def _effects(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows' and columns' effects, [M] and [T], whose sums are nearest to the values that are there."""
    there = ~np.isnan(values)
    rows, columns = np.nonzero(there)
    design = np.zeros((len(rows), len(values) + values.shape[1]))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), len(values) + columns] = 1.0
    effects = np.linalg.lstsq(design, values[there], rcond=None)[0]
    return effects[: len(values)], effects[len(values) :]


def _errors_of_means(values: np.ndarray) -> np.ndarray:
    """Standard errors of `mean_over_tasks`, [M]: of n columns out of T, sigma sqrt(1/n - 1/T); 0 of all columns.

    sigma is what values differ by from the sum of a row's and a column's effect. With such errors, which do not depend
    on the mean over all T, a model that was stopped after some tasks counts for what is known of it.
    """
    there = ~np.isnan(values)
    some, used = there.any(1), there.any(0)
    n, total = there.sum(1), int(used.sum())
    freedom = int(there.sum()) - int(some.sum()) - total + 1
    if (n[some] == total).all() or freedom < 1:
        return np.zeros(len(values))
    rows, columns = _effects(values)
    sigma = np.sqrt(np.nansum((values - rows[:, None] - columns) ** 2) / freedom)
    return sigma * np.sqrt(np.maximum(1 / np.maximum(n, 1) - 1 / total, 0.0))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")


def _validated(
    accuracy: ArrayLike, scores: Sequence[ArrayLike], audited: ArrayLike | None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    a, *stages = (np.asarray(x, np.float64) for x in (accuracy, *scores))
    a, *stages = (x[:, None] if x.ndim == 1 else x for x in (a, *stages))
    if any(x.ndim != 2 or len(x) != len(a) or x.shape[1] == 0 for x in (a, *stages)):
        raise ValueError(
            f"accuracy has shape {a.shape}, scores {[s.shape for s in stages]}; give each stage a row for each model"
        )
    if np.isinf(a).any() or np.isnan(a).all():
        raise ValueError("accuracy has infinite values, or none at all: nobody was fine-tuned")
    was_audited = np.zeros(len(a), bool) if audited is None else np.asarray(audited)
    if was_audited.dtype != bool or was_audited.shape != (len(a),):
        raise ValueError(f"audited is {was_audited.dtype} {was_audited.shape}; give one bool for each model")
    return a, stages, was_audited


def _standardised(scores: np.ndarray) -> np.ndarray:
    """Mean over tasks of what is standardised within each, [M, T] -> [M]; infinite ones are the task's extremes."""
    z = np.full(scores.shape, np.nan)
    for t, column in enumerate(scores.T):
        finite = column[np.isfinite(column)]
        if len(finite):
            column = np.clip(column, finite.min(), finite.max())
            spread = np.nanstd(column)
            z[:, t] = (column - np.nanmean(column)) / (spread or 1.0)
    there = ~np.isnan(z)
    return np.where(there.any(1), np.where(there, z, 0.0).sum(1) / np.maximum(there.sum(1), 1), np.nan)


def _audited(means: np.ndarray, tuned: np.ndarray, was_audited: np.ndarray, level: float) -> Audit | None:
    """The audit's bounds for the best of those that were selected."""
    drawn, selected = tuned & was_audited, tuned & ~was_audited
    if not drawn.any() or not selected.any():
        return None
    better = int((means[drawn] > means[selected].max() + tails.TIE).sum())
    return audit(int((~selected).sum()), int(drawn.sum()), better, level=level)


def _too_little(columns: np.ndarray) -> str:
    """Why there is no regression, or ""."""
    n_stages = columns.shape[1] - 1
    if n_stages == 0:
        return "no stage before fine-tuning has scores"
    degrees = jn.degrees(columns)
    complete = int((~np.isnan(columns)).all(1).sum())
    if degrees[-1] < FEWEST_DEGREES:
        needed = n_stages + 1 + FEWEST_DEGREES
        models = "model has" if complete == 1 else "models have"
        return f"{complete} fine-tuned {models} a score in every stage; a regression needs {needed}"
    if (degrees < FEWEST_DEGREES).any():
        return "too few models have scores in the first stages"
    return ""


def _without_regression(
    found: Audit | None, counts: dict[str, int], reason: str, level: float
) -> tuple[Estimate, Estimate]:
    """Nothing is known of the regret; an audit bounds the chance."""
    nothing = Estimate(None, None, None, level, "cannot be said", (), counts, reason)
    if found is None:
        return nothing, nothing
    bound = found.overlooked_at_most
    return Estimate(None, 0.0, bound, level, "audit", AUDIT_ASSUMPTIONS, counts, reason), nothing


def _plausible(joint: jn.JointNormal) -> jn.JointNormal:
    """The draws in which accuracy rises with every stage's score, if these are a tenth or more."""
    rising = np.all(joint.covariance[:, :-1, -1] >= 0, axis=1)
    return joint.take(np.flatnonzero(rising)) if rising.mean() >= 0.1 else joint


def _jeffreys(joint: jn.JointNormal) -> np.ndarray:
    """Weights that turn draws under the reference prior into draws under Jeffreys' rule, [D], of sum 1."""
    n_coefficients = joint.mean.shape[1]
    typical = np.median(joint.residual)
    relative = joint.residual / typical if typical > 0 else np.ones(len(joint.residual))
    weights = relative ** (-n_coefficients / 2)
    return weights / weights.sum()


def _floor(accuracy: np.ndarray) -> float:
    """Where fine-tuned models' accuracies [n] are censored: below the better half, or the `_FEWEST_EXACT` best."""
    exact = max(_FEWEST_EXACT, -(-len(accuracy) // 2))
    return -np.inf if exact >= len(accuracy) else float(np.sort(accuracy)[-exact])


def _summary(
    draws: np.ndarray, weights: np.ndarray, level: float, assumptions: tuple[str, ...], counts: dict[str, int]
) -> Estimate:
    """The value and the lower end by Jeffreys' weights (`_jeffreys`), the upper end by their square roots."""
    value = float(weights @ draws)
    low = float(np.quantile(draws, (1 - level) / 2, weights=weights, method="inverted_cdf"))
    half = np.sqrt(weights) / np.sqrt(weights).sum()
    high = float(np.quantile(draws, (1 + level) / 2, weights=half, method="inverted_cdf"))
    # The mean of draws of which nearly all are zero can exceed their quantile.
    return Estimate(value, min(low, value), max(high, value), level, "regression", assumptions, counts, "")


def _simulate(
    joint: jn.JointNormal,
    draw_weights: np.ndarray,
    columns: np.ndarray,
    winner: int,
    margin: float,
    test_error: float,
    ceiling: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chance and regret for each draw of the parameters, [D] each, and each left-out model's own chance, [L]."""
    left = np.isnan(columns[:, -1])
    n_draws = len(draw_weights)
    mean, spread = jn.conditional(joint, columns[left, :-1])
    bars, weights = columns[winner : winner + 1, -1], np.ones(1)
    if test_error:
        expected, own = jn.conditional(joint, columns[winner : winner + 1, :-1])
        true = np.maximum(own**2 - test_error**2, 0.0)
        share = true / (true + test_error**2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(9)
        weights = weights / weights.sum()
        # The winner's true accuracy given what it measured and its scores: [D, 9].
        bars = expected + share * (bars - expected) + np.sqrt(share) * test_error * nodes
        spread = np.sqrt(np.maximum(spread**2 - test_error**2, 0.0))
    bars = np.broadcast_to(bars + margin, (n_draws, len(weights)))
    chance, regret, by_model = np.zeros(n_draws), np.zeros(n_draws), np.zeros(left.sum())
    step = max(1, _AT_ONCE // left.sum())
    for i in range(0, n_draws, step):
        here = slice(i, i + step)
        for bar, weight in zip(bars[here].T, weights, strict=True):
            own, some, excess = tails.exceeding(mean[here], spread[here], bar, ceiling)
            by_model += weight * (draw_weights[here] @ own)
            chance[here] += weight * some
            regret[here] += weight * excess
    return chance, regret, by_model
