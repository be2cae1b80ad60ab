"""What a transformers image processor does with a picture, in this project's terms.

The fields of its config are read, and the reading is tried: processor and reading get the same pictures, and what comes
out has to be equal. So a field that means something else in one processor than in another cannot be misread unnoticed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from vtabjax.data import images

from .repository import Repository

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_SHAPES = ((301, 424), (424, 301))  # of the pictures that are tried: an odd number of pixels is cut off
_COLOUR = (200, 90, 30)
_CLOSE = 0.02  # of a pixel value: what float32 leaves of a whole number
_ROUNDING = 2  # pixel values: resizing with torch and with Pillow


class Normalisation(NamedTuple):
    """What happens to pixel values in [0, 1], by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(repository: Repository, own_size: int | None) -> dict[str, Any]:
    """Input size, mean, std and resizing of a transformers repository.

    Args:
      repository: with preprocessor_config.json or processor_config.json.
      own_size: height and width that the model's config names.

    Returns:
      For `Source.info`: "mean", "std", "interpolation", "crop_pct", "crop_mode", "crop_rounding", and
      "preprocessing": where they come from; "resize_unknown", where `images.of_source` cannot express what the
      processor does, with the reason. Beside these "size", the height and width of what it makes, or `own_size` where
      it makes no squares, and "flip": whether it gives the model blue first.

    Raises:
      SpecError: what the processor does to pixel values is more than a mean and a standard deviation, or there is none.
    """
    processor, said = _processor(repository)
    if processor is None:
        plain = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
        return {**plain, "crop_mode": "squash", "preprocessing": said, "size": own_size or 224, "flip": False}
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    normalisation, flip = _normalisation(repository, processor, name)
    outputs = [_run(processor, picture) for picture in _pictures()]
    info = {
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "preprocessing": said,
        "flip": flip,
    }
    size = _square(outputs)
    interpolation = _FILTERS[int(getattr(processor, "resample", None) or 0)]
    info |= {
        "size": size or own_size or 224,
        "interpolation": interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    if size is None:
        return {**info, "resize_unknown": f"{name} does not make squares of one size"}
    pixels = [_pixels(out, normalisation, flip) for out in outputs]
    exact = getattr(processor, "backend", "") == "pil"
    for way in _ways(processor, size, interpolation):
        method = images.of_source({**way, "input_size": [3, size, size]})
        tried = [images.resize(picture, size, method) for picture in _pictures()]
        apart = max(int(np.abs(a - b.astype(int)).max()) for a, b in zip(pixels, tried, strict=True))
        if apart <= (0 if exact else _ROUNDING):
            more = f", which resizes with torch: pixel values are up to {apart} apart" if apart else ""
            return {**info, **way, "preprocessing": said + more}
    return {**info, "resize_unknown": f"{name} does something else than resizing and cutting out the centre"}


def _processor(repository: Repository) -> tuple[Any, str]:
    """The repository's image processor, which works with Pillow where it can, and where its settings come from."""
    from transformers import AutoImageProcessor

    for name in ("preprocessor_config.json", "processor_config.json"):
        found = repository.json(name)
        if found is None or name == "processor_config.json" and "image_processor" not in found:
            continue
        try:
            processor = AutoImageProcessor.from_pretrained(
                str(repository.folder), backend="pil", trust_remote_code=False, local_files_only=True
            )
        except Exception as e:  # whatever a config of another version or hand makes the library do
            raise repository.error(f"the image processor of its {name} cannot be had: {_line(e)}") from e
        return processor, f"its {name}"
    if repository.spec.random:
        return None, "it names none; pixel values from -1 to 1"
    base = repository.card().get("base_model")
    raise repository.error(
        "it has no preprocessor_config.json, so that nothing says how pictures are normalised; have its files in a "
        f"folder, with that of the model it was trained from{f' ({base})' * bool(base)}, and write hf//path/to/folder"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _normalisation(repository: Repository, processor: Any, name: str) -> tuple[Normalisation, bool]:
    """Mean and std for pixel values in [0, 1], red first, and whether the model gets blue first.

    What its fields say, where it does that; else what it does to black and white, if that explains another colour.
    """
    scale = 255.0 * float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    mean, std = 0.0, 1.0
    if getattr(processor, "do_normalize", False):
        mean, std = processor.image_mean, processor.image_std
    means, stds = (np.broadcast_to(np.asarray(v, float), 3) / scale for v in (mean, std))
    black, white, colour = (_colour(processor, c) for c in ((0, 0, 0), (255, 255, 255), _COLOUR))
    if black is None or white is None or colour is None:
        raise repository.error(f"its {name} does not make one picture [3, height, width] of a picture")
    slopes = white - black
    if np.all(slopes):
        for m, s in ((means, stds), (-black / slopes, 1 / slopes)):
            for flip in (False, True):
                expected = (np.asarray(_COLOUR[:: -1 if flip else 1]) / 255 - m) / s
                if np.all(np.abs((colour - expected) * s) * 255 < _CLOSE):
                    # The model's first channel is blue then, and mean and std are kept by the picture's channels.
                    m, s = (v[::-1] if flip else v for v in (m, s))
                    return Normalisation(tuple(m.tolist()), tuple(s.tolist())), flip
    raise repository.error(
        f"its {name} does more to pixel values than subtracting a mean and dividing by a standard deviation, which "
        "is not supported"
    )


def _colour(processor: Any, colour: tuple[int, int, int]) -> np.ndarray | None:
    """What becomes of a colour, float64 [3]."""
    out = _run(processor, np.full((*_SHAPES[0], 3), colour, np.uint8))
    return None if out is None else out[:, out.shape[1] // 2, out.shape[2] // 2].astype(float)


@functools.cache
def _pictures() -> tuple[np.ndarray, ...]:
    """Pictures with blobs and edges, uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
    return tuple(np.kron(coarse, np.ones((32, 32, 1), np.uint8))[: s[0], : s[1]] for s in _SHAPES)


def _run(processor: Any, picture: np.ndarray) -> np.ndarray | None:
    """What the processor makes of a picture, [C, H, W]; None if that is no picture."""
    from PIL import Image

    try:
        out = processor(images=Image.fromarray(picture), return_tensors="np")["pixel_values"]
    except Exception:  # some want more than a picture
        return None
    out = np.asarray(out)
    return out[0] if out.ndim == 4 and out.shape[1] == 3 else None


def _square(outputs: list[np.ndarray | None]) -> int | None:
    shapes = {None if out is None else out.shape for out in outputs}
    shape = shapes.pop()
    return shape[1] if not shapes and shape is not None and shape[1] == shape[2] else None


def _pixels(out: np.ndarray | None, normalisation: Normalisation, flip: bool) -> np.ndarray:
    """The pixel values [H, W, 3] behind what a processor made, red first, uint8."""
    assert out is not None
    channels = np.moveaxis(out[:: -1 if flip else 1], 0, -1).astype(float)
    values = 255 * (channels * normalisation.std + normalisation.mean)
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _ways(processor: Any, size: int, interpolation: str) -> list[dict[str, Any]]:
    """What its fields may mean, likeliest first."""
    fields = getattr(processor, "size", None)
    given = [getattr(fields, k, None) for k in ("shortest_edge", "height")]
    edges = [int(v) for v in given if v]
    crop_pct = getattr(processor, "crop_pct", None)
    edges += [int(e / crop_pct) for e in edges if crop_pct]
    edges += [int(256 / 224 * e) for e in edges]  # LeViT's
    return [
        {"interpolation": interpolation, "crop_pct": size / edge, "crop_mode": mode, "crop_rounding": "floor"}
        for edge in dict.fromkeys([*edges, size])
        for mode in ("squash", "center")
    ]
