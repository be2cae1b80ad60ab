"""Agreement of a proxy with fine-tuning: worked-out cases, and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from vtabjax.ranking import agreement


def test_worked_out():
    proxy = [0.3, 0.9, 0.1, 0.5]
    accuracy = [0.8, 0.7, 0.5, 0.6]
    got = agreement(proxy, accuracy)
    # Best by proxy: models 1, 3, 0. Of the six pairs, 0-1, 0-3 are discordant: tau = (4 - 2) / 6.
    assert got["kendall"] == pytest.approx(1 / 3)
    # Ranks 3 1 4 2 and 1 2 4 3: sum of squared differences 4 + 1 + 0 + 1 = 6, 1 - 6 * 6 / (4 * 15).
    assert got["spearman"] == pytest.approx(0.4)
    assert (
        got["rel@1"] == pytest.approx(7 / 8) and got["regret@1"] == pytest.approx(0.1) and got["hit@1"] == 0
    )
    assert got["rel@3"] == 1 and got["regret@3"] == 0 and got["hit@3"] == 1
    assert got["rel@5"] == 1 and got["n"] == 4


def test_weighted_kendall_by_its_definition():
    """Vigna's sum over pairs, weights 1/(r+1) + 1/(s+1) with zero-based ranks, averaged over both orders."""
    rng = np.random.default_rng(0)
    p, a = rng.permutation(9).astype(float), rng.permutation(9).astype(float)

    def by(order):
        rank = np.empty(9)
        rank[np.argsort(-order)] = np.arange(9)
        top = bottom = 0.0
        for i in range(9):
            for j in range(i):
                w = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
                top += w * np.sign(p[i] - p[j]) * np.sign(a[i] - a[j])
                bottom += w
        return top / bottom

    assert agreement(p, a)["weighted_kendall"] == pytest.approx((by(p) + by(a)) / 2)


def test_is_scipy_with_ties():
    rng = np.random.default_rng(1)
    p, a = rng.integers(0, 5, 30) / 4, rng.integers(0, 8, 30) / 8
    got = agreement(p, a)
    assert got["weighted_kendall"] == pytest.approx(stats.weightedtau(p, a).statistic)
    assert got["kendall"] == pytest.approx(stats.kendalltau(p, a).statistic)
    assert got["pearson"] == pytest.approx(np.corrcoef(p, a)[0, 1])
    assert got["spearman"] == pytest.approx(np.corrcoef(stats.rankdata(p), stats.rankdata(a))[0, 1])


def test_equal_proxies_count_by_index_and_equal_accuracies_all_hit():
    got = agreement([1.0, 1.0, 0.0], [0.5, 0.9, 0.9])
    assert got["hit@1"] == 0 and got["regret@1"] == pytest.approx(0.4)
    assert agreement([0.0, 1.0, 0.0], [0.9, 0.9, 0.2])["hit@1"] == 1


def test_monotone_proxy():
    a = np.linspace(0.1, 0.9, 7)
    up, down = agreement(np.exp(9 * a), a), agreement(-a, a)
    for name in ("weighted_kendall", "kendall", "spearman"):
        assert up[name] == pytest.approx(1) and down[name] == pytest.approx(-1)
    assert up["regret@1"] == 0 and down["regret@1"] == pytest.approx(0.8)


def test_missing_models_are_left_out():
    p, a = [0.2, np.nan, 0.4, 0.6], [0.3, 0.99, 0.5, np.nan]
    assert agreement(p, a) == agreement([0.2, 0.4], [0.3, 0.5])
    assert agreement(p, a)["n"] == 2


@pytest.mark.parametrize(("p", "a"), [([1, 1, 1], [0.1, 0.2, 0.3]), ([1, 2, 3], [0.5] * 3), ([1], [0.5])])
def test_constant_input_has_no_correlation(p, a):
    got = agreement(p, a)
    assert all(math.isnan(got[name]) for name in ("weighted_kendall", "kendall", "pearson", "spearman"))
    assert not math.isnan(got["regret@1"])


def test_infinite_proxy_ranks_last_but_has_no_pearson():
    got = agreement([-np.inf, 1.0, 2.0], [0.1, 0.2, 0.3])
    assert got["kendall"] == pytest.approx(1) and got["weighted_kendall"] == pytest.approx(1)
    assert math.isnan(got["pearson"])


def test_nothing_to_compare():
    got = agreement([np.nan], [0.4])
    assert got["n"] == 0 and all(math.isnan(v) for name, v in got.items() if name != "n")
    assert math.isnan(agreement([1.0, 2.0], [0.0, 0.0])["rel@1"])


def test_shapes():
    with pytest.raises(ValueError, match=r"proxy has shape \(2,\) and accuracy \(3,\)"):
        agreement([1, 2], [1, 2, 3])
