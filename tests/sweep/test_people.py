"""vtabjax from Python: load, embed, rank, select."""

import subprocess
import sys

import conftest
import numpy as np
import pytest
from PIL import Image

import vtabjax
from vtabjax import data, features, model, results


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_importing_the_package_loads_nothing():
    code = "import sys; before = set(sys.modules); import vtabjax; dir(vtabjax); print(*set(sys.modules) - before)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["vtabjax"]
    assert set(vtabjax.__all__) <= set(dir(vtabjax)) and vtabjax.collect is results.collect
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        vtabjax.lod  # noqa: B018


def test_load_and_embed(tmp_path):
    network = vtabjax.load("embedded/sprites_resnet", image_size=32)
    said = "Model(embedded/sprites_resnet: 0.38 M parameters, images [B, 32, 32, 3] in [0, 1] -> features [B, 96])"
    assert (str(network), repr(network)) == (said, said)
    assert network.graph.input_size == (3, 32, 32)
    found = vtabjax.embed(network, "digits", split="val200")
    examples = data.load("digits", "val200", image_size=32)
    (folder,) = (tmp_path / "cache" / "vtabjax" / "models").glob("embedded--sprites_resnet-*")
    expected = features.extract(model.load_parts(folder), examples.images)["features"]
    assert np.array_equal(found.features, expected) and np.array_equal(found.labels, examples.labels)
    frame = found.to_frame()
    assert frame.shape == (200, 1 + 96) and frame.index.tolist() == list(examples.ids)
    # Bytes, numbers in [0, 1], a spec instead of a model, a folder instead of a spec: the same features.
    images = examples.images[:3]
    for taken in (network, "embedded/sprites_resnet", folder):
        assert np.abs(vtabjax.embed(taken, images).features - expected[:3]).max() < 1e-4
    assert np.abs(vtabjax.embed(network, images / 255).features - expected[:3]).max() < 1e-4
    assert vtabjax.embed(network, images).labels is None


def test_embed_takes_all_of_ones_own_pictures_that_are_not_tested(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(700):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(tmp_path / "pictures" / label / f"{i}.png")
    found = vtabjax.embed("baseline/pixels", tmp_path / "pictures", image_size=32)
    assert len(found.labels) == 1120  # four fifths of 1,400: VTAB's 1,000 are for VTAB


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: vtabjax.embed(m, np.zeros((1, 16, 16, 3), np.uint8)), "this model takes"),
        (lambda m: vtabjax.embed(m, np.full((1, 32, 32, 3), 200.0)), "divide 0 ... 255 by 255"),
        (lambda m: vtabjax.embed(m, "digits", split="tset"), "split='tset' is not known"),
        (lambda m: vtabjax.embed(m, "digits", batchsize=3), "did you mean batch_size"),
        (lambda m: vtabjax.embed(m, np.zeros((1, 32, 32, 3)), split="test"), "is for tasks"),
        (lambda m: vtabjax.embed(m, "digts"), "digits"),
        (lambda m: vtabjax.embed(m, None), "or a task, such as a folder of pictures"),
        (lambda m: vtabjax.embed(m, np.zeros((32, 32, 3))), "images[None]"),
        (lambda m: vtabjax.load(None), "None is a NoneType; give a spec or a folder"),
        (lambda m: vtabjax.load("baseline/pixels", image_size=0), "image_size=0: give the edge"),
        (lambda m: vtabjax.load("embedded/sprites"), "does not ship with the project"),
        (lambda m: vtabjax.load("embedded/*"), "is a pattern"),
        (lambda m: vtabjax.rank("baseline/pixels", "digits", protocol="kn"), "did you mean 'knn'"),
        (
            lambda m: vtabjax.rank("baseline/pixels", "digits", metrik="x"),
            "no setting 'metrik'; did you mean metric",
        ),
        (lambda m: vtabjax.rank("baseline/pixels", "digits", k="five"), "k='five' is of type str"),
        (lambda m: vtabjax.rank("baseline/pixels", "digits", k=0), "config.k=0 is too small"),
        (lambda m: vtabjax.rank([], "digits"), "models is empty"),
        (lambda m: vtabjax.rank(None, "digits"), "models=None is a NoneType"),
        (lambda m: vtabjax.rank("baseline/pixels", 5), "tasks=5 is a int"),
        (lambda m: vtabjax.collect("no/such/folder"), "workdir='no/such/folder': there is no such folder"),
        (lambda m: vtabjax.rank([1], "digits"), "1 is a int; give names"),
        (lambda m: vtabjax.select("baseline/pixels", "digits", steps=3), "did you mean finetune.steps"),
        (
            lambda m: vtabjax.select("baseline/pixels", "digits", stages="knn:2,finetun"),
            "did you mean finetune",
        ),
        (lambda m: vtabjax.select("baseline/pixels", "digits", finetune={"stps": 3}), "finetune.steps"),
    ],
)
def test_what_is_wrong_is_a_value_error(call, message):
    with pytest.raises(ValueError) as error:
        call(vtabjax.load("embedded/sprites_resnet", image_size=32))
    assert message in str(error.value)


def test_rank(fake_converters, tmp_path):
    models = ["tiny/bad", "embedded/sprites_resnet", "baseline/pixels"]
    found = vtabjax.rank(models, "digits", workdir=tmp_path / "w", image_size=16, metric=("cosine",))
    assert found.index.tolist()[2] == "tiny/bad" and "aten.nonsense" in found.loc["tiny/bad", "why"]
    for model_name in found.index[:2]:
        path = results.Cell("knn", model_name, "digits", {}).folder(tmp_path / "w") / "digits.json"
        record = results.read(path)
        assert record["settings"]["metric"] == ["cosine"]
        row = found.loc[model_name]
        assert (
            row["digits"] == row["mean"] == record["metrics"]["accuracy"]
            and row["low"] < row["mean"] < row["high"]
        )
    assert found["mean"].iloc[0] > found["mean"].iloc[1] and found["mean_rank"].tolist()[:2] == [1, 2]


def test_select(tmp_path):
    found = vtabjax.select(
        ["baseline/pixels", "embedded/sprites_resnet"],
        "digits",
        stages="knn:1,finetune",
        workdir=tmp_path / "w",
        image_size=32,
        keep_chance=1.0,
        finetune={"steps": [2], "learning_rates": 0.01},
    )
    assert found.best == "baseline/pixels" and found.contenders == ["baseline/pixels"]
    frame = found.frame
    assert frame.index.tolist() == ["baseline/pixels", "embedded/sprites_resnet"]
    assert frame["reached"].tolist() == ["finetune", "knn"] and frame["contends"].tolist() == [True, False]
    assert np.isnan(frame.loc["embedded/sprites_resnet", "finetune"])
    assert found.chance_missed["value"] is None and "a regression needs" in found.chance_missed["reason"]
    page = found._repr_html_()
    assert "The winner is baseline/pixels" in page and "<table" in page and "cannot be said" in page
    logits = found.winner().outputs(np.zeros((1, 32, 32, 3), np.float32))["logits"]
    assert logits.shape == (1, 10) and "Selection(The winner is baseline/pixels" in repr(found)
    with pytest.raises(ValueError, match="is not among digits"):
        found.winner("dtd")
    planned = vtabjax.select("baseline/pixels", "digits", workdir=tmp_path / "w", dry_run=True)
    assert planned.best is None and "it has not run to its end" in planned._repr_html_() + repr(planned)
    assert planned.frame.index.tolist() == ["baseline/pixels"]
