"""Decoding and resizing: one encoded image in, `[S, S, 3]` uint8 out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax.data import pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from vtabjax.data.pictures import Reading

METHODS = ("vtab", "bilinear", "bicubic")
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's
# As a model's source does it, see `of_source`.
_CROPPED = re.compile(rf"({'|'.join(_FILTERS)}) (shortest|both) ([1-9]\d{{0,4}})( floor)?")


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


def of_source(info: Mapping[str, Any]) -> str:
    """How a model's source resizes: a `resize` method for `resize` and `vtabjax.data.load`.

    Args:
      info: a converted model's; "input_size", "interpolation", "crop_pct", "crop_mode" ("center": the shortest edge
        becomes size / crop_pct and the centre is cut out; "squash": both edges do) and, where the source rounds the
        place of the cut down instead of to the nearest even number, "crop_rounding": "floor".

    Returns:
      such as "bicubic shortest 256", "bilinear both 256 floor".

    Raises:
      ValueError: the source's way is none of these; the message says what it is.
    """
    if info.get("resize_unknown"):
        raise ValueError(f"how its source resizes cannot be done here: {info['resize_unknown']}")
    interpolation, mode = info.get("interpolation"), info.get("crop_mode") or "center"
    if not interpolation or not info.get("crop_pct"):
        raise ValueError("how its source resizes is not known")
    if interpolation not in _FILTERS or mode not in ("center", "squash"):
        raise ValueError(f"how its source resizes cannot be done here: {interpolation}, crop mode {mode}")
    edge = math.floor(info["input_size"][1] / info["crop_pct"] + 1e-6)
    floor = " floor" if info.get("crop_rounding") == "floor" else ""
    return f"{interpolation} {'shortest' if mode == 'center' else 'both'} {edge}{floor}"


def resize(image: np.ndarray | Image, size: int, method: str) -> np.ndarray:
    """Resizes an image to a square. Without a cut the aspect ratio is not kept.

    Args:
      image: `[H, W, C]` uint8, C 1 or 3, or a decoded image.
      size: height and width of the result.
      method: "vtab" (`resize_legacy`, rounded), "bilinear" or "bicubic" (Pillow's, antialiased), or what `of_source`
        gives: "bicubic shortest 256".

    Returns:
      `[size, size, 3]` uint8.
    """
    if method == "vtab":
        array = image if isinstance(image, np.ndarray) else to_array(image)
        same = array.shape[:2] == (size, size)
        resized = array if same else np.rint(resize_legacy(array, size)).astype(np.uint8)
    else:
        from PIL import Image

        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        cropped = _CROPPED.fullmatch(method)
        name, keeps, edge, floor = cropped.groups() if cropped else (method, "both", size, None)
        edges = _edges(image.size, int(edge)) if keeps == "shortest" else (int(edge), int(edge))
        resized = to_array(image.resize(edges, Image.Resampling[name.upper()]))
        if resized.shape[:2] != (size, size):
            resized = _centre(resized, size, floor is not None)
    return np.broadcast_to(resized, (size, size, 3))


def _edges(edges: tuple[int, int], shortest: int) -> tuple[int, int]:
    """Width and height with the aspect ratio kept, the longer one rounded down as torchvision does."""
    width, height = (int(shortest * edge / min(edges)) if edge > min(edges) else shortest for edge in edges)
    return width, height


def _centre(image: np.ndarray, size: int, floor: bool) -> np.ndarray:
    """The `[size, size, C]` in the middle; what an image is too small for is black."""
    missing = [max(0, size - n) for n in image.shape[:2]]
    if any(missing):
        # torchvision has the larger half of an odd border below and right, transformers above and left.
        before = [(n + floor) // 2 for n in missing]
        sides = [(b, n - b) for b, n in zip(before, missing, strict=True)]
        image = np.pad(image, [*sides, (0, 0)])
    top, left = ((n - size) // 2 if floor else round((n - size) / 2) for n in image.shape[:2])
    return image[top : top + size, left : left + size]


def check_form(size: int, method: str) -> None:
    """Raises ValueError unless these are a size and a resize method."""
    if size < 1:
        raise ValueError(f"image_size {size!r} is no size in pixels")
    if method not in METHODS and not _CROPPED.fullmatch(method):
        raise ValueError(f"resize {method!r} does not exist; there are {', '.join(METHODS)}")
