"""The report where classes are uneven, or examples belong together."""

import numpy as np
import pytest
import report_data

from vtabjax import results
from vtabjax.protocols import measures
from vtabjax.ranking import resampling
from vtabjax.report import analysis, gather
from vtabjax.results import Cell

LABELS = np.repeat([0, 1], [90, 10])
# One says the frequent class of everything; the other is right on four fifths of either class.
PREDICTIONS = {
    "timm/lazy": np.zeros(100, int),
    "timm/fair": np.where(np.arange(100) % 5 == 0, 1 - LABELS, LABELS),
}


def save(workdir, model, groups=None, task="digits"):
    confusion = measures.confusion_matrix(LABELS, PREDICTIONS[model], 2)
    correct = PREDICTIONS[model] == LABELS
    cell = Cell("linear", model, task, {**report_data.SETTINGS["linear"], "task": task})
    metrics = {"accuracy": correct.mean(), "balanced_accuracy": measures.balanced_accuracy(confusion)}
    provenance = {"weight_hash": model, "data": {"test": "x"}}
    results.save(
        cell,
        workdir,
        metrics=metrics,
        correct=correct,
        confusion=confusion,
        groups=groups,
        provenance=provenance,
        seconds={"linear": 1.0},
    )


def ranked(workdir, score="accuracy"):
    found = gather.gather(workdir, workdir, score=score)
    (board,) = found.boards
    return found, board, analysis.analyse(board, analysis.Options(resamples=200))


def test_balanced_accuracy_turns_the_ranking_round(tmp_path):
    for model in PREDICTIONS:
        save(tmp_path, model)
    _, board, found = ranked(tmp_path)
    assert board.models[found.order[0]].label == "timm/lazy" and board.measure == "accuracy"
    gathered, board, found = ranked(tmp_path, "balanced_accuracy")
    fair, lazy = found.order
    assert board.models[fair].label == "timm/fair" and board.title == "Linear evaluation, balanced accuracy"
    assert (found.mean[fair], found.mean[lazy]) == (0.8, 0.5)
    # Every class weighs the same: 4 / (1 / 90 + 1 / 10) examples.
    assert board.n_effective == pytest.approx(np.full((2, 1), 36.0))
    assert (found.low[fair, 0], found.high[fair, 0]) == pytest.approx(resampling.wilson(0.8, 36))
    assert found.differences is None and "class of each example" in found.no_differences
    assert any("ranked by balanced accuracy" in notice for notice in gathered.notices)
    assert [row.name for row in found.levels] == ["(chance)"]
    page = report_data.make(tmp_path, score="balanced_accuracy")
    assert (
        "best mean balanced accuracy on digits" in page
        and "Balanced accuracy in percent of every model" in page
    )
    (first, *_) = report_data.rows(tmp_path, "linear-balanced_accuracy-best")
    assert float(first["balanced accuracy"]) == 0.8


def test_results_without_a_balanced_accuracy(tmp_path):
    report_data.sweep(tmp_path, 2, ["digits"], ["finetune"])
    found = gather.gather(tmp_path, tmp_path, score="balanced_accuracy")
    assert [board.metric for board in found.boards] == ["accuracy"]
    assert any("config.score changes nothing" in notice for notice in found.notices)


def test_groups_widen_intervals_and_leads(tmp_path):
    groups = np.arange(100) // 20
    for model in PREDICTIONS:
        save(tmp_path / "grouped", model, groups)
        save(tmp_path / "alone", model, np.arange(100))
    _, board, grouped = ranked(tmp_path / "grouped")
    _, _, alone = ranked(tmp_path / "alone")
    lazy = grouped.order[0]
    correct = PREDICTIONS["timm/lazy"] == LABELS
    interval = resampling.group_interval(correct, groups)
    assert (grouped.low[lazy, 0], grouped.high[lazy, 0]) == interval
    # Four groups are right throughout, the fifth by half.
    assert interval[1] == 1 and 0.6 <= interval[0] <= 0.8
    assert alone.low[lazy, 0] > grouped.low[lazy, 0]
    d, e = grouped.differences, alone.differences
    assert d.high[1] - d.low[1] > e.high[1] - e.low[1] and d.difference[1] == e.difference[1]
    assert "examples in 5 groups" in report_data.make(tmp_path / "grouped")


def test_results_about_other_groups_are_not_paired(tmp_path):
    save(tmp_path, "timm/lazy", np.arange(100) // 20)
    save(tmp_path, "timm/fair", np.arange(100) // 10)
    found = gather.gather(tmp_path, tmp_path)
    assert len(found.boards) == 2 and any("different examples" in notice for notice in found.notices)
