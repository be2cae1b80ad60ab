"""Classes as text and as floating-point numbers: the same scores as with integers, and answers of the same kind."""

import numpy as np
import pandas as pd
import pytest

from vtabjax.protocols import knn, linear, transferability

N = 60
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, N)
X = RNG.normal(size=(N, 5)) + Y[:, None]
NAMES = np.array(["ant", "bee", "cat"])  # in the order of their numbers
KINDS = {
    "text": NAMES[Y],
    "list": NAMES[Y].tolist(),
    "object": NAMES[Y].astype(object),
    "string": pd.Series(NAMES[Y], dtype="string"),
    "category": pd.Series(NAMES[Y], dtype="category"),
    "float": Y.astype(np.float32),
    "Int64": pd.Series(Y, dtype="Int64"),
    "object of int": pd.Series(Y.tolist(), dtype=object),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_neighbours(kind):
    labels = KINDS[kind]
    expected, found = knn.leave_one_out(X, Y, k=3), knn.leave_one_out(X, labels, k=3)
    assert found.accuracy == expected.accuracy
    known = expected.predictions if found.predictions.dtype.kind == "i" else NAMES[expected.predictions]
    assert found.predictions.tolist() == known.tolist()
    by_group = knn.leave_one_out(X, Y, groups=labels)
    assert np.array_equal(by_group.neighbours, knn.leave_one_out(X, Y, groups=Y).neighbours)


def test_from_train_to_test():
    text = knn.classify(X[:40], NAMES[Y[:40]], X[40:], NAMES[Y[40:]])
    assert text.accuracy == knn.classify(X[:40], Y[:40], X[40:], Y[40:]).accuracy > 0.4
    assert repr(text) == f"Classification(accuracy={text.accuracy:.4g}, 20 examples, k=1, n_tied=0)"


@pytest.mark.parametrize("kind", ["text", "string", "float"])
def test_linear(kind):
    labels = np.asarray(KINDS[kind])

    def evaluated(y):
        parts = [(X[i::3], y[i::3]) for i in range(3)]
        return linear.ridge(*parts, c_grid=[0.1, 1.0])

    expected, found = evaluated(Y), evaluated(labels)
    assert found.test_accuracy == expected.test_accuracy and found.val_accuracy == expected.val_accuracy
    assert repr(found).startswith(f"LinearResult(test_accuracy={found.test_accuracy:.4g} of 20 examples, ")
    model = linear.fit(X, labels, c=1.0)
    again = linear.predict(linear.fit(X, Y, c=1.0), X)
    assert linear.predict(model, X).tolist() == (again if kind == "float" else NAMES[again]).tolist()
    assert linear.objective(model, X, labels, c=1.0) == linear.objective(linear.fit(X, Y, c=1.0), X, Y, c=1.0)
    assert repr(model) == "LinearModel(5 features, 3 classes)"


@pytest.mark.parametrize("kind", KINDS)
def test_scores(kind):
    assert transferability.logme(X, KINDS[kind]) == transferability.logme(X, Y)
    assert transferability.h_score(X, KINDS[kind]) == transferability.h_score(X, Y)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.where(Y == 0, 0.5, Y), r"labels has 0\.5 in row \d+; a class number is a whole number"),
        (np.where(np.arange(N) == 7, np.nan, Y), "labels has nan in row 7"),
        ([None, *NAMES[Y[1:]]], r"labels has no class in 1 of 60 rows \(the first is 0\)"),
        (pd.array([*NAMES[Y[1:]], pd.NA], dtype="string"), "the first is 59"),
        (
            np.array([1, *NAMES[Y[1:]]], dtype=object),
            "labels mixes int and str; give all numbers, or all text",
        ),
        (Y == 0, "labels has type bool; give classes as integers or as text"),
        (NAMES[Y[1:]], r"labels has shape \(59,\) for 60 examples"),
    ],
)
def test_what_is_no_class(labels, message):
    with pytest.raises(ValueError, match=message):
        knn.leave_one_out(X, labels)


def test_text_is_never_compared_with_numbers():
    """Nothing would be equal, and an accuracy of 0 would look like a result."""
    with pytest.raises(ValueError, match="train_labels and labels: one is text and the other numbers"):
        knn.classify(X, Y, X, NAMES[Y])
    with pytest.raises(ValueError, match="train labels and test labels: one is text"):
        linear.ridge((X, Y), (X, Y), (X, NAMES[Y]))
    with pytest.raises(ValueError, match="labels and the model's classes: one is text"):
        linear.objective(linear.fit(X, Y, c=1.0), X, NAMES[Y], c=1.0)


def test_a_result_is_a_line():
    found = knn.leave_one_out(X, Y)
    assert repr(found) == f"LeaveOneOut(accuracy={found.accuracy:.4g}, 60 examples, k=1, n_tied=0)"
