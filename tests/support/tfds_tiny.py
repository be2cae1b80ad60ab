"""Tiny data sets for tests, prepared by tensorflow-datasets itself: its builders, its files, its order.

Only the source of the examples is replaced: instead of downloading, a builder is handed a few made-up
ones with keys like the real data set's. Everything after that (encoding, order, shards) is tfds's own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from vtabjax import tasks
from vtabjax.data import prepare as prepare_module

SIZES = {"train": 40, "validation": 20, "test": 20}


def _picture(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth random picture (so that JPEG leaves it recognisable)."""
    coarse = rng.integers(0, 256, (6, 8, channels), np.uint8)
    image = Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse)
    return np.asarray(image.resize((width, height))).reshape(height, width, channels)


def encoded(array: np.ndarray, kind: str = "JPEG") -> io.BytesIO:
    """An image as a file in memory."""
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, kind)
    file.seek(0)
    return file


def _labelled(
    name_field: str, kind: str, height: int | None, width: int | None, key: str, **more
) -> Callable:
    """Examples of an image, a label and a name."""

    def example(rng, split, i, classes):
        h = height or int(rng.integers(20, 60))
        w = width or int(rng.integers(20, 60))
        name = key.format(split=split, i=i)
        example = {"image": encoded(_picture(rng, h, w), kind), "label": i % classes}
        if name_field:
            example[name_field] = name
        for field, value in more.items():
            example[field] = value(rng, h, w) if callable(value) else value
        return (i if key == "{i}" else name), example

    return example


def _clevr(rng, split, i, classes):
    n = 3 + i % 8
    objects = [
        {
            "3d_coords": rng.normal(size=3).astype(np.float32),
            "color": 0,
            "material": 0,
            "pixel_coords": np.float32([10, 10, 7.75 + 0.5 * (i % 6) + j]),
            "rotation": 0.0,
            "shape": 0,
            "size": 0,
        }
        for j in range(n)
    ]
    name = f"CLEVR_{split}_{i:06d}.png"
    picture = encoded(_picture(rng, 32, 48), "PNG")
    return name, {"file_name": name, "image": picture, "objects": objects, "question_answer": []}


def _kitti(rng, split, i, classes):
    from tensorflow_datasets.public_api import features

    objects = [
        {
            "alpha": 0.0,
            "bbox": features.BBox(0.1, 0.1, 0.5, 0.5),
            "dimensions": np.float32([1, 1, 1]),
            # by turns: near, middle, far, and no vehicle but a pedestrian
            "location": np.float32([0, 0, (5, 15, 40, 5)[i % 4] + j]),
            "occluded": 0,
            "rotation_y": 0.0,
            "truncated": 0.0,
            "type": ("Car", "Van", "Truck", "Pedestrian")[i % 4],
        }
        for j in range(1 + i % 3)
    ]
    name = f"{i:06d}.png"
    return name, {"image": encoded(_picture(rng, 19, 62), "PNG"), "image/file_name": name, "objects": objects}


def _dsprites(rng, split, i, classes):
    values = {
        "orientation": i % 40,
        "scale": i % 6,
        "shape": i % 3,
        "x_position": i % 32,
        "y_position": i % 32,
    }
    example = {f"label_{k}": v for k, v in values.items()} | {
        f"value_{k}": float(v) for k, v in values.items()
    }
    return i, {"image": (_picture(rng, 64, 64, 1) > 127).astype(np.uint8), **example}


def _smallnorb(rng, split, i, classes):
    example = {"instance": i % 10, "label_azimuth": i % 18, "label_category": i % 5}
    example |= {"label_elevation": i % 9, "label_lighting": i % 6}
    return i, {"image": _picture(rng, 96, 96, 1), "image2": _picture(rng, 96, 96, 1), **example}


def _pets(rng, split, i, classes):
    from tensorflow_datasets.public_api import features

    key, example = _labelled("file_name", "JPEG", None, None, "Abyssinian_{i}.jpg")(rng, split, i, classes)
    mask = encoded(_picture(rng, 20, 20, 1), "PNG")
    return key, example | {
        "species": 0,
        "segmentation_mask": mask,
        "head_bbox": features.BBox(0.1, 0.1, 0.5, 0.5),
    }


# builder name -> (rng, split, number of the example, number of classes) -> (key, example)
_EXAMPLES: dict[str, Callable] = {
    "caltech101": _labelled("image/file_name", "JPEG", None, None, "accordion/image_{i:04d}.jpg"),
    "cifar100": _labelled("", "PNG", 32, 32, "{i}", id="id", coarse_label=0),
    "dtd": _labelled("file_name", "JPEG", None, None, "banded/banded_{i:04d}.jpg"),
    "oxford_flowers102": _labelled("file_name", "JPEG", None, None, "image_{i:05d}.jpg"),
    "oxford_iiit_pet": _pets,
    "sun397": _labelled("file_name", "JPEG", None, None, "/a/abbey/sun_{split}_{i}.jpg"),
    "svhn_cropped": _labelled("", "PNG", 32, 32, "{i}", id="id"),
    "eurosat": _labelled("filename", "JPEG", 64, 64, "Forest_Forest_{i}.jpg"),
    "resisc45": _labelled("filename", "JPEG", 256, 256, "airplane_airplane_{i:03d}.jpg"),
    "patch_camelyon": _labelled("id", "PNG", 96, 96, "{split}_{i}"),
    "diabetic_retinopathy_detection": _labelled("name", "JPEG", None, None, "{i}_left"),
    "clevr": _clevr,
    "dsprites": _dsprites,
    "smallnorb": _smallnorb,
    "dmlab": _labelled("filename", "JPEG", 360, 480, "dmlab_{split}_{i}.jpeg"),
    "kitti": _kitti,
}


def examples(task: tasks.Task, split: str, n: int) -> list[tuple[str | int, dict]]:
    """Made-up examples `(key, features)` of a task's data set, the same at every call."""
    name = task.builder.split(":")[0].split("/")[0]
    make = _EXAMPLES[name]
    seed = int.from_bytes(hashlib.sha256(f"{name} {split}".encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    return [make(rng, split, i, task.num_classes) for i in range(n)]


@contextlib.contextmanager
def fed(cls: type, source: Mapping[str, Callable[[], Iterator]]) -> Iterator[None]:
    """Replaces where a tfds builder class gets its examples from, for as long as the context lasts."""
    saved = cls._split_generators, cls.MANUAL_DOWNLOAD_INSTRUCTIONS

    def split_generators(self, dl_manager):
        return {split: make() for split, make in source.items()}

    cls._split_generators, cls.MANUAL_DOWNLOAD_INSTRUCTIONS = split_generators, None
    with mock.patch.object(cls, "url_infos", {}):  # nothing to download
        try:
            yield
        finally:
            cls._split_generators, cls.MANUAL_DOWNLOAD_INSTRUCTIONS = saved


def feed(task: tasks.Task, sizes: Mapping[str, int] = SIZES) -> dict[str, Callable[[], Iterator]]:
    """split of the data set -> function that yields its made-up examples."""
    return {s: functools.partial(lambda s: iter(examples(task, s, sizes[s])), s) for s in task.sizes}


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    *,
    file_format: str = "array_record",
    sizes: Mapping[str, int] = SIZES,
    num_shards: int = 1,
) -> pathlib.Path:
    """Prepares the tiny data set of a task; returns its folder."""
    import tensorflow_datasets as tfds

    task = tasks.TASKS[name]
    builder = prepare_module.builder(task, data_dir, file_format)
    with fed(type(builder), feed(task, sizes)):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    return pathlib.Path(builder.data_dir)


def prepare_all(data_dir: str | os.PathLike, *, tfrecord: tuple[str, ...] = ()) -> None:
    """Prepares tiny versions of all 16 data sets of the 19 tasks (a few seconds after TensorFlow's import).

    Args:
      data_dir: where to.
      tfrecord: tasks whose data set is written as tfrecord files; array_record otherwise.
    """
    done = set()
    for name in tasks.VTAB:
        if (builder := tasks.TASKS[name].builder) not in done:
            done.add(builder)
            prepare(name, data_dir, file_format="tfrecord" if name in tfrecord else "array_record")


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """Mounts a file system of `size` (such as "1m") at `folder`; skips the test where that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(disk: pathlib.Path) -> None:
    """Nothing can be written to a `small_disk` any more, not even by root."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def hash_order(split: str, keys: list[str | int]) -> list[str | int]:
    """tfds's order of a split's examples: by the MD5 of split name and key."""
    return sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).digest())
