"""The funnel: what it says follows from selection.json."""

import json

import numpy as np
import report_data

from vtabjax import report
from vtabjax.report import funnel
from vtabjax.sweep.select import keep, record
from vtabjax.sweep.select.scores import StageScores


def scores(models, values):
    values = np.array(values, float)[:, None]
    why = {
        m: "t: failed in convert: <b>no</b>" for m, v in zip(models, values, strict=True) if np.isnan(v).any()
    }
    return StageScores(models, ["t"], "accuracy", values, None, np.full(len(models), 60.0), {}, why)


def selection():
    """Four models, one of which failed; two are kept, and ranked by a second stage."""
    first = scores(["m/a", "m/b", "m/c", "m/d"], [0.5, 0.7, 0.6, np.nan])
    last = scores(["m/b", "m/c"], [0.8, 0.9])
    return {
        "finished": True,
        "settings": {"models": first.models},
        "stages": [
            record.stage("knn", "knn:2", 2, first, keep.choose(first.scores, 2)),
            record.stage("finetune", "finetune", None, last, None),
        ],
        "verdict": "The winner is m/c",
        "leader": "m/c",
        "method": "paired",
        "ranking": [
            {"place": 1, "model": "m/c", "behind": 0.0},
            {"place": 2, "model": "m/b", "behind": 0.1},
        ],
        "chance_missed": {"value": 0.25, "interval": [0.1, 0.5], "level": 0.9, "method": "regression"},
        "expected_regret": {"value": None, "interval": None, "method": "cannot be said", "reason": "too few"},
        "hours": {"planned": 2.0, "taken": 1.5, "not_run": []},
    }


def test_what_it_says():
    found = funnel.content(selection())
    assert [(s["width"], s["kept_width"]) for s in found["stages"]] == [
        ("100.00", "50.00"),
        ("50.00", "100.00"),
    ]
    assert found["stages"][0]["said"] == "4 measured, 2 kept, 1 without a score; 4:00 of computing"
    assert found["stages"][1]["said"] == "2 measured; 2:00 of computing"
    rows = [(r["model"], r["reached"], r["score"], r["why"]) for r in found["rows"]]
    assert rows[:3] == [
        ("m/c", "finetune", "90.00", "place 1"),
        ("m/b", "finetune", "80.00", "place 2, 10.00 points behind"),
        ("m/a", "knn:2", "50.00", "behind the first 2"),
    ]
    assert rows[3][0] == "m/d" and rows[3][3].startswith("no score (t: failed in convert")
    assert "25.00 % (90 % interval 10.00 to 50.00, by regression)" in found["missed"][0]
    assert "cannot be said (too few)" in found["missed"][1] and "1:30:00 of 2:00:00" in found["remark"]


def test_who_was_added():
    found = selection()
    last = scores(["m/b", "m/c"], [0.8, 0.9])
    found["stages"][1] = record.stage("finetune", "finetune", None, last, None, added={"m/c": 0.2})
    told = funnel.content(found)
    assert told["stages"][1]["said"] == "2 measured, 1 of them added; 2:00 of computing"
    assert told["rows"][0]["why"] == "place 1; added for its chance of being much better"
    assert told["rows"][1]["why"] == "place 2, 10.00 points behind"


def test_bounds_by_an_audit():
    found = selection()
    found["chance_missed"] = {
        "value": None,
        "interval": [0.0, 0.5],
        "level": 0.9,
        "method": "audit",
        "reason": "few",
    }
    assert "0.00 to 50.00 % (90 % interval by the audit; few)" in funnel.content(found)["missed"][0]


def test_the_audit_comes_after_the_finalists():
    found = selection()
    audit = record.stage("finetune", "finetune (audit)", None, scores(["m/a"], [0.4]), None)
    found["audit"] = {"stage": audit}
    found["ranking"].append({"place": 3, "model": "m/a", "behind": 0.5})
    rows = funnel.content(found)["rows"]
    assert [(r["model"], r["reached"]) for r in rows] == [
        ("m/c", "finetune"),
        ("m/b", "finetune"),
        ("m/a", "finetune (audit)"),
        ("m/d", "knn:2"),
    ]


def test_it_is_the_first_picture_of_the_page(tmp_path):
    from configs import report as config

    report_data.sweep(tmp_path, 3, ["digits", "sprites_location"])
    c = config.get_config()
    c.figures, c.resamples = False, 100
    assert report.run(c, tmp_path) == 0
    page = tmp_path / "report" / "report.html"
    assert 'id="funnel"' not in page.read_text()
    record.write(tmp_path, selection())
    assert json.loads((tmp_path / "select" / "selection.json").read_text())["format"] == record.FORMAT
    assert report.run(c, tmp_path) == 0
    text = page.read_text()
    assert text.index('id="funnel"') < text.index('class="hero"') and "The winner is m/c" in text
    assert "&lt;b&gt;no&lt;/b&gt;" in text and "<b>no</b>" not in text
