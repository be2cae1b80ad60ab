"""`load` and `embed`: a model by its name, and features of pictures."""

from __future__ import annotations

import dataclasses
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax.sweep.people import _settings

if TYPE_CHECKING:
    import pandas as pd

    from vtabjax.model import Model

_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Features of pictures.

    Attributes:
      features: float32 [N, D].
      labels: int32 [N], of a task; None of images alone.
      ids: [N], names of the pictures; of images alone "0", "1" and so on.
    """

    features: np.ndarray
    labels: np.ndarray | None
    ids: Sequence[str]

    def __repr__(self) -> str:
        n, d = self.features.shape
        labelled = "" if self.labels is None else f", {len(np.unique(self.labels))} classes"
        return f"Embedding({n:,} pictures, {d:,} features{labelled})"

    def _repr_html_(self) -> str:
        import html

        shown = self.to_frame().iloc[:5, :8]
        return f"<b>{html.escape(repr(self))}</b>" + shown.to_html(float_format="{:.4f}".format)

    def to_frame(self) -> pd.DataFrame:
        """One row per picture, by its id: "label" where there is one, then the features "0", "1" and so on."""
        import pandas as pd

        names = [str(i) for i in range(self.features.shape[1])]
        frame = pd.DataFrame(self.features, pd.Index(list(self.ids), name="id"), names)
        if self.labels is not None:
            frame.insert(0, "label", self.labels)
        return frame


def load(spec_or_path: str | os.PathLike, *, image_size: int | None = None) -> Model:
    """A model by its name; it is converted when it has to be, once on this machine.

    Args:
      spec_or_path: a spec, such as "timm/resnet18.a1_in1k" or "hf/OWNER/NAME#pool=avg"; a converted model's folder.
      image_size: edge of the images in pixels; None: the model's own.

    Returns:
      `model(images)`: images in [0, 1], [B, H, W, 3] -> features [B, D].

    Raises:
      ValueError: it cannot be had, or not at that size; the message says why.
    """
    from vtabjax import model, specs
    from vtabjax.sweep import artefacts

    if not isinstance(spec_or_path, str | os.PathLike):
        raise ValueError(f"{spec_or_path!r} is a {type(spec_or_path).__name__}; give a spec or a folder")
    if image_size is not None and (not isinstance(image_size, numbers.Integral) or image_size < 1):
        raise ValueError(
            f"image_size={image_size!r}: give the edge of the images in pixels, a whole number, or None"
        )
    if artefacts.is_converted(spec_or_path):
        found = model.load(spec_or_path)
        size = found.graph.input_size[1]
        if image_size not in (None, size):
            raise ValueError(
                f"image_size={image_size}: {spec_or_path} was converted for images of {size} pixels; load its source "
                "by its spec instead"
            )
        return found
    text = os.fspath(spec_or_path)
    if not isinstance(spec_or_path, str):
        text = f"file/{Path(spec_or_path).absolute()}"
    spec = specs.parse(text)
    path = _converted(text, image_size or 0)
    features = "+".join(f"{name}={value}" for name, value in spec.options if name in ("pool", "layer"))
    return model.load(path, features=features)


def _converted(spec: str, image_size: int) -> Path:
    """The folder of a converted model, which is made where there is none."""
    from vtabjax import bundled, specs
    from vtabjax.sweep import artefacts, converters_client

    if specs.is_pattern(spec):
        raise ValueError(f"{spec!r} is a pattern; name one model")
    models_dir = artefacts.local_cache() / "models"
    try:
        there = artefacts.find(models_dir, spec, image_size)
        if there is not None:
            return there
        if bundled.is_bundled(spec):
            bundled.expand(spec)
            return bundled.write(spec, models_dir, image_size)
        size = [f"--input_size={image_size}"] if image_size else []
        lines = converters_client.ask(["convert", spec, f"--out={models_dir}", *size])
    except converters_client.ConversionError as e:
        raise ValueError(f"{spec} cannot be loaded: {e}") from e
    answer = lines[-1] if lines else {"message": "the converters gave no answer"}
    if not answer.get("path"):
        raise ValueError(f"{spec} cannot be loaded: {answer.get('message')}")
    return Path(answer["path"])


def embed(
    model_or_spec: Model | str | os.PathLike,
    images_or_task: np.ndarray | str | os.PathLike,
    *,
    split: str | None = None,
    **settings: Any,
) -> Embedding:
    """Features of pictures.

    Args:
      model_or_spec: what `load` gives or takes.
      images_or_task: images [N, S, S, 3], uint8 or floating-point in [0, 1]; or a task (a `pathlib.Path` is a folder of
        pictures), whose pictures are resized to the model's size. A spec is converted for the images' size.
      split: of the task: "train800val200", "trainval", "val200", "test", ...; None: the examples that nearest
        neighbours use, "trainval" of one's own pictures and otherwise "train800val200".
      **settings: image_size (of a model that is named; by default its own), batch_size, and for a task resize,
        data_dir, background and skip_broken as in configs/common.py.

    Raises:
      ValueError: images of another shape or range than the model takes, settings or a split that do not exist.
    """
    options = _Options.of(settings)
    is_task = isinstance(images_or_task, str | os.PathLike)
    size = options.image_size
    images = None if is_task else np.asarray(images_or_task)
    if images is not None and (images.ndim != 4 or images.dtype == object):
        raise ValueError(
            f"images of shape {list(images.shape)}, {images.dtype}: give an array [N, H, W, 3], bytes or numbers in "
            "[0, 1] (one image: images[None]), or a task, such as a folder of pictures"
        )
    if images is not None and split is not None:
        raise ValueError(f"split={split!r} is for tasks; these are images")
    if isinstance(model_or_spec, str | os.PathLike):
        if images is not None and size is None and images.ndim == 4 and images.shape[1] == images.shape[2]:
            size = images.shape[1]
        network = load(model_or_spec, image_size=size)
    else:
        network = model_or_spec
    if images is not None:
        return Embedding(_features(network, images, options), None, [str(i) for i in range(len(images))])
    from vtabjax import data, tasks

    name = _settings._task(images_or_task)  # type: ignore[arg-type]
    chosen = split or ("trainval" if tasks.is_own(name) else "train800val200")
    if chosen not in tasks.SPLITS:
        raise ValueError(f"split={chosen!r} is not known; choose from {', '.join(tasks.SPLITS)}")
    try:
        examples = data.load(
            name,
            chosen,
            image_size=network.graph.input_size[1],
            resize=options.resize,
            data_dir=options.data_dir,
            background=options.background,
            skip_broken=options.skip_broken,
        )
    except data.DataError as e:
        raise ValueError(str(e)) from e
    return Embedding(_features(network, examples.images, options), examples.labels, examples.ids)


@dataclasses.dataclass(frozen=True)
class _Options:
    image_size: int | None = None
    batch_size: int = _BATCH
    resize: str = "vtab"
    data_dir: str | None = None
    background: str = "white"
    skip_broken: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Options:
        from vtabjax import specs

        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                near = specs.nearest(name, known) or known
                raise ValueError(f"embed has no setting {name!r}; did you mean {' or '.join(near)}?")
        return cls(**given)


def _features(network: Model, images: np.ndarray, options: _Options) -> np.ndarray:
    """Features [N, D] of images, batch by batch, every batch of the same shape."""
    import jax

    from vtabjax import features
    from vtabjax.model import SavedModel, apply, normalise

    if images.dtype == np.uint8:
        _, height, width = network.graph.input_size
        if images.shape[1:] != (height, width, 3):
            raise ValueError(
                f"images have shape {list(images.shape)}; this model takes [N, {height}, {width}, 3]"
            )
        values = {k: np.asarray(v) for k, v in network.variables.items()}
        parts = SavedModel(network.graph, values, dict(network.info))
        extract = features.extractor(parts, batch_size=options.batch_size, outputs=["features"])
        return extract(images)["features"]
    network(images[:1])  # the shape and range are looked at outside of jit
    from vtabjax.model.module import _check_images

    _check_images(images, network.graph.input_size)
    graph, info, variables = network.graph, network.info, network.variables

    @jax.jit
    def run(batch: jax.Array) -> jax.Array:
        return apply(graph, variables, normalise(batch, info))[0]["features"]

    n, found = options.batch_size, []
    for start in range(0, len(images), n):
        batch = images[start : start + n]
        filled = np.concatenate([batch, np.repeat(batch[:1], n - len(batch), 0)])
        found.append(np.asarray(run(filled.astype(np.float32)))[: len(batch)])
    return np.concatenate(found) if found else np.zeros((0, info["num_features"]), np.float32)
