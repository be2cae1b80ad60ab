"""Trust in proxies: resampled agreement is scipy's on copies, intervals cover, baselines are what they say."""

import numpy as np
import pytest

from vtabjax.ranking import proxy_agreement


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_agreement_is_agreement_of_the_copies(ties):
    rng = np.random.default_rng(0)
    p, a = rng.normal(size=12), rng.normal(size=12)
    if ties:
        p, a = np.round(p), np.round(a)
    p[3] = np.nan
    weights = rng.multinomial(12, np.full(12, 1 / 12), 20)
    got = proxy_agreement.resampled_agreement(p, a, weights)
    for b, w in enumerate(weights):
        want = proxy_agreement.agreement(np.repeat(p, w), np.repeat(a, w))
        for name in ("kendall", "pearson", "spearman"):
            assert got[name][b] == pytest.approx(want[name], nan_ok=True), name
        if not ties:  # among models that tie in both, scipy's order is that of its sort
            assert got["weighted_kendall"][b] == pytest.approx(want["weighted_kendall"], nan_ok=True)
        want = proxy_agreement.agreement(p[w > 0], a[w > 0])  # copies count once
        for name in ("regret@1", "regret@3", "hit@1", "hit@3", "rel@3"):
            assert got[name][b] == pytest.approx(want[name], nan_ok=True), name


def test_without_resampling_it_is_agreement():
    rng = np.random.default_rng(1)
    p, a = rng.integers(0, 5, 30).astype(float), rng.random(30)
    got, want = (
        proxy_agreement.resampled_agreement(p, a, np.ones((1, 30), int)),
        proxy_agreement.agreement(p, a),
    )
    for name, value in got.items():
        assert value[0] == pytest.approx(want[name]), name


def test_nothing_and_constants():
    nothing = proxy_agreement.resampled_agreement(np.full(3, np.nan), np.ones(3), np.ones((2, 3), int))
    assert all(np.isnan(v).all() for v in nothing.values())
    constant = proxy_agreement.resampled_agreement(np.ones(3), np.arange(3.0), np.ones((2, 3), int))
    assert np.isnan(constant["kendall"]).all() and np.isnan(constant["pearson"]).all()
    infinite = proxy_agreement.resampled_agreement(
        np.array([-np.inf, 1, 2]), np.arange(3.0), np.ones((1, 3), int)
    )
    assert infinite["kendall"][0] == pytest.approx(1) and np.isnan(infinite["pearson"]).all()


def test_one_draw_without_models_spoils_no_other():
    p, a = np.array([1.0, 2, 3, np.nan]), np.array([1.0, 3, 2, 4])
    got = proxy_agreement.resampled_agreement(p, a, np.array([[0, 0, 0, 4], [2, 1, 1, 0]]))
    assert np.isnan(got["pearson"][0]) and np.isfinite(got["pearson"][1])


def test_per_task_mean_and_interval():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5))
    p = a + rng.normal(size=a.shape)
    p[:, 4] = np.nan
    got = proxy_agreement.compare_with_finetuning(p, a, n_resamples=400)
    for t in range(4):
        assert got.per_task["kendall"][t] == proxy_agreement.agreement(p[:, t], a[:, t])["kendall"]
    assert got.mean["kendall"] == pytest.approx(np.mean(got.per_task["kendall"][:4]))
    assert got.n_tasks["kendall"] == 4 and got.n_models.tolist() == [40] * 4 + [0]
    assert got.low["kendall"] < got.mean["kendall"] < got.high["kendall"]
    # Scales that differ by task change nothing: tasks are never pooled.
    scaled = proxy_agreement.compare_with_finetuning(p * 10.0 ** np.arange(5) + 7, a, n_resamples=0)
    assert scaled.mean["kendall"] == pytest.approx(got.mean["kendall"])
    again = proxy_agreement.compare_with_finetuning(p, a, n_resamples=400)
    assert again.low == got.low


def test_interval_covers_what_other_models_would_give():
    rng = np.random.default_rng(2)

    def draw(m):
        a = rng.normal(size=(m, 3))
        return a + rng.normal(size=a.shape), a

    truth = proxy_agreement.compare_with_finetuning(*draw(4000), n_resamples=0).mean["spearman"]
    covered = 0
    for _ in range(40):
        got = proxy_agreement.compare_with_finetuning(*draw(30), n_resamples=200)
        covered += got.low["spearman"] <= truth <= got.high["spearman"]
    assert covered >= 33


def test_static_proxy_and_baseline():
    a = np.array([[0.1, 0.2, 0.6], [0.2, 0.4, 0.3]])
    np.testing.assert_allclose(proxy_agreement.mean_of_other_tasks(a)[0], [0.4, 0.35, 0.15])
    assert np.isnan(proxy_agreement.mean_of_other_tasks(a[:, :1])).all()
    got = proxy_agreement.compare_with_finetuning([1.0, 2.0], a, n_resamples=10)
    assert got.per_task["kendall"].tolist() == [1, 1, -1] and np.isnan(got.low["kendall"])


def test_leave_one_family_out_shows_who_decides():
    """Within families the proxy is useless, between them it is right: without one of two families nothing is left."""
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.random((10, 4)), 5 + rng.random((10, 4))])
    p = np.concatenate([rng.random((10, 4)), 5 + rng.random((10, 4))])
    families = ["a"] * 10 + ["b"] * 10
    assert proxy_agreement.compare_with_finetuning(p, a, n_resamples=0).mean["weighted_kendall"] > 0.5
    without = proxy_agreement.without_each_group(p, a, families)
    assert set(without) == {"a", "b"} and max(map(abs, without.values())) < 0.4
    assert proxy_agreement.without_each_group(p[:3], a[:3], ["x", "y", "y"]) == {}
