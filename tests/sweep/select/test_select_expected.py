"""The plan that is told before an experiment begins: numbers and times from, and to where more are kept or added."""

import pytest

from configs import select
from vtabjax.sweep.select import expected, hours, settings, stages


def own(**fields):
    c = select.get_config("vtab")
    c.update(fields)
    return settings.read(c)


def test_the_most_models_of_each_stage():
    # Half as many again are kept for being close; the last stage measures up to 2.5 times 20.
    assert expected.most(own(), 300, [75, 20, 20]) == ([300, 112, 30], 20)
    assert expected.most(own(keep_at_most=3.0), 300, [75, 20, 20]) == ([300, 225, 60], 0)
    assert expected.most(own(keep_chance=1.0), 300, [75, 20, 20]) == ([300, 75, 20], 30)
    assert expected.most(own(add_chance=1.0), 300, [75, 20, 20]) == ([300, 112, 30], 0)
    assert expected.most(own(), 40, [10, 10, 10]) == ([40, 15, 15], 10)  # no more than there are
    # Six finalists at most say nothing of those left out, seven do.
    assert expected.most(own(keep_at_most=1.0), 300, [75, 6, 6]) == ([300, 75, 6], 0)
    assert expected.most(own(keep_at_most=1.0), 300, [75, 7, 7]) == ([300, 75, 7], 10)
    assert expected.most(own(), 300, [300]) == ([300], 0)


def told(capsys, chain, per_model, seconds=float("inf"), workers=1, stops=False, **fields):
    known = hours.Measured(per_model, [], convert=0.0, winner=0.5)
    given = own(**fields)
    expected.tell(stages.parse(chain), given, 300, known, seconds, workers, stops)
    return capsys.readouterr().err.splitlines()


def test_what_is_told(capsys):
    found = told(capsys, "knn:25%,linear:20,finetune", [1.0, 2.0, 60.0], stops=True)
    assert found[:-1] == [
        "knn:25%: 300 models, of which 75 to 112 go on; about 5:00",
        "linear:20: 75 to 112 models, of which 20 to 30 go on; about 2:30 to 3:44",
        "finetune: 20 to 50 models; about 20:00 to 50:00",
        "  up to 10 more go on if they cannot be told apart (config.keep_at_most)",
        "  up to 20 more are added in the last stage if one left out may be better (config.add_at_most)",
        "  less where finalists are not trained to the end (config.stop_chance)",
    ]
    # Half of a model's minute for the winner.
    assert found[-1].startswith("expected: 28:00 to 59:14, until ")
    exact = told(capsys, "knn:25%,linear:20,finetune", [1.0, 2.0, 60.0], keep_chance=1.0, add_chance=1.0)
    assert exact[2] == "finetune: 20 models; about 20:00" and len(exact) == 4
    assert exact[-1].startswith("expected: 28:00, until ")


@pytest.mark.parametrize("workers", [1, 2])
def test_hours_leave_room_for_some(capsys, workers):
    """2,000 s: 450 for the stages before, 1,200 for the finalists, 30 for the winner; five fit into the rest."""
    seconds = 2000.0 if workers == 1 else (2000.0 - 30) / 2 + 30
    found = told(
        capsys,
        "knn:25%,linear:20,finetune",
        [1.0, 2.0, 60.0],
        seconds,
        workers,
        hours=0.6,
        keep_chance=1.0,
    )
    assert found[2].startswith("finetune: 20 to 25 models") and "up to 5 more are added" in found[3]
    most = (450 + 25 * 60) / workers + 30
    assert f" to {hours_of(most)}, until" in found[-1] and found[-1].endswith("; config.hours=0.6")
    tight = told(capsys, "knn:25%,linear:20,finetune", [1.0, 2.0, 60.0], 1700.0, hours=0.6, keep_chance=1.0)
    assert tight[2].startswith("finetune: 20 models;") and len(tight) == 4


def hours_of(seconds):
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
