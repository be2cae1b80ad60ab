"""Pictures as people have them, brought to 8 bits: transparency, depth, size.

What is transparent is put on a background. Greys of more than 8 bits are scaled by one rule for a whole data set: the
smallest of 8, 10, 12, 14 and 16 bits that holds its largest value is white. Fractions from 0 to 1 are scaled by 255.
What no rule fits (negative numbers, numbers beyond 65,535, fractions beyond 1) is refused.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_956_970  # Pillow's own limit
BITS = (8, 10, 12, 14, 16)
# Formats that hold photographs or scans; Pillow knows more, some of which it hands to other programs (PostScript).
_FORMATS = tuple("AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI TGA TIFF WEBP".split())
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # of TIFF's kinds of grey and colour
_FACTORS = {"L;2": 85, "L;4": 17}  # of greys of 2 and 4 bits, which Pillow brings to 8


class TooLargeError(OSError):
    """A picture has more pixels than allowed."""


class DepthError(OSError):
    """The values of a picture have no agreed black and white."""


class Reading(NamedTuple):
    """How the pictures of a data set are read.

    Attributes:
      background: colour under transparent parts: red, green, blue.
      bits: how many the data set's greys of 16 bits use; 0: decided by each picture alone.
      max_pixels: what has more is not decoded.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    bits: int = 0
    max_pixels: int = MAX_PIXELS


class Depth(NamedTuple):
    """The values of a picture that has not 8 bits a channel.

    Attributes:
      kind: "grey" (whole numbers), "fraction", or "colour" (16 bits a channel, of which the upper 8 are read).
      low, high: smallest and largest value.
    """

    kind: str
    low: float
    high: float


def parse_colour(text: str) -> tuple[int, int, int]:
    """A colour's name, ``#rrggbb`` or ``rgb(1, 2, 3)`` as red, green, blue.

    Raises:
      ValueError: it is none, or is transparent itself.
    """
    from PIL import ImageColor

    colour = ImageColor.getrgb(text)
    if len(colour) != 3:
        raise ValueError(f"the colour {text!r} is transparent itself")
    return colour


def load(data: bytes, *, upright: bool, max_pixels: int = MAX_PIXELS) -> tuple[Image, str]:
    """Opens and decodes an image file.

    Args:
      data: its content.
      upright: turn the image as its EXIF orientation says.
      max_pixels: what has more is not decoded.

    Returns:
      The Pillow image, and in which form the file stores its pixels (Pillow's raw mode).

    Raises:
      TooLargeError: it has too many pixels. OSError: the content is no image or is cut off.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise OSError("the file is empty")
    _own_the_limits()
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise TooLargeError(
                f"{width:,} x {height:,} pixels are {width * height:,}, more than max_pixels={max_pixels:,}"
            )
        arguments = image.tile[0].args if image.tile else ""
        if image.format == "TIFF" and "X" in _raw_mode(arguments):  # channels that Pillow would leave out
            raise OSError(_too_many_channels(data))
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        return image, _raw_mode(arguments)
    except UnidentifiedImageError as e:
        raise OSError(_too_many_channels(data) or "not an image of a known kind") from e
    except (
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as e:  # Pillow's other ways to say so
        raise OSError(str(e)) from e


def measure(file: bytes | os.PathLike, *, upright: bool) -> tuple[int, int, str]:
    """Width, height and format ("JPEG") of an image file, from its beginning.

    Args:
      file: its content or its path.
      upright: as its EXIF orientation turns it.

    Raises:
      OSError: it is no image of a known kind.
    """
    from PIL import ExifTags, Image

    _own_the_limits()
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS) as image:
            width, height = image.size
            if upright and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
                width, height = height, width
            return width, height, image.format or ""
    except (SyntaxError, ValueError, EOFError) as e:  # Pillow's other ways to say so
        raise OSError(str(e)) from e


def _too_many_channels(data: bytes) -> str:
    """Says how many channels a TIFF file has, if more than are shown; "" for other files.

    Satellites and microscopes write near infrared, or one channel per stain, and nothing says which three are meant.
    """
    from PIL import TiffImagePlugin

    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8))
        file.seek(tags.next)
        tags.load(file)
        channels = int(tags.get(277, 1))  # SamplesPerPixel
        shown = _CHANNELS[tags[262]]  # PhotometricInterpretation
        extra = tuple(tags.get(338, ()))  # ExtraSamples: 1 and 2 are transparency
    except Exception:  # what is damaged may raise anything
        return ""
    if channels <= shown or channels == shown + 1 and extra in ((1,), (2,)):
        return ""
    return (
        f"it has {channels} channels, more than {'grey' if shown == 1 else 'its colours'} and transparency need; "
        "nothing says which of them to show, so save one or three of them as grey or RGB"
    )


@functools.cache
def _own_the_limits() -> None:
    """Pillow's limit and warnings are for programs without their own; here they would appear in a progress bar."""
    from PIL import Image

    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs what it raises
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _raw_mode(arguments: Any) -> str:
    """Of the arguments of a decoder: "RGB;16B", "L;4", ...; netpbm says its largest value instead."""
    if isinstance(arguments, tuple) and len(arguments) == 2 and isinstance(arguments[1], int):
        return f"{arguments[0]};16" if arguments[1] > 255 else str(arguments[0])
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def may_be_deep(file: Path | BinaryIO) -> bool:
    """Whether a file's beginning says that it has more than 8 bits a channel; False for what cannot be read."""
    from PIL import Image

    _own_the_limits()
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return image.mode[0] in "IF" or ";16" in _raw_mode(image.tile[0].args if image.tile else "")
    except (OSError, SyntaxError, ValueError, EOFError):
        return False


def depth(image: Image, raw_mode: str) -> Depth | None:
    """What is to be known about a picture's values; None where they have 8 bits."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return Depth("grey", int(values.min()), int(values.max()))
    if image.mode == "F":
        values = np.asarray(image)
        return Depth("fraction", float(values.min()), float(values.max()))  # NaN where there is one
    if ";16" in raw_mode:
        return Depth("colour", 0, max(high for _, high in _extrema(image)))
    return None


def shows_nothing(image: Image) -> bool:
    """Whether every pixel of a picture is transparent, as in files whose writer left the alpha channel empty."""
    if not image.has_transparency_data or image.mode[0] in "IF":
        return False
    return image.convert("LA" if image.mode == "La" else "RGBA").getchannel("A").getextrema()[1] == 0


def _extrema(image: Image) -> list[tuple[int, int]]:
    found: Any = image.getextrema()  # a pair, or one for each of several channels
    bands = found if isinstance(found[0], tuple) else (found,)
    return list(bands[:-1] if image.mode in ("LA", "RGBA") else bands)


def bits(depths: Mapping[str, Depth]) -> int:
    """How many bits the greys of a data set use: 8, 10, 12, 14 or 16; 0 where none has more than 8.

    Args:
      depths: picture's name -> its values, of those that have not 8 bits a channel.

    Raises:
      DepthError: the values of some have no agreed black and white; the message names them.
    """
    for name, values in depths.items():
        if values.kind == "fraction" and not 0 <= values.low <= values.high <= 1:
            raise DepthError(
                f"{name} holds fractions from {values.low:g} to {values.high:g}, and only 0 (black) to 1 (white) are "
                "read; scale them and save them again"
            )
        if values.kind == "grey" and not (0 <= values.low and values.high <= 65535):
            raise DepthError(
                f"{name} holds whole numbers from {values.low:,.0f} to {values.high:,.0f}, and only 0 (black) to "
                "65,535 are read; bring them to 8 or 16 bits and save them again"
            )
    colours = {name: values for name, values in depths.items() if values.kind == "colour"}
    if colours and max(values.high for values in colours.values()) < 64:
        raise DepthError(
            f"{next(iter(colours))}: colours of 16 bits that use less than 15 of them; only the upper 8 are read, "
            "which would be almost black; save them with 8 bits"
        )
    greys = [values.high for values in depths.values() if values.kind == "grey"]
    return next((n for n in BITS if max(greys) < 1 << n), 16) if greys else 0


def flatten(image: Image, raw_mode: str, reading: Reading) -> Image:
    """A picture in mode "L" or "RGB", 8 bits a channel, nothing transparent.

    Raises:
      DepthError: its values have no agreed black and white.
    """
    from PIL import Image as pillow

    found = depth(image, raw_mode)
    used = reading.bits
    if found is not None and (found.kind != "grey" or not used or found.high >= 1 << used or found.low < 0):
        alone = bits({"the picture": found} if found.kind != "colour" or not used else {})
        if found.kind == "grey" and used and alone > used:
            raise DepthError(
                f"it holds values up to {found.high:,.0f}, more than the {used} bits of the data set"
            )
        used = alone
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        image = pillow.fromarray(np.rint(values * (255 / ((1 << used) - 1))).astype(np.uint8))
        if isinstance(key, int) and key in values:
            image.putalpha(pillow.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    elif image.mode == "F":
        image = pillow.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    elif isinstance(key, int) and raw_mode in _FACTORS and image.mode == "L":
        image.info["transparency"] = key * _FACTORS[raw_mode]  # Pillow leaves it in the file's depth
    elif isinstance(key, tuple) and ";16" in raw_mode:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.has_transparency_data:
        return _on_background(image, reading.background)
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)  # convert() always copies, and takes its time


def _on_background(image: Image, background: tuple[int, int, int]) -> Image:
    from PIL import Image as pillow

    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    canvas = pillow.new("RGB", image.size, background)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas
