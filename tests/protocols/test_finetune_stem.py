"""What lies below the first trained weight is computed once for each example, with the same outcome."""

import functools

import jax
import numpy as np
import pytest
from finetune_models import conv_parts

import converters
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import backbone
from vtabjax.runtime import devices

# isort: split
import timm
import torch

INFO = {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]}
SIZE, CLASSES, EXAMPLES = 32, 3, 10
# name -> options, pattern of the weights that are trained, values that are kept of each example (numbers in all).
MODELS = {
    "vit_tiny_patch16_224": (
        {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 2},
        "*blocks.2.*",
        5 * (24 + 72),
    ),
    "resnet18": ({"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24)}, "layer4*", 16 * 2 * 2),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 4, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 16},
        "layers.1.blocks.*",
        4 * 4 * (32 + 96),
    ),
}


@functools.cache
def parts(name):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, **MODELS[name][0]).double()
    graph, variables = converters.from_torch(module, (3, SIZE, SIZE))
    return model.SavedModel(graph, variables, INFO)


def settings(**changes):
    given = {
        "optimizer": "adamw",
        "scope": "lora",
        "lora_rank": 2,
        "dtype": "float64",
        **changes,
    }
    return finetune.Settings(learning_rates=(0.01,), steps=(8,), batch_size=4, **given)


def trained(saved, own):
    mesh = devices.data_mesh(jax.devices()[:1])
    made = finetune.Trainer(
        finetune.trainable(saved, own), own, classes=CLASSES, capacity=EXAMPLES + 2, mesh=mesh, eval_batch=4
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    plan = finetune.plan(own, learning_rate=0.01, steps=8, classes=CLASSES, seed=0)
    state, losses, _ = made.train_steps(made.initial_state(), made.data(images, labels), plan, 8)
    return made, jax.device_get(state), losses, made.predict(state, images, CLASSES)


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same(name):
    saved, (_, layers, numbers) = parts(name), MODELS[name]
    with jax.enable_x64(True):
        made, state, losses, predictions = trained(saved, settings(lora_layers=layers))
        _, wanted, wanted_losses, wanted_predictions = trained(
            saved, settings(lora_layers=layers, frozen_cache_gb=0.0)
        )
    assert made.traces == 1
    # The residual stream and its product with the first weight that has an adapter; not the norm between them.
    assert made.below.example_bytes == numbers * 8
    assert 0.3 < made.below.share < 1
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-12)
    assert losses[-1] < losses[0]
    for key, value in wanted.backbone.items():
        np.testing.assert_allclose(state.backbone[key], value, rtol=1e-9, atol=1e-12)
    assert (predictions == wanted_predictions).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": "flip"},  # the pictures differ from step to step
        {"frozen_cache_gb": 1e-7},  # 12 examples of 960 bytes have no room
        {"lora_layers": "patch_embed.*"},  # the pictures themselves enter it
        {"scope": "bias"},
        {"scope": "all"},
    ],
)
def test_where_every_step_computes_all(changes):
    saved = parts("vit_tiny_patch16_224")
    own = settings(**{"lora_layers": "blocks.2.*", **changes})
    with jax.enable_x64(True):
        made = finetune.Trainer(
            backbone.trainable(saved, own),
            own,
            classes=CLASSES,
            capacity=12,
            mesh=devices.data_mesh(jax.devices()[:1]),
        )
    assert made.below is None


def test_a_model_in_which_little_is_frozen():
    own = finetune.Settings(scope="lora", lora_layers="conv", lora_rank=1, steps=(3,), batch_size=4)
    assert finetune.trainable(conv_parts(), own).below is None
