"""A sweep over choices of features: one conversion, one program, one pass over the images for all of them."""

import json

import jax
import numpy as np
import pytest

import configs.finetune
from vtabjax import data, features, model, results
from vtabjax.protocols import knn
from vtabjax.specs import pooling
from vtabjax.sweep import artefacts, plan, runner, shares, status

CHOICES = ("", "#pool=token", "#pool=avg", "#pool=both", "#layer=1", "#layer=-2+pool=avg")
SIX = ",".join(f"tiny/pool{choice}" for choice in CHOICES)


@pytest.fixture
def programs(monkeypatch):
    """The outputs of each program that feature extraction compiles."""
    made = []
    compile_one = features.Extractor._compile

    def counted(extractor, size):
        made.append(sorted(extractor._graph.outputs))
        return compile_one(extractor, size)

    monkeypatch.setattr(features.Extractor, "_compile", counted)
    return made


def of(workdir, protocol="knn"):
    return {record["model"]: record for _, record in results.records(workdir, protocol)}


def test_six_choices_cost_one_conversion_one_compilation_and_one_pass(
    config, fake_converters, extractions, programs, tmp_path, capsys
):
    config.models, config.tasks = SIX, "digits,sprites_location"
    assert runner.run(config, tmp_path) == 0
    assert fake_converters.calls() == [["check", "tiny/pool"], ["convert", "tiny/pool"]]
    assert extractions == [("tiny/pool", n) for _ in range(2) for n in (800, 200)]
    (outputs,) = programs
    assert set(outputs) == {"features", *(f"features:{c}" for c in (
        "pool=token", "pool=avg", "pool=both", "layer=1+pool=token", "layer=1+pool=avg"))}  # fmt: skip
    assert [p.name for p in (tmp_path / "models").glob("*/")].count("tiny--pool-16") == 1
    err = capsys.readouterr().err
    assert "6 models x 2 tasks = 12 cells" in err and "[12/12]" in err
    assert "tiny/pool (6 choices of features): 12 of 12 cells" in err and "6 of 6 models" in err
    # Each has the number that its own features give.
    parts = model.load_parts(tmp_path / "models" / "tiny--pool-16")
    given = [data.load("digits", split, image_size=16) for split in ("train800", "val200")]
    labels = np.concatenate([examples.labels for examples in given])
    every = features.extract(parts, np.concatenate([e.images for e in given]), outputs=outputs)
    wanted = {
        f"tiny/pool{choice}": knn.leave_one_out(
            every[pooling.output(f"tiny/pool{choice}", parts.info)], labels
        ).accuracy
        for choice in CHOICES
    }
    records = [r for _, r in results.records(tmp_path) if r["task"] == "digits"]
    assert {r["model"]: r["metrics"]["accuracy"] for r in records} == wanted and len(set(wanted.values())) > 3
    # Passes are those of the first cell that needed them.
    passed = [r["passes"] for _, r in results.records(tmp_path) if r["passes"]]
    assert sum(p["images"] for splits in passed for p in splits.values()) == 2000
    assert {r["model"]: r["source"]["num_features"] for r in records} == {
        "tiny/pool": 24, "tiny/pool#pool=token": 12, "tiny/pool#pool=avg": 12, "tiny/pool#pool=both": 24,
        "tiny/pool#layer=1": 8, "tiny/pool#layer=-2+pool=avg": 8}  # fmt: skip
    assert {r["model"]: r["source"]["features"] for r in records} == {
        "tiny/pool": "tokens after block 2 of 2, pooled in its library's own way",
        "tiny/pool#pool=token": "class token after block 2 of 2, final norm",
        "tiny/pool#pool=avg": "mean over patch tokens after block 2 of 2, final norm",
        "tiny/pool#pool=both": "class token and mean over patch tokens after block 2 of 2, final norm",
        "tiny/pool#layer=1": "class token after block 1 of 2, no final norm",
        "tiny/pool#layer=-2+pool=avg": "mean over patch tokens after block 1 of 2, no final norm",
    }


def test_what_is_there_is_not_made_again(config, fake_converters, extractions, programs, tmp_path):
    config.models = "tiny/pool#layer=1"
    assert runner.run(config, tmp_path) == 0
    assert programs == [["features:layer=1+pool=token"]]  # nothing after the first block
    config.models = "tiny/pool,tiny/pool#layer=1,tiny/pool#pool=both"
    fake_converters.forget()
    assert runner.run(config, tmp_path) == 0
    assert fake_converters.calls() == [] and len(extractions) == 4
    assert programs[1:] == [["features", "features:pool=both"]]
    # The other protocols find them.
    from configs import linear

    other = linear.get_config("mini")
    other.models, other.tasks, other.image_size = "tiny/pool#pool=both", "digits", 16
    assert runner.run(other, tmp_path) == 0
    assert [n for _, n in extractions[4:]] == [797]  # the test examples


def test_a_choice_that_the_model_does_not_have_fails_alone(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/pool#layer=3,tiny/pool#layer=-2,tiny/a#pool=avg,embedded/sprites_resnet#pool=token"
    assert runner.run(config, tmp_path) == 1
    assert set(of(tmp_path)) == {"tiny/pool#layer=-2"}
    failed = {record["model"]: record for _, record in results.errors(tmp_path)}
    assert {record["stage"] for record in failed.values()} == {"features"}
    assert failed["tiny/pool#layer=3"]["message"] == (
        "model tiny/pool#layer=3: it has no block 3; it has tokens: its own features, #pool=token, #pool=avg, "
        "#pool=both, and #layer=1 to #layer=2"
    )
    assert "convert it again" in failed["tiny/a#pool=avg"]["message"]  # its artefact says nothing of choices
    assert failed["embedded/sprites_resnet#pool=token"]["message"].endswith(
        "it has no pool=token; it has feature maps: its own features, #pool=avg, and #layer=1 to #layer=4"
    )


def test_a_bundled_model_has_blocks(config, fake_converters, tmp_path):
    config.models, config.image_size = "embedded/sprites_resnet,embedded/*#layer=2,baseline/pixels", 32
    assert runner.run(config, tmp_path) == 0
    assert fake_converters.calls() == []
    records = of(tmp_path)
    assert records["embedded/sprites_resnet#layer=2"]["source"]["features"] == (
        "mean over positions after block 2 of 4, no final norm"
    )
    assert records["baseline/pixels"]["source"]["features"] is None
    config.models = "baseline/pixels#layer=1"
    assert runner.run(config, tmp_path) == 1
    ((_, failed),) = results.errors(tmp_path)
    assert failed["message"].endswith(
        "only its own features are known (no single chain of blocks was found in it)"
    )


def test_workers_share_models_with_all_their_choices(config, fake_converters, tmp_path):
    config.models = "tiny/a,tiny/pool,tiny/pool#pool=avg,tiny/pool#layer=1,tiny/b"
    cells = plan.all_cells(plan.read(config), tmp_path)
    numbers = shares.assign(cells, 2, lambda cell: 1.0)
    assert numbers[1] == numbers[2] == numbers[3] and set(numbers) == {0, 1}


def test_one_name_of_the_artefact(tmp_path):
    names = {artefacts.folder(tmp_path, f"tiny/pool{choice}", 16).name for choice in CHOICES}
    assert names == {"tiny--pool-16"}
    assert artefacts.folder(tmp_path, "tiny/a@random#layer=2", 16).name == "tiny--a@random-16"


def test_features_auto(config, fake_converters, extractions, programs, tmp_path, capsys):
    config.models, config.features = "tiny/pool,tiny/pool#layer=1,tiny/a", "auto"
    assert runner.run(config, tmp_path) == 0
    records = of(tmp_path)
    chosen, compiled = records["tiny/pool"]["chosen"], len(programs)
    # By hand: nearest of train800 for each of val200, of equals the first.
    parts = model.load_parts(tmp_path / "models" / "tiny--pool-16")
    train, val = (data.load("digits", split, image_size=16) for split in ("train800", "val200"))
    wanted = {}
    for name in ("features", "features:pool=token", "features:pool=avg", "features:pool=both"):
        a, b = (features.extract(parts, e.images, outputs=[name])[name].astype(float) for e in (train, val))
        nearest = ((a[None] - b[:, None]) ** 2).sum(-1).argmin(1)
        wanted[name] = pytest.approx(np.mean(train.labels[nearest] == val.labels))
    assert chosen["features_val_accuracy"] == wanted
    best = chosen["features"]
    assert chosen["features_val_accuracy"][best] == max(chosen["features_val_accuracy"].values())
    assert records["tiny/pool"]["settings"]["features"] == "auto"
    assert records["tiny/pool"]["source"]["features"] == pooling.words(best, parts.info)
    # One pass for what auto compares and for the other cell; nothing to choose for the others.
    assert [n for m, n in extractions if m == "tiny/pool"] == [800, 200] and compiled == 2
    assert "features" not in records["tiny/pool#layer=1"]["settings"]
    assert records["tiny/a"]["chosen"] == {"features": "features", "features_val_accuracy": {}}
    # All cells are found again, by this run and by the status.
    assert runner.run(config, tmp_path) == 0 and len(extractions) == 4
    (state,) = status.read(tmp_path)
    assert [(m.model, m.done) for m in state.models] == [(m, 1) for m in config.models.split(",")]
    with pytest.raises(runner.UsageError, match="config.features='best' is not known; choose native or auto"):
        config.features = "best"
        runner.run(config, tmp_path)


def test_logits_lie_beside_the_models_own_features(config, fake_converters, extractions, tmp_path):
    from configs import transferability

    c = transferability.get_config("mini")
    c.models, c.tasks, c.image_size, c.scores = "embedded/sprites_resnet#layer=2", "digits", 32, "leep,logme"
    assert runner.run(c, tmp_path) == 0
    c.models = "embedded/sprites_resnet"
    assert runner.run(c, tmp_path) == 0
    records = of(tmp_path, "transferability")
    (early, own) = (records[f"embedded/sprites_resnet{choice}"]["metrics"] for choice in ("#layer=2", ""))
    assert early["leep"] == own["leep"] and early["logme"] != own["logme"]
    assert len(extractions) == 2  # the second found all it needs


def test_fine_tuning_on_an_earlier_block(fake_converters, tmp_path):
    c = configs.finetune.get_config("mini")
    c.models, c.tasks, c.image_size = "embedded/sprites_resnet#layer=2,embedded/sprites_resnet", "digits", 32
    c.finetune.learning_rates, c.finetune.steps, c.finetune.seeds, c.finetune.save = "0.01", "3", "0", True
    assert runner.run(c, tmp_path) == 0
    records = of(tmp_path, "finetune")
    record = records["embedded/sprites_resnet#layer=2"]
    (saved,) = record["chosen"]["models"]
    opened, before = (
        model.load_parts(path)
        for path in (tmp_path / saved, tmp_path / "models" / "embedded--sprites_resnet-32")
    )
    assert opened.info["features_of"] == "features:layer=2+pool=avg"
    assert opened.info["num_features"] == before.info["feature_choices"]["widths"][1]
    # Blocks after it were not trained, and lie in the state_dict as they were.
    changed = {k for k, v in before.variables.items() if not np.array_equal(v, opened.variables[k])}
    assert changed and not any(k.startswith(("layer3", "layer4")) for k in changed)
    assert set(opened.variables) == {*before.variables, "finetuned_head.weight", "finetuned_head.bias"}
    logits = model.load(tmp_path / saved).outputs(np.zeros((1, 32, 32, 3), np.float32))["logits"]
    assert logits.shape == (1, 10)
    journal = tmp_path / record["chosen"]["curves"]
    assert json.loads(journal.read_text().splitlines()[0])["step"]


def test_a_model_opens_with_any_of_its_features(fake_converters, config, tmp_path):
    config.models, config.image_size = "embedded/sprites_resnet", 32
    assert runner.run(config, tmp_path) == 0
    path = tmp_path / "models" / "embedded--sprites_resnet-32"
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    parts = model.load_parts(path)
    own, early = model.load(path), model.load(path, features="layer=2")
    last = model.load(path, features="layer=-1")
    np.testing.assert_allclose(own(images), last(images), rtol=1e-6, atol=1e-6)
    assert early(images).shape == (2, parts.info["feature_choices"]["widths"][1])
    assert set(own.outputs(images)) == {"features", "logits"} and set(early.outputs(images)) == {"features"}
    with pytest.raises(ValueError, match="has no block 5"):
        model.load(path, features="layer=5")
    with pytest.raises(ValueError, match="the model has features, features:layer=1"):
        features.extract(parts, np.zeros((1, 32, 32, 3), np.uint8), outputs=["features:layer=9"])


def test_choices_change_nothing_in_the_models_own_program(fake_converters, config, tmp_path):
    """The compiled program of features and logits is the one without choices."""
    config.models, config.image_size = "embedded/sprites_resnet", 32
    assert runner.run(config, tmp_path) == 0
    parts = model.load_parts(tmp_path / "models" / "embedded--sprites_resnet-32")
    assert parts.graph.choices
    alone = parts.graph.select({name: name for name in parts.graph.outputs})
    assert not alone.choices and len(alone.nodes) < len(parts.graph.nodes)
    images = np.zeros((2, 32, 32, 3), np.float32)
    with_choices, without = (
        jax.jit(lambda v, x, g=g: model.apply(g, v, x)[0]).lower(parts.variables, images).as_text()
        for g in (parts.graph, alone)
    )
    assert with_choices == without
