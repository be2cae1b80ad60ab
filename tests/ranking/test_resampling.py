"""Bootstraps: against plain refits, closed forms and the truth of simulations."""

import warnings

import numpy as np
import pytest

from vtabjax import ranking
from vtabjax.ranking import epp, resampling


def scores(m=6, r=19, seed=0):
    rng = np.random.default_rng(seed)
    return np.linspace(0, 1.5, m)[:, None] + rng.logistic(size=(m, r))


def test_bootstrap_refits_the_tasks_that_were_drawn():
    s = scores()
    s[2, 4] = np.nan
    got = resampling.bootstrap(s, n_resamples=25, seed=3)
    weights = np.random.default_rng(3).multinomial(19, np.full(19, 1 / 19), 25)
    for row, weight in zip(got.scores, weights, strict=True):
        drawn = np.repeat(s, weight, axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = epp(drawn)
            fit = fit if fit.finite else epp(drawn, ridge=resampling.STAND_IN)
        np.testing.assert_allclose(row, fit.scores, atol=1e-7)


def test_bootstrap_agrees_with_clustered_errors():
    s = scores(8, 60)
    got = resampling.bootstrap(s, n_resamples=500)
    fit = epp(s)
    assert got.n_penalised == 0
    np.testing.assert_allclose(got.scores.std(0), fit.standard_errors, rtol=0.25)


def test_naive_errors_would_be_too_small():
    """Tasks that favour one of two kinds of models: matches of a task are not independent."""
    rng = np.random.default_rng(1)
    s = rng.logistic(size=(20, 19)) + 2 * rng.normal(size=19) * np.repeat([1, -1], 10)[:, None]
    fit = epp(s)
    w = fit.wins + fit.wins.T
    p = 1 / (1 + np.exp(fit.scores[None] - fit.scores[:, None]))
    h = np.diag((w * p * (1 - p)).sum(1)) - w * p * (1 - p)
    naive = np.sqrt(np.diag(np.linalg.pinv(h)))
    assert np.median(fit.standard_errors / naive) > 2


def test_resamples_without_a_finite_estimate_are_counted():
    s = np.array([[3, 3, 3, 0.0], [1, 1, 1, 2.0], [2, 0, 2, 1]])
    got = resampling.bootstrap(s, n_resamples=200)
    assert 0 < got.n_penalised < 200 and np.isfinite(got.scores).all()
    share = resampling.first_share(got.scores)
    assert share.sum() == pytest.approx(1) and share.argmax() == 0


def test_a_model_without_matches_in_a_resample():
    s = scores(4, 5)
    s[0, 1:] = np.nan
    got = resampling.bootstrap(s, n_resamples=50, ridge=0.1)
    missing = np.isnan(got.scores[:, 0])
    assert 0 < missing.sum() < 50 and np.isfinite(got.scores[:, 1:]).all()
    low, high = resampling.interval(got.scores)
    assert np.isfinite(low).all() and (low <= high).all()


def test_many_models_take_one_newton_step(monkeypatch):
    """The step by its definition, intervals near those of fits, and a model that no drawn task has."""
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(30, 19)) + np.linspace(0, 1.5, 30)[:, None]
    fits = resampling.bootstrap(scores, n_resamples=400)
    monkeypatch.setattr(resampling, "_FITS", 29)
    steps = resampling.bootstrap(scores, n_resamples=400)
    assert steps.one_step and not fits.one_step

    found = epp(scores)
    won = np.array([[[a > b for b in column] for a in column] for column in scores.T], float)
    met = 1 - np.eye(30)
    p = 1 / (1 + np.exp(found.scores[None, :] - found.scores[:, None]))
    weight = np.random.default_rng(0).multinomial(19, np.full(19, 1 / 19), 400)[7]
    gradient = (19 * met * p).sum(1) - np.tensordot(weight, won, 1).sum(1)
    spread = 19 * met * p * (1 - p)
    step = -np.linalg.pinv(np.diag(spread.sum(1)) - spread) @ gradient
    np.testing.assert_allclose(steps.scores[7], found.scores + step, atol=1e-7)

    widths = [np.subtract(*resampling.interval(b.scores)[::-1]) for b in (fits, steps)]
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.3)
    assert widths[1].mean() == pytest.approx(widths[0].mean(), rel=0.1)

    scores[3, 1:] = np.nan
    alone = resampling.bootstrap(scores, n_resamples=100)
    drawn = np.random.default_rng(0).multinomial(19, np.full(19, 1 / 19), 100)[:, 0] > 0
    np.testing.assert_array_equal(np.isfinite(alone.scores[:, 3]), drawn)
    assert np.isfinite(np.delete(alone.scores, 3, 1)).all()


def test_clusters():
    s = scores(5, 12)
    twice = np.repeat(s, 2, axis=1)
    a, b = epp(s), epp(twice, clusters=np.repeat(np.arange(12), 2))
    np.testing.assert_allclose(a.standard_errors, b.standard_errors, rtol=1e-9)
    assert b.n_clusters == 12
    assert np.isnan(epp(twice, ridge=1.0, clusters=["x"] * 24).standard_errors).all()
    with pytest.raises(ValueError, match=r"clusters has shape \(3,\)"):
        epp(s, clusters=[0, 1, 2])


def test_rounds_of_examples_weaken_narrow_wins():
    rng = np.random.default_rng(0)
    p = [0.80, 0.795, 0.5]
    correct = [rng.random((3, 300)) < np.array(p)[:, None] for _ in range(8)]
    rounds, clusters = resampling.example_rounds(correct, n_resamples=50)
    assert rounds.shape == (3, 400) and clusters.tolist() == np.repeat(range(8), 50).tolist()
    np.testing.assert_allclose(
        rounds.reshape(3, 8, 50).mean(2), np.array([c.mean(1) for c in correct]).T, atol=0.015
    )
    fit = epp(rounds, clusters=clusters, ridge=0.1)
    wins = ranking.win_probabilities(fit).p
    assert 0.1 < wins[0, 1] < 0.9 and wins[0, 2] > 0.95


def test_paired_means_have_the_standard_deviation_of_the_difference():
    rng = np.random.default_rng(0)
    easy = rng.random(2000)
    correct = np.array([easy > 0.3, easy + 0.05 * rng.normal(size=2000) > 0.33])
    means = resampling.paired_means([correct, correct[:, :500]], n_resamples=2000)
    d = [(c[0].astype(float) - c[1]).var() / c.shape[1] for c in (correct, correct[:, :500])]
    assert (means[:, 0] - means[:, 1]).std() == pytest.approx(np.sqrt(sum(d)) / 2, rel=0.06)
    unpaired = np.sqrt(sum(c.var(1).sum() / c.shape[1] for c in (correct, correct[:, :500]))) / 2
    assert (means[:, 0] - means[:, 1]).std() < 0.6 * unpaired


def test_wilson_by_hand():
    # p = 0.5, n = 4, z = 1.95996: centre 0.5, half = z / (1 + z^2/4) sqrt(1/16 + z^2/64).
    low, high = resampling.wilson(0.5, 4)
    z2 = 1.959963984540054**2
    assert high - 0.5 == pytest.approx(np.sqrt(z2) / (1 + z2 / 4) * np.sqrt(1 / 16 + z2 / 64))
    assert low + high == pytest.approx(1)
    low, high = resampling.wilson(np.array([1.0, 0.0]), np.array([10, 10]))
    assert 0.6 < low[0] < high[0] == pytest.approx(1) and low[1] == pytest.approx(0, abs=1e-12)


def test_win_probabilities_reference_elo_and_fit():
    fit = epp([[3, 3, 3, 0], [1, 1, 2, 2]])  # three wins of four
    wins = ranking.win_probabilities(fit)
    assert wins.p[0, 1] == pytest.approx(0.75) and wins.p[1, 0] == pytest.approx(0.25)
    assert wins.low[0, 1] == pytest.approx(1 - wins.high[1, 0]) and wins.low[0, 1] < 0.75 < wins.high[0, 1]
    shifted, errors = ranking.relative_to(fit, 1)
    assert shifted.tolist() == pytest.approx([np.log(3), 0]) and errors[1] == 0
    assert errors[0] == pytest.approx(np.sqrt(4 / 3))
    assert ranking.elo([0, np.log(10)]).tolist() == pytest.approx([1500, 1900])
    good = ranking.goodness_of_fit(fit)
    # All wins explained but the one coin's width: null deviance 2 (3 log 1.5 + log 0.5).
    assert good.null_deviance == pytest.approx(2 * (3 * np.log(1.5) + np.log(0.5)))
    assert good.explained == pytest.approx(1) and good.concordance == 0.75 and good.matches == 4
    with pytest.warns(UserWarning):
        apart = ranking.win_probabilities(epp([[3, 3], [2, 2], [1, 0.0]]))
    assert np.isnan(apart.p[0, 1])


def test_top_counts_and_ranks():
    s = np.array([[5, 1.0], [4, 1], [4, 3], [1, np.nan]])
    assert ranking.top_counts(s, 2).tolist() == [2, 2, 2, 0]  # who shares the last place counts
    np.testing.assert_array_equal(ranking.ranks(s), [[1, 2.5], [2.5, 2.5], [2.5, 1], [4, np.nan]])


def test_bad_input():
    with pytest.raises(ValueError, match="n_resamples=0"):
        resampling.bootstrap(scores(), n_resamples=0)
    with pytest.raises(ValueError, match="ridge=-1"):
        resampling.bootstrap(scores(), ridge=-1)


def test_whole_groups_are_drawn():
    """Equal groups that are right or wrong as one: the same numbers as from one example of each."""
    one = np.array([[True, False, True, True], [False, False, True, False]])
    five, groups = np.repeat(one, 5, axis=1), np.repeat([7, 3, 5, 9], 5)
    # Groups are drawn by the order of their numbers.
    order = [1, 2, 0, 3]
    expected = resampling.paired_means([one[:, order]], n_resamples=50)
    assert np.array_equal(resampling.paired_means([five], n_resamples=50, groups=[groups]), expected)
    rounds = resampling.example_rounds([five, one], n_resamples=3, groups=[groups, None])[0]
    assert np.array_equal(rounds, resampling.example_rounds([one[:, order], one], n_resamples=3)[0])


def test_groups_of_different_sizes_count_by_their_examples():
    correct = np.array([[True, False, False, False]])
    drawn = resampling.paired_means([correct], n_resamples=200, groups=[np.array([0, 1, 1, 1])])
    # Both twice, or each once: one of one, none of six, one of four.
    assert set(drawn[:, 0]) == {1.0, 0.0, 0.25}


def test_interval_of_groups():
    correct, groups = np.repeat([True, False], 50), np.arange(100)
    low, high = resampling.group_interval(correct, groups)
    wilson = resampling.wilson(0.5, 100)
    assert (low, high) == pytest.approx(wilson, abs=0.02)
    assert resampling.group_interval(correct, groups // 50) == (0, 1)
    low, high = resampling.group_interval(np.ones(60, bool), np.arange(60) // 5)
    assert (low, high) == (pytest.approx(float(resampling.wilson(1.0, 12)[0])), 1.0)
