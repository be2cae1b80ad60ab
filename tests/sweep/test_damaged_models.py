"""Converted models that are not what was saved: every flipped bit is told, or changes nothing."""

import json
import random
import shutil

import numpy as np
import pytest
from conftest import tiny_parts

from vtabjax import integrity
from vtabjax import model as vm
from vtabjax.integrity import DamagedModelError
from vtabjax.sweep import artefacts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return vm.save(tmp_path_factory.mktemp("models") / "tiny--a-16", *tiny_parts(head=True))


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / saved.name)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def images():
    return np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_told_or_without_effect(seed, saved, tmp_path):
    wanted, rng, told = vm.load(saved).outputs(images()), random.Random(seed), 0
    names = [p.relative_to(saved) for p in sorted(saved.rglob("*")) if p.is_file() and p.stat().st_size]
    for i in range(20):
        folder = shutil.copytree(saved, tmp_path / str(i))
        # The files with the weights are among many that only describe them.
        name = names[i] if i < len(names) else max(names, key=lambda n: (saved / n).stat().st_size)
        flip(folder / name, rng)
        try:
            found = vm.load(folder).outputs(images())
        except DamagedModelError as e:
            assert str(folder) in str(e) and "convert the model again" in str(e) and "\n" not in str(e)
            told += 1
            continue
        assert all(np.array_equal(found[k], wanted[k]) for k in wanted), name
    assert told > 8


@pytest.mark.parametrize(
    "field, value",
    [
        ("mean", [0.5, 0.4, 0.4]),
        ("std", [1, 1, 1]),
        ("input_size", [3, 8, 8]),
        ("spec", "tiny/b"),
        ("parity", 0),
    ],
)
def test_an_edited_description(field, value, copy):
    info = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**info, field: value}))
    for read in (vm.load, vm.load_parts, artefacts.read_info):
        with pytest.raises(DamagedModelError, match="tiny--a-16: .*graph.json and model.json do not match"):
            read(copy)


def test_the_same_description_in_another_form(copy):
    info = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(dict(sorted(info.items()))))
    assert vm.load_parts(copy).info == info


def test_an_edited_graph(copy):
    text = (copy / "graph.json").read_text()
    (copy / "graph.json").write_text(text.replace("[4, 4]", "[2, 8]"))
    with pytest.raises(DamagedModelError):
        artefacts.read_info(copy)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"{}"])
def test_model_json_that_is_something_else(content, copy):
    (copy / "model.json").write_bytes(content)
    with pytest.raises(DamagedModelError):
        vm.load(copy)


def test_weights_that_are_gone(copy):
    shutil.rmtree(copy / "variables")
    with pytest.raises(DamagedModelError, match="weights cannot be read"):
        vm.load(copy)


def test_other_weights_under_the_same_names(copy, tmp_path):
    other = vm.save(tmp_path / "other", *tiny_parts(head=True, seed=1))
    shutil.rmtree(copy / "variables")
    shutil.copytree(other / "variables", copy / "variables")
    with pytest.raises(DamagedModelError, match="weights do not match the weight_hash"):
        vm.load(copy)


def test_a_model_from_before_there_was_a_hash(copy, caplog):
    info = json.loads((copy / "model.json").read_text())
    del info[integrity.FIELD]
    (copy / "model.json").write_text(json.dumps(info))
    vm.load(copy)
    assert "no artefact_hash" in caplog.text and str(copy) in caplog.text
    (copy / "model.json").write_text(json.dumps({**info, "weight_hash": "0"}))
    with pytest.raises(DamagedModelError):
        vm.load(copy)


def test_weights_hash_is_what_it_was():
    """Results name weights by it; it must not change."""
    weights = {"b": np.arange(3, dtype=np.float32), "a": np.int64(7), "c": np.zeros((0, 2))}
    assert vm.weight_hash(weights) == "5831e1e099ce46a5b9f77b39bfe39125292b0ff5cd2f136539a2fee18aeb8572"


def test_a_sweep_names_the_damaged_model(config, fake_converters, tmp_path, capsys):
    from vtabjax import results
    from vtabjax.sweep import runner

    config.models = "tiny/a"
    assert runner.run(config, tmp_path) == 0
    folder = tmp_path / "models" / "tiny--a-16"
    info = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**info, "mean": [0, 0, 0]}))
    config.k, config.models = 3, "tiny/a,tiny/b"
    assert runner.run(config, tmp_path) == 1
    ((_, record),) = results.errors(tmp_path)
    assert record["model"] == "tiny/a" and str(folder) in record["message"]
    shutil.rmtree(folder)  # what the message says
    config.retry_failed = True
    assert runner.run(config, tmp_path) == 0
