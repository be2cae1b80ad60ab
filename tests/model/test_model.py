"""apply, Model, save and load."""

import json
import os
import subprocess
import sys

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from converters import _compat  # noqa: F401  (before torchvision)

# isort: split
from torchvision.ops import StochasticDepth

from converters.export import from_torch
from converters.randomise import randomise
from vtabjax import model as vm

INFO = {"spec": "tiny/net", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "input_size": [3, 8, 8]}


class Net(nn.Module):
    """Convolution, batch norm, dropout, stochastic depth, a classifier."""

    def __init__(self, p=0.0, depth=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8, momentum=0.3)
        self.drop = nn.Dropout(p)
        self.depth = StochasticDepth(depth, "row")
        self.fc = nn.Linear(8, 5)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = x + self.depth(x)
        x = self.drop(x.mean((2, 3)))
        return {"features": x, "logits": self.fc(x)}


def _net(dtype=torch.float32, **options):
    torch.manual_seed(0)
    return randomise(Net(**options).eval()).to(dtype)


def _images(n=4, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).random((n, 8, 8, 3)).astype(dtype)


def _torch(x):
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def test_training_statistics_equal_torchs():
    net = _net(torch.float64)
    graph, variables = from_torch(net, (3, 8, 8))
    x = _images(dtype=np.float64)
    with jax.enable_x64(True):
        for _ in range(3):
            out, updates = vm.apply(graph, variables, x, train=True)
            variables = {**variables, **{k: np.asarray(v) for k, v in updates.items()}}
            expected = net.train()(_torch(x))
    assert set(updates) == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    np.testing.assert_allclose(out["logits"], expected["logits"].detach(), rtol=1e-12)
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(variables[name], value, rtol=1e-12, err_msg=name)
    assert variables["bn.num_batches_tracked"] == 3


def test_a_batch_norm_that_is_used_twice_counts_both_batches():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return {"features": self.bn(self.conv(self.bn(x))).mean((2, 3))}

    torch.manual_seed(0)
    net = randomise(Twice().eval()).double()
    graph, variables = from_torch(net, (3, 8, 8))
    x = _images(dtype=np.float64)
    with jax.enable_x64(True):
        _, updates = vm.apply(graph, variables, x, train=True)
    net.train()(_torch(x))
    assert int(updates["bn.num_batches_tracked"]) == int(net.bn.num_batches_tracked) == 2
    for name, value in updates.items():
        np.testing.assert_allclose(value, net.state_dict()[name], rtol=1e-12, err_msg=name)


def test_evaluation_updates_nothing_and_uses_the_running_statistics():
    net = _net()
    graph, variables = from_torch(net, (3, 8, 8))
    x = _images()
    out, updates = vm.apply(graph, variables, x)
    assert updates == {}
    alone = vm.apply(graph, variables, x[:1])[0]
    np.testing.assert_allclose(out["features"][:1], alone["features"], rtol=1e-6)


def test_dropout_is_off_without_a_key_and_right_with_one():
    graph, variables = from_torch(_net(p=0.25), (3, 8, 8))
    x = np.repeat(_images(1), 4000, 0)
    plain = vm.apply(graph, variables, x, train=True)[0]["features"]
    run = jax.jit(lambda key: vm.apply(graph, variables, x, train=True, rng=key)[0]["features"])
    dropped = np.asarray(run(jax.random.key(0)))
    assert np.array_equal(dropped, run(jax.random.key(0)))
    assert not np.array_equal(dropped, run(jax.random.key(1)))
    zero = dropped == 0
    # 32,000 draws of p = 0.25: a standard error of 0.0024.
    assert abs(zero.mean() - 0.25) < 0.01
    np.testing.assert_allclose(dropped[~zero], (np.asarray(plain) / 0.75)[~zero], rtol=1e-5)
    evaluated = vm.apply(graph, variables, x[:1], rng=jax.random.key(0))[0]["features"]
    np.testing.assert_allclose(evaluated, vm.apply(graph, variables, x[:1])[0]["features"])


def test_stochastic_depth_drops_the_branch_of_whole_examples():
    net = _net(depth=0.4)
    graph, variables = from_torch(net, (3, 8, 8))
    x = np.repeat(_images(1), 4000, 0)
    plain = vm.apply(graph, variables, x, train=True)[0]["features"]  # the branch equals the trunk: twice it
    drawn = vm.apply(graph, variables, x, train=True, rng=jax.random.key(0))[0]["features"]
    ratio = np.asarray(drawn / plain)
    used = np.asarray(plain)[0] > 1e-3
    dropped = np.abs(ratio[:, used] - 0.5).max(1) < 1e-4
    kept = np.abs(ratio[:, used] - (1 + 1 / 0.6) / 2).max(1) < 1e-4
    assert (dropped | kept).all()
    assert abs(dropped.mean() - 0.4) < 0.03


def test_bfloat16_stays_bfloat16():
    graph, variables = from_torch(_net(), (3, 8, 8))
    half = {k: jnp.asarray(v, jnp.bfloat16) if v.dtype == np.float32 else v for k, v in variables.items()}
    out, _ = vm.apply(graph, half, jnp.asarray(_images(), jnp.bfloat16))
    exact = vm.apply(graph, variables, _images())[0]["features"]
    assert out["features"].dtype == out["logits"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out["features"], np.float32), exact, rtol=0.05, atol=0.02)


def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    net = _net()
    graph, variables = from_torch(net, (3, 8, 8))
    path = vm.save(tmp_path / "net", graph, variables, INFO)
    model = vm.load(path)
    x = _images()
    expected = net(
        (_torch(x) - torch.tensor(INFO["mean"]).view(3, 1, 1)) / torch.tensor(INFO["std"]).view(3, 1, 1)
    )
    np.testing.assert_allclose(model(x), expected["features"].detach(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(model.outputs(x)["logits"], expected["logits"].detach(), rtol=2e-5, atol=1e-6)
    assert model.info["spec"] == "tiny/net" and model.info["weight_hash"] == vm.weight_hash(variables)
    assert list(model.variables) == list(net.state_dict())
    # Saving over it replaces it and leaves nothing else behind.
    vm.save(path, graph, {**variables, "fc.bias": variables["fc.bias"] + 1}, INFO)
    assert vm.load(path).info["weight_hash"] != model.info["weight_hash"]
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_a_failed_save_leaves_the_old_model(tmp_path):
    graph, variables = from_torch(_net(), (3, 8, 8))
    path = vm.save(tmp_path / "net", graph, variables, INFO)
    with pytest.raises(TypeError):
        vm.save(path, graph, variables, {"unwritable": object()})
    assert vm.load(path).info["spec"] == "tiny/net"
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_no_artefact_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m converters convert"):
        vm.load(tmp_path / "nothing")


def test_the_nnx_face_splits_merges_and_trains():
    graph, variables = from_torch(_net(), (3, 8, 8))
    model = vm.Model(graph, variables, INFO)
    definition, params, rest = nnx.split(model, nnx.Param, ...)
    assert {p[-1] for p in nnx.to_flat_state(params).paths} >= {"conv.weight", "fc.bias"}
    x = _images()

    @jax.jit
    def loss(params):
        merged = nnx.merge(definition, params, rest)
        return jnp.square(merged(x)).sum()

    gradient = jax.grad(loss)(params)
    assert float(jnp.abs(nnx.merge(definition, gradient, rest).variables["conv.weight"]).max()) > 0
    before = model.variables
    model(x, train=True)
    assert int(model.variables["bn.num_batches_tracked"]) == 1
    assert not np.array_equal(model.variables["bn.running_mean"], before["bn.running_mean"])


def test_state_dict_round_trip_is_strict():
    net = _net()
    graph, variables = from_torch(net, (3, 8, 8))
    state = vm.to_state_dict(vm.Model(graph, variables, INFO))
    other = Net()
    other.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())
    assert state["bn.num_batches_tracked"].dtype == np.int64
    parts = vm.SavedModel(graph, variables, INFO)
    with pytest.raises(ValueError, match="fc.bias"):
        vm.to_state_dict(parts, {k: v for k, v in variables.items() if k != "fc.bias"})
    with pytest.raises(ValueError, match="fc.bias has shape"):
        vm.to_state_dict(parts, {**variables, "fc.bias": np.zeros(3)})


def test_an_artefact_runs_without_torch(tmp_path):
    graph, variables = from_torch(_net(), (3, 8, 8))
    path = vm.save(tmp_path / "net", graph, variables, INFO)
    np.save(tmp_path / "x.npy", _images())
    done = subprocess.run(
        [
            sys.executable,
            str(conftest.PROGRAMS / "model_without_torch.py"),
            str(path),
            str(tmp_path / "x.npy"),
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), vm.load(path)(_images()), rtol=1e-6)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "images are uint8; .* divide by 255"),
        (np.zeros((2, 8, 8, 3), np.int64), "images are int64"),
        (np.zeros((2, 8, 8, 3), bool), "images are bool"),
        (jnp.zeros((2, 8, 8, 3), jnp.uint8), "images are uint8"),
        (255 * _images(), r"images range from .* to 25.*; .* in \[0, 1\]"),
        (jnp.asarray(255 * _images()), "images range from"),
        ((_images() - 0.5) / 0.2, "images range from -2.* and leave out any normalisation"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "images range from nan"),
        (np.zeros((2, 3, 8, 8), np.float32), r"channels first; this model takes \[B, 8, 8, 3\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "channels first"),
        (np.zeros((8, 8, 3), np.float32), "a single image"),
        (np.zeros((2, 9, 8, 3), np.float32), "convert the model again"),
    ],
)
def test_images_that_people_pass_by_mistake(images, message):
    graph, variables = from_torch(_net(), (3, 8, 8))
    with pytest.raises(ValueError, match=message):
        vm.Model(graph, variables, INFO)(images)


def test_normalise_refuses_bytes():
    """In them mean and standard deviation would be whole numbers, too: 0."""
    with pytest.raises(ValueError, match="images are uint8; divide by 255"):
        vm.normalise(np.zeros((2, 8, 8, 3), np.uint8), INFO)


def test_images_that_are_right():
    graph, variables = from_torch(_net(), (3, 8, 8))
    model = vm.Model(graph, variables, INFO)
    wanted = model(_images())
    np.testing.assert_allclose(model(jnp.asarray(_images())), wanted)
    np.testing.assert_allclose(model(_images().tolist()), wanted, rtol=1e-5)
    assert model(_images() * 1.3 - 0.15).shape == wanted.shape  # resampling overshoots a little
    assert model(_images(0)).shape == (0, 8)
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(_images()), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="images are uint8"):
        jax.jit(lambda x: model(x))(np.zeros((2, 8, 8, 3), np.uint8))
