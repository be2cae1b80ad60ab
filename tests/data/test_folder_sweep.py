"""A sweep on your own pictures: what is said before the work, what is refused, what a result keeps."""

import numpy as np
import pytest
from conftest import fill_with_pictures as fill
from PIL import Image

from vtabjax import results, tasks
from vtabjax.sweep import plan, runner


@pytest.fixture
def folder(tmp_path, config):
    """Two splits by other names, a file that is not read."""
    fill(tmp_path / "birds" / "Training", crow=10, wren=12)
    fill(tmp_path / "birds" / "valid", crow=3, wren=3)
    (tmp_path / "birds" / "valid" / "wren" / "a.heic").write_bytes(b"x")
    config.models, config.tasks = "tiny/a", f"folder:{tmp_path}/birds"
    return tmp_path / "birds"


def test_what_was_found_is_said_and_kept(folder, config, fake_converters, tmp_path, capsys):
    config.dry_run = True
    assert runner.run(config, tmp_path / "w") == 0
    said = (
        "2 classes, 28 pictures (train 18, val 4, test 6); smallest class crow 13, largest wren 15 (53.6%); "
    )
    said += "knn works with 22 (trainval); Training/ is the train split; valid/ is the test split; "
    said += "a fifth of train is val; left out: 1 .heic"
    assert f"{config.tasks}: {said}" in capsys.readouterr().err
    config.dry_run = False
    assert runner.run(config, tmp_path / "w") == 0
    err = capsys.readouterr().err
    assert said in err and "test pictures are copies of train pictures" in err
    ((_, record),) = results.records(tmp_path / "w")
    notes = record["data_notes"]
    assert notes["taken"] == {"train": "Training", "test": "valid"} and notes["background"] == "#ffffff"
    assert notes["left_out"] == {"unread": {".heic": 1}} and notes["copies"]["classes"] == 10
    assert record["settings"]["background"] == "white"
    config.background = "black"
    assert runner.run(config, tmp_path / "w") == 0 and len(results.collect(tmp_path / "w")) == 2


def test_embedded_tasks_have_no_such_settings(config, fake_converters, tmp_path):
    config.models, config.background = "tiny/a", "black"
    assert runner.run(config, tmp_path) == 0
    ((_, record),) = results.records(tmp_path)
    assert "data_notes" not in record and "background" not in record["settings"]


def test_broken_pictures_of_all_splits_stop_before_the_work(folder, config, fake_converters, tmp_path):
    for name in ("Training/crow/001.png", "valid/crow/000.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(
        plan.UsageError, match="2 files cannot be read(.|\n)*001.png: not an image(.|\n)*valid/crow"
    ):
        runner.run(config, tmp_path / "w")
    assert fake_converters.calls() == [] and not (tmp_path / "w" / "results").exists()
    config.skip_broken = True
    assert runner.run(config, tmp_path / "w") == 0
    ((_, record),) = results.records(tmp_path / "w")
    assert record["data_notes"]["broken"]["count"] == 2 and record["n_examples"] == 21
    config.max_pixels = 53
    config.k = 2
    with pytest.raises(
        plan.UsageError, match="26 files too large(.|\n)*9 x 6 pixels are 54, more than max_pixels=53"
    ):
        runner.run(config, tmp_path / "w")


@pytest.mark.parametrize(
    "protocol, sizes, message",
    [
        (
            "knn",
            {"a": 1, "b": 1},
            "none of the 2 in trainval, which knn uses, has another one of its class",
        ),
        ("knn", {"a": 2, "b": 2}, "none of the 2 in trainval"),
        ("transferability", {"a": 2, "b": 1}, "none of the 2 in trainval, which transferability uses"),
        (
            "linear",
            {"a": 2, "b": 2},
            "4 pictures in 2 classes, so that the split val, which linear uses, is empty",
        ),
        ("finetune", {"a": 1, "b": 1}, "the split val, which finetune uses, is empty"),
    ],
)
def test_folders_too_small_for_a_protocol(config, tmp_path, protocol, sizes, message):
    import importlib

    fill(tmp_path / "small", **sizes)
    config = importlib.import_module(f"configs.{protocol}").get_config("mini")
    config.models, config.tasks, config.dry_run = "baseline/pixels", f"folder:{tmp_path}/small", True
    with pytest.raises(plan.UsageError, match=message):
        runner.run(config, tmp_path / "w")


def test_classes_that_are_not_trained_on_are_told(tmp_path):
    from vtabjax.data import describe

    for cls in range(850):
        (tmp_path / str(cls)).mkdir()
        for i in range(3):
            (tmp_path / str(cls) / f"{i}.png").touch()
    task = tasks.get(f"folder:{tmp_path}")
    line = describe.line(task, describe.notes(task), "linear", ["train800", "val200", "test"])
    assert (
        "linear works with 800 (train800), 200 (val200), 850 (test); 50 classes without a picture in train800"
        in line
    )


def test_more_neighbours_than_pictures(folder, config, tmp_path):
    config.k, config.dry_run = 22, True
    with pytest.raises(plan.UsageError, match="config.k=22: folder:.*has 22 pictures in trainval"):
        runner.run(config, tmp_path / "w")
    config.k = 21
    assert runner.run(config, tmp_path / "w") == 0


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("background", "whit", "config.background='whit' is not a colour"),
        ("background", "#11223344", "config.background='#11223344' is not a colour"),
        ("max_pixels", 0, "config.max_pixels=0 is too small: it must be at least 1"),
        ("tasks", "folder:", "does not name a folder"),
        ("tasks", "{}", "did you mean folder:"),
        ("tasks", "folder:{},x", "a comma separates tasks"),
    ],
)
def test_wrong_fields(folder, config, tmp_path, field, value, message):
    (tmp_path / "birds,x").mkdir()
    config[field] = value.format(folder) if isinstance(value, str) else value
    with pytest.raises(plan.UsageError, match=message):
        runner.run(config, tmp_path / "w")


def test_depth_is_shared_by_all_splits(config, fake_converters, tmp_path, monkeypatch):
    """The brightest picture may lie in the test part; what is trained on is scaled by it all the same."""
    from vtabjax import data

    for split, values in (("train", range(100, 1000, 100)), ("test", (4000, 2000))):
        for cls in "ab":
            for value in values:
                path = tmp_path / "x" / split / cls / f"{value}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((16, 16), value, np.uint16)).save(path)
    seen = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: seen.append(load(*a, **k)) or seen[-1])
    config.models, config.tasks = "tiny/a", f"folder:{tmp_path}/x"
    assert runner.run(config, tmp_path / "w") == 0
    assert sum(len(examples.ids) for examples in seen) == 18
    for examples in seen:
        expected = [round(int(i.split("/")[2][:-4]) * 255 / 4095) for i in examples.ids]
        assert examples.images[:, 0, 0, 0].tolist() == expected
    assert len(tasks.get(config.tasks).files["test"]) == 4
