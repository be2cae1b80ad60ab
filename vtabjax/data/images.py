"""Decoding and resizing: one encoded image in, `[S, S, 3]` uint8 out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vtabjax.data import pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from vtabjax.data.pictures import Reading

METHODS = ("vtab", "bilinear", "bicubic")


def decode(data: bytes, *, upright: bool = False, reading: Reading | None = None) -> Image:
    """Decodes an image file to a Pillow image of one channel ("L") or three ("RGB").

    Args:
      data: content of a JPEG, PNG, ... file.
      upright: read the image as its owner sees it: turned as its EXIF orientation says (cameras write it; TensorFlow
        ignores it), transparent parts on a background, values of more than 8 bits scaled.
      reading: how, for a data set whose pictures are read alike.

    Raises:
      pictures.TooLargeError: it has more pixels than allowed.
      OSError: the content is no image, is cut off, or has values without an agreed black and white.
    """
    reading = reading or pictures.Reading()
    image, raw_mode = pictures.load(data, upright=upright, max_pixels=reading.max_pixels)
    try:
        if upright:
            return pictures.flatten(image, raw_mode, reading)
        mode = "L" if image.mode in ("1", "L") else "RGB"
        return (
            image if image.mode == mode else image.convert(mode)
        )  # convert() always copies, and takes its time
    except ValueError as e:  # Pillow's way to say so
        raise OSError(str(e)) from e


def to_array(image: Image) -> np.ndarray:
    """A decoded image as `[H, W, C]` uint8, C 1 or 3."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _legacy_axis(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Interpolates along one axis; float32."""
    length = image.shape[axis]
    # float32 throughout, as in TensorFlow's kernel: in float64 a coordinate can fall on a pixel's other side.
    position = np.arange(size, dtype=np.float32) * (np.float32(length) / np.float32(size))
    low = np.floor(position).astype(np.int64)
    weight = (position - low).astype(np.float32)
    shape = [1] * image.ndim
    shape[axis] = size
    lower = np.take(image, low, axis, mode="clip").astype(np.float32)
    difference = np.take(image, low + 1, axis, mode="clip").astype(
        np.float32
    )  # the edge is its own neighbour
    difference -= lower
    difference *= weight.reshape(shape)
    difference += lower
    return difference


def resize_legacy(image: np.ndarray, size: int) -> np.ndarray:
    """TensorFlow 1's bilinear resize, the one VTAB was run with.

    Output pixel i lies at i * in / out: no half-pixel centres, no antialiasing.

    Args:
      image: `[H, W, C]` uint8 or float32.
      size: height and width of the result.

    Returns:
      `[size, size, C]` float32, not rounded. An image of that size already is returned as it is.
    """
    if image.shape[:2] == (size, size):
        return image.astype(np.float32)
    # The axis that shrinks most goes first: fewer numbers for the second one.
    if image.shape[0] > image.shape[1]:
        return _legacy_axis(_legacy_axis(image, size, 0), size, 1)
    return _legacy_axis(_legacy_axis(image, size, 1), size, 0)


def resize(image: np.ndarray | Image, size: int, method: str) -> np.ndarray:
    """Resizes both sides to `size`; the aspect ratio is not kept.

    Args:
      image: `[H, W, C]` uint8, C 1 or 3, or a decoded image.
      size: height and width of the result.
      method: "vtab" (`resize_legacy`, rounded), "bilinear" or "bicubic" (Pillow's, antialiased).

    Returns:
      `[size, size, 3]` uint8.
    """
    if method == "vtab":
        array = image if isinstance(image, np.ndarray) else to_array(image)
        same = array.shape[:2] == (size, size)
        resized = array if same else np.rint(resize_legacy(array, size)).astype(np.uint8)
    else:
        from PIL import Image

        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = to_array(image.resize((size, size), filters[method]))
    return np.broadcast_to(resized, (size, size, 3))


def check_form(size: int, method: str) -> None:
    """Raises ValueError unless these are a size and a resize method."""
    if size < 1:
        raise ValueError(f"image_size {size!r} is no size in pixels")
    if method not in METHODS:
        raise ValueError(f"resize {method!r} does not exist; there are {', '.join(METHODS)}")
