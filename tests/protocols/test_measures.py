import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from vtabjax import results
from vtabjax.protocols import measures
from vtabjax.ranking import resampling
from vtabjax.sweep.adapters import _classified


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_confusion_and_balanced_accuracy_are_scikit_learn_s(n_classes, n, seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, n_classes, (2, n))
    confusion = measures.confusion_matrix(labels, predictions, n_classes)
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(labels, predictions, labels=range(n_classes))
    )
    recalls = metrics.recall_score(
        labels, predictions, average=None, labels=np.unique(labels), zero_division=0
    )
    known = ~np.isnan(measures.class_accuracies(confusion))
    np.testing.assert_allclose(measures.class_accuracies(confusion)[known], recalls)
    assert measures.balanced_accuracy(confusion) == pytest.approx(recalls.mean())
    packed = results.pack_confusion(confusion)
    np.testing.assert_array_equal(results.unpack_confusion(packed), confusion)


def test_always_the_largest_class_is_no_better_than_chance():
    labels = np.repeat([0, 1, 2], [90, 5, 5])
    outcome = _classified.outcome({"accuracy": 0.9}, labels, np.zeros(100, int), 3)
    assert outcome.metrics["balanced_accuracy"] == pytest.approx(1 / 3)
    assert outcome.metrics["interval"] == [float(v) for v in resampling.wilson(np.array(0.9), np.array(100))]
    for right in (0, 1):  # where rounding would lead out of [0, 1]
        for n in range(1, 200):
            found = _classified.outcome({}, np.full(n, right), np.ones(n, int), 2).metrics["interval"]
            assert 0 <= found[0] <= right <= found[1] <= 1
    assert outcome.confusion.tolist() == [[90, 0, 0], [5, 0, 0], [5, 0, 0]]


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 3], [0, 1], "labels are from 0 to 3"),
        ([0, 1], [0, -1], "predictions are from -1"),
        ([0], [0, 1], "give two"),
    ],
)
def test_classes_out_of_range(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        measures.confusion_matrix(labels, predictions, 3)


def test_calibration_error_by_hand():
    # Bins of a tenth: 0.95 x 4 with 3 right, 0.55 x 2 with 1 right.
    confidence, correct = [0.95] * 4 + [0.55] * 2, [1, 1, 1, 0, 1, 0]
    wanted = 4 / 6 * abs(0.75 - 0.95) + 2 / 6 * abs(0.5 - 0.55)
    assert measures.expected_calibration_error(confidence, correct, n_bins=10) == pytest.approx(wanted)


def test_calibration_error_of_the_calibrated_and_the_boastful():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    assert measures.expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.005
    assert measures.expected_calibration_error(np.ones(100), np.arange(100) < 70) == pytest.approx(0.3)
    for confidence, message in (
        ([1.2], "not probabilities"),
        ([math.nan], "not probabilities"),
        ([], "N > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            measures.expected_calibration_error(confidence, np.ones(len(confidence), bool))


def test_smallest_difference_is_what_a_simulation_shows():
    """Of two equally good models whose errors are independent, one in twenty differs by more."""
    rng = np.random.default_rng(1)
    a, b = rng.binomial(500, 0.8, (2, 200_000)) / 500
    exceeded = np.mean(np.abs(a - b) > measures.smallest_difference(0.8, 500))
    assert exceeded == pytest.approx(0.05, abs=0.006)
    assert 0 < measures.smallest_difference(1.0, 100) < measures.smallest_difference(0.9, 100)


def test_a_damaged_confusion_is_told():
    packed = results.pack_confusion(np.eye(3, dtype=int))
    for damage in (
        {"classes": 4},
        {"classes": 0},
        {"classes": 10**9},
        {"packed": packed["packed"][:8]},
        {"packed": "!"},
    ):
        with pytest.raises(ValueError):
            results.unpack_confusion({**packed, **damage})
