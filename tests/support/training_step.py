"""One step of SGD with momentum on the same batch, in PyTorch and in Flax, in float64; and back into PyTorch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from converters.export import from_torch
from converters.outputs import Outputs
from vtabjax.model import SavedModel, apply, to_state_dict
from vtabjax.runtime.xla_cpu import quick_compilation

RATE, MOMENTUM, TOLERANCE = 0.01, 0.9, 1e-8


def close(ours, theirs, scale, what):
    """Largest difference over the tensor's largest value, or over `scale` where the tensor is all rounding (the
    gradient of a bias in front of a batch norm is zero)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    error = np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), scale)
    assert error < TOLERANCE, f"{what}: {error:.1e}"


def check(module: nn.Module, again: Callable[[], nn.Module], size: int, classes: int | None) -> None:
    """Trains the module here and there by one step and compares everything.

    Args:
      module: in float64.
      again: another module of the same architecture.
      size: of the images.
      classes: of the logits, or None for a module that gives features only.
    """
    graph, variables = from_torch(module, (3, size, size))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((6, size, size, 3))
    labels = rng.integers(0, classes or 6, 6)
    output = "logits" if classes else "features"
    torch_images = torch.from_numpy(images).permute(0, 3, 1, 2)

    trained = {k for k, v in graph.variables.items() if v.kind == "parameter"}
    with jax.enable_x64(True):

        def loss(params, rest):
            outputs, updates = apply(graph, {**params, **rest}, images, train=True)
            # Features are taken for logits of as many classes: any loss that they all have a part in.
            return optax.softmax_cross_entropy_with_integer_labels(outputs[output], labels).mean(), updates

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
        if hasattr(layer, "drop_prob"):
            layer.drop_prob = 0.0
        elif isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    own = hasattr(module, "image_outputs") or not classes
    logits = Outputs(module)(torch_images)[output] if own else module(torch_images)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    expected.backward()
    optimizer.step()

    assert abs(float(value) - expected.item()) <= TOLERANCE * abs(expected.item())
    reference = {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in reference.values())
    assert largest > 0
    for key in trained:
        # What the loss does not reach has no gradient in PyTorch and a zero one here.
        close(
            gradients[key],
            reference.get(key, np.zeros(params[key].shape)),
            1e-4 * largest,
            f"gradient of {key}",
        )
    state = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    for key in trained:
        close(stepped[key], state[key], RATE * 1e-4 * largest, f"stepped {key}")
    statistics = {k for k, v in graph.variables.items() if v.kind == "batch_stat"}
    assert set(updates) == statistics
    for key in statistics:
        close(updates[key], state[key], 1e-12, key)

    # There and back: the trained variables load into the architecture and compute what they compute here.
    trained = {**variables, **stepped, **updates}
    other = again().double().eval()
    state = to_state_dict(SavedModel(graph, variables, {}), trained)
    other.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    with jax.enable_x64(True):
        ours = (
            jax.jit(lambda v: apply(graph, v, images)[0]).lower(trained).compile(quick_compilation())(trained)
        )
    with torch.no_grad():
        theirs = Outputs(other)(torch_images)[output] if own else other(torch_images)
    close(ours[output], theirs, 0, f"{output} of the architecture with the trained state_dict")
