"""The simulation of selections: populations with a known truth, calibration in small, and what the page says of it."""

import json
import sys

import conftest
import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(conftest.ROOT / "benchmarks"))
import _populations
import select_simulation


def test_the_simulations_truth_in_closed_form():
    population = _populations.named("normal", 1)
    drawn = _populations.draw(population, 4, 0.75, np.random.default_rng(0))
    left = np.array([True, True, False, False])
    found = _populations.truth(population, drawn, np.zeros(4, bool), left, 0.6)
    mean, spread = (
        0.6 + 0.05 * drawn.scores[0, :2, 0] / (1 + 0.75**2),
        0.05 * np.sqrt(0.75**2 / (1 + 0.75**2)),
    )
    assert found.chance == pytest.approx(1 - np.prod(stats.norm.cdf((0.6 - mean) / spread)))


def test_the_simulations_truth_by_drawing():
    """Nineteen tasks, sixteen components, two stages: how often a model left out is better, by what it was told."""
    population = _populations.named("published", 19)
    rng = np.random.default_rng(0)
    said, happened, regret, short = [], [], [], []
    for _ in range(150):
        drawn = _populations.draw(population, 6, 1.0, rng)
        left, second = np.arange(6) < 4, np.arange(6) < 2
        mean = drawn.accuracy.mean(1)
        found = _populations.truth(population, drawn, second, left, 0.65)
        said.append(found.chance)
        regret.append(found.regret)
        happened.append(mean[left].max() > 0.65)
        short.append(max(0.0, mean[left].max() - 0.65))
    assert np.mean(said) == pytest.approx(np.mean(happened), abs=0.08)
    assert np.mean(regret) == pytest.approx(np.mean(short), abs=0.006)


def test_funnel_by_mean_rank_with_ties():
    first = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.5], [0.0, 0.0]])
    second = np.array([[1.0, 1.0], [9.0, 9.0], [2.0, 2.0], [5.0, 5.0]])
    kept = select_simulation.funnel(np.array([first, second]), (0.5, 1))
    # Mean ranks 2, 2, 2, 4; mean scores 2, 2, 2.25; then the order given.
    assert kept[0].tolist() == [True, False, True, False]
    assert kept[1].tolist() == [False, False, True, False]


def test_ways_of_choosing():
    setting = select_simulation.Setting("normal", 1, 0.6, 10, 300)
    draws = [select_simulation.chosen(setting, seed) for seed in range(4)]
    for d in draws:
        assert [d[f"first_{n}"]["n"] for n in (20, 30, 40)] == [20, 30, 40]
        assert 20 <= d["finalists"]["n"] <= 30 and d["finalists"]["n"] <= d["engine"]["n"]
        assert d["engine"]["short"] <= d["finalists"]["short"]
    found = select_simulation.chosen_summary(draws)
    assert found["engine"]["within_1"] >= 0.5 and found["engine"]["within_2"] >= found["engine"]["within_1"]
    assert found["engine"]["fine_tuned"] > 20 and found["draws"] == 4


def test_what_the_simulation_trains_is_within_the_cost_of_so_many_models():
    """Nobody is stopped on one task; on six, those that are make room for more models at the same cost."""
    cap = select_simulation.adding.most(20, select_simulation.DEFAULTS.add_at_most)
    rng = np.random.default_rng(0)
    for n_tasks in (1, 6):
        drawn = _populations.draw(_populations.named("normal", n_tasks), 120, 4.0, rng)
        finalists = np.argsort(-drawn.scores.sum(0).mean(1))[:20]
        done = select_simulation._last_stage(drawn.accuracy, list(drawn.scores), finalists, seed=0)
        whole, some, cost = done.all(1).sum(), done.any(1).sum(), done.mean(1).sum()
        assert done[finalists].any(1).all() and cost <= cap
        if n_tasks == 1:
            assert whole == some == cost == cap  # scores say little: it goes on to the end
        else:
            assert whole < cost < some and some > cap


def test_the_simulations_examples_have_the_scores_as_accuracies():
    scores = np.array([[0.5, 0.91], [0.75, 1.2], [0.25, -0.1]])
    found = _populations.examples(scores, 100, np.random.default_rng(0))
    assert np.array([c.mean(1) for c in found]).T == pytest.approx(np.clip(scores, 0, 1))
    # Errors of two models that are right on half correlate by about a third (arcsine law, correlation one half).
    two = _populations.examples(np.full((2, 1), 0.5), 100_000, np.random.default_rng(1))[0]
    assert (two[0] & two[1]).mean() == pytest.approx(1 / 4 + np.arcsin(0.5) / (2 * np.pi), abs=0.005)


@pytest.mark.parametrize("audited", [0, 6])
def test_calibrated_in_small(audited):
    setting = select_simulation.Setting("normal", 1, 0.6, audited, 80)
    draws = [select_simulation.simulate(setting, seed, n_parameters=200) for seed in range(20)]
    found = select_simulation.summary(draws)
    assert found["chance"]["coverage"] >= 0.75
    assert found["chance"]["said"] == pytest.approx(found["chance"]["true"], abs=0.15)
    assert found["chance"]["true"] == pytest.approx(found["chance"]["happened"], abs=0.2)


def test_the_page_has_the_committed_figures():
    text = (conftest.ROOT / "benchmarks" / "results" / "select_simulation.json").read_text(encoding="utf-8")
    page = (conftest.ROOT / "docs" / "select.md").read_text(encoding="utf-8")
    for name in ("table", "choices_table", "end_table"):
        table = getattr(select_simulation, name)
        assert table(json.loads(text)) in page, "run: python benchmarks/select_simulation.py"
