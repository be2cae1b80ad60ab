"""What a selection may have missed: exact bounds, the regression, when it cannot be said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from vtabjax.ranking import _joint_normal as jn
from vtabjax.ranking import left_out
from vtabjax.ranking.auditing import audit


def selected(n_models=40, n_tuned=12, noise=0.5, seed=0):
    """Accuracies with only the best by score fine-tuned, and the scores."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n_models)
    scores = z + noise * rng.standard_normal(n_models)
    accuracy = 0.6 + 0.05 * z
    accuracy[np.argsort(-scores)[n_tuned:]] = np.nan
    return accuracy, scores


# The audit.


@given(st.integers(2, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_audit_bounds_are_those_of_the_hypergeometric_distribution(n_left, data):
    n_drawn = data.draw(st.integers(1, n_left))
    n_better = data.draw(st.integers(0, n_drawn))
    found = audit(n_left, n_drawn, n_better, level=0.9)
    possible = []
    for number in range(n_better, n_left - n_drawn + n_better + 1):
        p = [stats.hypergeom.pmf(k, n_left, number, n_drawn) for k in range(n_drawn + 1)]
        if min(sum(p[n_better:]), sum(p[: n_better + 1])) > 0.05 - 1e-12:
            possible.append(number)
    assert (found.number_low, found.number_high) == (min(possible), max(possible))
    assert found.overlooked_at_most == pytest.approx(1 - n_drawn / n_left)


def test_a_probability_of_exactly_the_tail_counts():
    """None of twelve drawn although two of sixteen are better: 91 / 1820."""
    assert audit(16, 12, 0, level=0.9).number_high == 2


def test_audit_share_is_clopper_and_pearsons():
    assert audit(300, 10, 0).share_high == pytest.approx(1 - 0.05 ** (1 / 10))
    found = audit(300, 10, 3)
    assert found.share_low == pytest.approx(stats.beta.ppf(0.05, 3, 8))
    assert found.share_high == pytest.approx(stats.beta.ppf(0.95, 4, 7))


def test_audit_of_all_knows_all():
    found = audit(7, 7, 2)
    assert (found.number_low, found.number_high, found.overlooked_at_most) == (2, 2, 0.0)


@pytest.mark.parametrize("numbers", [(5, 6, 0), (5, 2, 3), (5, 0, 0), (5, 2, -1)])
def test_audit_refuses_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="within the next"):
        audit(*numbers)


# The regression.


def test_predictive_distribution_of_a_regression_is_students():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(15)
    y = 2 * x + rng.standard_normal(15)
    joint = jn.fit(np.column_stack([x, y]), 20_000, np.random.default_rng(0))
    mean, spread = jn.conditional(joint, np.array([[0.7]]))
    fit = stats.linregress(x, y)
    error = y - fit.intercept - fit.slope * x
    scale = np.sqrt((error @ error) / 13 * (1 + 1 / 15 + (0.7 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    centre = fit.intercept + 0.7 * fit.slope
    for bar in (0.0, 1.0, 3.0, 5.0):
        exact = stats.t.sf((bar - centre) / scale, 13)
        assert stats.norm.sf((bar - mean) / spread).mean() == pytest.approx(exact, abs=0.006)


def test_what_is_unknown_of_the_scores_is_integrated_out():
    covariance = np.array([[[2.0, 0.5, 0.7], [0.5, 1.0, 0.6], [0.7, 0.6, 1.5]]])
    joint = jn.JointNormal(np.array([[1.0, 2.0, 3.0]]), covariance, np.ones(1))
    rows = np.array([[2.0, np.nan], [np.nan, 1.0], [np.nan, np.nan], [2.0, 1.0]])
    mean, spread = jn.conditional(joint, rows)
    both = np.linalg.solve(covariance[0, :2, :2], covariance[0, :2, 2])
    expected = [3 + 0.7 / 2, 3 - 0.6, 3.0, 3 + both @ [1.0, -1.0]]
    variance = [1.5 - 0.49 / 2, 1.5 - 0.36, 1.5, 1.5 - both @ covariance[0, :2, 2]]
    assert mean[0] == pytest.approx(expected, abs=1e-12)
    assert spread[0] ** 2 == pytest.approx(variance, abs=1e-12)


def test_a_second_score_missing_where_the_accuracy_is_known():
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6, 0.5], [0.6, 1.0, 0.7], [0.5, 0.7, 1.0]])
    values = rng.multivariate_normal([0, 0, 0], covariance, 600)
    values[values[:, 0] < 0, 1] = np.nan  # not measured in the second stage, fine-tuned nevertheless
    joint = jn.fit(values, 150, rng)
    assert joint.covariance.mean(0) == pytest.approx(covariance, abs=0.12)


def test_perfect_scores_leave_nothing_to_miss():
    accuracy, scores = selected(noise=0.0)
    found = left_out.estimate(accuracy, [scores])
    for estimate in (found.chance_missed, found.expected_regret):
        assert (estimate.value, estimate.low, estimate.method) == (0.0, 0.0, "regression")
        assert estimate.high < 1e-9


def test_a_censored_regression_has_the_likelihoods_maximum():
    rng = np.random.default_rng(3)
    x = rng.standard_normal(60)
    y = 1 + 2 * x + rng.standard_normal(60)
    floor = float(np.median(y))

    def loss(parameters):
        b0, b1, log_s = parameters
        z = (y - b0 - b1 * x) / np.exp(log_s)
        below = stats.norm.logcdf((floor - b0 - b1 * x) / np.exp(log_s))
        return -np.where(y < floor, below, stats.norm.logpdf(z) - log_s).sum()

    b0, b1, log_s = optimize.minimize(loss, [0.0, 1.0, 0.0]).x
    joint = jn.fit(np.column_stack([x, y]), 3000, np.random.default_rng(0), floor)
    mean, spread = jn.conditional(joint, np.array([[0.0], [1.0]]))
    assert mean.mean(0) == pytest.approx([b0, b0 + b1], abs=0.1)
    assert np.median(spread) == pytest.approx(np.exp(log_s), rel=0.1)


def test_accuracies_that_are_known_with_errors_have_the_likelihoods_maximum():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(80)
    error = np.where(rng.uniform(size=80) < 0.6, 1.5, 0.0)
    y = 1 + 2 * x + 0.5 * rng.standard_normal(80) + error * rng.standard_normal(80)

    def loss(parameters):
        b0, b1, log_s = parameters
        spread = np.hypot(np.exp(log_s), error)
        return -stats.norm.logpdf(y, b0 + b1 * x, spread).sum()

    b0, b1, log_s = optimize.minimize(loss, [0.0, 1.0, 0.0]).x
    joint = jn.fit(np.column_stack([x, y]), 3000, np.random.default_rng(0), error=error)
    mean, spread = jn.conditional(joint, np.array([[0.0], [1.0]]))
    assert mean.mean(0) == pytest.approx([b0, b0 + b1], abs=0.05)
    assert np.median(spread) == pytest.approx(np.exp(log_s), rel=0.1)
    # Without them the spread would be that of the errors as well.
    assert np.median(jn.conditional(jn.fit(np.column_stack([x, y]), 500, rng), x[:1, None])[1]) > 1.0


def test_the_error_of_a_mean_over_some_tasks():
    """What models on 5 of 19 tasks are off by, when some have all; nothing where all have all."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 1)) + rng.standard_normal(19) + 0.3 * rng.standard_normal((300, 19))
    seen = values.copy()
    seen[50:, 5:] = np.nan
    error = left_out._errors_of_means(seen)
    off = left_out.mean_over_tasks(seen) - values.mean(1)
    assert error[:50].tolist() == [0.0] * 50
    assert error[50:] == pytest.approx(0.3 * np.sqrt(1 / 5 - 1 / 19), rel=0.05)
    assert off[50:].std() == pytest.approx(error[50], rel=0.15)
    assert not left_out._errors_of_means(values[:9]).any()
    assert not left_out._errors_of_means(np.where(np.arange(9)[:, None] < 5, values[:9], np.nan)).any()


def test_how_far_the_worse_half_is_behind_says_nothing():
    accuracy, scores = selected(n_tuned=24)
    worse = np.argsort(accuracy)[:12]
    found = left_out.chance_missed(accuracy, [scores], n_draws=200)
    accuracy[worse] -= 0.3
    again = left_out.chance_missed(accuracy, [scores], n_draws=200)
    assert again == found and 0 < found.low < found.value < found.high


def test_margin():
    accuracy = np.where(np.arange(20) < 12, 0.3 + 0.01 * np.arange(20), np.nan)
    small, large = (left_out.estimate(accuracy, [np.arange(20.0)], margin=m) for m in (0.07, 0.09))
    assert small.chance_missed.value == pytest.approx(1.0)
    assert small.expected_regret.value == pytest.approx(0.01, rel=0.01)
    assert large.chance_missed.value == pytest.approx(0.0, abs=1e-9)


def test_perfect_scores_and_a_model_that_was_overlooked():
    accuracy = np.where(np.arange(20) < 12, 0.3 + 0.01 * np.arange(20), np.nan)
    found = left_out.estimate(accuracy, [np.arange(20.0)])
    assert found.chance_missed.value == pytest.approx(1.0)
    assert found.expected_regret.value == pytest.approx(0.08, rel=0.01)
    assert found.by_model[12:] == pytest.approx(1.0)
    assert np.isnan(found.by_model[:12]).all()


def test_a_tie_is_not_better():
    scores = np.array([*np.arange(10.0), 9.0])
    accuracy = np.array([*(0.5 + 0.01 * np.arange(10)), np.nan])
    assert left_out.chance_missed(accuracy, [scores]).value == pytest.approx(0.0, abs=1e-9)


def test_useless_scores_make_models_exchangeable():
    """The best of 30 is among the 15 that were not fine-tuned in half of the cases, and that is what is said."""
    rng = np.random.default_rng(0)
    said = []
    for seed in range(40):
        accuracy = np.where(np.arange(30) < 15, 0.6 + 0.05 * rng.standard_normal(30), np.nan)
        said.append(left_out.chance_missed(accuracy, [rng.standard_normal(30)], n_draws=200, seed=seed).value)
    assert np.mean(said) == pytest.approx(0.5, abs=0.1)


def test_the_worse_the_winner_the_more_was_missed():
    accuracy, scores = selected()
    order = np.argsort(accuracy)[:12]  # NaN come last
    found = [left_out.estimate(accuracy, [scores], winner=int(i), n_draws=200) for i in order]
    chances, regrets = (
        [getattr(f, name).value for f in found] for name in ("chance_missed", "expected_regret")
    )
    assert (np.diff(chances) < 0).all() and (np.diff(regrets) < 0).all()
    assert left_out.chance_missed(accuracy, [scores], n_draws=200).value == chances[-1]


def test_scales_of_scores_and_order_of_models_do_not_matter():
    accuracy, scores = selected()
    plain = left_out.estimate(accuracy, [scores], n_draws=200)
    moved = left_out.estimate(accuracy, [1e6 * scores - 3], n_draws=200)
    mirrored = left_out.estimate(accuracy[::-1], [scores[::-1]], n_draws=200)
    assert moved.chance_missed.value == pytest.approx(plain.chance_missed.value, rel=1e-6)
    assert moved.by_model == pytest.approx(plain.by_model, rel=1e-6, nan_ok=True)
    assert mirrored.chance_missed.value == pytest.approx(plain.chance_missed.value, rel=0.5)


def test_interval_and_what_stands_beside_it():
    accuracy, scores = selected()
    scores[np.flatnonzero(np.isnan(accuracy))[0]] = np.nan
    found = left_out.estimate(accuracy, [scores])
    for estimate in (found.chance_missed, found.expected_regret):
        assert 0 <= estimate.low <= estimate.value <= estimate.high
        assert estimate.counts == {"fine_tuned": 12, "left_out": 28, "audited": 0, "without_scores": 1}
        assert estimate.assumptions[-1] == left_out.AS_MEASURED
    wider = left_out.chance_missed(accuracy, [scores], level=0.99)
    assert wider.low <= found.chance_missed.low and wider.high >= found.chance_missed.high


def test_nobody_beats_all_examples_right():
    accuracy, scores = selected()
    found = left_out.estimate(accuracy + (1 - np.nanmax(accuracy)), [scores])
    assert (found.chance_missed.value, found.expected_regret.value) == (0.0, 0.0)


def test_the_noise_of_test_examples():
    accuracy, scores = selected()
    none, tiny, all_of_it = (
        left_out.estimate(accuracy, [scores], test_error=e, n_draws=200) for e in (0.0, 1e-7, 1.0)
    )
    assert tiny.expected_regret.value == pytest.approx(none.expected_regret.value, rel=1e-3)
    assert tiny.chance_missed.assumptions[-1] == left_out.AS_TRUE
    # Nothing but noise: true accuracies lie on the line, where low scores promise less.
    assert all_of_it.expected_regret.value < none.expected_regret.value


# Several tasks, missing values.


def test_mean_over_tasks_of_what_is_additive():
    models, tasks = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 0.2, 0.1])
    values = models[:, None] + tasks
    expected = values.mean(1)
    values[[0, 1, 3], [0, 2, 1]] = np.nan
    assert left_out.mean_over_tasks(values) == pytest.approx(expected, abs=1e-12)
    values[2] = np.nan
    assert np.isnan(left_out.mean_over_tasks(values)).tolist() == [False, False, True, False]


def test_tasks_of_other_scales_count_alike():
    accuracy, scores = selected()
    several = left_out.estimate(
        np.column_stack([accuracy, accuracy - 0.1]), [np.column_stack([scores, 100 * scores])], n_draws=200
    )
    one = left_out.estimate(accuracy - 0.05, [scores], n_draws=200)
    assert several.chance_missed.value == pytest.approx(one.chance_missed.value, rel=1e-6)


def test_infinite_scores_are_the_extremes():
    accuracy, scores = selected()
    worst = int(np.argmin(scores))
    limited = scores.copy()
    limited[worst] = np.sort(scores)[1]
    scores[worst] = -np.inf
    found = [left_out.chance_missed(accuracy, [s], n_draws=200).value for s in (scores, limited)]
    assert found[0] == found[1]


# Cannot be said.


@pytest.mark.parametrize(
    "n_tuned, n_scores, reason",
    [
        (5, 1, "5 fine-tuned models have a score in every stage; a regression needs 6"),
        (12, 0, "no stage before"),
    ],
)
def test_too_little_to_say_anything(n_tuned, n_scores, reason):
    accuracy, scores = selected(n_tuned=n_tuned)
    for estimate in left_out.estimate(accuracy, [scores] * n_scores)[:2]:
        assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
        assert estimate.method == "cannot be said" and reason in estimate.reason


def test_an_audit_bounds_the_chance_where_there_is_no_regression():
    accuracy, scores = selected(n_models=14, n_tuned=3)
    drawn = np.zeros(14, bool)
    drawn[np.flatnonzero(np.isnan(accuracy))[:2]] = True
    accuracy[drawn] = 0.1
    found = left_out.estimate(accuracy, [scores], audited=drawn)
    assert found.audit == audit(11, 2, 0)
    assert (found.chance_missed.value, found.chance_missed.low) == (None, 0.0)
    assert found.chance_missed.high == pytest.approx(1 - 2 / 11)
    assert (found.chance_missed.method, found.expected_regret.method) == ("audit", "cannot be said")


def test_an_audited_model_that_beat_the_selected_ones():
    accuracy, scores = selected()
    drawn = np.zeros(40, bool)
    drawn[np.flatnonzero(np.isnan(accuracy))[:3]] = True
    accuracy[drawn] = [0.99, 0.1, 0.1]
    assert left_out.estimate(accuracy, [scores], audited=drawn).audit == audit(28, 3, 1)


def test_nothing_left_out():
    found = left_out.chance_missed(np.linspace(0.1, 0.9, 9), [np.arange(9.0)])
    assert (found.value, found.low, found.high, found.method) == (0.0, 0.0, 0.0, "nothing was left out")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [np.zeros(3)]}, "a row for each model"),
        ({"accuracy": np.full(40, np.nan)}, "nobody was fine-tuned"),
        ({"audited": np.zeros(40)}, "one bool for each model"),
        ({"winner": 40}, "not the index"),
        ({"level": 1.0}, "not between 0 and 1"),
        ({"test_error": -1.0}, "test_error=-1.0"),
    ],
)
def test_wrong_input(change, message):
    accuracy, scores = selected()
    given = {"accuracy": accuracy, "scores": [scores], **change}
    with pytest.raises(ValueError, match=message):
        left_out.estimate(given.pop("accuracy"), given.pop("scores"), **given)
