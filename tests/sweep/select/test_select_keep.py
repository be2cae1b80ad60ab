"""Stages, who is kept, and who has won: pure functions against closed forms and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vtabjax.options import UsageError
from vtabjax.sweep.select import keep, shown, stages, verdict
from vtabjax.sweep.select.stages import Stage


def test_grammar():
    found = stages.parse("knn:25%, linear:20 ,finetune")
    assert found == [Stage("knn", percent=25), Stage("linear", number=20), Stage("finetune")]
    assert [str(stage) for stage in found] == ["knn:25%", "linear:20", "finetune"]
    assert [found[0].keeps(n) for n in (1, 3, 4, 5, 300)] == [1, 1, 1, 2, 75]
    assert [found[1].keeps(n) for n in (3, 20, 300)] == [3, 20, 20]
    assert found[2].keeps(7) == 7
    assert Stage("knn", percent=7).keeps(100) == 7  # 7.000000000000001 in floating point
    assert stages.parse("finetune") == [Stage("finetune")]
    assert stages.parse("transferability:12.5%,linear") == [
        Stage("transferability", percent=12.5),
        Stage("linear"),
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "separated by commas, such as knn:25%,linear:20,finetune"),
        ("knn:2,,finetune", "separated by commas"),
        ("knm:2,finetune", "'knm' is not a protocol; did you mean knn?"),
        ("xyz,finetune", "'xyz' is not a protocol; choose from knn, linear, transferability, finetune"),
        ("knn:2,linear:1,knn", "knn comes twice"),
        ("knn:2,finetune:5", "the last stage keeps all that reach it; write finetune without a number"),
        ("knn,finetune", "knn has to say how many models go on, such as knn:25%"),
        ("knn:0,finetune", "'knn:0' has to keep a number of models, 1 or more"),
        ("knn:0%,finetune", "'knn:0%' has to keep"),
        ("knn:101%,finetune", "a share above 0 % up to 100 %"),
        ("knn:-3,finetune", "'knn:-3' has to keep"),
        ("knn:2.5,finetune", "'knn:2.5' has to keep"),
        ("knn:,finetune", "'knn:' has to keep"),
    ],
)
def test_what_the_grammar_refuses(text, message):
    with pytest.raises(UsageError) as error:
        stages.parse(text)
    assert str(error.value).startswith(f"config.stages={text!r}: ") and message in str(error.value)


def accuracies(rng, m, t, n=200):
    """Per-example results of m models on t tasks, and their accuracies."""
    skill = rng.uniform(0.3, 0.9, (m, 1))
    correct = [rng.random((m, n)) < skill for _ in range(t)]
    return np.array([c.mean(1) for c in correct]).T, correct


def test_the_first_by_mean_rank_are_kept():
    scores = np.array([[0.9, 0.1], [0.8, 0.8], [0.7, 0.9], [0.1, 0.2]])
    found = keep.choose(scores, 2)
    # Ranks 1, 4; 2, 2; 3, 1; 4, 3.
    assert found.mean_rank.tolist() == [2.5, 2.0, 2.0, 3.5]
    assert found.place.tolist() == [
        3,
        1,
        2,
        4,
    ]  # equal mean ranks: the mean score is the same, too, the order decides
    assert found.reason == ["behind", "first", "first", "behind"]
    assert np.isnan(found.chance).all()


def test_points_behind_have_no_sign():
    rows = [
        {"place": 1, "model": "a", "score": 0.9, "behind": 0.0, "behind_interval": [0.0, 0.0]},
        {"place": 2, "model": "b", "score": 0.87, "behind": 0.03, "behind_interval": [-0.01, 0.07]},
    ]
    for row in rows:
        row |= {"scores": {"digits": row["score"]}, "strength": None}
    text = shown.ranking(
        {
            "ranking": rows,
            "method": "",
            "judged_by": "finetune",
            "stages": [{"protocol": "finetune", "score": "accuracy"}],
        }
    )
    assert "3.0" in text and "-1.0 to 7.0" in text and "+" not in text.split("behind:")[0]


def test_one_task_goes_by_the_score():
    scores = np.random.default_rng(0).random((20, 1))
    found = keep.choose(scores, 5)
    assert set(np.flatnonzero(found.kept)) == set(np.argsort(-scores[:, 0])[:5])


def test_a_later_stage_counts_what_earlier_ones_found():
    """Standardised over the three that are left: (-1, 0, 1) and (1, -1, 0) times 1.22; the third has most."""
    first, second = np.array([[0.1], [0.2], [0.3]]), np.array([[0.9], [0.5], [0.7]])
    assert keep.added_up([first, second])[:, 0] == pytest.approx(np.sqrt(1.5) * np.array([0, -1, 1]))
    assert keep.choose(second, 1).place.tolist() == [1, 3, 2]
    found = keep.choose(second, 1, before=[keep.Before(first)])
    assert found.place.tolist() == [2, 3, 1] and found.reason == ["behind", "behind", "first"]
    # Without an earlier score a model counts as average there: 0, -1, 1 and 1.22 times 1, -1, 0.
    lacking = keep.choose(second, 1, before=[keep.Before(np.array([[np.nan], [0.2], [0.3]]))])
    assert lacking.place.tolist() == [1, 3, 2]


def test_the_examples_of_earlier_stages_are_drawn_again_as_well():
    """Equal on what this stage tests, told apart by one of ten examples of the earlier one, if it is drawn."""
    correct = [np.zeros((2, 10), bool)]
    before = [np.zeros((2, 10), bool)]
    before[0][0, 0] = True
    found = keep.chance_of_first(correct, 1, before=[keep.Before(np.zeros((2, 1)), before)], resamples=20_000)
    assert found[0] == pytest.approx(1 - 0.9**10 / 2, abs=0.01) and found.sum() == pytest.approx(1)
    fixed = keep.chance_of_first(correct, 1, before=[keep.Before(np.array([[0.2], [0.1]]))], resamples=50)
    assert fixed.tolist() == [1, 0]


def test_who_may_belong_to_the_first_is_kept_up_to_a_cap():
    rng = np.random.default_rng(1)
    correct = [rng.random((6, 50)) < 0.5]
    scores = correct[0].mean(1, keepdims=True)
    found = keep.choose(scores, 2, correct=correct, keep_at_most=2)
    assert found.cap == 4 and found.kept.sum() == 4 and found.reason.count("capped") >= 1
    close = [i for i, reason in enumerate(found.reason) if reason == "close"]
    capped = [i for i, reason in enumerate(found.reason) if reason == "capped"]
    assert min(found.chance[close]) >= max(found.chance[capped]) > 0.05
    alone = keep.choose(scores, 2, correct=correct, keep_at_most=1)
    assert alone.kept.sum() == 2 and "close" not in alone.reason


def test_chance_of_being_first_against_the_exact_one():
    """Two models that disagree on n examples, w of them to the first one's favour: the difference of a resample is that
    of a multinomial draw, which scipy knows."""
    n, w, losses = 40, 8, 4
    correct = np.zeros((2, n), bool)
    correct[0, :w] = correct[1, w : w + losses] = True
    total = 0.0
    for wins in range(n + 1):
        for lost in range(n + 1 - wins):
            p = stats.multinomial.pmf(
                [wins, lost, n - wins - lost], n, [w / n, losses / n, 1 - (w + losses) / n]
            )
            total += p * (1.0 if wins > lost else 0.5 if wins == lost else 0.0)
    chance = keep.chance_of_first([correct], 1, resamples=20_000, seed=3)
    assert chance[0] == pytest.approx(total, abs=0.01) and chance.sum() == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.integers(1, 12))
def test_properties_of_who_is_kept(seed, m, t, n):
    rng = np.random.default_rng(seed)
    scores, correct = accuracies(rng, m, t, n=30)
    lost = rng.random(m) < 0.2
    scores[lost, rng.integers(t)] = np.nan
    always = rng.random(m) < 0.2
    found = keep.choose(scores, n, correct=correct, always=always, resamples=50)
    scored = ~lost
    assert found.kept[always].all()
    assert not (found.kept & lost & ~always).any() and all(
        found.reason[i] == "no score" for i in np.flatnonzero(lost & ~always)
    )
    assert sorted(found.place[scored]) == list(range(1, scored.sum() + 1)) and not found.place[lost].any()
    first = [i for i, reason in enumerate(found.reason) if reason == "first"]
    assert {found.place[i] for i in first} == set(range(1, min(n, scored.sum()) + 1))
    by_score = [i for i, reason in enumerate(found.reason) if reason in ("first", "close")]
    assert len(by_score) <= found.cap and found.cap >= n
    assert found.chance[scored].sum() == pytest.approx(min(n, scored.sum()))
    # Nothing depends on the order in which models are given.
    order = rng.permutation(m)
    again = keep.choose(
        scores[order], n, correct=[c[order] for c in correct], always=always[order], resamples=50
    )
    assert again.chance == pytest.approx(found.chance[order], nan_ok=True)
    # A model that is better on every example never has the worse chance.
    better = [np.vstack([c, c[:1] | (rng.random(c.shape[1]) < 0.5)]) for c in correct]
    chance = keep.chance_of_first(better, min(n, m), resamples=50)
    assert chance[-1] >= chance[0] - 1e-12


def test_one_task_is_judged_by_paired_intervals():
    rng = np.random.default_rng(2)
    base = rng.random(1000) < 0.7
    worse, same = base & (rng.random(1000) < 0.8), base.copy()
    same[:2] ^= True  # as good, but for two examples
    correct = [np.array([worse, base, same])]
    found = verdict.judge(np.array([c.mean() for c in correct[0]])[:, None], correct)
    assert found.strength is None and "paired bootstrap" in found.method and "one task" in found.method
    assert set(found.contenders) == {1, 2} and found.order[-1] == 0 and not found.clear
    alone = verdict.judge(np.array([[worse.mean()], [base.mean()]]), [np.array([worse, base])])
    assert alone.clear and alone.contenders == [1] and alone.behind[0] == base.mean() - worse.mean()
    assert alone.behind_low[0] > 0 and alone.behind_low[1] == alone.behind_high[1] == 0


def test_few_tasks_are_judged_by_their_mean():
    """Far behind on one of three tasks, a little on the others: told apart, whatever EPP's clusters leave open."""
    rng = np.random.default_rng(5)
    correct = [rng.random((2, 2000)) < np.array([[0.7], [p]]) for p in (0.5, 0.69, 0.68)]
    found = verdict.judge(np.array([c.mean(1) for c in correct]).T, correct)
    assert found.clear and found.order == [0, 1] and "3 tasks cannot tell" in found.method
    assert found.strength is not None and found.behind_low[1] > 0


def test_several_tasks_are_judged_by_epp():
    rng = np.random.default_rng(3)
    skill = np.array([0.9, 0.6, 0.6])
    correct = [rng.random((3, 500)) < skill[:, None] for _ in range(6)]
    scores = np.array([c.mean(1) for c in correct]).T
    found = verdict.judge(scores, correct)
    assert (
        found.clear
        and found.order[0] == 0
        and found.strength[0] == 0
        and found.method.startswith("EPP over 20")
    )
    assert "unbounded" in found.method  # the first wins every round
    alike = [rng.random((2, 500)) < 0.6 for _ in range(6)]
    assert not verdict.judge(np.array([c.mean(1) for c in alike]).T, alike).clear


def test_a_verdict_over_many_tasks_agrees_with_epp_itself():
    from vtabjax import ranking
    from vtabjax.ranking import resampling

    rng = np.random.default_rng(4)
    correct = [rng.random((4, 60)) < np.array([[0.7], [0.65], [0.5], [0.55]]) for _ in range(12)]
    found = verdict.judge(np.array([c.mean(1) for c in correct]).T, correct, seed=5)
    rounds, clusters = resampling.example_rounds(correct, n_resamples=20, seed=5)
    fit = ranking.epp(rounds, clusters=clusters)
    assert fit.finite and found.order == np.argsort(-fit.scores).tolist()
    leader = found.order[0]
    for j in range(4):
        p = ranking.win_probabilities(fit)
        assert (j in found.contenders) == (j == leader or p.low[leader, j] <= 0.5)


def test_one_finalist_and_scores_without_examples():
    assert verdict.judge(np.array([[0.4, 0.5]])).contenders == [0]
    found = verdict.judge(np.array([[0.4], [0.5], [0.5]]))
    assert found.contenders == [1, 2] and "score alone" in found.method
