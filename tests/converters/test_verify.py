"""`python -m converters verify`: an artefact's own graph and weights against PyTorch; one line where they differ."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import converters
from converters.__main__ import main
from vtabjax import model
from vtabjax.protocols.finetune.head import with_head

SPEC = "timm/test_resnet@random:4"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return converters.convert(SPEC, tmp_path_factory.mktemp("models"), input_size=32)


@pytest.fixture
def verify(capsys):
    def run(path):
        capsys.readouterr()
        status = main(["verify", str(path), "--json_lines"])
        out, err = capsys.readouterr()
        assert err.count("\n") == (1 if status else 0), err
        return status, json.loads(out) if not status else err

    return run


def changed(parts, change):
    """The graph with its first batch norm's arguments changed."""
    number = next(i for i, node in enumerate(parts.graph.nodes) if "batch_norm" in node.op)
    nodes = list(parts.graph.nodes)
    nodes[number] = nodes[number]._replace(args=change(nodes[number].args))
    return dataclasses.replace(parts.graph, nodes=tuple(nodes))


def test_what_was_converted(path, verify):
    status, found = verify(path)
    assert status == 0 and found["spec"] == SPEC
    assert set(found) == {
        "spec",
        *(f"{d} {o}" for d in ("float32", "float64") for o in ("features", "logits")),
    }
    assert found["float64 features"] < 1e-12 < found["float32 features"] < 1e-4


def test_an_edited_eps_is_noticed(path, verify, tmp_path):
    """Saved anew, so that the hashes fit: 1.1e-5 instead of 1e-5."""
    parts = model.load_parts(path)
    graph = changed(parts, lambda args: (*args[:7], args[7] * 1.1, *args[8:]))
    status, err = verify(model.save(tmp_path / "m", graph, parts.variables, parts.info))
    assert status == 1 and f"{tmp_path}/m differs from {SPEC} in PyTorch" in err and "in float64" in err


def test_a_graph_that_does_not_run(path, verify, tmp_path):
    parts = model.load_parts(path)
    graph = changed(parts, lambda args: args[1:])
    status, err = verify(model.save(tmp_path / "m", graph, parts.variables, parts.info))
    assert status == 1 and "its graph cannot be run" in err


def test_other_weights_are_noticed(path, verify, tmp_path):
    parts = model.load_parts(path)
    name = next(iter(parts.graph.variables))
    variables = {**parts.variables, name: parts.variables[name] * 1.5}
    status, err = verify(model.save(tmp_path / "m", parts.graph, variables, parts.info))
    assert status == 1 and "weights are not those of its source, such as" in err and name in err


def test_a_damaged_artefact(path, verify, tmp_path):
    folder = shutil.copytree(path, tmp_path / "m")
    (folder / "graph.json").write_text((folder / "graph.json").read_text().replace("1e-05", "1e-03"))
    status, err = verify(folder)
    assert status == 1 and "damaged or was edited" in err
    (folder / "model.json").write_text("{")
    assert verify(folder)[0] == 1
    shutil.rmtree(folder)
    assert "is not a converted model" in verify(folder)[1]


@pytest.mark.parametrize("own_head", [False, True])
def test_fine_tuned_ones(own_head, path, verify, tmp_path):
    """With a head for another number of classes, in the classifier's place or beside it."""
    parts = model.load_parts(path)
    if own_head:  # as of a model whose logits do not come from a linear layer on the features
        outputs = {"features": parts.graph.outputs["features"]}
        parts = parts._replace(graph=dataclasses.replace(parts.graph, outputs=outputs))
    rng = np.random.default_rng(0)
    head = rng.normal(size=(3, parts.info["num_features"])), rng.normal(size=3)
    name = next(iter(parts.graph.variables))
    trained = {name: parts.variables[name] * 1.5}
    tuned = with_head(parts, trained, *head, {"finetuned": {"task": "digits"}})
    status, found = verify(model.save(tmp_path / "m", *tuned))
    assert status == 0 and found["float64 features"] < 1e-12
    assert ("float64 logits" in found) is not own_head
