"""Fine-tuning as a cell of a sweep, and the fine-tuned model as an artefact."""

import json
import os

import numpy as np
import pytest
import torch
from finetune_models import SIZE, conv_parts, examples
from safetensors.torch import load_file

import converters
from configs import finetune as config_file
from converters import __main__ as command_line
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model, results
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import head
from vtabjax.sweep import runner
from vtabjax.sweep.adapters import finetune as adapter

# isort: split
import timm


@pytest.fixture
def config(fake_converters):
    """configs/finetune.py, shrunk."""
    c = config_file.get_config("mini")
    c.models, c.tasks, c.image_size = "tiny/a", "digits", 16
    c.finetune.steps, c.finetune.seeds = "4,25", "0,1,2"
    return c


def only(workdir, task="digits"):
    ((path, record),) = [(p, r) for p, r in results.records(workdir, "finetune") if r["task"] == task]
    return record


def test_a_cell_and_its_files(config, tmp_path):
    assert runner.run(config, tmp_path) == 0
    record = only(tmp_path)
    correct = results.unpack(record["correct"])
    assert len(correct) == 797 and record["metrics"]["accuracy"] == correct.mean() > 0.5
    chosen = record["chosen"]
    assert len(chosen["grid"]) == 4 and len(chosen["seeds"]) == 3
    assert {p["learning_rate"] for p in chosen["grid"]} == {0.1, 0.01} and chosen["micro_batch"] == 32
    assert record["metrics"]["accuracy"] == sorted(s["accuracy"] for s in chosen["seeds"])[1]
    assert record["metrics"]["val_accuracy"] == max(p["val_accuracy"] for p in chosen["grid"])
    assert set(record["data"]) == {"train800", "val200", "test"} and "models" not in chosen
    curves = [json.loads(line) for line in (tmp_path / chosen["curves"]).read_text().splitlines()]
    assert len({p["run"] for p in curves}) == 4 + 3
    assert set(curves[0]) == {"run", "step", "learning_rate", "loss", "accuracy"}
    # Everything is done: another run does nothing, other settings make another cell.
    before = results.collect(tmp_path)
    assert runner.run(config, tmp_path) == 0
    assert results.collect(tmp_path).equals(before)
    config.finetune.seeds = "1"
    assert runner.run(config, tmp_path) == 0
    assert len(results.collect(tmp_path)) == 2


def test_every_setting_and_what_became_of_the_grid_are_recorded(config, tmp_path):
    given = {
        "optimizer": "adamw", "layer_decay": 0.7, "schedule": "cosine", "clip": 1.0,
        "label_smoothing": 0.1, "ema": 0.5, "augment": "flip", "halving": 2, "hours": 100.0, "warmup_epochs": 0.1,
    }  # fmt: skip
    config.finetune.update(given)
    config.finetune.steps, config.finetune.epochs, config.finetune.seeds = "", "0.2,0.3", "0"
    config.finetune.learning_rates, config.finetune.weight_decay, config.finetune.save = (
        "0.01",
        "0.05,0",
        True,
    )
    config.models = "tiny/head"
    assert runner.run(config, tmp_path) == 0
    record = only(tmp_path)
    assert given.items() <= record["settings"].items()
    assert record["settings"]["epochs"] == [0.2, 0.3] and record["settings"]["steps"] == []
    chosen = record["chosen"]
    assert [(p["epochs"], p["steps"]) for p in chosen["grid"]] == [(0.2, 5), (0.3, 8)] * 2  # of 32 of 800
    assert [p["left_out"] for p in chosen["grid"]].count("halving") == 2
    assert all(0 <= p["early_val_accuracy"] <= 1 for p in chosen["grid"])
    assert chosen["epochs"] in (0.2, 0.3) and chosen["seeds"][0]["steps"] in (6, 9)  # of 1,000
    parts = model.load_parts(tmp_path / "models" / next(os.walk(tmp_path / "models"))[1][0])
    features = parts.graph.select({"features": "features"}).variables
    own = sum(np.prod(v.shape) for v in features.values() if v.kind == "parameter")
    assert chosen["trainable_parameters"] == own + 10 * (parts.info["num_features"] + 1)
    assert "layers below the head" in record["notes"]["layer_decay"]
    # What was kept is what was tested: the averages of the weights.
    from vtabjax import data

    examples_of_test = data.load("digits", "test", image_size=16)
    opened = model.load(tmp_path / chosen["models"][0])
    logits = opened.outputs(examples_of_test.images.astype(np.float32) / 255)["logits"]
    correct = np.argmax(logits, 1) == examples_of_test.labels
    assert np.sum(correct != results.unpack(record["correct"])) <= 2  # an example may sit on the fence


def test_a_grid_that_time_did_not_suffice_for_is_told(config, tmp_path, capsys):
    config.finetune.steps, config.finetune.seeds, config.finetune.hours = "3", "0", 1e-6
    config.finetune.scope = "head"
    assert runner.run(config, tmp_path) == 0
    record = only(tmp_path)
    assert [p["left_out"] for p in record["chosen"]["grid"]] == ["", "hours"]
    assert record["notes"]["hours"] == "1 of 2 grid points left out: finetune.hours=1e-06"
    assert "left out, finetune.hours=1e-06 would not suffice" in capsys.readouterr().err


def test_head_only_is_a_linear_model_on_the_features(config, tmp_path):
    config.finetune.scope = "head"
    assert runner.run(config, tmp_path) == 0
    assert only(tmp_path)["metrics"]["accuracy"] > 0.5
    assert list((tmp_path / "features").iterdir())  # the features that other protocols use


def test_one_program_for_all_tasks_of_a_model(config, tmp_path, monkeypatch):
    config.tasks = "digits,sprites_location,sprites_orientation"
    config.finetune.steps, config.finetune.seeds = "2", "0"
    made, run = [], adapter._trainer

    def remember(*arguments, **options):
        made.append(run(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(adapter, "_trainer", remember)
    assert runner.run(config, tmp_path) == 0
    assert len(made) == 3 and len(set(map(id, made))) == 1 and made[0].traces == 1


def test_saved_models_open(config, tmp_path):
    config.models, config.finetune.save, config.finetune.seeds = "tiny/head", True, "0,1"
    assert runner.run(config, tmp_path) == 0
    record = only(tmp_path)
    assert len(record["chosen"]["models"]) == 2
    # The accuracy that was recorded is that of the artefact.
    from vtabjax import data

    given = data.load("digits", "test", image_size=16)
    accuracies = []
    for path in record["chosen"]["models"]:
        opened = model.load(tmp_path / path)
        assert opened.info["num_classes"] == 10 and opened.info["finetuned"]["task"] == "digits"
        logits = opened.outputs(given.images[:797].astype(np.float32) / 255)["logits"]
        assert logits.shape == (797, 10)
        accuracies.append(float(np.mean(np.argmax(logits, 1) == given.labels)))
    wanted = [seed["accuracy"] for seed in record["chosen"]["seeds"]]
    np.testing.assert_allclose(accuracies, wanted, atol=2 / 797)  # an example may sit on the fence


def test_out_of_memory_is_told(config, tmp_path, monkeypatch):
    import jax

    advance = finetune.Trainer.train_steps

    def small(self, *arguments):
        if self.micro_batch > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return advance(self, *arguments)

    monkeypatch.setattr(finetune.Trainer, "train_steps", small)
    config.finetune.steps, config.finetune.seeds = "3", "0"
    assert runner.run(config, tmp_path) == 0
    record = only(tmp_path)
    assert record["chosen"]["micro_batch"] == 8
    assert "out of memory with 32" in record["notes"]["micro_batch"]


def test_a_broken_test_split_is_told(config, tmp_path, monkeypatch):
    from vtabjax import data

    load = data.load

    def broken(task, split, **options):
        if split == "test":
            raise data.BrokenImageError("task digits, split test: 1 image cannot be decoded")
        return load(task, split, **options)

    monkeypatch.setattr(data, "load", broken)
    config.finetune.steps, config.finetune.seeds = "2", "0"
    assert runner.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert "cannot be decoded" in record["message"] and record["stage"] == "data"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("learning_rates", "0.1;0.2", "config.finetune.learning_rates='0.1;0.2'"),
        ("learning_rates", "", "config.finetune.learning_rates"),
        ("steps", "10,2.5", "config.finetune.steps='10,2.5'"),
        ("batch_size", 0, "config.finetune.batch_size=0"),
        ("micro_batch", 5, "config.finetune.micro_batch=5"),
        ("scope", "trunk", "choose all, head, bias"),
        ("sampling", "shuffle", "epoch or replacement"),
        ("optimizer", "adagrad", "config.finetune.optimizer='adagrad' is not known; choose sgd, adam"),
        ("schedule", "linear", "choose piecewise, cosine or constant"),
        ("augment", "mixup", "choose none, flip, crop"),
        ("layer_decay", 1.5, "config.finetune.layer_decay=1.5 is too large: it must be at most 1"),
        ("halving", 1, "config.finetune.halving=1: it must be 2 to 100, or 0 for none"),
        ("epochs", "3", "config.finetune.steps=.*epochs are given, too: leave one of them empty"),
        ("steps", "", "config.finetune.steps=.*give numbers of at least 1"),
    ],
)
def test_bad_settings_are_told_before_anything_runs(config, tmp_path, field, value, message):
    config.finetune[field] = value
    with pytest.raises(runner.UsageError, match=message.replace("'", ".")):
        runner.run(config, tmp_path)
    assert not (tmp_path / "models").exists()


def test_full_training_sets_are_refused(config, tmp_path):
    config.suite = "vtab_full"
    with pytest.raises(runner.UsageError, match="vtab or mini"):
        runner.run(config, tmp_path)


def test_the_suite_vtab_is_the_published_sweep():
    chosen = adapter.settings(config_file.get_config("vtab"))
    defaults = finetune.Settings()
    for name in ("learning_rates", "steps", "decay_at", "seeds"):
        assert chosen[name] == list(getattr(defaults, name)), name
    for name in (
        "batch_size",
        "momentum",
        "decay_factor",
        "warmup",
        "sampling",
        "scope",
        "micro_batch",
        "remat",
    ):
        assert chosen[name] == getattr(defaults, name), name


def test_the_suite_peft_is_what_papers_on_adapters_do():
    chosen = config_file.get_config("peft")
    assert chosen.suite == "vtab" and len(chosen.tasks.split(",")) == 19 and chosen.image_size == 224
    wanted = {
        "scope": "lora", "optimizer": "adamw", "weight_decay": [1e-4], "batch_size": 64, "epochs": [100.0], "steps": [],
        "warmup_epochs": 10.0, "schedule": "cosine", "learning_rates": [0.001, 0.005, 0.0005],
    }  # fmt: skip
    assert wanted.items() <= adapter.settings(chosen).items()
    with pytest.raises(ValueError, match="'adapters' is not known; choose from mini, vtab, vtab_full, peft"):
        config_file.get_config("adapters")


# The artefact.


def trained(parts, scope, classes=4):
    """A model after a few steps on random pictures: (trainer, state, artefact, images)."""
    import jax

    own = finetune.Settings(learning_rates=(0.05,), steps=(3,), batch_size=8, scope=scope)
    made = finetune.Trainer(finetune.trainable(parts, own), own, classes=classes, capacity=20, eval_batch=8)
    channels, height, width = parts.graph.input_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, height, width, channels), dtype=np.uint8)
    run = finetune.plan(own, learning_rate=0.05, steps=3, classes=classes, seed=0)
    state, _, _ = made.train_steps(
        made.initial_state(), made.data(images, (np.arange(20) % classes).astype(np.int32)), run, 3
    )
    values = jax.device_get(state)
    whole = finetune.finished(parts, own, values.backbone)
    artefact = head.with_head(whole, values.buffers, values.head["weight"], values.head["bias"])
    return made, state, artefact, images


@pytest.mark.parametrize(
    ("name", "size", "options", "scope"),
    [
        ("test_resnet", 32, {}, "all"),
        ("test_resnet", 32, {}, "lora"),
        ("test_vit", 32, {"img_size": 32}, "all"),
        ("test_vit", 32, {"img_size": 32}, "lora"),
        ("test_convnext", 32, {}, "all"),
    ],
)
def test_pytorch_loads_the_fine_tuned_model(name, size, options, scope, tmp_path):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=7, **options)
    graph, variables = converters.from_torch(module, (3, size, size))
    info = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, size, size], "spec": f"timm/{name}@random"}
    made, state, artefact, images = trained(model.SavedModel(graph, variables, info), scope)
    model.save(tmp_path / "tuned", *artefact)
    assert command_line.main(["export", str(tmp_path / "tuned"), str(tmp_path / "tuned.safetensors")]) == 0
    again = timm.create_model(name, num_classes=4, **options).eval()
    again.load_state_dict(load_file(tmp_path / "tuned.safetensors"), strict=True)
    with torch.no_grad():
        logits = again(torch.from_numpy((images / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)).numpy()
    ours = model.load(tmp_path / "tuned").outputs(images.astype(np.float32) / 255)["logits"]
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(made.predict(state, images, 4), logits.argmax(1))


def test_a_model_with_prompt_tokens_is_kept(tmp_path):
    """PyTorch's class has no place for them; here it opens like any other."""
    torch.manual_seed(0)
    module = timm.create_model("test_vit", num_classes=7, img_size=32, depth=2)
    graph, variables = converters.from_torch(module, (3, 32, 32))
    info = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "spec": "timm/test_vit@random"}
    made, state, artefact, images = trained(model.SavedModel(graph, variables, info), "prompt_deep")
    model.save(tmp_path / "tuned", *artefact)
    opened = model.load(tmp_path / "tuned")
    logits = np.asarray(opened.outputs(images.astype(np.float32) / 255)["logits"])
    assert logits.shape == (20, 4) and opened.info["feature_choices"]["blocks"] == 0
    np.testing.assert_array_equal(made.predict(state, images, 4), logits.argmax(1))
    assert set(opened.graph.variables) - set(graph.variables) == {"prompt_tokens.0", "prompt_tokens.1"}


def test_a_model_that_a_scope_does_not_fit_is_told(config, tmp_path):
    config.finetune.scope = "norm"
    assert runner.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert "config.finetune.scope='norm': this model has no normalisation layers" in record["message"]


def test_a_head_where_there_was_none():
    parts = conv_parts()
    outputs = {"features": parts.graph.outputs["features"]}
    import dataclasses

    parts = parts._replace(graph=dataclasses.replace(parts.graph, outputs=outputs))
    assert head.classifier(parts.graph) is None
    weight, bias = np.ones((4, 6), np.float32), np.arange(4, dtype=np.float32)
    made = head.with_head(parts, {}, weight, bias)
    images = examples(5, 3)[0].astype(np.float32) / 255
    got = model.Model(*made).outputs(images)
    np.testing.assert_allclose(got["logits"], np.asarray(got["features"]) @ weight.T + bias, rtol=1e-4)
    assert made.info["num_classes"] == 4 and images.shape[1] == SIZE
