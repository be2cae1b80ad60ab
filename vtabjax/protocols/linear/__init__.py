"""Linear evaluation: L2-regularised softmax regression on frozen features, and ridge regression as its fast variant.

For weights W [D, K], a free bias b [K] and the K classes present among the N training examples, `fit` minimises

    J(W, b) = 1/N sum_i -log softmax(x_i W + b)[y_i] + |W|^2 / (2 c N),

scikit-learn's LogisticRegression(C=c), except that scikit-learn penalises a single vector for two classes (its C is
then worth half as much). The strength c is chosen on validation examples, as Kornblith et al. ("Do Better ImageNet
Models Transfer Better?", CVPR 2019, arXiv 1805.08974) and DINOv2 (arXiv 2304.07193) do, whose grid is the default.

J is invariant to shifts of the features (the bias takes them up) and to rotations, so the features are centred and
turned, exactly, into at most min(N, D) uncorrelated coordinates first. Newton's method follows (`_softmax.py`), each c
starting from where the ones before point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from vtabjax.protocols._arrays import check_features, check_labels, check_memory, check_same_kind
from vtabjax.protocols._factors import Factors, factors
from vtabjax.protocols.linear import _softmax

C_GRID = tuple(float(c) for c in 10.0 ** np.linspace(-6, 5, 45))

Examples = tuple[ArrayLike, ArrayLike]  # features [N, D], labels [N]
Solution = tuple[np.ndarray, np.ndarray]  # weights [D, K], bias [K]


class LinearModel(NamedTuple):
    """A linear classifier: the class of x is classes[argmax(x @ weights + bias)].

    Attributes:
      weights: [D, K] float64.
      bias: [K] float64.
      classes: the labels the columns stand for, ascending, [K].
    """

    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray

    def __repr__(self) -> str:
        return f"LinearModel({len(self.weights):,} features, {len(self.classes):,} classes)"


class LinearResult(NamedTuple):
    """A linear evaluation.

    Attributes:
      best_c: the strength chosen: best on the validation examples, the strongest regularisation (smallest c) of equals.
      val_accuracy: accuracy on the validation examples of the model trained on the training examples with `best_c`.
      test_accuracy: accuracy on the test examples of the model trained on training and validation examples.
      at_grid_end: whether `best_c` is the smallest or largest c tried, so that a wider grid might do better.
      predictions: predicted labels of the test examples, [T].
      confidence: the probability that the model gives each prediction, [T]; None for `ridge`, which has none.
      correct: whether each is right, bool [T].
      c_grid: the strengths tried, ascending, [G].
      val_accuracies: the validation accuracy of each, [G].
    """

    best_c: float
    val_accuracy: float
    test_accuracy: float
    at_grid_end: bool
    predictions: np.ndarray
    confidence: np.ndarray | None
    correct: np.ndarray
    c_grid: np.ndarray
    val_accuracies: np.ndarray

    def __repr__(self) -> str:
        end = ", at the grid's end" if self.at_grid_end else ""
        return (
            f"LinearResult(test_accuracy={self.test_accuracy:.4g} of {len(self.correct):,} examples, "
            f"val_accuracy={self.val_accuracy:.4g}, best_c={self.best_c:.3g}{end})"
        )


def fit(features: ArrayLike, labels: ArrayLike, *, c: float) -> LinearModel:
    """Minimises J, to a gradient norm of 1e-6 and 1e-9 of its value.

    Args:
      features: [N, D], used as given (scale them, or not, alike for every model).
      labels: [N], as numbers or as text; the classes are those that occur.
      c: inverse strength of the regularisation.

    Raises:
      ValueError: features or labels do not fit (NaN: the rows are named), only one class, or c is not positive.
      MemoryError: its float64 copies would not fit.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> fit(features, [0, 0, 1, 1], c=1.0).weights.shape
    (2, 2)
    """
    x, y = _examples((features, labels), "")
    _check_memory(*x.shape)
    (c,) = _grid([c], "c")
    rotation = _rotate(x)
    classes, y = _classes(y)
    (solution,) = _softmax.path(rotation.z, y, len(classes), [c])
    return rotation.model(*solution, classes)


def predict(model: LinearModel, features: ArrayLike) -> np.ndarray:
    """Predicted labels [N] of features [N, D].

    Raises:
      ValueError: features do not fit the model.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> predict(fit(features, [0, 0, 1, 1], c=1.0), [[0.2, 0.1]])
    array([0])
    """
    x = check_features(features)
    if x.shape[1] != len(model.weights):
        raise ValueError(f"features has {x.shape[1]} columns; the model was trained on {len(model.weights)}")
    return model.classes[(x.astype(np.float64) @ model.weights + model.bias).argmax(1)]


def evaluate(train: Examples, val: Examples, test: Examples, *, c_grid: ArrayLike = C_GRID) -> LinearResult:
    """Linear evaluation: c chosen on `val`, the model refitted on `train` and `val`, its accuracy on `test`.

    Examples of a class that the model at hand was not trained on count as wrong.

    Args:
      train: (features [N, D], labels [N]).
      val: (features, labels), to choose c.
      test: (features, labels).
      c_grid: the strengths to try.

    Raises:
      ValueError: as `fit`, for each of the three; widths that differ; an empty grid or one with values that are not
        positive.
      MemoryError: as `fit`.

    >>> train = [[0.0], [0.1], [0.9], [1.0]], [0, 0, 1, 1]
    >>> val, test = ([[0.2], [0.8]], [0, 1]), ([[0.3], [0.7]], [0, 1])
    >>> evaluate(train, val, test, c_grid=[0.1, 1.0]).test_accuracy
    1.0
    """

    def path(z: np.ndarray, y: np.ndarray, n_classes: int, grid: np.ndarray) -> list[Solution]:
        rows = sum(len(np.asarray(labels)) for _, labels in (train, val))  # of the second fit
        return _softmax.path(z, y, n_classes, grid, rows=rows, progress=True)

    return _choose(train, val, test, c_grid, path, probabilities=True)


def ridge(train: Examples, val: Examples, test: Examples, *, c_grid: ArrayLike = C_GRID) -> LinearResult:
    """As `evaluate` with squared error to targets of +1 for the class and -1 for the others: the fast variant.

    Minimises mean |x W + b - y|^2 / 2 + |W|^2 / (2 c N) for all c from one eigendecomposition.

    Args:
      train: (features [N, D], labels [N]).
      val: (features, labels), to choose c.
      test: (features, labels).
      c_grid: the strengths to try.

    Raises:
      ValueError, MemoryError: as `evaluate`.

    >>> train = [[0.0], [0.1], [0.9], [1.0]], [0, 0, 1, 1]
    >>> val, test = ([[0.2], [0.8]], [0, 1]), ([[0.3], [0.7]], [0, 1])
    >>> ridge(train, val, test, c_grid=[0.1, 1.0]).test_accuracy
    1.0
    """

    def path(z: np.ndarray, y: np.ndarray, n_classes: int, grid: np.ndarray) -> list[Solution]:
        targets = 2 * np.eye(n_classes)[y] - 1
        bias = targets.mean(0)  # z is centred
        products = z.T @ (targets - bias)
        squares = (z * z).sum(0)[:, None]  # z's columns are orthogonal
        return [(products / (squares + 1 / c), bias) for c in grid]

    return _choose(train, val, test, c_grid, path, probabilities=False)


def objective(model: LinearModel, features: ArrayLike, labels: ArrayLike, *, c: float) -> float:
    """J of a model on examples [N, D] with labels [N]; ValueError for labels that are not among its classes.

    >>> features = [[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]
    >>> model = fit(features, [0, 0, 1, 1], c=1.0)
    >>> round(objective(model, features, [0, 0, 1, 1], c=1.0), 3)
    0.466
    """
    x, y = _examples((features, labels), "")
    check_same_kind(model.classes, y, "labels and the model's classes")
    column = np.searchsorted(model.classes, y)
    if (model.classes[np.minimum(column, len(model.classes) - 1)] != y).any():
        raise ValueError("labels has classes that the model does not know")
    scores = x.astype(np.float64) @ model.weights + model.bias
    scores -= scores.max(1, keepdims=True)
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), column]
    return float(losses.mean() + (model.weights**2).sum() / (2 * c * len(y)))


def _choose(
    train: Examples,
    val: Examples,
    test: Examples,
    c_grid: ArrayLike,
    path: Callable[..., list[Solution]],
    *,
    probabilities: bool,
) -> LinearResult:
    """Chooses among the solutions `path(z, y, n_classes, grid)` yields, and refits."""
    import scipy.special

    (x, y), (xv, yv), (xt, yt) = (
        _examples(v, f"{n} ") for v, n in ((train, "train"), (val, "val"), (test, "test"))
    )
    for name, other, own in (("val", xv, yv), ("test", xt, yt)):
        check_same_kind(y, own, f"train labels and {name} labels")
        if other.shape[1] != x.shape[1]:
            raise ValueError(
                f"{name} features has {other.shape[1]} columns and train {x.shape[1]}; they must agree"
            )
    grid = _grid(c_grid, "c_grid")
    _check_memory(len(x) + len(xv), x.shape[1], len(xt))
    classes, columns = _classes(y)
    rotation = _rotate(x)
    zv = rotation.apply(xv)
    accuracies = np.array(
        [
            np.mean(classes[(zv @ w + b).argmax(1)] == yv)
            for w, b in path(rotation.z, columns, len(classes), grid)
        ]
    )
    best = int(accuracies.argmax())  # the first of equals is the most regularised
    both = np.concatenate([x, xv])
    classes, columns = _classes(np.concatenate([y, yv]))
    rotation = _rotate(both)
    ((w, b),) = path(rotation.z, columns, len(classes), grid[best : best + 1])
    model = rotation.model(w, b, classes)
    scores = xt.astype(np.float64) @ model.weights + model.bias
    predictions = classes[scores.argmax(1)]
    correct = predictions == yt
    return LinearResult(
        best_c=float(grid[best]),
        val_accuracy=float(accuracies[best]),
        test_accuracy=float(correct.mean()),
        at_grid_end=len(grid) > 1 and best in (0, len(grid) - 1),
        predictions=predictions,
        confidence=scipy.special.softmax(scores, axis=1).max(1) if probabilities else None,
        correct=correct,
        c_grid=grid,
        val_accuracies=accuracies,
    )


def _examples(pair: Examples, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        features, labels = pair
    except (TypeError, ValueError):
        raise ValueError(f"{name.strip()} is not a pair (features, labels)") from None
    x = check_features(features, f"{name}features")
    return x, check_labels(labels, len(x), f"{name}labels")


def _check_memory(n: int, d: int, n_test: int = 0) -> None:
    """Before `_rotate` of [n, d] and `_Rotation.apply` of [n_test, d]: copies, basis, coordinates, eigenvectors."""
    r = min(n, d)
    n_bytes = 8 * (2 * n * d + (n + d) * r + 4 * r * r + n_test * (d + r))
    check_memory(
        n_bytes,
        f"a linear fit of features {[n, d]}" + (f" with {n_test} test examples" if n_test else ""),
        "give it fewer examples (VTAB-1k has 1,000), or features of fewer principal components",
    )


def _classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes, columns = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels has only one class ({classes[0]}); a classifier needs two or more")
    return classes, columns


def _grid(values: ArrayLike, name: str) -> np.ndarray:
    grid = np.unique(np.asarray(values, np.float64))
    if not len(grid) or not ((grid > 0) & np.isfinite(grid)).all():
        raise ValueError(f"{name}={values!r}; give positive numbers")
    return grid


class _Rotation(NamedTuple):
    """Features [N, D] as uncorrelated coordinates z [N, r]: z = (features - mean) V, |z_i - z_j| unchanged."""

    z: np.ndarray
    mean: np.ndarray
    factors: Factors

    @threadpool_limits.wrap(limits=1)
    def apply(self, x: np.ndarray) -> np.ndarray:
        """Coordinates [T, r] of further features [T, D]."""
        u, s, vt, matrix = self.factors
        x = x.astype(np.float64) - self.mean
        return x @ vt.T if vt is not None else ((x @ matrix.T) @ u) / s

    @threadpool_limits.wrap(limits=1)
    def model(self, w: np.ndarray, b: np.ndarray, classes: np.ndarray) -> LinearModel:
        weights = self.factors.combine(w)
        return LinearModel(weights, b - self.mean @ weights, classes)


def _rotate(x: np.ndarray) -> _Rotation:
    """The optimal weights are combinations of the centred examples: in a basis of their span nothing is lost."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    found = factors(x - mean, float(np.abs(x).max(initial=0.0)))
    return _Rotation(found.u * found.s, mean, found)
