"""LoRA: PyTorch's gradients, the base model at the start, an ordinary model at the end."""

import functools

import jax
import numpy as np
import pytest
import torch
from finetune_models import conv_parts
from torch import nn
from torch.nn.utils import parametrize

import converters
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import lora

# isort: split
import timm
from timm.layers import ScaledStdConv2d

RANK, ALPHA, SIZE = 3, 6.0, 32
QUICK = {"xla_backend_optimization_level": 0}  # to compile, not to run
INFO = {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]}
MODELS = [
    ("test_vit", {"img_size": SIZE, "depth": 1}),
    ("test_resnet", {"channels": (8, 8, 12, 16)}),
]


class _Beside(nn.Module):
    """A layer with its adapter, as the paper and peft have it."""

    def __init__(self, base, down, up):
        super().__init__()
        self.base, self.down, self.up = base, down, up

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * self.up(self.down(x))


class _OnTheWeight(nn.Module):
    """The adapter of a layer that standardises its weight."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, weight):
        product = self.b.reshape(len(self.b), -1) @ self.a.reshape(len(self.a), -1)
        return weight + ALPHA / RANK * product.reshape(weight.shape)


def settings(**changes):
    given = {"scope": "lora", "lora_rank": RANK, "lora_alpha": ALPHA, "dtype": "float64", **changes}
    return finetune.Settings(**given)


def built(name, options):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, **options) if name else _standardised()
    module = module.double().eval()
    graph, variables = converters.from_torch(module, (3, SIZE, SIZE))
    return module, model.SavedModel(graph, variables, INFO)


def adapt(module, adapters):
    """Puts adapters into a torch module: {name of the parameter there: ours}."""
    names = {}
    for name in sorted({lora.weight_of(key) for key in adapters}):
        a, b = (torch.tensor(np.array(adapters[f"{name}.lora_{letter}"])) for letter in "AB")
        path = name.removesuffix(".weight")
        parent, own = module.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        layer = getattr(parent, own)
        if type(layer) is nn.Linear:
            down, up = nn.Linear(*a.shape[::-1], bias=False), nn.Linear(*b.shape[::-1], bias=False)
        elif type(layer) is nn.Conv2d:
            same = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            down = nn.Conv2d(layer.in_channels, RANK, layer.kernel_size, **same, bias=False)
            up = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            parametrize.register_parametrization(layer, "weight", _OnTheWeight(a, b))
            stem = f"{path}.parametrizations.weight.0"
            names |= {f"{stem}.a": f"{name}.lora_A", f"{stem}.b": f"{name}.lora_B"}
            continue
        down.weight, up.weight = nn.Parameter(a), nn.Parameter(b)
        setattr(parent, own, _Beside(layer, down, up))
        names |= {f"{path}.down.weight": f"{name}.lora_A", f"{path}.up.weight": f"{name}.lora_B"}
    return names


def _standardised():
    """Convolutions of NFNets, whose weights have mean 0 and a gain."""
    first, second = ScaledStdConv2d(3, 8, 3, 2, padding=1), ScaledStdConv2d(8, 12, 3, 2)
    module = nn.Sequential(first, nn.SiLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.num_features = 12
    return module


@pytest.mark.parametrize(("name", "options"), [*MODELS, ("", {})])
def test_lora_follows_pytorch(name, options):
    """Features at the start and after a change of A and B, the gradients, and the merged model."""
    module, parts = built(name, options)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    mean, std = (torch.tensor(INFO[k], dtype=torch.float64).reshape(3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std
    with jax.enable_x64(True):
        below = finetune.trainable(parts, settings())
        frozen, buffers = (
            {k: jax.numpy.asarray(v) for k, v in of.items()} for of in (below.frozen, below.buffers)
        )
        direction = rng.normal(size=(2, below.width))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def step(weights):
            def loss(weights):
                maps, _ = below.forward(weights, buffers, images, True, frozen)
                return (maps * direction).sum(), maps

            (_, maps), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
            return maps, gradient

        start, _ = step(below.parameters)
        weights = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in below.parameters.items()}
        moved, gradient = step(weights)
        ordinary = model.Model(*finetune.finished(parts, settings(), weights))
        merged = ordinary(images.astype(np.float64) / 255)
        start, moved, merged = map(np.asarray, (start, moved, merged))

    with torch.no_grad():
        np.testing.assert_allclose(start, module(pixels).numpy(), rtol=1e-9, atol=1e-10)
    names = adapt(module, weights)
    found = module(pixels)
    (found * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(moved, found.detach().numpy(), rtol=1e-9, atol=1e-10)
    assert np.abs(moved - start).max() > 0.1 * np.abs(start).max()
    theirs = {ours: module.get_parameter(path).grad.numpy() for path, ours in names.items()}
    assert theirs.keys() == gradient.keys()
    for key, value in theirs.items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(gradient[key], value, rtol=0, atol=1e-9 * scale, err_msg=key)
    np.testing.assert_allclose(merged, moved, rtol=1e-9, atol=1e-9 * np.abs(moved).max())


def test_at_the_start_it_is_the_model_to_the_bit():
    parts = conv_parts()
    graph = parts.graph.select({"features": "features"})
    adapted, added = lora.adapted(graph, lora.layers(graph), rank=2, alpha=4)
    images = np.random.default_rng(0).normal(size=(5, *graph.input_size[1:], 3)).astype(np.float32)
    values = {**parts.variables, **{k: v.astype(np.float32) for k, v in added.items()}}
    got, wanted = (
        jax.jit(lambda v, x, g=g: model.apply(g, v, x)[0]["features"])(values, images)
        for g in (adapted, graph)
    )
    np.testing.assert_array_equal(got, wanted)


def test_where_adapters_begin():
    """A as torch initialises a layer, by the weight's name alone; B at zero."""
    graph = conv_parts().graph.select({"features": "features"})
    _, added = lora.adapted(graph, ["conv.weight"], rank=200, alpha=1)
    a, b = added["conv.weight.lora_A"], added["conv.weight.lora_B"]
    assert a.shape == (200, 3, 3, 3) and b.shape == (6, 200, 1, 1) and not b.any()
    bound = 27**-0.5
    assert 0.99 * bound < np.abs(a).max() <= bound and abs(a.std() - bound / 3**0.5) < 0.02 * bound
    np.testing.assert_array_equal(
        a[:2], lora.adapted(graph, ["conv.weight"], rank=2, alpha=1)[1]["conv.weight.lora_A"]
    )


def test_which_layers():
    vit, resnet, convnext = (
        converters.from_torch(timm.create_model(name, num_classes=0, **options), (3, SIZE, SIZE))[0].select(
            {"features": "features"}
        )
        for name, options in (("test_vit", {"img_size": SIZE, "depth": 2}), MODELS[1], ("test_convnext", {}))
    )
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert lora.layers(vit) == [f"blocks.{i}.{part}.weight" for i in range(2) for part in parts]
    weights = [n for n, v in resnet.variables.items() if len(v.shape) == 4]
    assert lora.layers(resnet) == weights
    assert not any("conv_dw" in n for n in lora.layers(convnext))  # grouped by channel
    assert lora.layers(vit, "*0.attn.qkv, blocks.0.mlp.fc1") == [
        f"blocks.0.{part}.weight" for part in ("attn.qkv", "mlp.fc1")
    ]
    assert all("conv_dw" in n for n in lora.layers(convnext, "*conv_dw"))  # they can be asked for
    with pytest.raises(
        finetune.ScopeError, match=r"lora_layers='\*qkw': '\*qkw' fits none of .* such as patch"
    ):
        lora.layers(vit, "*qkw")


def test_grouped_convolutions_are_adapted_on_the_weight():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, groups=3)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    graph, variables = converters.from_torch(module, (3, 8, 8))
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        adapted, added = lora.adapted(graph, ["1.weight"], rank=RANK, alpha=ALPHA)
        weights = {k: rng.normal(size=v.shape) for k, v in added.items()}
        x = rng.normal(size=(2, 8, 8, 3))
        got = model.apply(adapted, {**variables, **weights}, x)[0]["features"]
    a, b = (torch.tensor(weights[f"1.weight.lora_{letter}"]) for letter in "AB")
    parametrize.register_parametrization(layer, "weight", _OnTheWeight(a, b))
    wanted = module(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
