"""AdamW with weight decay, layer-wise learning rates, warm-up and cosine: as PyTorch with timm's parameter groups."""

import math

import jax
import numpy as np
import pytest
import torch

import converters
from converters import _compat, conversion  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import layers, optimizers
from vtabjax.runtime import devices

# isort: split
import timm
from timm.optim import param_groups_layer_decay

STEPS, WARMUP, BATCH, CLASSES, EXAMPLES, RATE = 50, 7, 4, 3, 10, 3e-3
DECAY, LAYER_DECAY = 0.2, 0.6
INFO = {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]}
MODELS = {
    "resnet18": (32, {"layers": (1, 2, 1, 1), "channels": (8, 8, 16, 16)}),
    "vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2}),
    "convnext_atto": (32, {"depths": (1, 2, 1, 1), "dims": (8, 8, 8, 16), "kernel_sizes": 3}),
    "swin_tiny_patch4_window7_224": (
        32,
        {
            "img_size": 32,
            "window_size": 4,
            "depths": (2, 1),
            "num_heads": (1, 2),
            "embed_dim": 16,
            "drop_path_rate": 0.0,
        },
    ),
}


def converted(name):
    """(module with a head of CLASSES, its graph, its variables, size)."""
    torch.manual_seed(0)
    size, options = MODELS[name]
    module = timm.create_model(name, num_classes=CLASSES, **options).double()
    return module, *converters.from_torch(module, (3, size, size)), size


def no_decay(module):
    """What timm gives its optimizers: positions, tokens, tables of relative positions."""
    return module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()


def groups(module):
    """{parameter's name: (its learning rate's factor, its weight decay)} by timm."""
    names = {id(p): name for name, p in module.named_parameters()}
    made = param_groups_layer_decay(module, DECAY, no_decay(module), layer_decay=LAYER_DECAY)
    return {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in made for p in g["params"]}


@pytest.mark.parametrize("name", MODELS)
def test_layers_and_adamw_follow_pytorch(name):
    module, graph, variables, size = converted(name)
    wanted = groups(module)
    # The groups.
    above = layers.layers_above(graph)
    features = graph.select({"features": "features"}).variables
    trained = [k for k, v in features.items() if v.kind == "parameter"]
    assert len({above[k] for k in trained}) >= 3
    for key in trained:
        assert LAYER_DECAY ** above[key] == pytest.approx(wanted[key][0], rel=1e-12), key
    # Fifty steps.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, size, size, 3), dtype=np.uint8)
    labels = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    settings = finetune.Settings(
        learning_rates=(RATE,),
        steps=(STEPS,),
        batch_size=BATCH,
        optimizer="adamw",
        weight_decay=(DECAY,),
        layer_decay=LAYER_DECAY,
        schedule="cosine",
        warmup=WARMUP,
        dtype="float64",
    )
    with jax.enable_x64(True):
        info = {**INFO, "no_weight_decay": conversion._no_weight_decay(module, graph)}
        trunk = finetune.trainable(model.SavedModel(graph, variables, info), settings)
        decayed, _ = optimizers.decayed((trunk.parameters, {}), trunk.no_decay)
        assert decayed == {key: wanted[key][1] > 0 for key in trained}
        mesh = devices.data_mesh(jax.devices()[:1])
        trainer = finetune.Trainer(trunk, settings, classes=CLASSES + 2, capacity=EXAMPLES, mesh=mesh)
        plan = finetune.plan(settings, learning_rate=RATE, steps=STEPS, classes=CLASSES, seed=3)
        draw = jax.jit(
            lambda step: finetune.sample(
                plan.key, step, np.int32(EXAMPLES), size=EXAMPLES, batch=BATCH, sampling="epoch"
            )
        )
        batches = [np.array(draw(step)) for step in range(STEPS)]
        state, losses, _ = trainer.train_steps(
            trainer.initial_state(), trainer.data(images, labels), plan, STEPS
        )
    theirs = trained_by_pytorch(module, images, labels, batches)
    np.testing.assert_allclose(losses, theirs, rtol=1e-6)
    assert theirs[-1] < 0.9 * theirs[0]
    values = dict(module.named_parameters())
    for key, value in state.backbone.items():
        value, there = np.asarray(value), values[key].detach().numpy()
        assert np.max(np.abs(value - there)) <= 1e-6 * max(np.max(np.abs(there)), 1e-3), key
        assert np.max(np.abs(there - variables[key])) > 1e-5 or not there.any(), f"{key} was not trained"


def trained_by_pytorch(module, images, labels, batches):
    """Losses of plain PyTorch; the module's weights become the trained ones."""
    classifier = module.get_classifier()
    torch.nn.init.zeros_(classifier.weight), torch.nn.init.zeros_(classifier.bias)
    made = param_groups_layer_decay(module, DECAY, no_decay(module), layer_decay=LAYER_DECAY)
    optimizer = torch.optim.AdamW(made, lr=RATE)
    mean, std = (torch.tensor(INFO[k], dtype=torch.float64).reshape(3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std
    module.train()
    losses = []
    for step, batch in enumerate(batches):
        rate = RATE * step / WARMUP
        if step >= WARMUP:
            rate = RATE / 2 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss = torch.nn.functional.cross_entropy(module(pixels[batch]), torch.tensor(labels[batch]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_features_of_an_earlier_block_have_fewer_layers():
    _, graph, _, _ = converted("vit_tiny_patch16_224")
    above = layers.layers_above(graph, "features:layer=1+pool=avg")
    assert above["patch_embed.proj.weight"] == 2 and above["blocks.0.attn.qkv.weight"] == 1


def test_without_blocks_twelve_weights_make_a_layer():
    import dataclasses

    _, graph, _, _ = converted("resnet18")
    names = [k for k, v in graph.variables.items() if v.kind == "parameter" and not k.startswith("fc.")]
    above = layers.layers_above(dataclasses.replace(graph, choices={}))
    count = math.ceil(len(names) / 12)
    assert [above[name] for name in names] == [count - i // 12 for i in range(len(names))]
    assert f"{count} layers below the head" in layers.describe({k: above[k] for k in names})
