"""Fine-tuning in float64 follows a plain PyTorch loop on the same batches."""

import jax
import numpy as np
import pytest
import torch

import converters
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import model
from vtabjax.protocols import finetune
from vtabjax.runtime import devices

# isort: split
import timm

STEPS, BATCH, CLASSES, EXAMPLES = 50, 8, 5, 20
INFO = {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3]}


def close(a, b, scale=1e-6):
    """Within 1e-6 of the largest value: an element that should be 0 has no relative error."""
    a, b = np.asarray(a), np.asarray(b)
    return np.max(np.abs(a - b)) <= scale * max(np.max(np.abs(b)), 1e-3)


@pytest.mark.parametrize(
    ("name", "size", "options", "rate"),
    [
        ("resnet18", 32, {"layers": (2, 1, 1, 1), "channels": (16, 32, 48, 64)}, 0.05),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}, 0.01),
    ],
)
def test_follows_pytorch(name, size, options, rate):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, **options).double()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)
    graph, variables = converters.from_torch(module, (3, size, size))
    settings = finetune.Settings(
        learning_rates=(rate,), steps=(STEPS,), batch_size=BATCH, warmup=5, dtype="float64", seeds=(3,)
    )
    with jax.enable_x64(True):
        trunk = finetune.trainable(model.SavedModel(graph, variables, INFO), settings)
        mesh = devices.data_mesh(jax.devices()[:1])
        trainer = finetune.Trainer(trunk, settings, classes=CLASSES + 4, capacity=EXAMPLES + 3, mesh=mesh)
        plan = finetune.plan(settings, learning_rate=rate, steps=STEPS, classes=CLASSES, seed=3)
        data, state = trainer.data(images, labels), trainer.initial_state()
        draw = jax.jit(
            lambda step: finetune.sample(
                plan.key, step, np.int32(EXAMPLES), size=EXAMPLES, batch=BATCH, sampling="epoch"
            )
        )
        batches = [np.array(draw(step)) for step in range(STEPS)]
        losses = []
        for n in (20, 30):
            state, loss, _ = trainer.train_steps(state, data, plan, n)
            losses.extend(loss)

    head = torch.nn.Linear(module.num_features, CLASSES).double()
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    module.train()
    optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=rate, momentum=0.9)
    mean, std = (torch.tensor(INFO[k], dtype=torch.float64).reshape(3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std
    wanted = []
    for step, batch in enumerate(batches):
        drops = sum(step > b for b in (15, 30, 45))
        optimizer.param_groups[0]["lr"] = rate * step / 5 if step < 5 else rate * 0.1**drops
        loss = torch.nn.functional.cross_entropy(
            head(module(pixels[batch])), torch.tensor(labels[batch]).long()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())

    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert wanted[-1] < 0.9 * wanted[0]  # it did learn something, and did not stand still
    ours = {**state.backbone, **state.buffers}
    theirs = {k: v.numpy() for k, v in module.state_dict().items()}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert close(ours[key], value), key
        if value.dtype == np.float64 and value.ndim > 1:
            assert not close(ours[key], variables[key], 1e-5), f"{key} was not trained"
    assert close(state.head["weight"][:CLASSES], head.weight.detach())
    assert close(state.head["bias"][:CLASSES], head.bias.detach())
    assert not np.any(state.head["weight"][CLASSES:])  # of classes the task does not have
