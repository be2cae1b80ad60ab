"""Small pictures for the page: several in one image, which the page's style takes apart again."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 96  # pixels of a small picture, unless models see fewer
_COLUMNS = 16
_SMALL = 48  # below it a picture's pixels are shown as they are


class Sprite(NamedTuple):
    """Small pictures in one image.

    Attributes:
      url: the image as a data URL.
      places: CSS background-position of each picture.
      size: CSS background-size.
      pixelated: whether enlarging shall show its pixels.
    """

    url: str
    places: list[str]
    size: str
    pixelated: bool


def make(pictures: Sequence[np.ndarray]) -> Sprite | None:
    """Puts `[S, S, 3]` uint8 pictures of one size into one image; None where there are none."""
    from PIL import Image as pillow

    if not pictures:
        return None
    edge = min(EDGE, len(pictures[0]))
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = pillow.new("RGB", (columns * edge, rows * edge), "white")
    places = []
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        image = pillow.fromarray(np.ascontiguousarray(picture))
        small = image if image.width == edge else image.resize((edge, edge), pillow.Resampling.BOX)
        canvas.paste(small, (column * edge, row * edge))
        places.append(f"{_percent(column, columns)} {_percent(row, rows)}")
    url = _url(canvas, edge)
    return Sprite(url, places, f"{100 * columns}% {100 * rows}%", edge < _SMALL)


def _percent(i: int, n: int) -> str:
    return f"{100 * i / (n - 1):.4g}%" if n > 1 else "0%"


def _url(canvas: Image, edge: int) -> str:
    """JPEG works on squares of 8 pixels, so that neighbours stay apart where the edge is a multiple; PNG otherwise."""
    file = io.BytesIO()
    if edge >= _SMALL and edge % 8 == 0:
        canvas.save(file, "JPEG", quality=85, subsampling=0, optimize=True)
        kind = "jpeg"
    else:
        canvas.save(file, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
