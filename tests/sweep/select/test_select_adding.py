"""Finalists that are added: whom the chances name, and an experiment that adds one."""

import json

import numpy as np
import pytest
from PIL import Image

from vtabjax import results
from vtabjax.sweep.select import adding, run


def population(noise, m=80, measured=20, seed=0):
    """Accuracies 60 +- 5 % on one task and a score of them; the first by the score are measured."""
    rng = np.random.default_rng(seed)
    skill = rng.standard_normal(m)
    score = skill + noise * rng.standard_normal(m)
    accuracy = 0.6 + 0.05 * skill
    known = np.isin(np.arange(m), np.argsort(-score)[:measured])
    return np.where(known, accuracy, np.nan)[:, None], score[:, None], ~known


def look(noise, **changed):
    accuracy, score, left = population(noise)
    given = {"n": 20, "room": 20, "add_chance": 0.1, "winner": int(np.nanargmax(accuracy))}
    return adding.look(accuracy, [score], left, **{**given, **changed}), score, left


def test_a_score_that_says_all_adds_nobody_and_one_that_says_little_the_likeliest():
    found, _, _ = look(noise=0.01)
    assert found.rows == [] and found.chance < 0.01
    found, score, left = look(noise=3.0)
    assert 0.1 < found.chance < found.at_most
    assert found.rows == list(
        np.argsort(-np.where(left, score[:, 0], -np.inf))[:5]
    )  # a quarter of 20 at once
    assert found.own == sorted(found.own, reverse=True) and 0 < found.own[0] < found.chance


@pytest.mark.parametrize("changed", [{"room": 0}, {"room": -3}, {"add_chance": 1.0}])
def test_who_asks_for_nobody(changed):
    found, _, _ = look(noise=3.0, **changed)
    assert found == adding.Round(None, None, [], [])


def test_room_and_candidates_limit_it():
    assert len(look(noise=3.0, room=2)[0].rows) == 2
    accuracy, score, left = population(3.0)
    only = np.flatnonzero(left)[-1]
    found = adding.look(
        accuracy,
        [score],
        np.arange(len(left)) == only,
        n=20,
        room=9,
        add_chance=0.0,
        winner=int(np.nanargmax(accuracy)),
    )
    assert found.rows == [only]


def test_too_little_to_say_anything_adds_nobody():
    accuracy, score, left = population(3.0, measured=4)
    found = adding.look(
        accuracy, [score], left, n=4, room=4, add_chance=0.5, winner=int(np.nanargmax(accuracy))
    )
    assert found.rows == [] and found.chance is None


def test_an_experiment_that_adds_a_finalist(fake_converters, tmp_path, monkeypatch, capsys):
    """Two of five go on and one is added; the audit draws among the others; a second run decides nothing anew."""
    from configs import select

    asked = []

    def first_candidate(accuracy, scores, candidates, *, room, **settings):
        asked.append(np.isfinite(accuracy[:, 0]).sum())
        rows = [int(np.flatnonzero(candidates)[0])][: max(0, room)]
        return adding.Round(0.3, 0.6, rows, [0.1] * len(rows))

    monkeypatch.setattr(adding, "look", first_candidate)
    c = select.get_config("mini")
    rng = np.random.default_rng(0)
    for i in range(48):
        (tmp_path / "pictures" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        picture.save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png")
    c.models, c.tasks = "baseline/pixels,tiny/a,tiny/b,tiny/c,tiny/d", f"folder:{tmp_path / 'pictures'}"
    c.image_size, c.c_count, c.keep_chance, c.audit = 16, 2, 1.0, 1
    c.stages, c.add_at_most = "knn:2,linear", 1.5
    assert run.run(c, tmp_path) == 0
    path = tmp_path / "select" / "selection.json"
    found = json.loads(path.read_text())
    assert asked == [2]  # three are as many as may be
    (row,) = (row for row in found["stages"][-1]["models"] if row["reason"] == "added")
    assert found["added"]["models"] == [{"model": row["model"], "chance": 0.1}]
    assert (found["added"]["chance_at_most"], found["added"]["taken"]) == (0.6, 3)
    assert found["added"]["at_most"] == 3
    assert row["kept"] and "a point better than the best was 10.0 %" in row["why"]
    assert row["model"] in [d["model"] for d in found["stages"][0]["dropped"]]
    assert row["model"] not in found["left_out"] and len(found["left_out"]) == 2
    assert set(found["audit"]["drawn"]) < set(found["left_out"])
    assert row["model"] in [r["model"] for r in found["ranking"]]
    assert len([p for p in results.paths(tmp_path) if "linear" in p.parts]) == 4
    err = capsys.readouterr().err
    assert "at most 60.0 % (config.add_chance=0.05); 1 more: " + row["model"] in err

    text = path.read_text()
    assert run.run(c, tmp_path) == 0
    assert path.read_text() == text and asked == [2]
