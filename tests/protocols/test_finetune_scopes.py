"""Which weights a scope trains, and that nothing else moves, is kept for or compiled."""

import functools

import jax
import numpy as np
import pytest
import torch
from finetune_models import conv_parts, examples
from jax.interpreters import partial_eval
from torch import nn

import converters
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax.model import SavedModel
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import scopes
from vtabjax.runtime import devices

# isort: split
import timm


def features(module, size):
    return converters.from_torch(module, (3, size, size))[0].select({"features": "features"})


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_resnet", 32, {}),
        ("test_vit", 32, {"img_size": 32}),
        ("test_convnext", 32, {}),
        (
            "swin_tiny_patch4_window7_224",
            32,
            {"img_size": 32, "depths": (2, 1), "embed_dim": 12, "num_heads": (1, 2)},
        ),
        ("beit_base_patch16_224", 32, {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2}),
    ],
)
def test_biases_and_norms_are_those_that_their_names_tell(name, size, options):
    """BEiT joins the biases of queries and values, and Swin and BEiT have tables of positions, which are no biases."""
    module = timm.create_model(name, num_classes=0, **options)
    graph = features(module, size)
    used = [n for n, variable in graph.variables.items() if variable.kind == "parameter"]
    kinds = {n: type(module.get_submodule(n.rpartition(".")[0])).__name__ for n in used}
    wanted = [n for n in used if n.endswith("bias")]
    assert scopes.trained(graph, "bias") == wanted != []
    assert scopes.trained(graph, "norm") == [n for n in used if "Norm" in kinds[n]] != []


class _WrittenOut(nn.Module):
    """A norm in products and roots, a bias and a scale as sums and products, a table of positions, a bias by slices."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4, bias=False)
        self.gain, self.shift = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))
        self.scale, self.offset = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))
        self.positions = nn.Parameter(torch.rand(1, 4, 6))
        self.matrix, self.both = nn.Parameter(torch.rand(12, 6)), nn.Parameter(torch.rand(12))

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2) + self.positions
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain + self.shift
        x = self.scale * nn.functional.linear(x, self.matrix[:6], self.both[:6]) + self.offset
        return nn.functional.linear(x, self.matrix[6:], self.both[6:]).mean(1)


def test_what_is_written_out_is_found():
    graph = features(_WrittenOut(), 8)
    assert scopes.biases(graph) == ["shift", "offset", "both"]
    assert scopes.norms(graph) == ["gain", "shift"]


def test_a_scope_that_finds_nothing_is_refused():
    graph = features(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8)
    with pytest.raises(finetune.ScopeError, match=r"finetune.scope='norm': this model has no normalisation"):
        scopes.trained(graph, "norm")
    with pytest.raises(finetune.ScopeError, match=r"finetune.scope='bias': this model has no biases"):
        scopes.trained(graph, "bias")


# Training.

TRAINED = {
    "all": {"conv.weight", "bn.weight", "bn.bias"},
    "bias": {"bn.bias"},
    "norm": {"bn.weight", "bn.bias"},
    "lora": {"conv.weight.lora_A", "conv.weight.lora_B"},
}


def trainer(scope, **changes):
    given = {
        "learning_rates": (0.1,),
        "steps": (12,),
        "batch_size": 8,
        "scope": scope,
        "lora_rank": 2,
        **changes,
    }
    own = finetune.Settings(**given)
    mesh = devices.data_mesh(jax.devices()[:1])
    return finetune.Trainer(
        finetune.trainable(conv_parts(), own), own, classes=5, capacity=40, mesh=mesh, eval_batch=16
    )


@pytest.mark.parametrize("scope", TRAINED)
def test_a_scope_trains_its_part_in_one_program(scope):
    made, parts = trainer(scope), conv_parts()
    states, losses = [], []
    for rate, steps, classes, seed in ((0.1, 12, 3, 0), (0.01, 30, 5, 1)):
        plan = finetune.plan(made.settings, learning_rate=rate, steps=steps, classes=classes, seed=seed)
        state, loss, _ = made.train_steps(
            made.initial_state(), made.data(*examples(30, classes)), plan, steps
        )
        made.predict(state, examples(10, classes)[0], classes)
        states.append(jax.device_get(state))
        losses.append(loss)
    assert made.traces == 1
    assert set(states[0].backbone) == TRAINED[scope]
    assert set(states[0].backbone) | set(made.backbone.frozen) >= {"conv.weight", "bn.weight", "bn.bias"}
    for name, value in states[0].backbone.items():
        assert np.abs(value - made.backbone.parameters[name]).max() > 1e-3, name
    assert losses[0][-1] < 0.9 * losses[0][0]
    moved = np.abs(states[0].buffers["bn.running_mean"] - parts.variables["bn.running_mean"]).max() > 1e-4
    assert moved == (scope == "all")  # a frozen model keeps its statistics
    assert states[0].buffers["bn.num_batches_tracked"] == (7 + 12 if scope == "all" else 7)


@pytest.mark.parametrize("scope", TRAINED)
def test_the_optimizer_has_memory_for_what_is_trained(scope):
    made = trainer(scope, optimizer="adamw", ema=0.9)
    state = made.initial_state()
    trained = sum(x.nbytes for x in jax.tree.leaves((state.backbone, state.head)))
    arrays = [x for x in jax.tree.leaves(state.optimizer) if x.ndim]  # without the number of the step
    assert sum(x.nbytes for x in arrays) == 2 * trained  # the two moments
    assert trained == 4 * (5 * 7 + sum(x.size for x in made.backbone.parameters.values()))


def test_frozen_weights_are_as_wide_as_the_computation():
    made = trainer("bias", dtype="bfloat16")
    assert {str(x.dtype) for x in made.backbone.frozen.values()} == {"bfloat16"}
    assert {str(x.dtype) for x in made.backbone.parameters.values()} == {"float32"}
    plan = finetune.plan(made.settings, learning_rate=0.1, steps=3, classes=3, seed=0)
    _, losses, _ = made.train_steps(made.initial_state(), made.data(*examples(30, 3)), plan, 3)
    exact = trainer("bias")
    _, wanted, _ = exact.train_steps(exact.initial_state(), exact.data(*examples(30, 3)), plan, 3)
    np.testing.assert_allclose(losses, wanted, rtol=0.02)


def test_a_scope_follows_the_training_of_all_weights_with_the_others_held():
    """SGD of a part is the whole's with the other gradients left out, in evaluation mode."""
    made = trainer("norm", dtype="float32")
    plan = finetune.plan(made.settings, learning_rate=0.1, steps=12, classes=3, seed=0)
    state, _, _ = made.train_steps(made.initial_state(), made.data(*examples(30, 3)), plan, 2)
    whole = finetune.trainable(conv_parts(), made.settings)
    everything = {**whole.parameters, **whole.frozen}
    inputs, labels = map(jax.numpy.asarray, examples(30, 3))
    index = [
        finetune.sample(plan.key, step, np.int32(30), size=40, batch=8, sampling="epoch") for step in range(2)
    ]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient_of(weights, head, batch):
        maps, _ = whole.forward(weights, whole.buffers, inputs[batch], False, {})
        logits = maps @ head["weight"].T + head["bias"]
        return -jax.nn.log_softmax(logits)[np.arange(8), labels[batch]].mean()

    head = {"weight": np.zeros((3, 6), np.float32), "bias": np.zeros(3, np.float32)}
    weights, momentum = everything, None
    for batch in index:
        gradient = gradient_of(weights, head, np.asarray(batch))
        momentum = (
            gradient if momentum is None else jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        )
        held = {k: 0.1 * (k in whole.parameters) for k in weights}
        weights = {k: w - held[k] * momentum[0][k] for k, w in weights.items()}
        head = jax.tree.map(lambda w, m: w - 0.1 * m, head, momentum[1])
    for name in ("bn.weight", "bn.bias"):
        np.testing.assert_allclose(state.backbone[name], weights[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.head["weight"][:3], head["weight"], rtol=1e-4, atol=1e-6)


def test_frozen_weights_have_no_backward_pass():
    """Products of matrices in a step: forward, to inputs, to weights; none below the first trained layer."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())]
    graph, variables = converters.from_torch(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 8), *layers), (3, 4, 4)
    )
    parts = SavedModel(graph, variables, {"mean": [0.5] * 3, "std": [0.5] * 3})

    def products(scope, **changes):
        below = finetune.trainable(parts, finetune.Settings(scope=scope, **changes))

        def loss(weights):
            return below.forward(weights, below.buffers, np.zeros((2, 4, 4, 3)), True, below.frozen)[0].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(below.parameters)).count("dot_general")

    assert products("all") == 5 + 4 + 5
    assert products("bias") == 5 + 4
    # An adapter of the last layer: two more products, their inputs' gradients up to A, and those of A and B.
    assert products("lora", lora_layers="8") == 5 + 2 + 1 + 2
    # Where what lies below it was computed before, nothing but the adapter is left.
    made = finetune.trainable(parts, finetune.Settings(scope="lora", lora_layers="8"))
    known = made.below.compute(made.buffers, np.zeros((2, 4, 4, 3), np.uint8), made.frozen)

    def loss(weights):
        return made.below.forward(weights, made.buffers, known, True, made.frozen)[0].sum()

    step = jax.make_jaxpr(jax.grad(loss))(made.parameters).jaxpr
    used, _ = partial_eval.dce_jaxpr(step, [True] * len(step.outvars))
    assert str(used).count("dot_general") == 2 + 1 + 2
