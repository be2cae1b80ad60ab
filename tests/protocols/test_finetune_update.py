"""The update: optimizers, decay, clipping, smoothing, averages, schedules, each against PyTorch, timm or a formula."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import torch
from finetune_models import conv_parts, examples

from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import plans
from vtabjax.runtime import devices

# isort: split
import timm.optim

WIDTH, CLASSES, EXAMPLES, STEPS, RATE = 6, 3, 12, 25, 0.02


def made(**changes):
    """A head on features in float64, trained on all examples at each step: (trainer, features, labels)."""
    given = {
        "learning_rates": (RATE,),
        "steps": (STEPS,),
        "batch_size": EXAMPLES,
        "dtype": "float64",
        **changes,
    }
    settings = finetune.Settings(scope="head", schedule="constant", **given)
    trainer = finetune.Trainer(
        finetune.precomputed(WIDTH, settings),
        settings,
        classes=CLASSES + 2,
        capacity=EXAMPLES,
        mesh=devices.data_mesh(jax.devices()[:1]),
    )
    rng = np.random.default_rng(0)
    labels = np.asarray(
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2], np.int32
    )  # balanced, biases would move by noise
    return trainer, 3 * rng.normal(size=(EXAMPLES, WIDTH)), labels


def ours(**changes):
    """(state, losses, trainer) after STEPS steps."""
    with jax.enable_x64(True):
        trainer, features, labels = made(**changes)
        plan = finetune.plan(trainer.settings, learning_rate=RATE, steps=STEPS, classes=CLASSES, seed=0)
        state, losses, _ = trainer.train_steps(
            trainer.initial_state(), trainer.data(features, labels), plan, STEPS
        )
        return jax.device_get(state), losses, trainer


def by_pytorch(optimizer, clip=0.0, smoothing=0.0):
    """(head, losses, weights after each step) of a linear layer; `optimizer`: groups with and without decay -> one."""
    _, features, labels = made()
    head = torch.nn.Linear(WIDTH, CLASSES).double()
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    stepper = optimizer([{"params": [head.weight]}, {"params": [head.bias], "weight_decay": 0.0}])
    losses, weights = [], []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(
            head(torch.from_numpy(features)), torch.tensor(labels).long(), label_smoothing=smoothing
        )
        stepper.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(head.parameters(), clip)
        stepper.step()
        losses.append(loss.item())
        weights.append(head.weight.detach().numpy().copy())
    return head, losses, weights


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9, weight_decay=0.1),
    "adam": lambda groups: torch.optim.Adam(groups, lr=RATE, weight_decay=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1),
    "lamb": lambda groups: timm.optim.Lamb(
        groups, lr=RATE, weight_decay=0.1, max_grad_norm=None, always_adapt=True
    ),
    "lion": lambda groups: timm.optim.Lion(groups, lr=RATE, betas=(0.9, 0.99), weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_follow_pytorch(name):
    state, losses, _ = ours(optimizer=name, weight_decay=(0.1,))
    head, wanted, _ = by_pytorch(OPTIMIZERS[name])
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    np.testing.assert_allclose(state.head["weight"][:CLASSES], head.weight.detach(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(state.head["bias"][:CLASSES], head.bias.detach(), rtol=1e-8, atol=1e-10)
    assert not np.any(state.head["weight"][CLASSES:])
    assert wanted[-1] < 0.9 * wanted[0]


def test_clipping_and_smoothing_follow_pytorch():
    changes = {"optimizer": "sgd", "momentum": 0.0, "clip": 0.1, "label_smoothing": 0.2}
    state, losses, _ = ours(**changes)
    head, wanted, _ = by_pytorch(lambda groups: torch.optim.SGD(groups, lr=RATE), clip=0.1, smoothing=0.2)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)  # PyTorch adds 1e-6 to the norm
    np.testing.assert_allclose(state.head["weight"][:CLASSES], head.weight.detach(), rtol=1e-4)
    # Both matter.
    for name in ("clip", "label_smoothing"):
        _, other, _ = ours(**{**changes, name: 0.0})
        assert np.max(np.abs(other - losses)) > 1e-3


def test_the_average_of_the_weights_is_what_is_tested():
    state, _, trainer = ours(ema=0.8, momentum=0.0)
    _, _, weights = by_pytorch(lambda groups: torch.optim.SGD(groups, lr=RATE))
    average = np.zeros((CLASSES, WIDTH))
    for weight in weights:
        average = 0.8 * average + 0.2 * weight
    np.testing.assert_allclose(state.head["weight"][:CLASSES], weights[-1], rtol=1e-9, atol=1e-12)
    tested = finetune.averaged(state)
    np.testing.assert_allclose(tested.head["weight"][:CLASSES], average, rtol=1e-9, atol=1e-12)
    # The predictions are those of the average.
    with jax.enable_x64(True):
        other = state._replace(average={**state.average, "head": jax.tree.map(lambda v: -v, tested.head)})
        inputs = made()[1]
        found = [trainer.predict(trainer.put(s), inputs, CLASSES) for s in (state, other)]
    np.testing.assert_array_equal(
        found[0], np.argmax(inputs @ tested.head["weight"][:CLASSES].T + tested.head["bias"][:CLASSES], 1)
    )
    assert np.any(found[0] != found[1])


def test_running_statistics_are_averaged_and_counters_are_not():
    own = finetune.Settings(learning_rates=(0.1,), steps=(5,), batch_size=8, ema=0.5)
    trainer = finetune.Trainer(finetune.trainable(conv_parts(), own), own, classes=3, capacity=30)
    run = finetune.plan(own, learning_rate=0.1, steps=5, classes=3, seed=0)
    start, seen = trainer.initial_state(), []
    average = np.asarray(start.buffers["bn.running_mean"])
    data = trainer.data(*examples(30, 3))
    for _ in range(5):
        start, _, _ = trainer.train_steps(start, data, run, 1)
        seen.append(np.asarray(start.buffers["bn.running_mean"]))
        average = (average + seen[-1]) / 2
    tested = finetune.averaged(start)
    np.testing.assert_allclose(tested.buffers["bn.running_mean"], average, rtol=1e-5)
    assert tested.buffers["bn.num_batches_tracked"] == start.buffers["bn.num_batches_tracked"] == 7 + 5


def test_cosine_and_constant():
    given = finetune.Settings(learning_rates=(0.2,), steps=(100,), schedule="cosine", warmup=20)
    run = finetune.plan(given, learning_rate=0.2, steps=100, classes=2, seed=0)
    for step, rate in {
        0: 0,
        5: 0.05,
        20: 0.2,
        60: 0.1,
        40: 0.1 * (1 + math.cos(math.pi / 4)),
        100: 0,
    }.items():
        np.testing.assert_allclose(
            plans.rate(given, run, step), rate, rtol=1e-5, atol=1e-8, err_msg=str(step)
        )
    given = dataclasses.replace(given, schedule="constant")
    assert [float(plans.rate(given, run, step)) for step in (10, 20, 99)] == pytest.approx([0.1, 0.2, 0.2])


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "weight_decay": (0.1, 0.01), "layer_decay": 0.7, "schedule": "cosine", "clip": 1.0},
        {"optimizer": "sgd", "weight_decay": (0.0,), "ema": 0.9},
        {"optimizer": "lamb", "weight_decay": (0.1, 0.0), "augment": "crop+flip+jitter", "label_smoothing": 0.1},
        {"optimizer": "lion", "schedule": "constant"},
        {"optimizer": "adam", "halving": 2},
    ],
)  # fmt: skip
def test_one_compilation_for_all_tasks_grid_points_stages_and_seeds(changes):
    given = {
        "learning_rates": (1e-2, 1e-3),
        "epochs": (1.0, 2.0),
        "warmup_epochs": 1.0,
        "steps": (),
        **changes,
    }
    own = finetune.Settings(batch_size=8, seeds=(0, 1), **given)
    mesh = devices.data_mesh(jax.devices()[:1])
    trainer = finetune.Trainer(
        finetune.trainable(conv_parts(), own), own, classes=5, capacity=40, mesh=mesh, eval_batch=16
    )
    for classes, n in ((2, 20), (5, 24)):
        train, val, test = examples(n, classes), examples(10, classes, 1), examples(33, classes, 2)
        found = finetune.evaluate(trainer, train, val, test, classes=classes)
        assert len(found.grid) == 4 * len(own.weight_decay) and len(found.finals) == 2
        assert found.trainable_parameters == 6 * 3 * 9 + 12 + classes * 7
    assert trainer.traces == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adagrad"}, "finetune.optimizer='adagrad': choose sgd, adam, adamw, lamb or lion"),
        ({"schedule": "linear"}, "finetune.schedule='linear': choose piecewise, cosine or constant"),
        ({"weight_decay": (0.1, -0.1)}, "finetune.weight_decay=.0.1, -0.1.: give numbers of at least 0"),
        ({"layer_decay": 1.5}, "finetune.layer_decay=1.5: it must be above 0 and at most 1"),
        ({"clip": -1.0}, "finetune.clip=-1.0"),
        ({"label_smoothing": 1.0}, "finetune.label_smoothing=1.0"),
        ({"ema": 1.0}, "finetune.ema=1.0"),
        ({"halving": 1}, "finetune.halving=1: give 2 or more, or 0"),
        ({"hours": -1.0}, "finetune.hours=-1.0"),
        ({"epochs": (3.0,)}, "finetune.steps=.2500, 10000.: epochs are given, too: leave one of them empty"),
        ({"epochs": (3.0,), "steps": (), "warmup": 2}, "finetune.warmup=2: the length is in epochs"),
        ({"epochs": (3.0,), "steps": (), "warmup_epochs": 4.0}, "finetune.warmup_epochs=4.0: .* 0 and .* epochs, 3"),
        ({"warmup_epochs": 1.0}, "finetune.warmup_epochs=1.0: the length is in steps: give warmup"),
        ({"augment": "crop", "scope": "head"}, "finetune.augment='crop': with scope=head .* give augment=none"),
        ({"augment": "mixup"}, "finetune.augment='mixup': choose none, flip"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        finetune.Settings(**changes)
