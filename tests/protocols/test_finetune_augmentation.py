"""Augmentation within the program: geometry and colours against PyTorch, keys, and what does not depend on what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from finetune_models import SIZE, conv_parts, examples

from converters import _compat  # noqa: F401  (before torchvision)
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import augmentation
from vtabjax.runtime import devices

# isort: split
from torchvision.transforms import functional

KEY = np.asarray([3, 5], np.uint32)


def pictures(n=6, height=10, width=12, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def augmented(images, kind, step=0, key=KEY, places=None):
    places = np.arange(len(images)) if places is None else places
    return np.asarray(
        augmentation.augment(jnp.asarray(images), key, jnp.int32(step), jnp.asarray(places), kind)
    )


@pytest.mark.parametrize("box", [(0, 0, 10, 12), (2.3, 1.5, 5.25, 7.75), (6, 8, 4, 4)])
def test_crops_are_bilinear(box):
    top, left, height, width = box
    image = pictures(1)[0].astype(np.float64)
    y = top + (np.arange(10) + 0.5) * height / 10  # the centres of the new pixels in the old picture
    x = left + (np.arange(12) + 0.5) * width / 12
    places = np.stack(np.meshgrid(2 * x / 12 - 1, 2 * y / 10 - 1), axis=-1)[None]
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        torch.from_numpy(places),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0].permute(1, 2, 0)
    with jax.enable_x64(True):
        found = augmentation.crop(jnp.asarray(image), jnp.asarray(box, jnp.float64))
    np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_boxes_are_as_large_as_asked_for_and_inside():
    keys = jax.random.split(jax.random.key(0), 4000)
    boxes = np.asarray(jax.vmap(lambda k: augmentation.random_box(k, 60, 60))(keys))
    top, left, height, width = boxes.T
    assert boxes.min() >= 0 and (top + height).max() <= 60 + 1e-4 and (left + width).max() <= 60 + 1e-4
    area, uncut = height * width / 3600, (height < 60 - 1e-4) & (width < 60 - 1e-4)
    assert area.min() >= 0.06 and abs(area[uncut & (area < 0.5)].mean() - 0.29) < 0.01  # uniform from 0.08
    assert np.all((width / height)[uncut] > 3 / 4 - 1e-4) and np.all((width / height)[uncut] < 4 / 3 + 1e-4)
    assert abs(np.log(width / height)[uncut].mean()) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_follow_torchvision(channels):
    image = pictures(1, channels=channels)[0].astype(np.float64)
    factors = (1.3, 0.7, 1.35)
    wanted = torch.from_numpy(image / 255).permute(2, 0, 1)
    wanted = functional.adjust_contrast(functional.adjust_brightness(wanted, factors[0]), factors[1])
    wanted = functional.adjust_saturation(wanted, factors[2]) if channels == 3 else wanted
    with jax.enable_x64(True):
        found = augmentation.jitter(jnp.asarray(image), jnp.asarray(factors))
    np.testing.assert_allclose(np.asarray(found) / 255, wanted.permute(1, 2, 0), atol=1e-10)


def test_flips_are_flips_of_half_of_the_images():
    images = pictures(300, 4, 4, 1)
    found = augmented(images, "flip")
    flipped = np.array([np.array_equal(f, i[:, ::-1]) for f, i in zip(found, images, strict=True)])
    same = np.array([np.array_equal(f, i) for f, i in zip(found, images, strict=True)])
    assert np.all(flipped | same) and 110 < flipped.sum() < 190


def test_key_step_and_place_decide():
    images = np.repeat(pictures(1), 4, axis=0)
    kind = "crop+flip+jitter"
    first = augmented(images, kind)
    np.testing.assert_array_equal(first, augmented(images, kind))
    np.testing.assert_allclose(first[2:], augmented(images[2:], kind, places=[2, 3]), atol=1e-3)
    others = [first[1], augmented(images, kind, step=1)[0], augmented(images, kind, key=KEY + 1)[0]]
    for other in others:
        assert np.abs(other - first[0]).max() > 5
    assert first.min() >= 0 and first.max() <= 255


def trained(**changes):
    given = {"learning_rates": (0.1,), "steps": (6,), "batch_size": 8, **changes}
    own = finetune.Settings(**given)
    trainer = finetune.Trainer(
        finetune.trainable(conv_parts(), own),
        own,
        classes=3,
        capacity=30,
        mesh=devices.data_mesh(jax.devices()[:1]),
    )
    run = finetune.plan(own, learning_rate=0.1, steps=6, classes=3, seed=0)
    _, losses, _ = trainer.train_steps(trainer.initial_state(), trainer.data(*examples(30, 3)), run, 6)
    return losses


def test_training_with_it_is_reproducible_and_different():
    losses = {kind: trained(augment=kind) for kind in ("none", "crop+flip")}
    np.testing.assert_array_equal(losses["crop+flip"], trained(augment="crop+flip"))
    # The head starts at zero: the first loss does not see the images.
    assert np.all(losses["none"][1:] != losses["crop+flip"][1:])
    assert SIZE == 8 and losses["none"][0] == pytest.approx(np.log(3), rel=1e-6)
