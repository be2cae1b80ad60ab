"""Linear evaluation against scikit-learn and against the conditions of the optimum."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from vtabjax.protocols import linear
from vtabjax.protocols.linear import _softmax


def blobs(n=90, d=8, classes=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    means = np.random.default_rng(99).normal(size=(classes, d))
    return spread * means[y] + rng.normal(size=(n, d)), y


def cases():
    x, y = blobs(spread=0.5)
    singleton = y.copy()
    singleton[17] = 9
    return {
        "easy": blobs(spread=4.0),
        "overlapping": (x, y),
        "float32": (x.astype(np.float32), y),
        "more features than examples": blobs(40, 70),
        "duplicated": (np.repeat(x[:30], 3, axis=0), np.repeat(y[:30], 3)),
        "singleton class": (x, singleton),
        "constant column": (np.c_[x, np.full(90, 7.0)], y),
        "two classes": (x, y % 2),
        "hundred classes": blobs(200, 6, 100),
        "large mean": (x + 1e4, y),
        "zero row": (np.where(np.arange(90)[:, None] == 5, 0.0, x), y),
        "badly scaled": (x * 10.0 ** np.arange(-4, 4), y),
        "label gaps": (x, 100 - 30 * y),
    }


CASES = cases()


def gradient(model, x, y, c):
    """Of J, from its definition."""
    x = np.asarray(x, np.float64)
    p = softmax(x @ model.weights + model.bias, axis=1)
    off = (p - (y[:, None] == model.classes)) / len(y)
    return x.T @ off + model.weights / (c * len(y)), off.sum(0)


@pytest.mark.parametrize("name", CASES)
def test_reaches_the_minimum(name):
    x, y = CASES[name]
    for c in (1e-6, 1e-2, 1.0, 1e2, 1e5):
        model = linear.fit(x, y, c=c)
        np.testing.assert_array_equal(model.classes, np.unique(y))
        # The bias takes up a shift, so the minimum is that of the centred features, where the gradient has a scale.
        mean = np.asarray(x, np.float64).mean(0)
        centred = linear.LinearModel(model.weights, model.bias + mean @ model.weights, model.classes)
        g = gradient(centred, x - mean, y, c)
        assert np.sqrt((g[0] ** 2).sum() + (g[1] ** 2).sum()) < 1.01e-6
        # J is 1/(c N)-strongly convex in the weights: the gradient bounds the distance from the minimum.
        assert linear.objective(model, x, y, c=c) == pytest.approx(
            linear.objective(centred, x - mean, y, c=c), rel=1e-9
        )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("c", [1e-4, 1.0, 1e4])
def test_objective_is_scikit_learns_or_lower(name, c):
    x, y = CASES[name]
    x = np.asarray(x, np.float64)
    mine = linear.objective(linear.fit(x, y, c=c), x, y, c=c)
    x = x - x.mean(0)
    classes = np.unique(y)
    # With two classes scikit-learn penalises one vector w = w_1 - w_0 by |w|^2 / 2C; |w_0|^2 + |w_1|^2 = |w|^2 / 2.
    binary = len(classes) == 2
    reference = LogisticRegression(C=2 * c if binary else c, tol=1e-9, max_iter=5000).fit(x, y)
    weights, bias = reference.coef_.T, reference.intercept_
    if binary:
        weights, bias = np.c_[-weights, weights] / 2, np.r_[-bias, bias] / 2
    theirs = linear.objective(linear.LinearModel(weights, bias, classes), x, y, c=c)
    assert mine <= theirs * (1 + 1e-9) + 1e-12
    if c <= 1:  # beyond, scikit-learn may stop early
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_objective_worked_out():
    model = linear.LinearModel(np.array([[1.0, -1.0]]), np.array([0.0, 0.5]), np.array([3, 8]))
    # Scores of x = 2: (2, -1.5); of x = -1: (-1, 1.5).
    losses = [np.log(1 + np.exp(-3.5)), np.log(1 + np.exp(-2.5))]
    expected = np.mean(losses) + 2 / (2 * 10 * 2)
    assert linear.objective(model, np.array([[2.0], [-1.0]]), [3, 8], c=10) == pytest.approx(expected)
    with pytest.raises(ValueError, match="classes that the model does not know"):
        linear.objective(model, np.array([[2.0], [-1.0]]), [3, 9], c=10)


def test_two_examples_in_closed_form():
    # x = +-1, classes 1 and 0: weights (-w, w), bias 0, with w = 2 c sigma(-2 w) / ... : stationary in w.
    c = 3.0
    model = linear.fit(np.array([[1.0], [-1.0]]), np.array([1, 0]), c=c)
    w = model.weights[0, 1]
    np.testing.assert_allclose(model.weights, [[-w, w]], atol=1e-9)
    np.testing.assert_allclose(model.bias, 0, atol=1e-9)
    # J(w) = log(1 + exp(-2 w)) + 2 w^2 / (4 c): J' = -2 / (1 + exp(2 w)) + w / c = 0.
    assert w / c == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-6)


def test_rotation_and_shift_of_features_change_nothing():
    x, y = CASES["overlapping"]
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    a, b = linear.fit(x, y, c=1.0), linear.fit(x @ q + 5, y, c=1.0)
    np.testing.assert_allclose(a.weights, q @ b.weights, atol=1e-6)
    np.testing.assert_allclose(x @ a.weights + a.bias, (x @ q + 5) @ b.weights + b.bias, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(y))
    np.testing.assert_allclose(linear.fit(x[order], y[order], c=1.0).weights, a.weights, atol=1e-6)


def splits(spread=1.0, classes=3, d=8):
    return [blobs(n, d, classes, spread, seed) for seed, n in ((1, 60), (2, 45), (3, 90))]


def test_evaluate_is_the_procedure():
    train, val, test = splits(0.7)
    grid = 10.0 ** np.arange(-4, 5)
    got = linear.evaluate(train, val, test, c_grid=grid[::-1])
    np.testing.assert_array_equal(got.c_grid, grid)
    expected = [np.mean(linear.predict(linear.fit(*train, c=c), val[0]) == val[1]) for c in grid]
    np.testing.assert_allclose(got.val_accuracies, expected)
    assert got.best_c == grid[np.argmax(expected)] and got.val_accuracy == max(expected)
    both = tuple(np.concatenate(pair) for pair in zip(train, val, strict=True))
    predictions = linear.predict(linear.fit(*both, c=got.best_c), test[0])
    np.testing.assert_array_equal(got.predictions, predictions)
    np.testing.assert_array_equal(got.correct, predictions == test[1])
    assert got.test_accuracy == got.correct.mean() > 0.5
    reference = LogisticRegression(C=got.best_c, tol=1e-8, max_iter=2000).fit(*both)
    np.testing.assert_array_equal(got.predictions, reference.predict(test[0]))


def test_evaluate_with_more_features_than_examples():
    train, val, test = splits(0.5, d=150)
    got = linear.evaluate(train, val, test, c_grid=[1e-3, 1e-1, 10])
    assert got.test_accuracy > 0.9
    both = tuple(np.concatenate(pair) for pair in zip(train, val, strict=True))
    reference = LogisticRegression(C=got.best_c, tol=1e-8, max_iter=2000).fit(*both)
    np.testing.assert_array_equal(got.predictions, reference.predict(test[0]))


def test_equal_validation_accuracies_take_the_strongest_regularisation():
    train, val, test = splits(8.0)  # all right at any c
    got = linear.evaluate(train, val, test, c_grid=[1.0, 1e-1, 10.0])
    assert got.val_accuracies.tolist() == [1, 1, 1]
    assert got.best_c == 0.1 and got.at_grid_end
    middle = linear.LinearResult(*got)._replace(at_grid_end=None)
    assert middle.best_c == min(got.c_grid)


def test_the_end_of_the_grid_is_flagged():
    rng = np.random.default_rng(0)
    # Class means of 1e-3 of the noise's place: only weak regularisation separates them.
    x = np.c_[1e-4 * np.repeat([-1.0, 1.0, 1.0], 30), np.zeros(90)]
    y = np.repeat([0, 1, 1], 30)
    order = rng.permutation(90)
    pair = (x[order], y[order])
    got = linear.evaluate(pair, pair, pair, c_grid=[1e-3, 1e-2, 1e9])
    assert got.best_c == 1e9 and got.at_grid_end and got.test_accuracy == 1
    assert not linear.evaluate(pair, pair, pair, c_grid=[1e-3, 1e9, 1e10]).at_grid_end
    assert not linear.evaluate(pair, pair, pair, c_grid=[1.0]).at_grid_end


def test_the_default_grid():
    assert len(linear.C_GRID) == 45
    assert linear.C_GRID[0] == pytest.approx(1e-6) and linear.C_GRID[-1] == pytest.approx(1e5)


@pytest.mark.parametrize("method", [linear.evaluate, linear.ridge])
def test_classes_that_a_split_lacks(method):
    (x, y), (xv, yv), (xt, yt) = splits(6.0, classes=5)
    keep, keep_v = y != 4, yv != 0  # 4 is absent from train, 0 from val
    got = method((x[keep], y[keep]), (xv[keep_v], yv[keep_v]), (xt, yt), c_grid=[1e-2, 1.0])
    # While choosing, class 4 of val cannot be right; after refitting on both, it is.
    assert got.val_accuracy == pytest.approx(np.mean(yv[keep_v] != 4))
    assert got.test_accuracy > 0.95 and 4 in got.predictions
    unseen = yt.copy()
    unseen[:8] = 77
    assert method((x, y), (xv, yv), (xt, unseen), c_grid=[1.0]).test_accuracy <= 1 - 8 / 90


def test_ridge_is_scikit_learns():
    train, val, test = splits(0.7)
    grid = [1e-3, 1e-2, 0.1, 1.0, 10.0]
    got = linear.ridge(train, val, test, c_grid=grid)

    def reference(pair, c):
        x, y = pair
        return Ridge(alpha=1 / c).fit(x, 2 * np.eye(3)[y] - 1)

    expected = [np.mean(reference(train, c).predict(val[0]).argmax(1) == val[1]) for c in grid]
    np.testing.assert_allclose(got.val_accuracies, expected)
    both = tuple(np.concatenate(pair) for pair in zip(train, val, strict=True))
    np.testing.assert_array_equal(got.predictions, reference(both, got.best_c).predict(test[0]).argmax(1))
    wide = splits(0.5, d=150)
    both = tuple(np.concatenate(pair) for pair in zip(*wide[:2], strict=True))
    got = linear.ridge(*wide, c_grid=grid)
    np.testing.assert_array_equal(got.predictions, reference(both, got.best_c).predict(wide[2][0]).argmax(1))


def test_float32_gives_the_same_choice():
    train, val, test = splits(0.7)
    single = [(x.astype(np.float32), y) for x, y in (train, val, test)]
    double = [(x.astype(np.float64), y) for x, y in single]
    a, b = linear.evaluate(*single, c_grid=[0.01, 1, 100]), linear.evaluate(*double, c_grid=[0.01, 1, 100])
    np.testing.assert_array_equal(a.predictions, b.predictions)


def test_a_fit_that_stops_early_says_so(monkeypatch):
    monkeypatch.setattr(_softmax, "GRADIENT_NORM", 0.0)
    with pytest.warns(UserWarning, match="stopped at a gradient norm"):
        linear.fit(*blobs(30, 3), c=1.0)


X, Y = blobs(30, 4)
NAN = np.where(np.arange(30)[:, None] == 3, np.nan, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear.fit(NAN, Y, c=1.0), r"features has NaN.*\(rows 3\)"),
        (lambda: linear.fit(X, Y[:9], c=1.0), r"labels has shape \(9,\) for 30"),
        (lambda: linear.fit(X, Y + 0.5, c=1.0), "labels has .*5 in row 0; a class number is a whole number"),
        (lambda: linear.fit(X, 0 * Y, c=1.0), r"only one class \(0\)"),
        (lambda: linear.fit(X, Y, c=0.0), r"c=\[0.0\]; give positive"),
        (lambda: linear.evaluate((X, Y), (NAN, Y), (X, Y)), "val features has NaN"),
        (lambda: linear.evaluate((X, Y), (X, Y), (X[:, :3], Y)), "test features has 3 columns and train 4"),
        (lambda: linear.evaluate(X, (X, Y), (X, Y)), "train is not a pair"),
        (lambda: linear.evaluate((X, Y), (X, Y), (X, Y), c_grid=[]), "c_grid="),
        (lambda: linear.ridge((X, Y), (X, Y), (X, Y), c_grid=[1.0, np.inf]), "c_grid="),
        (
            lambda: linear.predict(linear.LinearModel(np.ones((4, 2)), np.zeros(2), np.arange(2)), X[:, :2]),
            "2 columns",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("n", "r"), [(90, 8), (81, 70), (45, 45)])
def test_filling_up_leaves_the_minimum_where_it_is(n, r, monkeypatch):
    x, y = blobs(n, r, spread=0.7)
    rotation, grid = linear._rotate(x), [1e-3, 1e-1, 10.0]

    def objectives(**options):
        found = _softmax.path(rotation.z, y, 3, grid, **options)
        models = [rotation.model(w, b, np.arange(3)) for w, b in found]
        return [linear.objective(model, x, y, c=c) for model, c in zip(models, grid, strict=True)]

    filled = objectives(rows=n + 17)
    monkeypatch.setattr(_softmax, "_shape", lambda n, r, rows: (n, r))
    np.testing.assert_allclose(filled, objectives(), rtol=2e-9)


def test_models_of_different_widths_share_programs():
    shapes = {
        _softmax._shape(800, min(d, 799), 1000) for d in (192, 264, 320, 384, 512, 520, 1024, 1280, 2048)
    }
    assert shapes == {(1000, 264), (1000, 520), (800, 800)}
    assert _softmax._shape(1000, 999, 0) == (1000, 1000)
