"""What the page answers: who wins and whether that is sure, what proxies are compared on, what things are called."""

import numpy as np
import pytest
import report_data

from vtabjax import ranking, tasks
from vtabjax.ranking import resampling
from vtabjax.report import (
    analysis,
    cells,
    headline,
    mean_intervals,
    naming,
    page,
    proxies,
    proxy_tables,
    standing,
    tables,
)
from vtabjax.report.boards import Board, Model
from vtabjax.report.charts import board_charts

TASKS = list(tasks.EMBEDDED)
RANDOM = np.random.default_rng(0)


def board(values, names=None, task_names=None, n=400, **changes):
    """A board of accuracies [M, T], with test examples that are right where they have to be."""
    values = np.asarray(values, float)
    m, t = values.shape
    names = names or [f"timm/m{i}@random" for i in range(m)]
    changes = {
        "protocol": "finetune",
        "metric": "accuracy",
        "title": "Fine-tuning",
        "key": "finetune",
    } | changes
    return Board(
        settings={},
        models=[Model(name, name) for name in names],
        tasks=task_names or [f"folder:/d/t{j}" for j in range(t)],
        values=values,
        n_examples=np.full((m, t), n),
        files=[[""] * t for _ in range(m)],
        **changes,
    )


def answered(found):
    a = analysis.analyse(found, analysis.Options(resamples=100))
    s = standing.standing(a)
    return a, s, headline.headline(a, s)


def test_no_winner_where_the_interval_holds_one_half():
    """Two models that win half of the tasks each."""
    _, s, said = answered(board([[0.9, 0.7] * 5, [0.7, 0.88] * 5, [0.3, 0.3] * 5]))
    assert s.clear is False and s.chance.low < 0.5 < s.chance.high
    assert said.lead == "No clear winner: m0 and m1"
    text = " ".join(said.sentences)
    assert (
        "m0 has the best mean accuracy over 10 tasks, 80.0" in text
        and "m1 follows, 1.0 points behind" in text
    )
    assert "m0 would beat m1 with a chance of 50.0" in text and "m2" not in text


def test_a_winner_whose_lead_is_beyond_the_noise():
    values = 0.5 + 0.01 * RANDOM.normal(size=(3, 12)) + np.array([[0.3], [0.1], [0.0]])
    a, s, said = answered(board(values))
    assert s.clear and said.lead == "m0" and s.over == "tasks" and s.level_with_first == []
    # Student's t over the differences on each task.
    apart = values[0] - values[1]
    half = ranking.t_multiplier(12) * apart.std(ddof=1) / np.sqrt(12)
    assert (s.low[1], s.high[1]) == pytest.approx((apart.mean() - half, apart.mean() + half))
    chart = board_charts(a, s)["ranking"]["figure"]
    assert chart["layout"]["yaxis"]["ticktext"] == ["m0", "m1", "m2"]


def test_intervals_beside_the_first_are_those_of_the_paired_bootstrap(tmp_path):
    report_data.sweep(tmp_path, 3, TASKS, ("finetune",))
    a = analysis.analyse(report_data.gathered(tmp_path).boards[0], analysis.Options(resamples=100))
    s, d = standing.standing(a), a.differences
    assert s.over == "examples" and (s.low[d.rows] == d.low).all() and (s.high[d.rows] == d.high).all()
    assert (d.mean_low <= a.mean[d.rows]).all() and (a.mean[d.rows] <= d.mean_high).all()


def test_an_interval_of_everything_is_left_out():
    """Two tasks, one won by each: the interval is all there is, so no number is given."""
    _, s, said = answered(board([[0.9, 0.5], [0.5, 0.8]]))
    assert not s.chance.says_something
    assert said.lead.startswith("No clear winner") and "chance of" not in " ".join(said.sentences)
    assert "2 tasks say little about new ones: on one like these, either could win." in said.sentences


def test_strength_is_a_chance_to_beat_an_average_model():
    a, _, _ = answered(board(RANDOM.uniform(size=(4, 12))))
    found = standing.against_average(a.strengths)
    assert found.p == pytest.approx(1 / (1 + np.exp(-a.strengths.fit.scores)))
    rows = tables.board_tables(a)["strength"].rows
    assert [row[1] for row in rows] == sorted(found.p.tolist(), reverse=True)


def test_names_without_what_all_share():
    models = [Model(label, label) for label in ("timm/a@random", "timm/b@random", "baseline/pixels")]
    names, shared = naming.of_models(models)
    assert names == ["a", "b", "baseline/pixels"]
    assert shared == "timm/ and @random, which all but baseline/pixels share"
    models = [Model("timm/a", "timm/a"), Model("torchvision/a", "torchvision/a")]
    assert naming.of_models(models) == (["timm/a", "torchvision/a"], "")
    published = [Model("Sup-100%", "x", source="paper"), Model("Exemplar", "y", source="paper")]
    assert naming.of_models(published).names == ["Sup-100%", "Exemplar"]
    assert naming.of_models([*models, *published]).names[2] == "Sup-100% (published)"


def test_names_of_tasks():
    grouped = "folder:/d/birds#group=~%28site%5Cd%2B%29_"
    assert naming.of_tasks(["dtd", grouped]) == ["dtd", "birds"]
    assert naming.of_tasks(["folder:/d/birds", grouped]) == [
        "birds (no groups)",
        "birds (group (site\\d+)_)",
    ]
    assert naming.of_tasks(["folder:/a/x", "folder:/b/x"]) == ["a/x", "b/x"]


def test_cells_no_better_than_not_looking_are_grey():
    found = board([[0.9, 0.5], [0.12, 0.09], [0.2, 0.6]], task_names=["digits", "sprites_location"])
    a, _, _ = answered(found)
    shown = cells.heat(a)
    floor = {row["name"]: [cell["floor"] for cell in row["cells"]] for row in shown["rows"]}
    # digits: the most frequent class of the test set has 12.8 %; sprites_location has 16 classes, 7.2 %. Their mean is
    # 10.0, and the interval of m1's mean, 10.5, holds it.
    assert floor == {"m0": [False] * 3, "m2": [False] * 3, "m1": [True, True, True]}
    assert [level["name"] for level in shown["levels"]] == ["(chance)", "(majority)", "(± 95 %)"]


def test_means_have_their_intervals_beside_them():
    """Nineteen tasks of 400 independent examples: half of a mean's interval is sqrt(sum of squares) / n."""
    values = np.array([[0.9] * 19, [0.5] * 19])
    a, _, _ = answered(board(values, task_names=list(tasks.VTAB)))
    low, high = resampling.wilson(values[0, :1], 400)
    half = (high - low).item() / 2
    found = mean_intervals.mean_intervals(a)
    for name, n in (("mean", 19), ("Natural", 7), ("Specialized", 4), ("Structured", 8)):
        low, high = found[name]
        assert (high[0] + low[0]) / 2 == pytest.approx(0.9) and (high[0] - low[0]) / 2 == pytest.approx(
            half / np.sqrt(n)
        )
    low, high = found["mean of groups"]
    assert (high[0] - low[0]) / 2 == pytest.approx(half * np.sqrt(1 / 7 + 1 / 4 + 1 / 8) / 3)
    shown = cells.heat(a)
    halves = [cell["half"] for cell in shown["rows"][0]["cells"]]
    assert halves[:3] == ["0.7", "0.7", "1.1"] and set(halves[5:]) == {""}
    assert shown["levels"][-1]["cells"][:6] == ["0.7", "0.7", "1.1", "1.5", "1.0", f"{100 * half:.1f}"]


def test_the_mean_has_the_interval_of_the_paired_bootstrap_where_there_is_one(tmp_path):
    report_data.sweep(tmp_path, 3, TASKS, ("finetune",))
    a = analysis.analyse(report_data.gathered(tmp_path).boards[0], analysis.Options(resamples=100))
    low, high = mean_intervals.mean_intervals(a)["mean"]
    d = a.differences
    assert (low[d.rows] == d.mean_low).all() and (high[d.rows] == d.mean_high).all()


def test_means_without_sample_sizes_have_no_interval():
    found = board(RANDOM.uniform(size=(3, 2)), task_names=["digits", "sprites_location"], n=0)
    shown = cells.heat(answered(found)[0])
    assert not shown["intervals"] and shown["levels"][-1]["name"] == "(majority)"
    assert {cell["half"] for row in shown["rows"] for cell in row["cells"]} == {""}


def test_vtab_is_under_its_groups_means_first():
    a, _, _ = answered(board(RANDOM.uniform(size=(3, 19)), task_names=list(tasks.VTAB)))
    shown = cells.heat(a)
    assert shown["spans"] == [["means", 5], ["Natural", 7], ["Specialized", 4], ["Structured", 8]]
    names = [column["name"] for column in shown["columns"]]
    assert names[:5] == ["mean", "mean of groups", "Natural", "Specialized", "Structured"]
    found = tables.board_tables(a)
    assert len(found["means"].columns) == 6 and len(found["transposed"].items) == 24
    turned, plain = found["transposed"].rows, found["accuracy"].rows
    assert [row[1] for row in turned[:19]] == list(plain[0][1:20])


# Proxies.


def compared(*cheap, values):
    data = report_data_of([board(values)], list(cheap))
    return proxies.compare_proxies(data, analysis.Options(resamples=100))


def report_data_of(boards, cheap):
    from collections import Counter

    from vtabjax.report.boards import ReportData

    return ReportData(boards, [*boards, *cheap], [], [], 1, {}, Counter())


def test_proxies_are_compared_on_what_all_of_them_have():
    truth = RANDOM.uniform(size=(8, 2))
    score = {"protocol": "transferability", "metric": "logme"}
    whole = board(truth + 0.1 * RANDOM.normal(size=truth.shape), **score, key="a", title="LogME")
    lacking = truth + 0.2 * RANDOM.normal(size=truth.shape)
    lacking[0] = np.nan
    most = board(lacking, **score, key="b", title="LEEP")
    few = np.where(np.arange(8)[:, None] < 4, truth, np.nan)
    found = {
        p.title: p
        for p in compared(whole, most, board(few, **score, key="c", title="NCE"), values=truth).proxies
    }
    assert {title: p.n_models for title, p in found.items() if not p.static} == {
        "LogME": 7,
        "LEEP": 7,
        "NCE": 3,
    }
    own = [ranking.agreement(whole.values[1:, j], truth[1:, j])["weighted_kendall"] for j in range(2)]
    assert found["LogME"].agreement.mean["weighted_kendall"] == pytest.approx(np.mean(own))


def test_a_proxy_below_its_resolution_is_noise():
    truth = RANDOM.uniform(size=(8, 2))
    score = {"protocol": "transferability", "metric": "leep"}
    flat = np.full(truth.shape, -2.299) + 1e-4 * RANDOM.normal(size=truth.shape)
    flat[0] = -1.0  # one apart
    fine = board(truth, **score, key="b", title="LogME")
    found = compared(board(flat, **score, key="a", title="LEEP"), fine, values=truth)
    noise = {p.title: p.noise for p in found.proxies if not p.static}
    assert noise == {"LEEP": True, "LogME": False}
    short = proxy_tables.proxy_tables(found)[0]
    said = {row[0]: row[-1] for row in short.rows}
    assert said["LEEP"] == "2 tasks" and said["LogME"] == ""


def test_the_fine_tuning_with_the_most_models_is_the_truth():
    few = board(RANDOM.uniform(size=(4, 9)), key="finetune", title="Fine-tuning")
    many = board(RANDOM.uniform(size=(6, 2)), key="finetune-2", title="Fine-tuning (LoRA)")
    cheap = board(RANDOM.uniform(size=(6, 2)), protocol="knn", key="knn", title="kNN")
    found = proxies.compare_proxies(report_data_of([few, many], [cheap]), analysis.Options(resamples=100))
    assert found.finetuned is many and found.others == ["Fine-tuning"]


def test_the_command_leaves_out_what_is_the_default():
    from configs import report as report_config

    assert {name: report_config.get_config()[name] or () for name in page.DEFAULTS} == {
        name: default or () for name, default in page.DEFAULTS.items()
    }


def test_the_page_says_command_days_and_workdir(tmp_path):
    report_data.sweep(tmp_path / "birds", 3, TASKS[:2], ("knn",))
    text = report_data.make(tmp_path / "birds", tie_margin=0.5)
    command = f"--config=configs/report.py --workdir={tmp_path / 'birds'} "
    command += "--config.resamples=100 --config.tie_margin=0.5"
    assert command in text and "report · birds" in text
    assert "6 results of 20" in text


def test_what_the_examples_settle_is_open_on_new_tasks_only():
    behind = np.array([0.0, 0.1])
    settled = standing.Standing(0, 1, behind, behind / 2, behind * 2, "examples", None, False)
    assert headline._where(settled) == " on new tasks"
    assert (
        headline._where(settled._replace(low=-behind))
        == headline._where(settled._replace(over="tasks"))
        == ""
    )
