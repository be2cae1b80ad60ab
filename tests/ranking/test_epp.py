"""Elo-based Predictive Power against closed forms and an independent optimiser."""

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from vtabjax.ranking import ELO, epp


def negative_log_likelihood(b, scores, margin=0.0, ridge=0.0):
    """Straight from the definition: one match after the other."""
    total = ridge / 2 * np.sum(np.square(b))
    for column in np.asarray(scores, float).T:
        for i in range(len(column)):
            for j in range(i):
                d = column[i] - column[j]
                if np.isnan(d):
                    continue
                y = 0.5 if abs(d) <= margin else float(d > 0)
                total += y * np.log1p(np.exp(b[j] - b[i])) + (1 - y) * np.log1p(np.exp(b[i] - b[j]))
    return total


def connected(m=5, r=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, r)) + np.linspace(0, 1, m)[:, None]


def test_two_models_in_closed_form():
    # Three wins of four: b_0 - b_1 = log 3. Gradient of a round +-: 1 - p and -p with p = 3/4, H = 4 p (1 - p):
    # var(b_0 - b_1) = (3 (1/4)^2 + (3/4)^2) / (3/4)^2 = 4/3.
    got = epp([[3, 3, 3, 0], [1, 1, 2, 2]])
    np.testing.assert_allclose(got.scores, [np.log(3) / 2, -np.log(3) / 2], atol=1e-12)
    difference = got.covariance[0, 0] + got.covariance[1, 1] - 2 * got.covariance[0, 1]
    assert difference == pytest.approx(4 / 3)
    np.testing.assert_allclose(got.standard_errors, np.sqrt(1 / 3))
    assert got.finite and got.df == 0 and got.deviance == pytest.approx(0, abs=1e-12)
    assert got.components.tolist() == [0, 0]


def test_three_models_in_a_circle_are_equal():
    # 0 beats 1, 1 beats 2, 2 beats 0, twice as often as the other way round.
    rounds = [[3, 2, np.nan]] * 2 + [[2, 3, np.nan], [np.nan, 3, 2], [np.nan, 3, 2], [np.nan, 2, 3]]
    rounds += [[2, np.nan, 3]] * 2 + [[3, np.nan, 2]]
    got = epp(np.array(rounds).T)
    np.testing.assert_allclose(got.scores, 0, atol=1e-12)
    # Deviance 2 * 3 * (2 log(2/3 / 1/2) + log(1/3 / 1/2)), 3 pairs less 2.
    assert got.deviance == pytest.approx(6 * (2 * np.log(4 / 3) + np.log(2 / 3)))
    assert got.df == 1


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("ridge", [None, 0.3])
def test_minimises_the_likelihood(margin, ridge):
    scores = connected()
    scores[1, 3] = scores[4, 0] = scores[2, 8] = np.nan
    scores[0, 2] = scores[3, 2]
    got = epp(scores, tie_margin=margin, ridge=ridge)
    lam = ridge or 0.0
    start = np.random.default_rng(1).normal(size=5)
    best = minimize(negative_log_likelihood, start, (scores, margin, lam), options={"gtol": 1e-7})
    np.testing.assert_allclose(got.scores, best.x - best.x.mean(), atol=2e-6)
    assert abs(got.scores.sum()) < 1e-12


@pytest.mark.parametrize("ridge", [None, 0.7])
def test_clustered_errors_by_the_sandwich_of_numerical_derivatives(ridge):
    scores = connected(4, 8, seed=3)
    scores[2, 5] = np.nan
    got = epp(scores, ridge=ridge)
    lam, h = ridge or 0.0, 1e-4
    eye = np.eye(4) * h

    def gradient(column):
        f = lambda b: negative_log_likelihood(b, scores[:, [column]])  # noqa: E731
        return np.array([(f(got.scores + e) - f(got.scores - e)) / (2 * h) for e in eye])

    def hessian():
        f = lambda b: negative_log_likelihood(b, scores, ridge=lam)  # noqa: E731
        x = got.scores
        return np.array(
            [
                [(f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) / (4 * h * h) for a in eye]
                for b in eye
            ]
        )

    u = np.array([gradient(r) for r in range(8)])
    bread = np.linalg.pinv(hessian(), rcond=1e-5)
    np.testing.assert_allclose(got.covariance, bread @ (u.T @ u) @ bread, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.standard_errors, np.sqrt(np.diag(got.covariance)))


def test_repeating_every_round_in_a_cluster_changes_nothing_but_the_bread():
    """Two copies of every round as separate rounds: the same scores, variances halved."""
    a, b = epp(connected()), epp(np.tile(connected(), 2))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-10)
    np.testing.assert_allclose(a.covariance, 2 * b.covariance, atol=1e-10)
    assert b.deviance == pytest.approx(2 * a.deviance) and a.df == b.df == 10 - 4


def test_direction_scale_and_order():
    scores = connected()
    a = epp(scores)
    np.testing.assert_allclose(epp(-scores, higher_is_better=False).scores, a.scores, atol=1e-10)
    np.testing.assert_allclose(epp(np.exp(scores)).scores, a.scores, atol=1e-10)
    np.testing.assert_allclose(epp(scores[::-1]).standard_errors[::-1], a.standard_errors, atol=1e-10)


def test_ties_and_their_margin():
    np.testing.assert_allclose(epp(np.full((3, 4), 0.5)).scores, 0, atol=1e-12)
    # Apart by a hundredth, which binary fractions overstate: a tie at a margin of a hundredth.
    got = epp([[0.85, 0.9], [0.84, 0.9]], tie_margin=0.01)
    np.testing.assert_allclose(got.scores, 0, atol=1e-12)
    # One win and one tie: 1.5 to 0.5.
    got = epp([[0.9, 0.8], [0.5, 0.8]])
    assert got.finite and got.scores[0] == pytest.approx(np.log(3) / 2)


def test_separation_is_found_and_said():
    scores = np.array([[1, 2, 1.0, 2], [2, 1, 2.0, 1], [9, 8, 9.0, 8], [8, 9, 8.0, 8.5], [0, 0, 0.0, 0]])
    with pytest.warns(UserWarning, match="fall into 3 groups"):
        got = epp(scores)
    assert not got.finite
    assert got.components.tolist() == [1, 1, 0, 0, 2]  # the best first
    np.testing.assert_allclose(got.scores[[0, 1]], 0, atol=1e-12)
    assert got.scores[2] == pytest.approx(np.log(1) / 2, abs=1e-12) and got.scores[4] == 0
    assert got.standard_errors[0] > 0 and np.isnan(got.standard_errors[4])
    assert got.covariance[0, 2] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalised = epp(scores, ridge=0.1)
    assert not penalised.finite and (np.diff(penalised.scores[[4, 0, 2]]) > 1).all()


def test_models_that_never_met():
    scores = np.array(
        [[1, 2, np.nan, np.nan], [2, 1, np.nan, np.nan], [np.nan, np.nan, 1, 2], [np.nan, np.nan, 2, 1]]
    )
    with pytest.warns(UserWarning, match="2 groups"):
        got = epp(scores)
    assert sorted(set(got.components.tolist())) == [0, 1] and got.df == 2 - (4 - 2)
    alone = np.array([[1, 2, 1.5], [2, 1, 1.0], [np.nan] * 3])
    with pytest.warns(UserWarning):
        got = epp(alone)
    assert got.scores[2] == 0 and np.isnan(got.standard_errors[2]) and got.scores[0] > 0


def test_one_round_has_no_standard_errors():
    got = epp([[1.0], [1.0]])
    assert got.finite and np.isnan(got.standard_errors).all()


def test_many_models():
    rng = np.random.default_rng(5)
    strength = rng.normal(size=300)
    scores = strength[:, None] + rng.logistic(size=(300, 19))
    got = epp(scores)
    assert got.finite and got.df == 300 * 299 // 2 - 299
    assert np.corrcoef(got.scores, strength)[0, 1] > 0.85
    # The score equations: every model wins as often as it is expected to.
    wins = (scores[:, None] > scores[None]).sum((1, 2))
    p = 1 / (1 + np.exp(got.scores[None, :] - got.scores[:, None]))
    np.testing.assert_allclose(19 * (p.sum(1) - 0.5), wins, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(scores=[1.0, 2.0]), "shape"),
        (dict(scores=[[1.0, 2.0]]), "at least two"),
        (dict(scores=np.ones((2, 0))), "shape"),
        (dict(scores=[[1.0], [2.0]], tie_margin=-1), "tie_margin=-1"),
        (dict(scores=[[1.0], [2.0]], ridge=0), "ridge=0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        epp(**arguments)


def test_names_of_a_data_frame_are_kept():
    import pandas as pd

    scores = [[0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.6, 0.8]]
    fit, plain = epp(pd.DataFrame(scores, index=["a", "b", "c"])), epp(scores)
    assert fit.names == ("a", "b", "c") and plain.names == ()
    frame = fit.to_frame()
    assert frame.index.name == "model" and frame["strength"].is_monotonic_decreasing
    assert [frame.loc[name, "strength"] for name in "abc"] == plain.scores.tolist()
    assert frame.loc["a", "elo"] == pytest.approx(1500 + ELO * plain.scores[0])
    assert plain.to_frame().index.tolist() == [int(i) for i in np.argsort(-plain.scores, kind="stable")]
    assert repr(fit).startswith("Epp(3 models, 3 clusters: ") and f"a {plain.scores[0]:+.2f}" in repr(fit)
