"""``python/package.module:function``: modules of one's own."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import converters
from converters import sources, verify
from converters.sources import python
from vtabjax import model
from vtabjax.specs import SpecError
from vtabjax.sweep import artefacts, converters_client

_MODULE = '''
import torch
from torch import nn

calls = []


class Net(nn.Module):
    """Called `features`, as in many modules: a submodule, which states nothing."""

    def __init__(self, classes=7, act=None):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.fc = nn.Linear(8, classes)
        self.act = act

    def forward(self, x):
        out = self.fc(self.features(x).mean((2, 3)))
        return self.act(out) if self.act else out


class Encoder(nn.Sequential):
    input_size, mean, std, interpolation = (3, 16, 16), (0.5, 0.4, 0.3), [0.2, 0.3, 0.4], "bicubic"

    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 4, 4))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        features = self.conv(x).mean((2, 3)).tanh()
        return {"features": features, "logits": self.head(features)}


def net():
    calls.append("net")
    return Net()


def sized():
    module = Net()
    module.pretrained_cfg = {"input_size": (3, 24, 24), "mean": (0.1, 0.2, 0.3), "std": (0.5,) * 3, "license": "mit"}
    return module


def projection():
    return Net()


projection.features = "output"
projection.mean, projection.std, projection.input_size = (0, 0, 0), (1, 1, 1), 20


def softmax():
    return Net(act=torch.relu)


def only_this_size():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4), nn.ReLU())
    module.input_size = 16
    return module


def from_timm():
    import timm

    return timm.create_model("test_resnet")


def with_argument(classes, width=3): ...
def returns_none(): ...
def fails(): raise KeyError("weights.pth\\nis not here")
def exits(): raise SystemExit(3)
def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def stated(**values):
    def function():
        return nn.Conv2d(3, 4, 3)

    vars(function).update(values)
    return function


big_mean, zero_std, size_text = stated(mean=(123.7, 116.3, 103.5)), stated(std=(0, 1, 1)), stated(input_size="large")
two_means, no_filter, choice = stated(mean=(0.5, 0.5)), stated(interpolation="fancy"), stated(features="logits")
value, instance = 3, nn.Identity()
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the module, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != ""])
    (tmp_path / "own_models.py").write_text(_MODULE)
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    yield tmp_path
    for name in ("own_models", "needs_more", "broken_module"):
        sys.modules.pop(name, None)
    python._described.cache_clear()


def build(name, size=None):
    return sources.build(f"python/own_models:{name}", size)


def test_features_are_what_the_last_linear_layer_reads(mine):
    module, info = build("net", 32)
    graph, variables = converters.from_torch(module, (3, 32, 32))
    assert (
        verify.compare(module.double(), *converters.from_torch(module.double(), (3, 32, 32)))["logits"]
        < 1e-12
    )
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    outputs, _ = model.apply(graph, variables, images)
    own = module.float().features(verify.as_torch(images)).mean((2, 3))
    np.testing.assert_allclose(outputs["features"], own.detach(), atol=1e-6)
    np.testing.assert_allclose(outputs["logits"], module.fc(own).detach(), atol=1e-6)
    assert info["pooling"] == "input of the last linear layer (8); its output (7) is the logits"
    assert info["notes"][0] == "mean and std were not stated; ImageNet's were taken"
    assert any('features = "output"' in note for note in info["notes"])


@pytest.mark.parametrize(
    "name, width, classes",
    [
        ("net", 8, 7),
        ("projection", 7, None),
        ("softmax", 7, None),
        ("Encoder", 5, None),
        ("Both", 6, 4),
        ("from_timm", 96, 1000),
    ],
)
def test_outputs(mine, name, width, classes):
    path = converters.convert(f"python/own_models:{name}", mine / "out")
    info = json.loads((path / "model.json").read_text())
    assert (info["num_features"], info["num_classes"]) == (width, classes)
    assert info["parity"]["float32"]["features"] < 1e-4


def test_the_same_numbers_at_every_call(mine):
    first, second = build("net", 32).module.state_dict(), build("net", 32).module.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    before = torch.get_rng_state()
    build("net", 32)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_stated_is_read(mine):
    info = sources.describe("python/own_models:Encoder")
    assert info["input_size"] == [3, 16, 16] and info["interpolation"] == "bicubic" and info["notes"] == []
    assert (info["mean"], info["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    info = sources.describe("python/own_models:sized")
    assert info["input_size"] == [3, 24, 24] and info["mean"] == [0.1, 0.2, 0.3] and info["license"] == "mit"
    info = sources.describe("python/own_models:projection")
    assert info["input_size"] == [3, 20, 20] and info["std"] == [1, 1, 1]
    info = sources.describe("python/own_models:from_timm")  # timm's own configuration
    assert info["input_size"] == [3, 160, 160] and info["notes"] == [] and info["license"] == "apache-2.0"
    info = sources.describe("python/own_models:net")
    assert info["input_size"] == [3, 224, 224] and info["mean"] == [0.485, 0.456, 0.406]
    assert info["notes"] == [
        "mean and std were not stated; ImageNet's were taken",
        "input_size was not stated; 224 pixels were taken",
    ]
    assert build("net", 32).info["notes"][1].startswith("features")  # the size was asked for


def test_a_checkpoint_is_loaded_into_the_module(mine):
    sources.check("python/own_models:net")
    own_models = sys.modules["own_models"]
    trained = own_models.Net()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, "last.pth"
    )
    module, info = sources.build("python/own_models:net@last.pth", 32)
    assert torch.equal(module.fc.weight, trained.fc.weight)
    assert info["weights"] == "file last.pth" and info["checkpoint"]["prefix"] == "module."
    torch.save(own_models.Net(9).state_dict(), "other.pth")
    with pytest.raises(SpecError, match="fc"):
        sources.build("python/own_models:net@other.pth", 32)


def test_check_calls_nothing(mine):
    sources.check("python/own_models:net")
    assert sys.modules["own_models"].calls == []
    assert sources.list_models("*/resnet18@random")  # a pattern looks for no functions
    assert sources.parameters("python/own_models:net") == 8 * 3 * 9 + 8 + 8 * 7 + 7


@pytest.mark.parametrize(
    "name, message",
    [
        ("own_models", "names no function: write python/package.module:function"),
        ("own_models.py:net", "with dots and without .py"),
        ("folder/own_models:net", "names no function"),
        ("own_model:net", "there is no Python module 'own_model' in the current folder"),
        ("needs_more:net", "importing needs_more needs the module 'surely_not_installed'"),
        ("broken_module:net", "importing broken_module failed: ZeroDivisionError: division by zero"),
        ("own_models:nett", "own_models has no 'nett'; it has net"),
        ("own_models:value", "value is an object of type int and cannot be called"),
        ("own_models:instance", "instance is a module and not a function that returns one"),
        ("own_models:with_argument", r"needs arguments \(classes\)"),
        ("own_models:net@random", "for random ones name a function that loads none"),
        ("own_models:net@/nowhere.pth", "there is no weight file /nowhere.pth"),
    ],
)
def test_refused_before_it_is_called(mine, name, message):
    with pytest.raises(SpecError, match=message) as error:
        sources.check(f"python/{name}")
    assert "\n" not in str(error.value) and f"python/{name}" in str(error.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("returns_none", "the function returned None, not an nn.Module"),
        ("fails", "the function failed: KeyError: 'weights.pth"),
        ("exits", "the function failed: SystemExit: 3"),
        ("pair", "returns an object of type tuple; it has to return features"),
        ("big_mean", "mean is .* looks like pixel values up to 255.*divide it by 255"),
        ("zero_std", r"std is \(0, 1, 1\); give three numbers"),
        ("two_means", "mean is .*give three numbers"),
        ("size_text", "input_size is 'large'; give height and width"),
        ("no_filter", "interpolation is 'fancy'"),
        ("choice", "attribute features is 'logits'; give 'output' or 'last linear'"),
    ],
)
def test_refused_when_it_is_built(mine, name, message):
    with pytest.raises(SpecError, match=message) as error:
        build(name)
    assert "\n" not in str(error.value)


def test_a_size_that_does_not_pass(mine):
    assert build("only_this_size").info["input_size"] == [3, 16, 16]
    with pytest.raises(SpecError, match="cannot take images of 32 pixels: its own size is 16"):
        build("only_this_size", 32)


def test_the_converters_process_finds_the_current_folder(mine):
    """As a sweep starts it."""
    (line,) = converters_client.ask(
        ["convert", "python/own_models:net", f"--out={mine / 'out'}", "--input_size=16"]
    )
    assert line["status"] == "converted", line
    info = artefacts.read_info(line["path"])
    assert artefacts.notes(info)[0] == "mean and std were not stated; ImageNet's were taken"
    assert artefacts.find(mine / "out", "python/own_models:net", 16).samefile(line["path"])


def test_modules_of_unknown_kinds_are_as_they_were():
    """from_torch itself guesses nothing: what a module returns are its features."""
    graph, _ = converters.from_torch(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2))
    assert set(graph.outputs) == {"features"}
