"""The stop rule: chances against closed forms, on a published table, and in an experiment."""

import json
import sys

import conftest
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vtabjax import results, tasks
from vtabjax.sweep.select import run, stopping
from vtabjax.sweep.select.scores import StageScores

sys.path.insert(0, str(conftest.ROOT / "benchmarks"))
import select_simulation


def test_rounds_have_all_kinds_of_tasks():
    parts = stopping.rounds(tasks.VTAB)
    assert [len(part) for part in parts] == [5, 5, 5, 4] and sorted(sum(parts, [])) == sorted(tasks.VTAB)
    groups = [{tasks.get(name).group for name in part} for part in parts]
    assert all(len(group) == 3 for group in groups)
    # Before a second task nothing can be said.
    assert [stopping.rounds(range(n)) for n in (1, 2, 3, 4)] == [
        [[0]],
        [[0, 1]],
        [[0, 2], [1]],
        [[0, 3], [1], [2]],
    ]


@pytest.mark.parametrize("n, to_come", [(2, 1), (3, 1), (2, 17)])
def test_two_models_have_the_chance_of_a_t_distribution(n, to_come):
    ahead = np.array([0.04, 0.01, 0.03])[:n]
    scores = np.array([0.5 + ahead, np.full(n, 0.5)])
    found = stopping.chance_of_being_first(scores, to_come, by_rank=False, n_draws=100_000)
    # The difference of two models has twice the variance of one; SSE of two rows is half that of the difference.
    variance = 2 * ((ahead - ahead.mean()) ** 2).sum() / 2 / (n - 1)
    spread = np.sqrt((to_come + to_come**2 / n) * variance)
    expected = stats.t.cdf(ahead.sum() * (1 + to_come / n) / spread, n - 1)
    assert found == pytest.approx([expected, 1 - expected], abs=0.005)


def test_when_all_is_done_the_examples_decide():
    scores = np.array([[0.9, 0.2], [0.8, 0.8], [0.8, 0.8]])
    assert stopping.chance_of_being_first(scores, 0, by_rank=False).tolist() == [0, 0.5, 0.5]
    correct = [np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)] * 2
    found = stopping.chance_of_being_first(
        np.array([c.mean(1) for c in correct]).T, 0, correct, by_rank=False
    )
    # The second ties with the first where no draw has the third example, and with all where no draw has a right one.
    none = (3 / 4) ** 8
    assert found[1] == pytest.approx(none / 2, abs=0.04) and found.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="from two on"):
        stopping.chance_of_being_first(scores[:, :1], 3, by_rank=True)


def test_behind_on_two_of_nineteen_is_not_out():
    scores = np.array([[0.8, 0.7], [0.75, 0.71], [0.7, 0.6], [0.72, 0.58]])
    found = stopping.chance_of_being_first(scores, 17, by_rank=True)
    assert found.min() > 0.01 and found[:2].min() > 0.3


def test_on_the_published_table():
    """Sixteen models, nineteen tasks in random orders: about half of the cells is saved, nearly always for nothing."""
    found = select_simulation.stop_rule("published", 6)
    assert 0.45 < found["saved"] < 0.7 and found["first_stopped"] < 0.2
    assert 0 < found["said"] < 0.15  # fifteen models with less than 1 % each


def test_who_is_asked():
    scores = np.array([[0.9, 0.9], [0.1, 0.2], [0.1, np.nan], [0.11, 0.1]])
    found = StageScores(list("abcd"), ["t", "u"], "accuracy", scores, None, np.zeros(4), {}, {})
    assert set(stopping.decide(found, ["v"], 0.4, ["d"], 0)) == {"b"}  # c has no score, d is never stopped
    alike = found._replace(scores=np.full((4, 2), 0.5))
    assert stopping.decide(alike, ["v"], 0.4, [], 0) == {}  # a quarter each
    assert (
        stopping.decide(found, [], 0.4, [], 0)
        == {}
        == stopping.decide(found.of(["a", "c"]), ["v"], 0.4, [], 0)
    )


def test_tasks_that_most_models_share():
    nan = np.nan
    scores = np.array([[1, 1, 1, nan], [1, 1, 1, nan], [1, 1, nan, nan], [nan, nan, nan, nan]])
    found = StageScores(list("abcd"), list("tuvw"), "accuracy", scores, None, np.zeros(4), {}, {})
    assert found.shared_tasks() == ["t", "u"]  # 3 x 2 and 2 x 3: more models
    assert found.of(["a", "b", "d"]).shared_tasks() == ["t", "u", "v"]
    assert found.of(["a", "d"]).shared_tasks() == []


def folder(path, seed, count=20):
    """Two classes of so many small pictures, a little lighter on one side or on the other, alike on average."""
    rng = np.random.default_rng(seed)
    for name, side in (("left", slice(0, 4)), ("right", slice(4, 8))):
        (path / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(100, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            pixels[:, side] = np.clip(pixels[:, side] + 20.0, 0, 255)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return f"folder:{path}"


def test_an_experiment_that_stops(fake_converters, tmp_path, capsys):
    """Two of three tasks are done by all; whoever has less than half a chance then is not measured on the third."""
    from configs import select

    c = select.get_config("mini")
    c.models, c.image_size, c.c_count = "baseline/pixels,tiny/a,tiny/b", 16, 2
    c.tasks = ",".join(folder(tmp_path / f"pictures{i}", i) for i in range(3))
    c.stages, c.stop_chance, c.always = "linear", 0.5, "tiny/a"
    earlier = tmp_path / "w" / "select" / "winner" / "winner.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text(json.dumps({"about": {"model": "tiny/z", "results": {}}, "trained": []}))
    assert run.run(c, tmp_path / "w") == 0
    found = json.loads((tmp_path / "w" / "select" / "selection.json").read_text())
    rows = {row["model"]: row for row in found["stages"][-1]["models"]}
    stopped = {row["model"]: row for row in found["stopped"]["models"]}
    assert stopped and "tiny/a" not in stopped and found["stopped"]["cells"] == len(stopped)
    assert found["stopped"]["hours"] > 0 and found["stopped"]["chance"] == sum(
        r["chance"] for r in stopped.values()
    )
    for model, row in stopped.items():
        assert row["after"] == 2 and row["chance"] < 0.5
        assert rows[model]["reason"] == "stopped" and rows[model]["score"] is None and not rows[model]["kept"]
        assert "not trained further after 2 of 3 tasks" in rows[model]["why"]
    ranked = [row["model"] for row in found["ranking"]]
    assert sorted([*ranked, *stopped]) == sorted(rows) and found["leader"] in ranked
    assert not found["hours"]["not_run"]
    # What it took is counted without the model in config.always.
    assert found["added"]["taken"] == pytest.approx(2 - len(stopped) / 3, abs=1e-3)
    assert len([p for p in results.paths(tmp_path / "w") if "linear" in p.parts]) == 9 - len(stopped)
    out, err = capsys.readouterr()
    assert "finalists not trained to the end" in out and "no time was left" not in err
    assert f"{earlier.parent} holds tiny/z, the winner of an earlier experiment" in err

    text = (tmp_path / "w" / "select" / "selection.json").read_text()
    assert run.run(c, tmp_path / "w") == 0
    assert (tmp_path / "w" / "select" / "selection.json").read_text() == text
