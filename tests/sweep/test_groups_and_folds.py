"""Near-copies by patient: what groups change in a sweep's numbers; folds and how they are joined."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import finetune, knn, linear, transferability
from configs import report as report_config
from vtabjax import data, options, report, results, tasks
from vtabjax.protocols import linear as protocol
from vtabjax.ranking import resampling
from vtabjax.sweep import folds, plan, runner, tables

PATTERN = r"(patient\d+)_"
# Patients 2i and 2i + 1 look alike; of four of the six pairs both have the same class.
CLASSES = ("ill", "ill", "well", "well", "ill", "ill", "well", "well", "ill", "well", "well", "ill")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures of each patient that differ by a little noise; those of a pair by more, all others by a lot."""
    root, rng = tmp_path_factory.mktemp("patients"), np.random.default_rng(0)
    rows = ["path,label,group,split"]
    for patient, cls in enumerate(CLASSES):
        if patient % 2 == 0:
            base = rng.integers(20, 220, (16, 16, 3))
        look = base + 12 * (patient % 2) * rng.integers(0, 2, base.shape)
        for i in range(5):
            path = root / cls / f"patient{patient:02d}_{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((look + rng.integers(0, 2, base.shape)).astype(np.uint8)).save(path)
            rows.append(f"{path.relative_to(root)},{cls},{patient},train")
    for cls in ("ill", "well"):
        path = root / "tested" / f"{cls}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(path)
        rows.append(f"{path.relative_to(root)},{cls},tested {cls},test")
    (root / "list.csv").write_text("\n".join(rows))
    folder = root / "folder"
    for cls in ("ill", "well"):
        shutil.copytree(root / cls, folder / cls)
    return root


def sweep(module, workdir, names, **fields):
    config = module.get_config("mini")
    config.models, config.tasks, config.image_size = "baseline/pixels", names, 16
    config.update(fields)
    assert runner.run(config, workdir) == 0
    return [record for _, record in results.records(workdir, config.protocol)]


def leave_one_out(examples, groups):
    """By the definition, in float64."""
    x = examples.images.reshape(len(examples.labels), -1).astype(float)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    distance[groups[:, None] == groups[None]] = np.inf
    return examples.labels[distance.argmin(1)] == examples.labels


def test_the_true_value_is_known(pictures, tmp_path):
    (record,) = sweep(knn, tmp_path, f"table:{pictures}/list.csv", metric="euclidean")
    assert record["metrics"]["accuracy"] == 40 / 60 and record["n_examples"] == 60
    assert record["groups"]["count"] == 12 and record["settings"]["splits"] == ["trainval"]
    groups, correct = (
        f(record[n]) for f, n in ((results.unpack_groups, "groups"), (results.unpack, "correct"))
    )
    assert np.bincount(groups).tolist() == [5] * 12
    assert set(np.bincount(groups, correct)) == {0, 5}
    low, high = record["metrics"]["interval"]
    # Twelve patients, eight of them right: a binomial of twelve, not of sixty.
    assert (low, high) == resampling.group_interval(correct, groups)
    assert low == pytest.approx(5 / 12) and high == pytest.approx(11 / 12)


def test_without_groups_near_copies_score_full_marks(pictures, tmp_path, capsys):
    (record,) = sweep(knn, tmp_path / "w", f"folder:{pictures}/folder", metric="euclidean")
    assert record["metrics"]["accuracy"] == 1 and "groups" not in record
    assert r"--config.group='(patient\d+)[-_. ]'" in capsys.readouterr().err
    (record,) = sweep(knn, tmp_path / "g", f"folder:{pictures}/folder", metric="euclidean", group=PATTERN)
    task = tasks.get(record["task"])
    examples = data.load(task, "trainval", image_size=16)
    expected = leave_one_out(examples, examples.groups)
    assert np.array_equal(results.unpack(record["correct"]), expected) and expected.mean() < 0.8
    assert {f.group for f in task.files["test"]}.isdisjoint(
        f.group for s in ("train", "val") for f in task.files[s]
    )
    said = capsys.readouterr().err
    assert "12 groups by '(patient\\d+)_'" in said and "knn works with 50 (trainval)" in said


@pytest.fixture(scope="module")
def folded(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("folds")
    fields = {"group": PATTERN, "folds": 3, "c_count": 2}
    return workdir, sweep(linear, workdir, f"folder:{pictures}/folder", **fields)


def test_folds_test_every_example_once(folded, pictures):
    workdir, records = folded
    assert [r["settings"]["fold"] for r in records] == [1, 2, 3] or len(records) == 3
    assert sum(r["n_examples"] for r in records) == 60
    ((_, whole),) = folds.join((str(i), record) for i, record in enumerate(records)).records
    by_fold = sorted(records, key=lambda r: r["settings"]["fold"])
    correct = np.concatenate([results.unpack(r["correct"]) for r in by_fold])
    assert whole["metrics"]["accuracy"] == correct.mean() and whole["n_examples"] == 60
    assert np.array_equal(results.unpack(whole["correct"]), correct)
    assert whole["task"] == tasks.with_options(f"folder:{pictures}/folder", PATTERN)
    groups = results.unpack_groups(whole["groups"])
    assert np.bincount(groups).tolist() == [5] * 12
    assert tuple(whole["metrics"]["interval"]) == resampling.group_interval(correct, groups)
    confusion = results.unpack_confusion(whole["confusion"])
    assert confusion.sum() == 60 and confusion.trace() == correct.sum()
    assert whole["metrics"]["balanced_accuracy"] == pytest.approx(
        np.mean(confusion.diagonal() / confusion.sum(1))
    )


def cells(records):
    return {(r["model"], r["task"]): r for r in records}


def test_folds_share_one_pass_and_are_what_their_own_images_are(folded):
    workdir, records = folded
    assert sum(taken["images"] for r in records for taken in r["passes"].values()) == 60
    record = records[0]
    splits = [data.load(record["task"], split, image_size=16) for split in ("train", "val", "test")]
    pixels = [(s.images.reshape(len(s.labels), -1) / 255, s.labels) for s in splits]
    grid = np.logspace(-6, 5, 2)
    found = protocol.evaluate(*pixels, c_grid=grid)
    assert record["metrics"]["accuracy"] == found.test_accuracy
    groups = results.unpack_groups(record["groups"])
    assert np.array_equal(groups, np.unique(splits[-1].groups, return_inverse=True)[1])
    assert record["copies"] == {
        "within": {"trainval": 0, "test": 0},
        "between": {"trainval+test": 0},
        "classes": 0,
    }


def test_folds_share_a_column(folded):
    _, records = folded
    (row, *_) = tables.accuracy_table(folds.of_table(cells(records))).rows
    assert len(row) == 3 + ("balanced" in str(row))  # model, the task, the mean
    shown = tables.shown(tables.table("linear", cells(records)))
    assert "folder " in shown and "fold=" not in shown and "(60 in 12 groups)" in shown
    missing = {k: None if "fold=2of3" in k[1] else r for k, r in cells(records).items()}
    assert list(folds.of_table(missing).values()) == [None]


def make_report(workdir):
    config = report_config.get_config()
    config.figures = False
    assert report.run(config, workdir) == 0
    page = (workdir / "report" / "report.html").read_text()
    with open(workdir / "report" / "tables" / "linear-accuracy.csv", newline="") as file:
        return page, list(csv.DictReader(file))


def test_the_report_joins_folds_and_says_what_is_missing(folded, tmp_path):
    shutil.copytree(folded[0] / "results", tmp_path / "results")
    from vtabjax.report import gather

    found = gather.gather(tmp_path, tmp_path)
    (board,) = [b for b in found.boards if b.metric == "accuracy"]
    assert board.values.shape == (1, 1) and board.n_examples[0, 0] == 60
    assert board.groups[0, 0].max() == 11 and board.settings["folds"] == 3
    assert any("12 groups" in notice for notice in found.notices)
    next(path for path, r in results.records(tmp_path) if r["settings"]["fold"] == 2).unlink()
    found = gather.gather(tmp_path, tmp_path)
    assert not found.boards
    assert any("2 of 3 folds are there; it has no value until all are" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (knn, {"folds": 5}, "config.folds=5: nearest neighbours leave one example out"),
        (linear, {"folds": 5, "tasks": "digits"}, "config.folds=5 is for pictures of your own"),
        (knn, {"group": "a", "tasks": "digits"}, "config.group='a' is for pictures of your own"),
        (knn, {"group": "("}, r"config.group='\(' is not a regular expression"),
        (
            knn,
            {"group": "nobody"},
            "config.tasks: task 'folder:.*group='nobody' matches none of its 60 pictures",
        ),
        (
            knn,
            {"tasks": "folder:{}#fold=1of5"},
            "config.tasks='folder:.*#fold=1of5': nearest neighbours leave one",
        ),
        (linear, {"folds": 70}, "70 folds are too many"),
        (knn, {"group": "(patient)"}, "all of its pictures are in one group"),
    ],
)
def test_refused(pictures, tmp_path, module, fields, message):
    config = module.get_config("mini")
    config.models, config.tasks, config.dry_run = "baseline/pixels", f"folder:{pictures}/folder", True
    config.update({k: v.format(f"{pictures}/folder") if k == "tasks" else v for k, v in fields.items()})
    with pytest.raises(options.UsageError, match=message):
        runner.run(config, tmp_path)


def test_fine_tuning_tests_each_fold_after_training_on_the_others(pictures, tmp_path):
    config = finetune.get_config("mini")
    config.finetune.update({"scope": "head", "steps": "2", "learning_rates": "0.1", "batch_size": 8})
    config.models, config.tasks, config.image_size = "baseline/pixels", f"folder:{pictures}/folder", 16
    config.group, config.folds = PATTERN, 2
    assert runner.run(config, tmp_path) == 0
    ((_, whole),) = folds.join((str(path), r) for path, r in results.records(tmp_path)).records
    assert whole["n_examples"] == 60 and whole["groups"]["count"] == 12
    assert len(whole["chosen"]["folds"]) == 2 and len(whole["data"]) == 6


@pytest.mark.parametrize(
    ("module", "splits"),
    [
        (knn, ["trainval"]),
        (transferability, ["trainval"]),
        (linear, ["train", "val", "test"]),
        (finetune, ["train", "val", "test"]),
    ],
)
def test_a_thousand_examples_are_for_vtab(tmp_path, module, splits):
    for cls in ("a", "b"):
        (tmp_path / "d" / cls).mkdir(parents=True)
        for i in range(1300):
            (tmp_path / "d" / cls / f"{i}.png").touch()
    config = module.get_config("vtab")
    config.models, config.tasks, config.dry_run = "baseline/pixels", f"folder:{tmp_path}/d,digits", True
    own, digits = plan.all_cells(plan.read(config), tmp_path)
    assert own.settings["splits"] == splits
    assert digits.settings["splits"][0] == ("train800val200" if len(splits) == 1 else "train800")
    ranges = [r for split in splits for r in tasks.ranges(tasks.get(own.task), split)]
    assert sum(r.stop - r.start for r in ranges) == (2080 if len(splits) == 1 else 2600)
