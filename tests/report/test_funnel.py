"""The funnel: what it says follows from selection.json; in a browser it stays readable."""

import csv
import json

import chromium
import numpy as np
import pytest
import report_data
import selection_data
from chromium import DESKTOP, PHONE

from vtabjax import report
from vtabjax.ranking import auditing
from vtabjax.report import funnel
from vtabjax.sweep.select import keep, record, shown, verdict
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
    judged = verdict.judge(last.scores)
    return {
        "finished": True,
        "settings": {"models": first.models},
        "stages": [
            record.stage("knn", "knn:2", 2, first, keep.choose(first.scores, 2)),
            record.stage("finetune", "finetune", None, last, None),
        ],
        "winner": "m/c",
        "contenders": ["m/c"],
        "verdict": shown.verdict(last, judged),
        "leader": "m/c",
        "left_out": ["m/a"],
        "judged_by": "finetune",
        "method": "paired",
        "ranking": record.ranking(last, judged),
        "chance_missed": {"value": 0.25, "interval": [0.1, 0.5], "level": 0.9, "method": "regression"},
        "expected_regret": {"value": None, "interval": None, "method": "cannot be said", "reason": "too few"},
        "hours": {"planned": 2.0, "taken": 1.5, "not_run": []},
    }


def rows(content):
    """Of all groups: model, scores by stage, why."""
    return [
        (r["model"], [c["text"] for c in r["cells"]], r["why"]) for g in content["groups"] for r in g["rows"]
    ]


def test_what_it_says():
    made = selection()
    found = funnel.content(made)
    assert [(s["width"], s["kept_width"]) for s in found["stages"]] == [
        ("100.00", "50.00"),
        ("50.00", "100.00"),
    ]
    first, last = found["stages"]
    assert (first["title"], first["asked"], first["said"]) == (
        "Nearest neighbours",
        "knn:2",
        "4 measured, 2 go on",
    )
    assert first["reasons"] == "2 the best, 1 dropped as worse, 1 without a score"
    assert (first["cost"], first["share"], last["cost"], last["share"]) == ("4:00", "67", "2:00", "33")
    assert last["said"] == "2 measured" and last["reasons"] == ""
    assert found["lead"] == "The winner is m/c"
    assert found["counts"] == "4 models, 1 task, took 1:30:00 of 2:00:00"
    assert [g["title"] for g in found["groups"]] == ["Finalists: 2", "Not beyond nearest neighbours: 2"]
    assert rows(found)[:3] == [
        ("m/c", ["60.00", "90.00"], "place 1"),
        ("m/b", ["70.00", "80.00"], "place 2, 10.00 points behind"),
        ("m/a", ["50.00", ""], "behind the first 2"),
    ]
    assert rows(found)[3][0] == "m/d" and rows(found)[3][2].startswith("no score (t: failed in convert")
    facts = dict(found["facts"])
    assert facts["Lead"] == "An accuracy of 90.00 %; 10.00 points ahead of m/b."
    assert "25.00 % (90 % interval 10.00 to 50.00, by regression)" in facts["May have been missed"]
    assert "cannot be said (too few)" in facts["May have been missed"]
    assert made["verdict"] == "The winner is m/c, with an accuracy of 90.00 %, 10.00 points ahead of m/b"


def test_who_was_added():
    found = selection()
    last = scores(["m/b", "m/c"], [0.8, 0.9])
    found["stages"][1] = record.stage("finetune", "finetune", None, last, None, added={"m/c": 0.2})
    found["added"] = {"models": [{"model": "m/c", "chance": 0.2}], "chance": 0.03}
    told = funnel.content(found)
    assert told["stages"][1]["reasons"] == "1 added afterwards"
    assert rows(told)[0][2] == "place 1; added for its chance of being much better"
    assert rows(told)[1][2] == "place 2, 10.00 points behind"
    assert "m/c (20.0 %)" in dict(told["facts"])["Added finalists"]


def test_bounds_by_an_audit():
    found = selection()
    found["chance_missed"] = {
        "value": None,
        "interval": [0.0, 0.5],
        "level": 0.9,
        "method": "audit",
        "reason": "few",
    }
    said = dict(funnel.content(found)["facts"])["May have been missed"]
    assert "0.00 to 50.00 % (90 % interval by the audit; few)" in said


def test_the_audit_comes_after_the_finalists():
    found = selection()
    audit = record.stage("finetune", "finetune (audit)", None, scores(["m/a"], [0.4]), None)
    found["audit"] = {"stage": audit, "bounds": auditing.audit(1, 1, 0)._asdict()}
    both = scores(["m/b", "m/c", "m/a"], [0.8, 0.9, 0.4])
    found["ranking"] = record.ranking(both, verdict.judge(both.scores), ["m/a"])
    told = funnel.content(found)
    assert [(g["title"], g["rows"][0]["model"]) for g in told["groups"]] == [
        ("Finalists: 2", "m/c"),
        ("Drawn for the audit: 1", "m/a"),
        ("Not beyond nearest neighbours: 1", "m/d"),
    ]
    assert rows(told)[2] == ("m/a", ["50.00", "40.00"], "place 3, 50.00 points behind")
    assert dict(told["facts"])["Audit"].startswith(
        "0 of 1 model drawn at random from the 1 left out beat m/c; so 0 to 0"
    )


def test_a_second_with_the_higher_mean_is_not_said_to_be_behind():
    """EPP counts wins: the first wins on five of six tasks, and is far behind on one."""
    values = np.array([[0.6] * 5 + [0.1], [0.59] * 5 + [0.9]])
    names = [f"t{i}" for i in range(6)]
    found = StageScores(["m/a", "m/b"], names, "accuracy", values, None, np.ones(2), {}, {})
    judged = verdict.judge(values)
    assert judged.order == [0, 1] and judged.behind[1] < 0
    said = "; ".join(shown.lead(record.ranking(found, judged), "accuracy"))
    assert "m/b, whose mean is higher, but which wins less often" in said and "-" not in said


def test_scores_that_are_no_accuracies_are_not_percentages():
    """Where time runs out, LogME may have to judge."""
    values = np.array([[0.25], [0.125]])
    found = StageScores(["m/a", "m/b"], ["t"], "logme", values, None, np.ones(2), {}, {})
    judged = verdict.judge(values)
    assert shown.verdict(found, judged) == "The winner is m/a, with a logme of 0.2500, 0.1250 ahead of m/b"
    made = selection() | {"judged_by": "transferability", "ranking": record.ranking(found, judged)}
    made["stages"][0] = record.stage("transferability", "transferability:2", 2, found, keep.choose(values, 2))
    table = shown.ranking(made)
    assert "0.2500" in table and "25.0" not in table and "12.5" not in table
    told = funnel.content(made)
    assert dict(told["facts"])["Lead"].endswith("0.2500; 0.1250 ahead of m/b.")
    assert "Judged by transferability scores" in told["warnings"][0]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A page about 300 models, with names and messages that have no place to break; and what it is about."""
    workdir = tmp_path_factory.mktemp("large")
    made, _ = selection_data.selection(300, audit=6)
    made["hours"]["not_run"] = [f"finetune timm/{'x' * 60}.{'y' * 30} folder:/{'pictures' * 8}"]
    text = json.dumps(made)
    for model in made["settings"]["models"][:40]:
        text = text.replace(f'"{model}"', f'"{model}{"_long" * 12}"')
    made = json.loads(text)
    record.write(workdir, made)
    report_data.make(workdir)
    return made, workdir / "report"


def test_every_model_is_in_the_table_once(large):
    made, folder = large
    with open(folder / "tables" / "selection.csv", encoding="utf-8") as f:
        found = list(csv.DictReader(f))
    assert sorted(row["model"] for row in found) == sorted(made["settings"]["models"])
    assert found[0]["model"] == made["leader"] and float(found[0]["finetune"]) == made["ranking"][0]["score"]
    counts = funnel.content(made)
    assert sum(len(g["rows"]) for g in counts["groups"]) == 300
    stopped, added = len(made["stopped"]["models"]), len(made["added"]["models"])
    assert stopped and added and len(made["audit"]["drawn"]) == 6
    assert counts["stages"][2]["reasons"] == f"{added} added afterwards, {stopped} not trained to the end"


class TestInABrowser:
    pytestmark = chromium.MARKS

    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    def test_many_models_stay_readable(self, open_file, large, size):
        """Nothing is wider than the screen, and no text lies over another."""
        page = open_file(large[1] / "report.html", size)
        page.evaluate("document.querySelectorAll('#funnel details').forEach((d) => (d.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        wide = page.evaluate(
            """() => [...document.querySelectorAll("#funnel, #funnel *")].filter(
              (e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && !e.matches(".visually-hidden"))
              .map((e) => [e.tagName, e.className, e.scrollWidth, e.clientWidth])"""
        )
        assert wide == []
        over = page.evaluate(
            """() => { const boxes = [...document.querySelectorAll(
                "#funnel h2, #funnel p, #funnel dt, #funnel dd, #funnel summary, #funnel h3")]
                .map((e) => [e.textContent.trim().slice(0, 30), e.getBoundingClientRect()]);
              return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
                p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1)
                .map(([b]) => [a, b])); }"""
        )
        assert over == []
        # Lists of hundreds scroll in a box of their own.
        assert page.locator("#funnel").bounding_box()["height"] < 6 * size["height"] + 900
        if size is PHONE:
            first = page.locator("#funnel tbody tr td").first
            assert first.evaluate("(e) => getComputedStyle(e, '::before').content") == '"Nearest neighbours"'
        else:
            assert chromium.low_contrast(page) == []


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
    assert text.index('id="funnel"') < text.index('class="hero"') and "The winner is m/<wbr>c" in text
    assert "&lt;b&gt;no&lt;/b&gt;" in text and "<b>no</b>" not in text
