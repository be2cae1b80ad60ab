"""Softmax regression along a path of regularisation strengths: Newton's method in float64, its steps in float32.

The Newton step solves H p = -g by conjugate gradients, which need H only roughly: its products with vectors are taken
in float32, of features scaled to a largest coordinate of size 1. What decides is float64: the gradient, the objective
that the line search compares, and the residual |H p + g|, from one float64 product per step. Where that residual says
that float32 was not enough, float64 takes its place for the rest of the path.

An example whose class has nearly all probability leaves terms like p - 1 and s_y - sum_k p_k s_k, which subtraction
would lose; everything here is written in the probabilities of the wrong classes and in scores less the right one's, so
that float32 is enough and the objective has full precision where it tends to 0 (separable examples, weak
regularisation).

Each strength starts at the best of the solution before and the polynomials in log c through up to four before it.

Compiling a program for another shape takes as long as a small problem does, and a sweep's models differ in their number
of features. So problems are filled up to one of few shapes, with features that are 0 everywhere and examples that count
for nothing, which changes no number but by the order of sums.

Arrays are class-major, [K, ...]: few classes, many examples and features, which suits the processor's vectors.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtabjax.runtime import bars
from vtabjax.runtime.devices import round_up

GRADIENT_NORM = 1e-6  # what a fit stops at, together with
DECREMENT = 1e-9  # an estimated distance of J from its minimum, relative to J
_RESIDUAL = 1e-4  # conjugate gradients stop at: |H p + g|^2 relative to |g|^2, in the preconditioner's norm
_SOUND = 1e-2  # the largest that the float64 residual may be for a step to count as solved
_CERTAIN = (
    1e-3  # of DECREMENT: what the Hessian's diagonal alone says is then enough, and no step has to tell
)
_PAST = 4  # solutions that extrapolation looks back on
# What few features are filled up to; more to multiples of 200, examples of 40, which VTAB's 800 and 1,000 are. Not to
# powers of two: rows of such lengths compete for the same lines of a processor's cache.
_WIDTHS = (72, 264, 520)
_MANY, _ROWS = 200, 40

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Fit(NamedTuple):
    """A solution: weights [K, r], bias [K], scores [K, N], and how good it is."""

    w: jax.Array
    b: jax.Array
    scores: jax.Array
    norm: jax.Array  # of the gradient
    gap: jax.Array  # estimated distance of J from its minimum: half the Newton decrement
    value: jax.Array  # J
    done: jax.Array


Parameters = tuple[jax.Array, jax.Array]  # weights [K, r], bias [K]


class _Past(NamedTuple):
    """The last `_PAST` solutions of the path, the latest last: weights [P, K, r], bias [P, K], scores [P, K, N]."""

    w: jax.Array
    b: jax.Array
    scores: jax.Array


class _Examples(NamedTuple):
    """Features and classes, filled up; `fast` are the features for the products in conjugate gradients."""

    z: jax.Array  # [N, r] float64
    fast: jax.Array  # [N, r], z / scale
    scale: float
    onehot: jax.Array  # [K, N], zero where there is no example
    n: float  # examples


def path(
    z: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    grid: Iterable[float],
    *,
    rows: int = 0,
    progress: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [r, K] and bias [K] for every c of an ascending grid.

    Args:
      z: uncorrelated features of mean 0 [N, r], float64.
      y: classes 0..K-1 [N].
      n_classes: K.
      grid: inverse strengths of the regularisation, ascending.
      rows: more examples than N, of a fit to come, whose program this one shall share where that costs little.
      progress: show a progress bar where that takes long.

    Warns:
      UserWarning: a fit stopped short of the gradient norm or the decrement above.
    """
    device = jax.local_devices()[0]
    if device.platform == "tpu":  # has no float64
        device = jax.local_devices(backend="cpu")[0]
    solutions: list[tuple[np.ndarray, np.ndarray]] = []
    r = z.shape[1]
    with jax.enable_x64(True), jax.default_device(device):
        # The limits on Newton's steps and those of conjugate gradients, by type of the latter's products.
        attempts = [(np.float32, 30, 300), (np.float64, 100, 1000)]
        examples = _filled_up(z, y, n_classes, rows, np.float32)
        past, at = _nothing_yet(y, examples), np.zeros(0)
        for c in bars.bar(grid, "linear", delay=5, disable=not progress):
            penalty = 1 / (c * len(y))
            factors = _factors(at, np.log(c))
            while True:
                fit, after = _solve(examples, *attempts[0][1:], GRADIENT_NORM, penalty, past, factors)
                if fit.done or len(attempts) == 1:
                    break
                attempts.pop(0)
                examples = _filled_up(z, y, n_classes, rows, attempts[0][0])
                past, factors = after, _factors(np.zeros(0), 0.0)  # goes on from where it stopped
            if not fit.done:
                _warn_unfinished(c, fit)
            past, at = after, np.append(at, np.log(c))[-_PAST:]
            solutions.append((np.asarray(fit.w)[:, :r].T, np.asarray(fit.b)))
    return solutions


def _filled_up(z: np.ndarray, y: np.ndarray, n_classes: int, rows: int, kind: type) -> _Examples:
    """Examples on the device, with products in conjugate gradients of type `kind`."""
    n, r = z.shape
    shape = _shape(n, r, rows)
    scale = float(np.sqrt(np.square(z).mean(0).max(initial=0.0))) or 1.0
    filled = np.zeros(shape)
    filled[:n, :r] = z
    onehot = np.zeros((n_classes, shape[0]))
    onehot[y, np.arange(n)] = 1
    fast: np.ndarray = (filled / scale).astype(kind)
    return _Examples(jax.device_put(filled), jax.device_put(fast), scale, jax.device_put(onehot), float(n))


def _shape(n: int, r: int, rows: int) -> tuple[int, int]:
    """What features [n, r] are filled up to; as many rows as `rows` are filled up to where r is small."""
    width = next((w for w in _WIDTHS if w >= r), round_up(r, _MANY))
    n = round_up(max(n, rows) if r <= _WIDTHS[-1] else n, _ROWS)
    return n, min(width, max(n, r))


def _nothing_yet(y: np.ndarray, examples: _Examples) -> _Past:
    """No weights, and the bias that is best then."""
    n_classes, n = examples.onehot.shape
    b = np.log(np.bincount(y, minlength=n_classes) / len(y))
    b -= b.mean()
    return _Past(
        jnp.zeros((_PAST, n_classes, examples.z.shape[1])),
        jax.device_put(np.tile(b, (_PAST, 1))),
        jax.device_put(np.tile(b[:, None], (_PAST, 1, n))),
    )


def _warn_unfinished(c: float, fit: _Fit) -> None:
    warnings.warn(
        f"linear fit with c={c:.3g} stopped at a gradient norm of {fit.norm:.2g} (wanted {GRADIENT_NORM}) and "
        f"{fit.gap:.2g} above the minimum {fit.value:.6g}, by estimate; scale the features or lower c",
        stacklevel=3,
    )


def _factors(at: np.ndarray, to: float) -> np.ndarray:
    """Extrapolations from solutions at up to four log c to another: rows of factors [_PAST, _PAST].

    Row m takes the polynomial in log c of degree m through the last m + 1 solutions (Lagrange's form).
    """
    factors = np.zeros((_PAST, _PAST))
    if not len(at):
        factors[:, -1] = 1
    for degree in range(_PAST if len(at) else 0):
        nodes = at[-degree - 1 :]
        for i, t in enumerate(nodes):
            others = [u for u in nodes if u != t]
            factors[degree, _PAST - len(nodes) + i] = np.prod([(to - u) / (t - u) for u in others])
    return factors


def _extrapolate(past: _Past, factors: jax.Array, examples: _Examples, penalty: jax.Array) -> Parameters:
    """The combination of solutions of lowest J among those that the rows of `factors` [., P] describe."""

    def combine(values: jax.Array) -> jax.Array:
        return jnp.tensordot(factors, values, 1, precision=jax.lax.Precision.HIGHEST)

    w, b, scores = combine(past.w), combine(past.b), combine(past.scores)
    losses = jax.vmap(lambda s: _losses(s, examples.onehot, examples.n)[0])(scores)
    losses += penalty / 2 * (w * w).sum((1, 2))
    best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))
    return w[best], b[best]


def _losses(
    scores: jax.Array, onehot: jax.Array, n: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean cross-entropy, probabilities of the wrong classes [K, N] (0 at the right one), the right one's [1, N]."""
    there = onehot.sum(0, keepdims=True)
    margins = scores - (scores * onehot).sum(0)
    top = margins.max(0, keepdims=True)  # at least 0, the right class's own
    e = jnp.where(onehot > 0, 0, jnp.exp(margins - top))
    rest, right = e.sum(0, keepdims=True), jnp.exp(-top)
    total = rest + right
    loss = (there * (top + jnp.log1p(rest + jnp.expm1(-top)))).sum() / n
    return loss, there * e / total, there * right / total


def _inner(a: Parameters, b: Parameters) -> jax.Array:
    return (a[0] * b[0]).sum() + (a[1] * b[1]).sum()


def _hessian(
    v: Parameters,
    z: jax.Array,
    onehot: jax.Array,
    wrong: jax.Array,
    right: jax.Array,
    n: jax.Array | float,
    penalty: float | jax.Array,
) -> tuple[Parameters, jax.Array]:
    """H v for v = (weights [K, r], bias [K]), with z v beside it; all of one type."""
    s = _dot(v[0], z.T) + v[1][:, None]
    t = s - (s * onehot).sum(0)
    mean = (wrong * t).sum(0)
    t = (wrong * (t - mean) - onehot * right * mean) / n
    return (_dot(t, z) + penalty * v[0], t.sum(1)), s


def _conjugate_gradients(
    product: Callable[[Parameters], Parameters], r: Parameters, diagonal: Parameters, max_steps: int
) -> Parameters:
    """x with H x = r nearly, `product` giving H v, preconditioned by H's diagonal."""

    def precondition(r: Parameters) -> Parameters:
        return r[0] / diagonal[0], r[1] / diagonal[1]

    def more(state: tuple) -> jax.Array:
        i, _, _, _, rho = state
        return (i < max_steps) & (rho > _RESIDUAL)

    def step(state: tuple) -> tuple:
        i, x, r, v, rho = state
        h = product(v)
        a = rho / _inner(v, h)
        x = jax.tree.map(lambda x, v: x + a * v, x, v)
        r = jax.tree.map(lambda r, h: r - a * h, r, h)
        m = precondition(r)
        new = _inner(r, m)
        v = jax.tree.map(lambda m, v: m + new / rho * v, m, v)
        return i + 1, x, r, v, new

    m = precondition(r)
    start = (0, jax.tree.map(jnp.zeros_like, r), r, m, _inner(r, m))
    return jax.lax.while_loop(more, step, start)[1]


class _Slope(NamedTuple):
    """J's gradient g and the diagonal of its Hessian H at some scores.

    Weights are multiplied by a scale as the features for fast products are divided by it: float32's range is short.
    """

    g: Parameters
    descent: Parameters  # -g in the scaled weights
    diagonal: Parameters  # in the scaled weights
    size: jax.Array  # g' D^-1 g: the Newton decrement if H were its diagonal D
    wrong: jax.Array
    right: jax.Array

    def precondition(self, r: Parameters) -> Parameters:
        return r[0] / self.diagonal[0], r[1] / self.diagonal[1]


def _slope(examples: _Examples, penalty: jax.Array, w: jax.Array, scores: jax.Array) -> _Slope:
    z, fast, scale, onehot, n = examples
    _, wrong, right = _losses(scores, onehot, n)
    off = wrong - onehot * wrong.sum(0)
    g = _dot(off, z) / n + penalty * w, off.sum(1) / n
    # H's diagonal: an example's part is p (1 - p) z^2 for a wrong class, and p times all wrong ones for its own.
    spread = wrong * (1 - wrong) + onehot * right * wrong.sum(0)
    diagonal = (
        _dot(spread.astype(fast.dtype), fast * fast) / n + penalty / scale**2,
        spread.sum(1) / n + 1e-14,  # a class of no spread left would divide by zero
    )
    r = (-g[0] / scale, -g[1])
    size = _inner(r, (r[0] / diagonal[0], r[1] / diagonal[1]))
    return _Slope(g, r, diagonal, size, wrong, right)


def _newton_step(
    examples: _Examples, penalty: jax.Array, slope: _Slope, cg_steps: int
) -> tuple[Parameters, jax.Array, jax.Array]:
    """p with H p = -g nearly, the scores' change z p, and |H p + g|^2 relative to |g|^2, in D^-1's norm."""
    z, fast, scale, onehot, n = examples
    kind, size = fast.dtype, slope.size
    factor = jnp.where(size > 0, jax.lax.rsqrt(size), 1.0)
    r, d, o, q, p, few = jax.tree.map(
        lambda v: jnp.asarray(v, kind),
        (
            (factor * slope.descent[0], factor * slope.descent[1]),
            slope.diagonal,
            onehot,
            slope.wrong,
            slope.right,
            (n, penalty / scale**2),
        ),
    )
    x = _conjugate_gradients(lambda v: _hessian(v, fast, o, q, p, *few)[0], r, d, cg_steps)
    x = x[0].astype(z.dtype) / (scale * factor), x[1].astype(z.dtype) / factor
    h, change = _hessian(x, z, onehot, slope.wrong, slope.right, n, penalty)
    left = ((h[0] + slope.g[0]) / scale, h[1] + slope.g[1])
    return x, change, jnp.where(size > 0, _inner(left, slope.precondition(left)) / size, 0.0)


@jax.jit
def _solve(
    examples: _Examples,
    newton_steps: int,
    cg_steps: int,
    gradient_norm: float,
    penalty: jax.Array,
    past: _Past,
    factors: jax.Array,
) -> tuple[_Fit, _Past]:
    """Newton's method from an extrapolation, until converged, stuck or a step cannot be solved; `past` after it."""
    z, onehot = examples.z, examples.onehot

    def value_at(scores: jax.Array, w: jax.Array) -> jax.Array:
        return _losses(scores, onehot, examples.n)[0] + penalty / 2 * (w * w).sum()

    def go_on(state: tuple) -> jax.Array:
        i, fit, stuck = state
        return (i < newton_steps) & ~fit.done & ~stuck

    def advance(state: tuple) -> tuple:
        i, fit, _ = state
        slope = _slope(examples, penalty, fit.w, fit.scores)
        norm = jnp.sqrt(_inner(slope.g, slope.g))
        certain = (norm <= gradient_norm) & (slope.size / 2 <= _CERTAIN * DECREMENT * fit.value)
        there = fit._replace(norm=norm, gap=slope.size / 2, done=jnp.asarray(True))
        return jax.lax.cond(certain, lambda: (i + 1, there, False), lambda: (i + 1, *step(fit, slope, norm)))

    def step(fit: _Fit, slope: _Slope, norm: jax.Array) -> tuple[_Fit, jax.Array]:
        w, b, scores, _, _, value, _ = fit
        p, change, residual = _newton_step(examples, penalty, slope, cg_steps)
        decrease = -_inner(slope.g, p)
        # A step of float64 that is not solved (nearly collinear features) still leads downhill.
        sound = (residual <= _SOUND) | (examples.fast.dtype == z.dtype)
        done = sound & (norm <= gradient_norm) & (decrease / 2 <= DECREMENT * value)

        def too_long(state: tuple) -> jax.Array:
            size, new = state
            return ~(new <= value - 1e-4 * size * decrease) & (size > 1e-6)

        def shorten(state: tuple) -> tuple:
            size, _ = state
            return size / 2, value_at(scores + size / 2 * change, w + size / 2 * p[0])

        size, new = jax.lax.while_loop(too_long, shorten, (1.0, value_at(scores + change, w + p[0])))
        better = new <= value
        ahead = w + size * p[0], b + size * p[1], scores + size * change, new
        w, b, scores, value = jax.tree.map(functools.partial(jnp.where, better), ahead, (w, b, scores, value))
        fit = _Fit(w, b, scores, norm, decrease / 2, value, done)
        return fit, ~done & ~(better & sound)

    w, b = _extrapolate(past, factors, examples, penalty)
    scores = _dot(w, z.T) + b[:, None]
    infinite = jnp.asarray(jnp.inf)
    start = _Fit(w, b, scores, infinite, infinite, value_at(scores, w), jnp.asarray(False))
    fit = jax.lax.while_loop(go_on, advance, (0, start, False))[1]
    latest = (fit.w, fit.b, fit.scores)
    return fit, _Past(*(jnp.concatenate([p[1:], new[None]]) for p, new in zip(past, latest, strict=True)))
