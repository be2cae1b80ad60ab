"""A joint normal distribution of columns that are known for fewer and fewer rows, fitted with its uncertainty.

The columns are a funnel's: scores of the first stage, of the second, ..., and last the accuracy. Each is regressed on
those before it,

    x_j = b_j0 + sum_{i < j} b_ji x_i + e_j,   e_j ~ N(0, s_j^2),

over the rows that came as far as column j: together that is one multivariate normal distribution. With the prior
p(b_j, s_j) ~ 1 / s_j a regression of n rows on p coefficients has the posterior

    s_j^2 = SSE_j / chi^2_{n - p},   b_j ~ N(estimate, s_j^2 (X'X)^-1),

from which parameters are drawn. Whether a row reached a column may depend on the columns before it: that leaves
each regression unbiased (Rubin, "Inference and missing data", Biometrika 1976). A column that is missing before one
that is known is drawn in turn with the parameters (Tanner and Wong, JASA 1987).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Where missing values and parameters are drawn in turn: independent chains, and how many rounds of each come first.
_CHAINS = 100
_BURN_IN = 60


class JointNormal(NamedTuple):
    """Draws of the parameters of K columns' joint distribution.

    Attributes:
      mean: [D, K].
      covariance: [D, K, K].
      residual: variance of the last column given all others, [D].
    """

    mean: np.ndarray
    covariance: np.ndarray
    residual: np.ndarray

    def take(self, draws: np.ndarray) -> JointNormal:
        """Some of the draws."""
        return JointNormal(*(values[draws] for values in self))


def fit(
    values: np.ndarray,
    n_draws: int,
    rng: np.random.Generator,
    floor: float = -np.inf,
    error: np.ndarray | None = None,
) -> JointNormal:
    """Draws the distribution's parameters.

    Args:
      values: [N, K], NaN where not known. Each column j needs more than j + 1 rows that reach it (`degrees`).
      n_draws: D.
      rng: of the draws.
      floor: what lies below it in the last column is taken to be known as that only (a censored regression; Chib,
        "Bayes inference in the Tobit censored regression model", Journal of Econometrics 1992).
      error: standard errors with which the last column is known, [N]; None: exactly.
    """
    n_columns = values.shape[1]
    reached = _reached(values)
    gaps = np.isnan(values) & (np.arange(n_columns) <= reached[:, None])
    low = np.flatnonzero(values[:, -1] < floor)
    blurred = np.flatnonzero((values[:, -1] >= floor) & (error > 0)) if error is not None else low[:0]
    if not gaps.any() and not len(low) and not len(blurred):
        return _joint([_regression(values[None, reached >= j], j, rng, n_draws) for j in range(n_columns)])
    filled = np.where(gaps, np.nanmean(values, axis=0), values)
    filled[low, -1] = floor
    filled = np.tile(filled, (min(n_draws, _CHAINS), 1, 1))
    changing = [gaps[reached >= j, : j + 1].any() for j in range(n_columns)]
    changing[-1] |= len(low) + len(blurred) > 0
    draws = []
    for i in range(_BURN_IN + -(-n_draws // len(filled))):
        chain = [
            _regression(filled[:, reached >= j], j, rng)
            if changing[j]
            else _regression(values[None, reached >= j], j, rng, len(filled))
            for j in range(n_columns)
        ]
        joint = _joint(chain)
        _fill(filled, gaps, reached, joint, rng)
        if len(low):
            filled[:, low, -1] = _below(floor, filled[:, low, :-1], *chain[-1], rng)
        if error is not None and len(blurred):
            known = values[blurred, -1], error[blurred]
            filled[:, blurred, -1] = _sharpened(*known, filled[:, blurred, :-1], *chain[-1], rng)
        if i >= _BURN_IN:
            draws.append(joint)
    together = JointNormal(*(np.concatenate(parts) for parts in zip(*draws, strict=True)))
    return together.take(np.arange(n_draws))


def degrees(values: np.ndarray) -> np.ndarray:
    """Degrees of freedom of each column's regression, from the rows that are complete up to it, [K]."""
    complete = np.logical_and.accumulate(~np.isnan(values), axis=1).sum(0)
    return complete - np.arange(1, values.shape[1] + 1)


def conditional(joint: JointNormal, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the last column given what is known of the others.

    Args:
      joint: draws for K columns.
      rows: the first K - 1 columns of the rows, [N, K - 1], NaN where not known.

    Returns:
      Mean and standard deviation, [D, N] each.
    """
    mean = np.empty((len(joint.mean), len(rows)))
    variance = np.empty_like(mean)
    known = ~np.isnan(rows)
    for pattern in np.unique(known, axis=0):
        here = (known == pattern).all(1)
        given = np.flatnonzero(pattern)
        coefficients, residual = _condition(joint.covariance, given, np.array([rows.shape[1]]))
        mean[:, here] = (
            joint.mean[:, -1:]
            + coefficients[:, 0] @ rows[here][:, given].T
            - (coefficients[:, 0] * joint.mean[:, given]).sum(1, keepdims=True)
        )
        variance[:, here] = residual[:, 0]
    # Below this is what is left of subtracting equal numbers.
    variance[variance < 1e-12 * joint.covariance[:, -1, -1:]] = 0.0
    return mean, np.sqrt(variance)


def _reached(values: np.ndarray) -> np.ndarray:
    """The last column that is known of each row, [N]; -1 where none is."""
    known = ~np.isnan(values)
    last = values.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    return np.where(known.any(1), last, -1)


def _regression(
    rows: np.ndarray, j: int, rng: np.random.Generator, n_draws: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of column j's coefficients (the constant first), [D, j + 1], and of its residual variance, [D].

    Args:
      rows: [C, N, K], filled in C ways.
      j: the column.
      rng: of the draws.
      n_draws: for each way: D = C * n_draws.
    """
    design = np.concatenate([np.ones((*rows.shape[:2], 1)), rows[:, :, :j]], axis=2)
    target = rows[:, :, j, None]
    eigenvalues, vectors = np.linalg.eigh(design.transpose(0, 2, 1) @ design)
    # Stages that say the same (one direction without any spread) share a coefficient.
    used = eigenvalues > 1e-10 * eigenvalues[:, -1:]
    half = vectors * np.where(used, 1 / np.sqrt(np.where(used, eigenvalues, 1.0)), 0.0)[:, None]
    estimate = half @ (half.transpose(0, 2, 1) @ (design.transpose(0, 2, 1) @ target))
    error = ((target - design @ estimate) ** 2).sum((1, 2))
    freedom = rows.shape[1] - used.sum(1)
    estimate, half, error, freedom = (
        np.repeat(x, n_draws, axis=0) for x in (estimate[:, :, 0], half, error, freedom)
    )
    variance = error / rng.chisquare(freedom)
    noise = np.einsum("dij,dj->di", half, rng.standard_normal(estimate.shape))
    return estimate + np.sqrt(variance)[:, None] * noise, variance


def _below(
    floor: float, rows: np.ndarray, coefficients: np.ndarray, variance: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws the last column of rows [C, N, K - 1] where it is below a floor: normal values, truncated, [C, N]."""
    from scipy import special

    mean = coefficients[:, :1] + np.einsum("cnk,ck->cn", rows, coefficients[:, 1:])
    spread = np.sqrt(variance)[:, None]
    under = special.log_ndtr((floor - mean) / spread) + np.log(rng.uniform(1e-12, 1.0, mean.shape))
    return np.minimum(mean + spread * special.ndtri_exp(under), floor)


def _sharpened(
    seen: np.ndarray,
    error: np.ndarray,
    rows: np.ndarray,
    coefficients: np.ndarray,
    variance: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws the last column of rows [C, N, K - 1] where it was seen [N] with errors [N]: precisions add up; [C, N]."""
    expected = coefficients[:, :1] + np.einsum("cnk,ck->cn", rows, coefficients[:, 1:])
    share = variance[:, None] / (variance[:, None] + error**2)
    return expected + share * (seen - expected) + np.sqrt(share) * error * rng.standard_normal(expected.shape)


def _joint(chain: list[tuple[np.ndarray, np.ndarray]]) -> JointNormal:
    """The chain of regressions as mean and covariance."""
    n_draws, k = len(chain[0][1]), len(chain)
    mean, covariance = np.zeros((n_draws, k)), np.zeros((n_draws, k, k))
    for j, (coefficients, variance) in enumerate(chain):
        slope = coefficients[:, 1:]
        mean[:, j] = coefficients[:, 0] + (slope * mean[:, :j]).sum(1)
        shared = np.einsum("dik,dk->di", covariance[:, :j, :j], slope)
        covariance[:, j, :j] = covariance[:, :j, j] = shared
        covariance[:, j, j] = variance + (shared * slope).sum(1)
    return JointNormal(mean, covariance, chain[-1][1])


def _condition(
    covariance: np.ndarray, given: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [D, W, G] of the wanted columns on the given ones, and what covariance remains, [D, W, W]."""
    across = covariance[:, wanted[:, None], given[None, :]]
    own = covariance[:, given[:, None], given[None, :]]
    coefficients = across @ np.linalg.pinv(own, rcond=1e-10, hermitian=True)
    rest = covariance[:, wanted[:, None], wanted[None, :]] - coefficients @ across.transpose(0, 2, 1)
    return coefficients, rest


def _fill(
    filled: np.ndarray, gaps: np.ndarray, reached: np.ndarray, joint: JointNormal, rng: np.random.Generator
) -> None:
    """Draws the gaps of each row [C, N, K] from their distribution given the rest of it, in place, [C] parameters."""
    kinds = np.column_stack([gaps, reached])
    for kind in np.unique(kinds[gaps.any(1)], axis=0):
        here = np.flatnonzero((kinds == kind).all(1))
        missing = np.flatnonzero(kind[:-1])
        given = np.setdiff1d(np.arange(kind[-1] + 1), missing)
        coefficients, rest = _condition(joint.covariance, given, missing)
        values, vectors = np.linalg.eigh(rest)
        half = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
        noise = rng.standard_normal((len(filled), len(here), len(missing))) @ half.transpose(0, 2, 1)
        centred = filled[:, here[:, None], given] - joint.mean[:, None, given]
        drawn = joint.mean[:, None, missing] + centred @ coefficients.transpose(0, 2, 1) + noise
        filled[:, here[:, None], missing] = drawn
