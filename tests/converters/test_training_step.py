"""One step of SGD with momentum on the same batch, in PyTorch and in Flax, in float64; and back into PyTorch."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest
import torch

from converters import _compat  # noqa: F401  (before timm)

# isort: split
import timm
from timm.layers import DropPath

from converters.export import from_torch
from converters.randomise import randomise
from vtabjax.model import SavedModel, apply, to_state_dict
from vtabjax.runtime.xla_cpu import quick_compilation

pytestmark = pytest.mark.usefixtures("memory_back")
# One of each family, at the smallest image that keeps every stage at work.
FAMILIES = {
    "resnet18": 64,
    "resnetv2_50x1_bit": 64,
    "regnetx_002": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "test_efficientnet": 64,
    "mobilenetv3_small_100": 64,
    "nf_regnet_b0": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 32,
    "deit_tiny_distilled_patch16_224": 32,
    "swin_tiny_patch4_window7_224": 224,
    "maxvit_rmlp_pico_rw_256": 64,
    "mixer_s32_224": 224,
    "levit_128s": 224,
    "poolformer_s12": 64,
    "vgg11_bn": 32,
}

# A hundred million parameters of VGG are its first two linear layers; a dozen copies of them in float64 fill memory.
_OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.05}} | {
    name: {"img_size": FAMILIES[name]}
    for name in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "maxvit_rmlp_pico_rw_256")
}
RATE, MOMENTUM, TOLERANCE = 0.01, 0.9, 1e-8


def _close(ours, theirs, scale, what):
    """Largest difference over the tensor's largest value, or over `scale` where the tensor is all rounding (the
    gradient of a bias in front of a batch norm is zero)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    error = np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), scale)
    assert error < TOLERANCE, f"{what}: {error:.1e}"


def _create(name, whole):
    """The architecture; of its blocks that repeat two, unless it is to be whole."""
    options = _OPTIONS.get(name, {})
    if whole:
        return timm.create_model(name, **options)
    return models.shortened(timm.create_model(name, **options, **models.SHORT.get(name, {})))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        # EfficientNet-B0 takes half a minute; timm's tiny one and MobileNetV3 have its kinds of blocks.
        *(pytest.param(name, False, id=name) for name in FAMILIES if name != "efficientnet_b0"),
        *(pytest.param(name, True, id=f"{name}-whole", marks=pytest.mark.audit) for name in FAMILIES),
    ],
)
def test_one_step_equals_torchs_and_goes_back_to_torch(name, whole):
    size = FAMILIES[name]
    torch.manual_seed(0)
    module = randomise(_create(name, whole)).double()
    graph, variables = from_torch(module, (3, size, size))
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((6, size, size, 3)), rng.integers(0, module.num_classes, 6)

    trained = {k for k, v in graph.variables.items() if v.kind == "parameter"}
    with jax.enable_x64(True):

        def loss(params, rest):
            outputs, updates = apply(graph, {**params, **rest}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], labels).mean(), updates

        params = {k: jnp.asarray(v) for k, v in variables.items() if k in trained}
        rest = {k: jnp.asarray(v) for k, v in variables.items() if k not in trained}
        optimizer = optax.sgd(RATE, momentum=MOMENTUM)

        def step(params, rest):
            (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest)
            steps, _ = optimizer.update(gradients, optimizer.init(params))
            return value, updates, gradients, optax.apply_updates(params, steps)

        # One program: operator by operator, each shape of a parameter would be compiled by itself.
        program = jax.jit(step).lower(params, rest).compile(quick_compilation())
        value, updates, gradients, stepped = program(params, rest)

    module.train()
    for layer in module.modules():  # off in Flax without a key: off here too
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
        elif isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    expected = torch.nn.functional.cross_entropy(
        module(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(labels)
    )
    expected.backward()
    optimizer.step()

    assert abs(float(value) - expected.item()) <= TOLERANCE * abs(expected.item())
    reference = {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in reference.values())
    assert largest > 0
    for key in trained:
        # What the loss does not reach has no gradient in PyTorch and a zero one here.
        _close(
            gradients[key],
            reference.get(key, np.zeros(params[key].shape)),
            1e-4 * largest,
            f"gradient of {key}",
        )
    state = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    for key in trained:
        _close(stepped[key], state[key], RATE * 1e-4 * largest, f"stepped {key}")
    statistics = {k for k, v in graph.variables.items() if v.kind == "batch_stat"}
    assert set(updates) == statistics
    for key in statistics:
        _close(updates[key], state[key], 1e-12, key)

    # There and back: the trained variables load into the architecture and compute what they compute here.
    trained = {**variables, **stepped, **updates}
    other = _create(name, whole).double().eval()
    state = to_state_dict(SavedModel(graph, variables, {}), trained)
    other.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    with jax.enable_x64(True):
        ours = (
            jax.jit(lambda v: apply(graph, v, images)[0]).lower(trained).compile(quick_compilation())(trained)
        )
    with torch.no_grad():
        theirs = other(torch.from_numpy(images).permute(0, 3, 1, 2))
    _close(ours["logits"], theirs, 0, "logits of the architecture with the trained state_dict")
