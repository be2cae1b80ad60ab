"""What the report says: that its numbers are the results', and what it says is missing."""

import re
import subprocess
import sys

import conftest
import numpy as np
import pandas as pd
import pytest
import report_data
from report_data import finetuned, gathered, make, rows

from vtabjax import ranking, results, tasks
from vtabjax.ranking import proxy_agreement
from vtabjax.report import analysis, charts, standing, tables
from vtabjax.results import Cell
from vtabjax.sweep.plan import UsageError

TASKS = tasks.EMBEDDED


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """Eight models, three tasks, four protocols."""
    workdir = tmp_path_factory.mktemp("mini")
    report_data.sweep(workdir, 8, TASKS)
    return workdir


def test_tables_are_the_results(mini):
    make(mini)
    frame = results.collect(mini)
    for protocol, metric in (("finetune", "accuracy"), ("linear", "accuracy"), ("knn", "accuracy_cosine")):
        wanted = frame[frame.protocol == protocol].pivot(index="model", columns="task", values=metric)
        name = protocol if metric == "accuracy" else f"{protocol}-{metric}"
        shown = pd.read_csv(mini / "report" / "tables" / f"{name}-accuracy.csv", index_col="model")
        np.testing.assert_array_equal(shown.loc[wanted.index, list(TASKS)], wanted[list(TASKS)])
        np.testing.assert_allclose(shown.loc[wanted.index, "mean"], wanted.mean(axis=1), rtol=1e-14)
        fit = ranking.epp(wanted.to_numpy()) if name == "linear" else None
        if fit is not None and fit.finite:
            epp = pd.read_csv(mini / "report" / "tables" / f"{name}-epp.csv", index_col="model")
            np.testing.assert_allclose(epp.loc[wanted.index, "EPP"], fit.scores, atol=1e-12)
            np.testing.assert_allclose(epp.loc[wanted.index, "standard error"], fit.standard_errors)


def test_best_top_and_differences(mini):
    make(mini)
    frame = results.collect(mini)
    tuned = frame[frame.protocol == "finetune"].pivot(index="model", columns="task", values="accuracy")
    for row in rows(mini, "finetune-best"):
        assert float(row["accuracy"]) == tuned[row["task"]].max()
        assert row["best model"].split(", ")[0] in tuned.index[tuned[row["task"]] == tuned[row["task"]].max()]
    for row in rows(mini, "finetune-top"):  # of eight models the best three count
        third = tuned.apply(lambda c: c.sort_values(ascending=False).iloc[2])
        assert int(row["top 3"]) == (tuned.loc[row["model"]] >= third).sum()
    leader = tuned.mean(axis=1).idxmax()
    found = rows(mini, "finetune-differences")
    assert len(found) == 7 and leader not in [r["model"] for r in found]
    for row in found:
        behind = tuned.mean(axis=1)[leader] - tuned.mean(axis=1)[row["model"]]
        assert float(row["behind"]) == pytest.approx(behind)
        low, high = (float(row[f"95 % paired bootstrap {end}"]) for end in ("low", "high"))
        assert low <= behind <= high and (row["lead is"] == "clear") == (low > 0)


def test_proxies_are_judged(mini):
    make(mini)
    frame = results.collect(mini)
    tuned = frame[frame.protocol == "finetune"].pivot(index="model", columns="task", values="accuracy")
    table = {r["proxy"]: r for r in rows(mini, "proxies")}
    for title, protocol, metric in (
        ("Nearest neighbours (euclidean)", "knn", "accuracy"),
        ("Linear evaluation (validation)", "linear", "val_accuracy"),
        ("LogME", "transferability", "logme"),
        ("LEEP", "transferability", "leep"),
    ):
        values = frame[frame.protocol == protocol].pivot(index="model", columns="task", values=metric)
        per = [proxy_agreement.agreement(values.loc[tuned.index, t], tuned[t]) for t in TASKS]
        for name, column in (
            ("weighted_kendall", "weighted Kendall"),
            ("regret@1", "regret@1"),
            ("hit@3", "hit@3"),
        ):
            assert float(table[title][column]) == pytest.approx(np.mean([p[name] for p in per])), (
                title,
                name,
            )
    static = {r["proxy"] for r in table.values() if r["kind"] == "baseline"}
    assert static == {
        "mean accuracy on the other tasks",
        "ImageNet top-1",
        "number of parameters",
        "feature width",
    }
    assert float(table["LogME"]["seconds"]) == pytest.approx(0.01)
    assert float(table["Nearest neighbours (euclidean)"]["with features"]) > 2
    without = {r["proxy"]: r for r in rows(mini, "proxies-without-family")}["LogME"]
    assert {"without resnet", "without vision_transformer", "without convnext"} < set(without)


def test_groups_sizes_and_front(mini):
    text = make(mini)
    groups = {(r["by"], r["group"]): r for r in rows(mini, "finetune-groups")}
    assert {g for by, g in groups if by == "method"} == {
        "supervised", "self-supervised", "semi-supervised", "random weights",
    }  # fmt: skip
    cost = rows(mini, "finetune-cost")
    by_size = sorted(cost, key=lambda r: float(r["parameters"]))
    best = -1.0
    for row in by_size:
        assert (row["front (size)"] == "yes") == (float(row["mean"]) > best)
        best = max(best, float(row["mean"]))
    speeds = {r["model"]: float(r["images/s"]) for r in cost}
    assert speeds[report_data.spec(0)] == pytest.approx(200) and speeds[report_data.spec(7)] == pytest.approx(
        480
    )
    assert "on 1 x cpu" in text


def test_a_model_without_parameters_is_on_the_front_of_table_and_chart(tmp_path):
    """The pixels: cheaper than everything, and with no place on a logarithmic axis."""
    for i, (accuracy, parameters) in enumerate([(0.5, 0), (0.4, 272_128), (0.6, 356_196), (0.3, 470_000)]):
        finetuned(tmp_path, i, "digits", accuracy, source=report_data.source(i) | {"parameters": parameters})
    a = analysis.analyse(gathered(tmp_path).boards[0], analysis.Options(resamples=100))
    rows = {row[0]: row[3] for row in tables.board_tables(a)["cost"].rows}
    assert [rows[report_data.spec(i)] for i in range(4)] == ["yes", "", "yes", ""]
    line, *points = charts.board_charts(a, standing.standing(a))["size"]["figure"]["data"]
    names = [name for trace in points for name in trace["text"]]
    assert sorted(names) == sorted(report_data.spec(i).removeprefix("timm/") for i in (1, 2, 3))
    assert [size for trace in points for size in trace["marker"]["size"]].count(12) == 1
    # A step: up to the next one's size nothing better can be had.
    assert line["line"]["shape"] == "hv"


def test_files_for_papers(mini):
    make(mini, figures=True)
    tables, figures = mini / "report" / "tables", mini / "report" / "figures"
    stems = {p.stem for p in tables.glob("*.csv")}
    assert {"finetune-accuracy", "finetune-epp", "proxies", "knn-best"} < stems
    for kind in ("md", "tex"):
        assert {p.stem for p in tables.glob(f"*.{kind}")} == stems
    latex = (tables / "finetune-accuracy.tex").read_text()
    assert r"\toprule" in latex and r"resnet\_000" in latex and r"\label{tab:finetune-accuracy}" in latex
    assert r"\textbf" in latex and "family" not in latex and "lrrrrr" in latex
    for name in (
        "finetune-heat",
        "finetune-epp",
        "finetune-top",
        "finetune-cost",
        "proxies",
        "proxy-linear-evaluation-by-task",
    ):
        assert (figures / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
        assert (figures / f"{name}.png").read_bytes()[1:4] == b"PNG"
    assert len(list(figures.glob("proxy-*-by-task.pdf"))) == 4  # the most trusted, to choose from
    assert not list((mini / "report").rglob("*.tmp"))


def test_methods_come_from_the_settings(mini):
    text = make(mini)
    for said in ("image_size 64", "resize vtab", "c_count 12", "train800+val200+test", "jax"):
        assert said in text, said


# What is missing is said.


def test_empty_workdir(tmp_path):
    text = make(tmp_path)
    assert "No ranking yet" in text and f"There are no results in {tmp_path}" in text
    assert "python main.py --config=configs/knn.py" in text
    text = make(tmp_path, published="vtab")
    assert (
        "No clear winner: Sup-Rotation-100% and Sup-Exemplar-100%" in text
        and "There are no results in" in text
    )


def test_one_model(tmp_path):
    report_data.sweep(tmp_path, 1, TASKS)
    text = make(tmp_path)
    assert "No strengths: a ranking needs two models or more" in text
    assert "Proxies cannot be judged: only 1 models were fine-tuned" in text
    assert "only one model has all tasks" in text


def test_one_task(tmp_path):
    report_data.sweep(tmp_path, 5, TASKS[:1], ("knn", "finetune"))
    text = make(tmp_path, figures=True)
    assert "One task says little about new ones" in text and "best mean accuracy on digits" in text
    assert all(r["95 % by task low"] == "" for r in rows(tmp_path, "finetune-epp"))


def test_all_cells_failed(tmp_path):
    for model in ("a/x", "a/y"):
        for task in TASKS:
            cell = Cell("knn", model, task, {})
            results.save_error(cell, tmp_path, stage="convert", message="no operator", traceback="")
    text = make(tmp_path)
    assert "Every cell failed" in text and "no operator" in text and "digits, sprites_location" in text


def test_only_proxies(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("knn", "transferability"))
    text = make(tmp_path)
    assert "Nothing was fine-tuned, so it is not known how far the proxies can be trusted" in text
    assert "Best mean accuracy · Nearest neighbours (euclidean)" in text


def test_only_scores(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("transferability",))
    text = make(tmp_path)
    assert "No ranking yet" in text and "only scores" in text


def test_only_finetuning(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("finetune",))
    text = make(tmp_path)
    assert "Only fine-tuning was run, so there are no proxies to judge" in text
    assert "Best mean accuracy · Fine-tuning" in text


def test_copies_and_zero_distances_are_told(tmp_path):
    leak = {"within": {"train800val200": 0, "test": 0}, "between": {"train800val200+test": 7}, "classes": 0}
    none = {"within": {"train800val200": 0}, "between": {}, "classes": 0}
    zero = "3 of 1,000 examples have the same features as their nearest neighbour: 3 of x"
    for i in (0, 1):
        for protocol in ("linear", "finetune"):
            report_data.save(
                tmp_path, protocol, report_data.spec(i), "digits", {"accuracy": 0.5}, i=i, copies=leak
            )
        report_data.save(tmp_path, "knn", report_data.spec(i), "digits", {"accuracy": 0.5}, i=i, copies=none)
        report_data.save(
            tmp_path, "knn", report_data.spec(i), "dtd", {"accuracy": 0.5}, i=i
        )  # older: not known
    path = sorted(tmp_path.glob("results/knn/*/digits.json"))[0]
    path.write_text(path.read_text().replace('"notes": {}', f'"notes": {{"distance_zero": "{zero}"}}'))
    text = make(tmp_path)
    said = "digits: 7 test pictures are copies of train800val200 pictures (Fine-tuning, Linear evaluation)."
    assert text.count(said) == 1 and text.count("are copies of") == 1
    assert f"digits, Nearest neighbours: {zero} ({report_data.spec(0)})." in text
    assert "Pictures with equal pixels before they are resized" in text


def test_gaps(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("finetune",))
    (tmp_path / "results/finetune/timm--vit_001.tag1_in1k/digits.json").unlink()
    text = make(tmp_path)
    assert "Fine-tuning: 1 of 12 cells have no result (1 of 4 models, on digits)" in text
    table = {r["model"]: r for r in rows(tmp_path, "finetune-accuracy")}
    assert table[report_data.spec(1)]["mean"] == "" and table[report_data.spec(1)]["digits"] == ""
    assert list(table)[-3:] == [report_data.spec(1), "(chance)", "(majority)"]
    assert float(table["(majority)"]["digits"]) == 102 / 797 and table["(chance)"]["method"] == ""


def test_damaged_file_is_left_out(tmp_path):
    report_data.sweep(tmp_path, 3, TASKS, ("knn",))
    (tmp_path / "results/knn/timm--resnet_000.tag0_in1k/digits.json").write_text("{")
    assert "A file was left out" in make(tmp_path)


def test_a_model_that_always_wins(tmp_path):
    for i in range(4):
        for j, task in enumerate(TASKS):
            accuracy = 0.9 if i == 2 else 0.3 + 0.1 * ((i + j) % 3)
            report_data.save(tmp_path, "finetune", report_data.spec(i), task, {"accuracy": accuracy}, i=i)
    text = make(tmp_path)
    assert (
        f"{report_data.spec(2).removeprefix('timm/')} lost no match" in text
        and "penalised fit (ridge 0.1)" in text
    )
    table = {r["model"]: r for r in rows(tmp_path, "finetune-epp")}
    assert table[report_data.spec(2)]["group"] == "1" and table[report_data.spec(2)]["EPP within group"] == ""


# Options and messages.


def test_reference_margin_and_rounds_of_examples(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("finetune",))
    make(tmp_path, reference=report_data.spec(1), tie_margin=0.5, example_rounds=5)
    table = {r["model"]: r for r in rows(tmp_path, "finetune-epp")}
    assert float(table[report_data.spec(1)]["EPP"]) == 0 and float(table[report_data.spec(1)]["Elo"]) == 1500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resamples": 3}, "config.resamples=3 is too small: it must be at least 100"),
        ({"tie_margin": -1.0}, "config.tie_margin=-1.0"),
        ({"published": "no.csv"}, "config.published='no.csv' cannot be read"),
        ({"reference": "timm/resnet_00"}, "is not one of the models here; did you mean timm/resnet_0"),
    ],
)
def test_bad_fields(mini, changes, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make(mini, **changes)


def test_command_line(tmp_path):
    def main(*arguments):
        command = [sys.executable, "main.py", "--config=configs/report.py", *arguments]
        return subprocess.run(command, cwd=conftest.ROOT, capture_output=True, text=True)

    wrong = main(f"--workdir={tmp_path / 'nowhere'}")
    assert (
        wrong.returncode == 2
        and "there is no such folder" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )
    report_data.sweep(tmp_path, 3, TASKS[:1], ("knn",))
    fine = main(f"--workdir={tmp_path}", "--config.figures=false", "--config.resamples=100")
    assert fine.returncode == 0, fine.stderr
    assert (
        "3 results of 3 models, 0 failures" in fine.stderr
        and (tmp_path / "report" / "report.html").stat().st_size > 1e6
    )


def test_same_results_same_page(mini):
    make(mini)
    first = (mini / "report" / "report.html").read_bytes()
    make(mini)
    assert (mini / "report" / "report.html").read_bytes() == first


def test_a_filter_shows_the_models_that_pass(tmp_path):
    told = {"license": "mit", "gflops": 4.1}
    for i, more in enumerate((told, told | {"gflops": 9.0}, {"license": None}, {"license": "cc-by-nc-4.0"})):
        source = report_data.source(i) | more
        for task in TASKS:
            finetuned(tmp_path, i, task, 0.4 + i / 10, source=source)
    everything = make(tmp_path)
    assert "Accuracy against operations for an image" in everything
    front = {row["model"]: (row["GFLOPs"], row["front (GFLOPs)"]) for row in rows(tmp_path, "finetune-cost")}
    # The second has more operations than the first, and more accuracy; of the others the number is not known.
    assert [front[report_data.spec(i)] for i in range(4)] == [
        ("4.1", "yes"),
        ("9.0", "yes"),
        ("", ""),
        ("", ""),
    ]
    names = [report_data.spec(i).removeprefix("timm/") for i in range(4)]
    assert all(name in everything for name in names) and "Filter:" not in everything
    shown = {row["model"]: row for row in rows(tmp_path, "finetune-accuracy")}
    assert shown[report_data.spec(0)]["GFLOPs"] == "4.1" and shown[report_data.spec(0)]["licence"] == "mit"
    text = make(tmp_path, filter="licence!=non-commercial, gflops<5")
    assert {row["model"] for row in rows(tmp_path, "finetune-accuracy")} & {
        report_data.spec(i) for i in range(4)
    } == {report_data.spec(0)}
    assert "Filter: 1 of 4 models pass the filter." in text
    assert f"1 model left out by gflops<5: {report_data.spec(1)}" in text
    assert (
        f"1 model left out because its number of operations is not known: {report_data.spec(2)}" in text
    )  # random weights
    assert f"1 model left out by licence!=non-commercial: {report_data.spec(3)}" in text
    with pytest.raises(UsageError, match="config.filter='parameters>1G' leaves no model: 0 of 4 models pass"):
        make(tmp_path, filter="parameters>1G")
