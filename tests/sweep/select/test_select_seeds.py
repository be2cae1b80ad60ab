"""The stop rule between seeds: chances, what results say of each seed, and experiments that stop."""

import json

import numpy as np
import pytest
from scipy import stats
from test_select_stopping import folder

from configs import select
from vtabjax import results
from vtabjax.sweep.select import hours, run, seeds, stopping


@pytest.mark.parametrize("n", range(1, 30))
def test_rounds_of_seeds(n):
    found = seeds.rounds(n)
    assert found[-1] == n and len(found) <= stopping.MOST_ROUNDS and found == sorted(set(found))
    assert n < 3 or found[0] == 2
    more = np.diff(found)
    assert len(found) < 3 or more.max() - more.min() <= 1


def record(accuracies, bits=None, data="a", n=4):
    rows = [{"seed": i, "accuracy": a} for i, a in enumerate(accuracies)]
    if bits is not None:
        rows = [
            {**row, "correct": results.pack_correct(np.array(b, bool))}
            for row, b in zip(rows, bits, strict=True)
        ]
    return {"chosen": {"seeds": rows}, "data": {"test": data}, "n_examples": n}


def test_the_first_seeds_of_results():
    of_a, of_b = [[1, 1, 0, 1], [1, 0, 0, 1]], [[0, 1, 0, 0], [1, 0, 0, 0]]
    records = {
        ("a", "t"): record([0.75, 0.5, 0.1], [*of_a, [0] * 4]),
        ("a", "u"): record([0.25, 0.25], of_b),
        ("b", "t"): record([0.25, 0.25], of_b),
        ("b", "u"): record([0.75, 0.5], of_a),
        ("c", "t"): record([0.25, 0.25], of_b),
        ("c", "u"): None,
    }
    found = seeds.scores(["a", "b", "c"], ["t", "u"], records, 2)
    assert found.scores[:2].tolist() == [[0.5, 0.375]] * 2 and np.isnan(found.scores[2]).all()
    assert found.reached == {"a": {"t": 0.5, "u": 0.25}, "b": {"t": 0.25, "u": 0.5}}
    assert found.correct[0].tolist() == np.array([of_a, of_b, np.zeros((2, 4))], bool).tolist()
    assert seeds.scores(["a"], ["t"], {("a", "t"): record([0.75, 0.5])}, 2).correct is None
    others = {**records, ("b", "t"): record([0.25, 0.25], of_b, data="b")}
    assert seeds.scores(["a", "b"], ["t", "u"], others, 2).correct is None


def test_the_median_decides():
    """Two of three seeds are done: the second model's median is settled, the first one's is between its two."""
    scores = np.array([[1.0, 0.0], [0.4, 0.4]])
    found = stopping.chance_of_being_first(scores, 1, by_rank=False, by_median=True, n_draws=100_000)
    # Less the means of the seeds these are +-0.25 around the models' own: SSE 0.25 with one degree of freedom.
    expected = stats.t.cdf((0.5 - 0.4) / np.sqrt(0.25 * (1 + 1 / 2)), 1)
    assert found == pytest.approx([expected, 1 - expected], abs=0.005)
    # Of an even number it is the lower middle one: 0.4 against 0.3.
    four = np.array([[1.0, 0.9, 0.3, 0.0], [0.4, 0.4, 0.4, 0.4]])
    assert stopping.chance_of_being_first(four, 0, by_rank=False, by_median=True).tolist() == [0, 1]


def test_all_seeds_see_the_same_draw_of_examples():
    """Two models that differ in one example, alike with all seeds: the better one leads unless a draw lacks it."""
    better, worse = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    correct = [np.array([[better] * 3, [worse] * 3])] * 2
    scores = np.array([[0.75] * 3, [0.5] * 3])
    found = stopping.chance_of_being_first(scores, 2, correct, by_rank=False)
    assert found[1] == pytest.approx((3 / 4) ** 8 / 2, abs=0.03)
    # As if the seeds were one: their mean decides.
    alone = stopping.chance_of_being_first(scores[:, :1], 0, [c[:, 0] for c in correct], by_rank=False)
    assert found == pytest.approx(alone, abs=0.01)


def test_who_is_asked():
    scores = np.array([[0.9, 0.91], [0.1, 0.12], [np.nan] * 2, [0.11, 0.1]])
    found = seeds.SeedScores(list("abcd"), scores, None, {})
    assert set(seeds.decide(found, 1, 0.4, ["d"], 0)) == {"b"}  # c has no score, d is never stopped
    assert seeds.decide(found, 0, 0.4, [], 0) == {}
    assert seeds.decide(found._replace(scores=scores[:, :1]), 1, 0.4, [], 0) == {}


@pytest.fixture
def config(fake_converters, tmp_path):
    c = select.get_config("mini")
    c.models, c.image_size, c.stages = "baseline/pixels,tiny/a,tiny/b", 16, "finetune"
    c.tasks, c.stop_chance = folder(tmp_path / "pictures", 0), 0.5
    f = c.finetune
    f.steps, f.learning_rates, f.scope, f.seeds, f.save = "3", "0.01", "head", "0,1,2,3", True
    return c


def read(workdir):
    return json.loads((workdir / "select" / "selection.json").read_text())


def with_seeds(workdir):
    """How many seeds each model has been trained with."""
    found = {}
    for _, r in results.records(workdir, "finetune"):
        found[r["model"]] = max(found.get(r["model"], 0), len(r["settings"]["seeds"]))
    return found


def test_an_experiment_that_stops_between_seeds(config, tmp_path, capsys):
    config.always = "tiny/a"
    assert run.run(config, tmp_path / "w") == 0
    found = read(tmp_path / "w")
    stopped = {row["model"]: row for row in found["stopped"]["models"]}
    rows = {row["model"]: row for row in found["stages"][-1]["models"]}
    assert stopped and "tiny/a" not in stopped
    ranked = {row["model"]: row["score"] for row in found["ranking"]}
    assert ranked.keys() | stopped.keys() == rows.keys() and not ranked.keys() & stopped.keys()
    for model, row in stopped.items():
        assert row["unit"] == "seeds" and row["total"] == 4 and row["chance"] < 0.5
        assert row["cells"] == 4 - row["after"] and row["hours"] > 0
        assert rows[model]["score"] is None and rows[model]["seconds"] > 0
        assert f"not trained further after {row['after']} of 4 seeds" in rows[model]["why"]
        assert 0 <= row["reached"][config.tasks] <= 1
    trained = with_seeds(tmp_path / "w")
    assert trained == {m: stopped[m]["after"] if m in stopped else 4 for m in rows}
    out, err = capsys.readouterr()
    assert "retraining" in out and "no time was left" not in err

    text = (tmp_path / "w" / "select" / "selection.json").read_text()
    assert run.run(config, tmp_path / "w") == 0
    assert (tmp_path / "w" / "select" / "selection.json").read_text() == text


def test_tasks_go_first(config, tmp_path):
    """With three tasks the rounds are of tasks, with all seeds; with two, of seeds; without the rule none."""

    def parts(n_tasks):
        config.tasks = ",".join(["digits", "sprites_location", "sprites_orientation"][:n_tasks])
        found = run.prepared(config, tmp_path)
        return found.parts(found.models)

    assert [(part.tasks, part.seeds) for part in parts(3)] == [
        (["digits", "sprites_orientation"], None),
        (["sprites_location"], None),
    ]
    assert [(part.tasks, list(part.seeds)) for part in parts(2)] == [
        (None, [0, 1]),
        (None, [0, 1, 2]),
        (None, [0, 1, 2, 3]),
    ]
    config.stop_chance = 0.0
    assert parts(2) == [(None, None)]


def test_what_was_run_by_hand_is_not_run_again(config, tmp_path):
    """All seeds are there: nobody is trained with the first ones, and nobody is stopped."""
    config.stop_chance = 0.0
    assert run.run(config, tmp_path) == 0
    config.stop_chance = 0.5
    before = sorted(results.paths(tmp_path))
    assert run.run(config, tmp_path) == 0
    assert sorted(results.paths(tmp_path)) == before and len(read(tmp_path)["ranking"]) == 3


def test_time_that_ends_between_seeds(config, tmp_path, monkeypatch, capsys):
    """A second round does not fit: the verdict is about the first two seeds."""
    config.hours, config.stop_chance = 1.0, 1e-9
    known = hours.Measured([1.0], [lambda cell: 1.0], convert=0.0, winner=0.0)
    monkeypatch.setattr(hours, "measured", lambda *_: known)
    scaled = hours.scaled
    # All of a cell takes a second; of the second round, any part takes two hours.
    rounds = iter([1.0, *[1e4] * 9])
    monkeypatch.setattr(hours, "scaled", lambda seconds, share: scaled(seconds, next(rounds)))
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert found["judged_on_seeds"] == [0, 1] and len(found["ranking"]) == 3 and found["finished"]
    assert len(found["hours"]["not_run"]) == 3 and all("with 4 seeds" in n for n in found["hours"]["not_run"])
    assert set(with_seeds(tmp_path).values()) == {2}
    assert "judged on 2 of 4 seeds" in capsys.readouterr().err
