"""The models that ship: what a sweep writes without PyTorch is what the converters write with it."""

import json
import subprocess
import sys

import conftest
import jax
import numpy as np
import pytest
import torch

from converters import sources
from converters.export import from_torch
from vtabjax import bundled, results, specs
from vtabjax.model import apply, load, load_parts, weight_hash
from vtabjax.sweep import artefacts, converters_client, runner

BUNDLED = ("baseline/pixels", "embedded/sprites_resnet")


@pytest.mark.parametrize("size", [16, 32, 40, 64, 224])
@pytest.mark.parametrize("spec", BUNDLED)
def test_the_graph_is_what_the_converters_export(tmp_path, spec, size):
    source = sources.build(spec, size)
    graph, variables = from_torch(source.module, (3, size, size))
    ours = load_parts(bundled.write(spec, tmp_path, size))
    assert ours.graph.to_json() == graph.to_json()
    assert ours.info["weight_hash"] == weight_hash(variables)
    images = np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)
    outputs = jax.jit(lambda v, x: apply(ours.graph, v, x)[0])(ours.variables, images)
    with torch.no_grad():
        theirs = source.module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    wanted = np.asarray(outputs["logits" if "logits" in outputs else "features"])
    np.testing.assert_allclose(wanted, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", BUNDLED)
def test_the_description_is_what_the_converters_write(tmp_path, spec):
    from converters import convert

    theirs = artefacts.read_info(convert(spec, tmp_path / "torch", input_size=32))
    ours = artefacts.read_info(bundled.write(spec, tmp_path / "bundled", 32))
    differs = {"parity", "versions", "artefact_hash"}  # PyTorch's; the last one is over the first two as well
    assert set(ours) == set(theirs) and ours["parity"] is None and set(ours["versions"]) == {"vtabjax"}
    assert {k: v for k, v in ours.items() if k not in differs} == {
        k: v for k, v in theirs.items() if k not in differs
    }


@pytest.mark.parametrize("spec, size, features", [(BUNDLED[0], 224, 768), (BUNDLED[1], 64, 96)])
def test_its_own_size_and_what_is_there_stays(tmp_path, spec, size, features):
    path = bundled.write(spec, tmp_path, 0)
    assert path == tmp_path / f"{specs.file_stem(spec)}-{size}"
    info = json.loads((path / "model.json").read_text())
    assert info["input_size"] == [3, size, size] and info["num_features"] == features
    (path / "model.json").write_text(json.dumps({**info, "note": "mine"}))
    assert bundled.write(spec, tmp_path, 0) == path
    assert json.loads((path / "model.json").read_text())["note"] == "mine"


def test_pixels_are_means_of_blocks(tmp_path):
    images = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    model = load(bundled.write("baseline/pixels", tmp_path, 32))
    blocks = images.reshape(2, 16, 2, 16, 2, 3).mean((2, 4)).reshape(2, 768)
    np.testing.assert_allclose(np.asarray(model(images)), blocks, atol=1e-6)


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("baseline/*", ["baseline/pixels"]),
        ("embedded/sprites*", ["embedded/sprites_resnet"]),
        ("baseline/pixels", ["baseline/pixels"]),
    ],
)
def test_patterns(pattern, found):
    assert bundled.expand(pattern) == found


@pytest.mark.parametrize(
    "spec, message",
    [
        ("embedded/nothing", "does not ship with the project; embedded models: embedded/sprites_resnet"),
        ("baseline/pixel", "does not ship with the project; baseline models: baseline/pixels"),
        ("embedded/sprites_resnet@random", "brings its own weights; write embedded/sprites_resnet"),
        ("baseline/pixels@random", "has no weights; write baseline/pixels"),
        ("embedded/*@random", "matches nothing; embedded models: embedded/sprites_resnet"),
        ("baseline/x*", "matches nothing; baseline models: baseline/pixels"),
    ],
)
def test_what_does_not_ship(config, tmp_path, monkeypatch, spec, message):
    monkeypatch.setattr(converters_client, "COMMAND", ["false"])  # found without the converters
    config.models = f"baseline/pixels,{spec}"
    with pytest.raises(runner.UsageError, match=message):
        runner.run(config, tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_sweep_starts_no_converters_and_imports_no_pytorch(tmp_path):
    command = [sys.executable, str(conftest.PROGRAMS / "sweep_without_torch.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(results.collect(tmp_path)["model"]) == list(BUNDLED)
