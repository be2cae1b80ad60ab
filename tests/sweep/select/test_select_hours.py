"""Hours: the counts that fit, what is not started any more, and that time counts over all runs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import results
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.sweep.select import hours, run, stages


def test_counts_by_hand():
    chain = stages.parse("knn:50%,linear:20,finetune")
    everything = hours.forecast(chain, 100, [1, 2, 60], 1600)
    assert everything == hours.Forecast([50, 20, 20], [100, 100, 1200])
    half = hours.forecast(chain, 100, [1, 2, 60], 750)
    assert half.keeps == [25, 10, 10] and half.seconds == [100, 50, 600]
    assert hours.forecast(chain, 100, [1, 2, 60], 0).keeps == [hours.FEWEST] * 3  # never fewer
    assert hours.forecast(chain, 1, [1, 2, 60], 0).keeps == [1, 1, 1]
    assert hours.forecast(chain, 100, [1, 2, 60], 1600, once=250).keeps[0] < 50  # conversions take their time


def test_the_grid_is_halved_where_that_lets_more_models_be_fine_tuned():
    chain = stages.parse("knn:20,linear:10,finetune")

    def chosen(seconds, workers=1, halved=0.5):
        known = hours.Measured([1.0, 1.0, 100.0], [], convert=0.0, winner=0.5, halved=halved)
        return hours.with_grid(chain, 100, known, seconds, workers)

    # 100 + 20 + 1,000 seconds, and half of a model's hundred for the winner.
    assert chosen(1170) == (hours.Forecast([20, 10, 10], [100, 20, 1000]), False)
    assert chosen(1160) == (hours.Forecast([20, 10, 10], [100, 20, 500]), True)
    assert chosen(585 + 25, workers=2) == (hours.Forecast([20, 10, 10], [100, 20, 1000]), False)
    assert chosen(1160, halved=1.0)[1] is False
    assert chosen(0) == (hours.Forecast([2, 2, 2], [100, 2, 100]), True)


def test_how_long_settings_train():
    vtab = {"learning_rates": [0.1, 0.01], "steps": [2500, 10000], "epochs": [], "seeds": [0], "halving": 0}
    vtab["weight_decay"] = [0.0]
    assert hours._steps(vtab) == 2 * 12500 + 10000
    # A third of each, one of the four to its end, and again.
    assert hours._steps({**vtab, "halving": 3}) == pytest.approx(25000 / 3 + 10000 * 2 / 3 + 10000)
    assert hours._steps({**vtab, "learning_rates": [0.1], "steps": [60], "halving": 3}) == 120
    assert hours._steps({**vtab, "epochs": [100], "steps": [], "seeds": [0, 1]}) == 400
    assert hours._steps({**vtab, "weight_decay": [0.0, 0.1]}) == 2 * 25000 + 10000
    record = {
        "protocol": "finetune",
        "settings": {**vtab, "halving": 3},
        "seconds": {"load": 1.0, "train": 25.0},
    }
    assert hours._as_with(record, vtab)["seconds"]["train"] == pytest.approx(35.0)


def test_an_experiment_with_half_the_grid(config, fake_converters, tmp_path, monkeypatch, capsys):
    """Two models at 2,000 s do not fit into the hour, at 1,000 s they do."""
    config.models = "baseline/pixels,tiny/a"
    unknown = [lambda cell: None] * 3
    known = hours.Measured([1.0, 1.0, 2000.0], unknown, convert=0.0, winner=0.0, halved=0.5)
    monkeypatch.setattr(hours, "measured", lambda *_: known)
    config.finetune.learning_rates, config.finetune.steps = "0.01,0.02", "3"
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert found["hours"]["grid"] == "halving=3" and len(found["ranking"]) == 2
    settings = [r["settings"] for p, r in results.records(tmp_path) if r["protocol"] == "finetune"]
    assert len(settings) == 2 and {s["halving"] for s in settings} == {3}
    assert config.finetune.halving == 0 and "finetune: the grid is halved" in capsys.readouterr().err


@given(
    st.integers(1, 400),
    st.lists(st.floats(0.01, 1000), min_size=3, max_size=3),
    st.floats(0, 1e6),
    st.floats(0, 1e4),
)
def test_properties_of_the_counts(entering, per_model, seconds, more):
    chain = stages.parse("knn:25%,linear:20,finetune")
    found = hours.forecast(chain, entering, per_model, seconds)
    asked = hours.forecast(chain, entering, per_model, float("inf"))
    least = hours.forecast(chain, entering, per_model, 0)
    assert all(a <= b <= c for a, b, c in zip(least.keeps, found.keeps, asked.keeps, strict=True))
    assert sum(found.seconds) <= max(seconds, sum(least.seconds)) + 1e-6
    longer = hours.forecast(chain, entering, per_model, seconds + more)
    assert all(a <= b for a, b in zip(found.keeps, longer.keeps, strict=True))
    assert entering >= found.keeps[0] >= found.keeps[1] == found.keeps[2]


def test_what_may_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(hours.time, "monotonic", lambda: now[0])
    budget = hours.Budget(1.0)
    budget.before = 0.5
    assert (budget.taken, budget.seconds_left) == (0.5, 1800)
    cell = Cell("knn", "tiny/a", "digits", {})
    may_start = budget.may_start(lambda cell: 100.0, reserved=200.0)
    assert may_start(cell)
    now[0] = 1501.0
    assert not may_start(cell)
    assert budget.may_start(lambda cell: None, reserved=0)(cell)  # nobody knows what it costs
    assert hours.Budget(0).may_start(lambda cell: 1e9, 1e9) is None


@pytest.fixture
def config():
    from configs import select

    c = select.get_config("mini")
    c.models, c.tasks, c.image_size = "baseline/pixels,tiny/a,tiny/b,tiny/c", "digits", 16
    c.stages, c.c_count, c.keep_at_most = "knn:4,linear:4,finetune", 2, 1.0
    c.finetune.steps, c.finetune.learning_rates = "2", "0.01"
    c.hours = 1.0
    return c


def read(workdir):
    return json.loads((workdir / "select" / "selection.json").read_text())


def test_counts_follow_the_costs_and_a_second_run_keeps_them(
    config, fake_converters, tmp_path, monkeypatch, capsys
):
    """An hour, 100 s for a model's linear evaluation and 1,000 s for its fine-tuning: three of four have the time."""
    unknown = [lambda cell: None] * 3
    monkeypatch.setattr(
        hours, "measured", lambda *_: hours.Measured([10.0, 100.0, 1000.0], unknown, convert=0.0, winner=0.0)
    )
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert [s["keep"] for s in found["stages"]] == [3, 3, None] and len(found["ranking"]) == 3
    assert (
        found["hours"]["planned"] == 1 and 0 < found["hours"]["taken"] < 1 and not found["hours"]["not_run"]
    )
    assert found["hours"]["stages"][0] == {"stage": "knn:4", "keep": 3, "asked": 4}
    err = capsys.readouterr().err
    assert "knn:4: there is time for 3 models instead of 4 (config.hours)" in err and "config.hours=1" in err
    # The decision stands, whatever a later run would think.
    monkeypatch.setattr(hours, "measured", lambda *_: hours.Measured([1e4, 1e4, 1e4], unknown, 0.0, 0.0))
    text = (tmp_path / "select" / "selection.json").read_text()
    assert run.run(config, tmp_path) == 0
    assert (tmp_path / "select" / "selection.json").read_text() == text


def test_it_ends_in_time_with_the_best_answer_there_is(
    config, fake_converters, tmp_path, monkeypatch, capsys
):
    """No fine-tuning fits: the verdict is that of the stage before, and what was not run is listed."""
    known = [lambda cell: 0.0, lambda cell: 0.0, lambda cell: 1e6]
    monkeypatch.setattr(hours, "measured", lambda *_: hours.Measured([0.1, 0.1, 0.1], known, 0.0, 0.0))
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert found["judged_by"] == "linear" and found["leader"] and len(found["ranking"]) == 4
    assert len(found["hours"]["not_run"]) == 4 and all(
        n.startswith("finetune ") for n in found["hours"]["not_run"]
    )
    assert "finetune: no time was left for" in capsys.readouterr().err
    assert not (tmp_path / "select" / "winner").exists()


def test_time_for_the_first_stage_alone(config, fake_converters, tmp_path, monkeypatch, capsys):
    known = [lambda cell: 0.0, lambda cell: 1e6, lambda cell: 1e6]
    monkeypatch.setattr(hours, "measured", lambda *_: hours.Measured([0.1, 0.1, 0.1], known, 0.0, 0.0))
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert (
        found["judged_by"] == "knn" and found["leader"] and len(found["ranking"]) == 4 and found["finished"]
    )
    assert all(n.startswith("linear ") for n in found["hours"]["not_run"])
    # Nothing was fine-tuned, so that nothing is known of who would have been better then.
    assert (
        found["chance_missed"]["value"] is None
        and found["chance_missed"]["reason"] == "judged by knn, not by finetune"
    )
    assert "judged by knn" in capsys.readouterr().err


def test_a_stage_there_is_no_time_for_does_not_stop_the_ones_before_it(
    config, fake_converters, tmp_path, monkeypatch
):
    """Two fine-tuned models would take more than the hour: the stages before run nevertheless."""
    known = [lambda cell: 0.0, lambda cell: 0.0, lambda cell: 1e6]
    monkeypatch.setattr(hours, "measured", lambda *_: hours.Measured([0.1, 0.1, 1e6], known, 0.0, 0.5))
    config.models = "baseline/pixels,tiny/a"
    assert run.run(config, tmp_path) == 0
    found = read(tmp_path)
    assert found["judged_by"] == "linear" and len(found["ranking"]) == 2


def test_probing_ends_where_it_takes_too_long(config, fake_converters, tmp_path, monkeypatch, capsys):
    config.models, config.stages = "baseline/pixels,tiny/a", "knn:2,linear"
    monkeypatch.setattr(hours, "MOST_PROBING", 0.0)
    assert run.run(config, tmp_path) == 0
    assert "nothing like it has run here" not in capsys.readouterr().err and read(tmp_path)["finished"]


def test_too_short_for_anything(config, fake_converters, tmp_path, monkeypatch):
    known = [lambda cell: 1e6] * 3
    monkeypatch.setattr(hours, "measured", lambda *_: hours.Measured([0.1, 0.1, 0.1], known, 0.0, 0.0))
    with pytest.raises(
        UsageError, match=r"no model has a score in the stage knn:4.*config\.hours=1 is too short"
    ):
        run.run(config, tmp_path)


def test_costs_that_nobody_knows_are_measured_first(config, fake_converters, tmp_path, capsys):
    assert run.run(config, tmp_path) == 0
    err = capsys.readouterr().err
    assert err.count("nothing like it has run here; a few models show what it costs") == 3
    assert "finetune: 1 model x 1 task" in err and "expected: " in err
    assert read(tmp_path)["finished"]
