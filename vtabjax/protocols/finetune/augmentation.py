"""Random changes of training images, as a part of the compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

AREA = (0.08, 1.0)  # of a crop, as a share of the picture; as in torchvision's RandomResizedCrop
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.4  # brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER
_STREAM = (
    0xFFFFFFFF  # folded into a run's key; steps and epochs, which are folded in for sampling, are smaller
)
_GREY = (0.2989, 0.587, 0.114)


def augment(
    images: jax.Array, raw_key: ArrayLike, step: jax.Array, places: jax.Array, kind: str
) -> jax.Array:
    """Images changed at random: a function of the key, the step and the place in the batch alone.

    Args:
      images: [B, H, W, C], from 0 to 255.
      raw_key: uint32 [2], of the run.
      step: number of the step.
      places: [B], of the images in their batch, so that micro-batches change nothing.
      kind: names joined by "+". "flip": left and right change places in one of two images. "crop": a random part (its
        area 8 to 100 % of the picture, its shape 3:4 to 4:3), resized to the whole bilinearly. "jitter": brightness,
        contrast and, of colour images, saturation times 0.6 to 1.4.

    Returns:
      Floating-point images [B, H, W, C], from 0 to 255.
    """
    kinds = kind.split("+")
    key = jax.random.wrap_key_data(jnp.asarray(raw_key), impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, _STREAM), step)
    dtype = jnp.result_type(float)

    def change(image: jax.Array, place: jax.Array) -> jax.Array:
        box, sides, colours = jax.random.split(jax.random.fold_in(key, place), 3)
        if "crop" in kinds:
            image = crop(image, random_box(box, image.shape[0], image.shape[1]))
        if "flip" in kinds:
            image = jnp.where(jax.random.bernoulli(sides), image[:, ::-1], image)
        if "jitter" in kinds:
            factors = jax.random.uniform(colours, (3,), dtype, 1 - JITTER, 1 + JITTER)
            image = jitter(image, factors)
        return image

    return jax.vmap(change)(images.astype(dtype), places)


def random_box(key: jax.Array, height: int, width: int) -> jax.Array:
    """A random part of an image: (top, left, height, width) in pixels, not rounded.

    Its area and the logarithm of its aspect ratio are uniform; a side that would be longer than the image is cut.
    """
    by_area, by_shape, by_place = jax.random.split(key, 3)
    area = jax.random.uniform(by_area, minval=AREA[0], maxval=AREA[1]) * height * width
    low, high = (jnp.log(jnp.asarray(a)) for a in ASPECT)
    aspect = jnp.exp(jax.random.uniform(by_shape, minval=low, maxval=high))
    size = jnp.minimum(jnp.sqrt(jnp.stack([area / aspect, area * aspect])), jnp.asarray([height, width]))
    corner = jax.random.uniform(by_place, (2,)) * (jnp.asarray([height, width]) - size)
    return jnp.concatenate([corner, size])


def crop(image: jax.Array, box: jax.Array) -> jax.Array:
    """The part of an image [H, W, C] in a box (top, left, height, width), resized to [H, W, C] bilinearly."""
    whole = jnp.asarray(image.shape[:2], box.dtype)
    scale = whole / box[2:]
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale.astype(image.dtype), (-box[:2] * scale).astype(image.dtype), "linear",
        antialias=False,
    )  # fmt: skip


def jitter(image: jax.Array, factors: jax.Array) -> jax.Array:
    """Brightness, contrast and saturation of an image [H, W, C] from 0 to 255 times three factors, one after another.

    As torchvision's ``adjust_brightness`` and so on: blended with black, with the mean of the grey image, with the
    grey image, and cut to 0 ... 255 each time. Images without three channels are grey and have no saturation.
    """
    colour = image.shape[-1] == 3

    def grey(image: jax.Array) -> jax.Array:
        return (image @ jnp.asarray(_GREY, image.dtype))[..., None] if colour else image

    image = jnp.clip(image * factors[0], 0, 255)
    mean = grey(image).mean()
    image = jnp.clip(mean + factors[1] * (image - mean), 0, 255)
    return jnp.clip(grey(image) + factors[2] * (image - grey(image)), 0, 255) if colour else image
