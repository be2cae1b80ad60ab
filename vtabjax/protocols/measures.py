"""What can be said of a classification beyond its accuracy: rare classes, confusions, calibration, sample size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> np.ndarray:
    """How many examples of class i were taken for class j, int64 [K, K]: scikit-learn's, over all `n_classes`.

    Args:
      labels: the classes, int [N].
      predictions: what they were taken for, int [N].
      n_classes: K.

    Raises:
      ValueError: a class outside of 0 ... K - 1, or arrays of different lengths.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    y, p = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"labels are {list(y.shape)} and predictions {list(p.shape)}; give two of [N]")
    for name, values in (("labels", y), ("predictions", p)):
        if len(values) and not (0 <= values.min() and values.max() < n_classes):
            raise ValueError(
                f"{name} are from {values.min()} to {values.max()}; with {n_classes} classes they are from 0 to "
                f"{n_classes - 1}"
            )
    return np.bincount(y * n_classes + p, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """The accuracy on the examples of each class (its recall), [K, K] -> [K]; NaN for a class without examples.

    >>> class_accuracies(np.array([[1, 1, 0], [0, 3, 0], [0, 0, 0]])).tolist()
    [0.5, 1.0, nan]
    """
    n = confusion.sum(1)
    return np.where(n > 0, np.diag(confusion) / np.maximum(n, 1), np.nan)


def balanced_accuracy(confusion: np.ndarray) -> float:
    """The mean accuracy over the classes that occur, so that rare ones count as much as frequent ones.

    K. H. Brodersen et al., "The balanced accuracy and its posterior distribution" (ICPR 2010), for any number of
    classes as scikit-learn has it. NaN where there is no example.

    >>> balanced_accuracy(np.array([[1, 1, 0], [0, 3, 0], [0, 0, 0]]))
    0.75
    """
    accuracies = class_accuracies(confusion)
    known = accuracies[~np.isnan(accuracies)]
    return float(known.mean()) if len(known) else float("nan")


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15) -> float:
    """By how much a classifier's confidence differs from its accuracy: sum_b n_b / N |accuracy_b - confidence_b|.

    C. Guo et al., "On calibration of modern neural networks" (ICML 2017), equation 3, with bins ((b - 1) / B, b / B].

    Args:
      confidence: the predicted class's probability, [N].
      correct: whether it is right, bool [N].
      n_bins: B.

    Raises:
      ValueError: no examples, different lengths, or a confidence outside of [0, 1].

    >>> expected_calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
    0.15
    """
    p, hit = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    if p.shape != hit.shape or p.ndim != 1 or not len(p):
        raise ValueError(
            f"confidence is {list(p.shape)} and correct {list(hit.shape)}; give two of [N], N > 0"
        )
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError("confidence holds numbers that are not probabilities")
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, p - hit, n_bins)
    return float(round(np.abs(gaps).sum() / len(p), 12))


def smallest_difference(accuracy: float, n_examples: int, *, level: float = 0.95) -> float:
    """The smallest difference of two accuracies near `accuracy` that n examples can tell from chance.

    z sqrt(2 p (1 - p) / n): the two models err independently of each other. Models that err on the same examples can
    be told apart at less, which the paired intervals of the report use. At p = 0 or 1, one example more (z^2 / n).

    Args:
      accuracy: p, a fraction.
      n_examples: n, the examples that both were measured on.
      level: of the two-sided interval.

    >>> round(smallest_difference(0.8, 1000), 4)
    0.0351
    """
    from scipy import special

    z = float(special.ndtri((1 + level) / 2))
    # Agresti and Coull's two successes and two failures: at p = 1 a difference of zero would be claimed otherwise.
    n = n_examples + z**2
    p = (accuracy * n_examples + z**2 / 2) / n if accuracy in (0.0, 1.0) else accuracy
    return float(z * np.sqrt(2 * p * (1 - p) / n_examples))
