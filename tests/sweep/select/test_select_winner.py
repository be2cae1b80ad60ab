"""The fine-tuned winner: its export in PyTorch, its card, and the functions for people."""

import json

import numpy as np
import pytest
from test_select_stopping import folder

import converters  # noqa: F401  (before timm is imported)
import vtabjax
from vtabjax import data, model, results
from vtabjax.runtime import devices
from vtabjax.sweep.select import run, winner


def tiny(models, **fields):
    from configs import select

    c = select.get_config("mini")
    c.models, c.tasks, c.image_size, c.stages = models, "digits", 32, "finetune"
    c.finetune.steps, c.finetune.learning_rates, c.finetune.save = "3,4", "0.01", False
    for name, value in fields.items():
        c[name] = value
    return c


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished experiment on one tiny architecture of timm."""
    workdir = tmp_path_factory.mktemp("winner")
    assert run.run(tiny("timm/test_resnet@random"), workdir) == 0
    return workdir


def test_the_export_loads_into_timm_and_answers_alike(made):
    import timm
    import torch
    from safetensors.torch import load_file

    folder = winner.folder(made)
    module = timm.create_model("test_resnet", num_classes=10)
    module.load_state_dict(load_file(folder / "digits.safetensors"), strict=True)
    examples = data.load("digits", "test", image_size=32)
    ours = model.load(folder / "digits")
    assert ours.info["mean"] and ours.info["num_classes"] == 10
    images = examples.images.astype(np.float32) / 255
    mean, std = (np.array(ours.info[k], np.float32) for k in ("mean", "std"))
    with torch.inference_mode():
        theirs = module.eval()(torch.from_numpy(np.moveaxis((images - mean) / std, -1, 1).copy())).numpy()
    assert np.abs(np.asarray(ours.outputs(images)["logits"]) - theirs).max() < 1e-4 * np.abs(theirs).max()
    ((_, record),) = results.records(made)
    correct = theirs.argmax(1) == examples.labels
    assert np.array_equal(correct, results.unpack(record["correct"]))


def test_the_card_is_complete(made):
    card = (winner.folder(made) / "README.md").read_text()
    ((_, record),) = results.records(made)
    assert card.startswith("---\nlicense: ") and "library_name: vtabjax" in card
    for heading in (
        "Source",
        "Data",
        "Results",
        "How it was chosen",
        "Training",
        "In JAX",
        "In PyTorch",
        "Limits",
    ):
        assert f"\n## {heading}\n" in card
    low, high = record["metrics"]["interval"]
    assert (
        f"| digits | {100 * record['metrics']['accuracy']:.2f} | {100 * low:.2f} to {100 * high:.2f} |"
        in card
    )
    assert "none, they are random" in card and record["data"]["test"] in card and "797" in card
    assert 'timm.create_model("test_resnet", num_classes=10)' in card and "strict=True" in card
    assert (
        f"{record['chosen']['steps']} steps" in card and "cannot be said" not in card
    )  # nothing was left out


@pytest.mark.parametrize(
    "winner_on, row", [("train", "| 2 | 16 | 4 |"), ("all", "| 2 | 20 | none are left |")]
)
def test_pictures_of_ones_own(tmp_path, winner_on, row, monkeypatch):
    """Twenty: 14 to train on, 2 for validation, 4 are tested."""
    programs = []
    monkeypatch.setattr(devices, "use_compilation_cache", programs.append)
    c = tiny(
        "baseline/pixels",
        tasks=folder(tmp_path / "pictures", 0, count=10),
        image_size=16,
        winner_on=winner_on,
    )
    assert run.run(c, tmp_path / "w") == 0
    assert row in (winner.folder(tmp_path / "w") / "README.md").read_text()
    # A notebook goes on compiling after the folder that the winner was trained in is gone.
    assert programs == [str((tmp_path / "w" / "cache" / "xla").resolve())] * 2


def test_the_code_of_the_card_runs(made, monkeypatch):
    """Both snippets, as they stand there."""
    import re

    monkeypatch.chdir(winner.folder(made))
    first, second = re.findall(r"```python\n(.*?)```", (winner.folder(made) / "README.md").read_text(), re.S)
    names = {"images": np.zeros((2, 32, 32, 3), np.float32)}
    exec(first, names)
    assert names["logits"].shape == (2, 10)
    exec(second, names)
    assert not names["model"].training


def test_the_winner_is_made_once_and_again_where_it_is_another(made, tmp_path):
    folder = winner.folder(made)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert run.run(tiny("timm/test_resnet@random"), made) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert not (made / "select" / "training").exists()
    written = json.loads((folder / "winner.json").read_text())
    ((_, record),) = results.records(made)
    assert written["accuracy"] == {"digits": record["metrics"]["accuracy"]}  # trained again to the same model


def test_models_that_fine_tuning_kept_are_taken(tmp_path):
    config = tiny("baseline/pixels")
    config.finetune.save = True
    assert run.run(config, tmp_path) == 0
    ((_, record),) = results.records(tmp_path)
    kept = tmp_path / record["chosen"]["models"][0]
    found = model.load_parts(winner.folder(tmp_path) / "digits")
    assert found.info["weight_hash"] == model.load_parts(kept).info["weight_hash"]
    assert "finetuned_head.weight" in (winner.folder(tmp_path) / "README.md").read_text()


def test_without_fine_tuning_nothing_is_kept(tmp_path):
    assert run.run(tiny("baseline/pixels,embedded/sprites_resnet", stages="knn"), tmp_path) == 0
    found = json.loads((tmp_path / "select" / "selection.json").read_text())
    assert found["winner"] == "baseline/pixels" and not winner.folder(tmp_path).exists()
    with pytest.raises(ValueError, match="judged by knn.*the last stage has to be finetune"):
        vtabjax.Selection(found, tmp_path).winner()


def test_the_winner_of_another_experiment_is_not_taken_for_this_ones(made, tmp_path):
    """Several experiments may share a workdir, which has room for one winner."""
    mine = json.loads((made / "select" / "selection.json").read_text())
    found = vtabjax.Selection(mine, made)
    assert repr(found.winner()) == repr(found.winner("digits")) and "test_resnet" in repr(found.winner())
    with pytest.raises(ValueError, match="'folder:/nowhere' is not among digits"):
        found.winner("folder:/nowhere")
    for change in (
        {"leader": "timm/other", "ranking": [{**mine["ranking"][0], "model": "timm/other"}]},
        {"ranking": [{**mine["ranking"][0], "scores": {"digits": 0.5}}]},  # the same model, trained otherwise
    ):
        with pytest.raises(
            ValueError, match="holds timm/test_resnet@random, the winner of another experiment"
        ):
            vtabjax.Selection(mine | change, made).winner()
    with pytest.raises(ValueError, match="is not there; the same call makes it again"):
        vtabjax.Selection(mine, tmp_path).winner()
    unfinished = {**mine, "leader": None, "stages": []}
    with pytest.raises(ValueError, match="nothing has been measured"):
        vtabjax.Selection(unfinished, made).winner()


def test_a_winner_on_all_examples_has_seen_those_of_the_test(tmp_path, monkeypatch):
    """The retrained model gets train800, val200 and test; its card says so, and gives no number of its own."""
    from vtabjax.protocols.finetune import training

    given, data_of = [], training.Trainer.data

    def seen(self, images, labels):
        given.append(labels)
        return data_of(self, images, labels)

    monkeypatch.setattr(training.Trainer, "data", seen)
    assert run.run(tiny("baseline/pixels", winner_on="all"), tmp_path) == 0
    labels = [data.load("digits", split, image_size=32).labels for split in ("train800", "val200", "test")]
    assert np.array_equal(given[-1], np.concatenate(labels))
    assert sorted(map(len, given)) == [800, 800, 1000, 1797]
    card = (winner.folder(tmp_path) / "README.md").read_text()
    assert "| digits | 10 | 1,797 | none are left |" in card and "have seen them" not in card
    assert "without the test examples" in card and "do not compare it" in card
    written = json.loads((winner.folder(tmp_path) / "winner.json").read_text())
    assert written["accuracy"] == {"digits": None} and written["about"]["winner_on"] == "all"
