"""The tasks: VTAB's nineteen, the embedded ones, and folders of your own pictures, as plain data.

A task says where its examples come from (`builder`), which of them belong to which split (`splits`) and what
the label of one is (`label`, a pure function of the data set's own fields). Splits and label rules are those
of the benchmark's released code, github.com/google-research/task_adaptation (VTAB: arXiv 1910.04867).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vtabjax import specs

SPLITS = ("train", "val", "trainval", "test", "train800", "val200", "train800val200")
GROUPS = ("Natural", "Specialized", "Structured", "Embedded", "Folder")


class TaskError(ValueError):
    """A task or split that does not exist, or cannot be used; the message says what to write instead."""


class Part(NamedTuple):
    """A piece of a task's split: from `start` to `stop` percent of a split of the data set."""

    split: str
    start: int = 0
    stop: int = 100


class Range(NamedTuple):
    """Examples `start` to `stop` (exclusive) of a split of the data set, in its own order."""

    split: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A classification task.

    Attributes:
      name: what results are filed under.
      group: one of `GROUPS`.
      builder: tfds builder string with the version that the benchmark names; "embedded"; "folder:/path".
      num_classes: number of classes; some may be absent from the 1,000 training examples.
      splits: split name -> which examples these are, at the published sizes, in tfds's slicing notation.
      label: an example's fields (numpy) -> its label, 0 ... num_classes - 1.
      fields: the example's fields that `label` reads.
      sizes: examples in each split of the data set, as published.
      parts: "train", "val", "test" -> the pieces of the data set's splits that they consist of.
      scale: what stored pixel values are multiplied by (dSprites stores 0 and 1).
      also: further versions that hold the same examples in the same order.
      majority: share of the largest class in the test split, where known.
      manual: what has to be downloaded by hand, and where in the manual folder it goes.
      class_names: names of the classes, where the data set itself does not carry them.
    """

    name: str
    group: str
    builder: str
    num_classes: int
    splits: Mapping[str, str]
    label: Callable[[Mapping[str, Any]], int]
    fields: tuple[str, ...] = ("label",)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, tuple[Part, ...]] = dataclasses.field(default_factory=dict)
    scale: int = 1
    also: tuple[str, ...] = ()
    majority: float | None = None
    manual: str = ""
    class_names: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """Expected accuracy of a uniform guess."""
        return 1 / self.num_classes

    @property
    def slug(self) -> str:
        """The name as a file name; two folders with the same last component have different ones."""
        if not self.name.startswith("folder:"):
            return self.name
        path = self.name.removeprefix("folder:").rstrip("/")
        stem = re.sub(r"[^\w.-]+", "_", path.rsplit("/", 1)[-1])
        return f"folder-{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


# Label rules. Bin edges are compared in float32 and strictly, as the released code does: an edge belongs to
# the class below it.


def stored_label(example: Mapping[str, Any]) -> int:
    """The data set's own label."""
    return int(example["label"])


def clevr_count(example: Mapping[str, Any]) -> int:
    """Number of objects, from 3 to 10, minus 3."""
    return len(example["objects"]["pixel_coords"]) - 3


def _bin(value: np.float32, edges: tuple[float, ...]) -> int:
    return int(np.flatnonzero(np.asarray(edges, np.float32) < value)[-1])


def clevr_distance(example: Mapping[str, Any]) -> int:
    """Distance of the closest object: (0, 8], (8, 8.5], (8.5, 9], (9, 9.5], (9.5, 10], (10, 100]."""
    depth = np.asarray(example["objects"]["pixel_coords"], np.float32)[:, 2]
    return _bin(depth.min(), (0, 8, 8.5, 9, 9.5, 10, 100))


def kitti_distance(example: Mapping[str, Any]) -> int:
    """Metres to the closest car, van or truck: (-100, 8], (8, 20], (20, 999]; class 3 where there is none."""
    kind = np.asarray(example["objects"]["type"])
    location = np.asarray(example["objects"]["location"], np.float32).reshape(-1, 3)
    return _bin(np.min(location[kind < 3, 2], initial=np.float32(1000)), (-100, 8, 20, 999))


def dsprites_location(example: Mapping[str, Any]) -> int:
    """Horizontal position, 32 values in 16 pairs."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Mapping[str, Any]) -> int:
    """Orientation, 40 values in 16 bins that hold three and two of them by turns."""
    return int(np.floor(np.float32(example["label_orientation"]) / np.float32(2.5)))


def smallnorb_azimuth(example: Mapping[str, Any]) -> int:
    """Azimuth, 18 values, 20 degrees apart."""
    return int(example["label_azimuth"])


def smallnorb_elevation(example: Mapping[str, Any]) -> int:
    """Elevation, 9 values, 5 degrees apart."""
    return int(example["label_elevation"])


# Split arithmetic.


def _take(ranges: list[Range], n: int) -> list[Range]:
    """The first `n` examples of consecutive ranges."""
    taken = []
    for r in ranges:
        size = min(n, r.stop - r.start)
        if size > 0:
            taken.append(r._replace(stop=r.start + size))
            n -= size
    return taken


def _join(ranges: list[Range]) -> list[Range]:
    """Ranges with neighbours made one, so that train[:9] + train[9:] is train."""
    joined: list[Range] = []
    for r in ranges:
        if joined and joined[-1].split == r.split and joined[-1].stop == r.start:
            joined[-1] = joined[-1]._replace(stop=r.stop)
        elif r.stop > r.start:
            joined.append(r)
    return joined


def _ranges(parts: Mapping[str, tuple[Part, ...]], split: str, sizes: Mapping[str, int]) -> list[Range]:
    def source(name: str) -> list[Range]:
        return [
            Range(p.split, sizes[p.split] * p.start // 100, sizes[p.split] * p.stop // 100)
            for p in parts[name]
        ]

    if split in parts:
        return _join(source(split))
    if split == "trainval":
        return _join(source("train") + source("val"))
    train800, val200 = _take(source("train"), 800), _take(source("val"), 200)
    return _join({"train800": train800, "val200": val200, "train800val200": train800 + val200}[split])


def ranges(task: Task, split: str, sizes: Mapping[str, int] | None = None) -> list[Range]:
    """The examples of a task's split as ranges of the data set's splits, in order.

    Args:
      task: the task.
      split: one of `SPLITS`.
      sizes: examples in each split of the prepared data set; as published by default.

    Raises:
      TaskError: there is no such split.
    """
    if split not in SPLITS:
        raise TaskError(f"split {split!r} of task {task.name} does not exist; there are {', '.join(SPLITS)}")
    return _ranges(task.parts, split, task.sizes if sizes is None else sizes)


def notation(pieces: list[Range], sizes: Mapping[str, int]) -> str:
    """Ranges in tfds's slicing notation: ``train[:800]+validation[:200]``."""

    def text(r: Range) -> str:
        start = str(r.start) if r.start else ""
        stop = str(r.stop) if r.stop < sizes[r.split] else ""
        return f"{r.split}[{start}:{stop}]" if start or stop else r.split

    return "+".join(map(text, pieces))


def split_texts(parts: Mapping[str, tuple[Part, ...]], sizes: Mapping[str, int]) -> dict[str, str]:
    """Every split of a task with these parts, in tfds's slicing notation."""
    return {split: notation(_ranges(parts, split, sizes), sizes) for split in SPLITS}


def _task(
    name: str, group: str, builder: str, num_classes: int, sizes: dict, parts: dict, **rest: Any
) -> Task:
    rest.setdefault("label", stored_label)
    return Task(
        name, group, builder, num_classes, split_texts(parts, sizes), sizes=sizes, parts=parts, **rest
    )


def _cut(train: int) -> dict[str, tuple[Part, ...]]:
    """The last part of the training set is validation; the test set is the data set's own."""
    return {"train": (Part("train", 0, train),), "val": (Part("train", train, 100),), "test": (Part("test"),)}


def _cut_three(train: int, val: int) -> dict[str, tuple[Part, ...]]:
    """Everything is cut from the one split that the data set has."""
    return {
        "train": (Part("train", 0, train),),
        "val": (Part("train", train, train + val),),
        "test": (Part("train", train + val, 100),),
    }


_OWN = {"train": (Part("train"),), "val": (Part("validation"),), "test": (Part("test"),)}
# The test split of CLEVR has no annotations, so validation is the test set here.
_CLEVR = {**_cut(90), "test": (Part("validation"),)}
# Validation is half of the test set: other toys than those of the training set.
_NORB = {"train": (Part("train"),), "val": (Part("test", 0, 50),), "test": (Part("test", 50, 100),)}


def _own(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


_RESISC_MANUAL = (
    "NWPU-RESISC45.rar from https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, unpacked to "
    "{manual_dir}/NWPU-RESISC45/"
)
_RETINOPATHY_MANUAL = (
    "https://www.kaggle.com/c/diabetic-retinopathy-detection/data: train.zip unpacked to "
    "{manual_dir}/train/, test.zip to {manual_dir}/test/, sample.zip to {manual_dir}/sample/, "
    "trainLabels.csv to {manual_dir}/"
)

# fmt: off
_VTAB = (
    _task("caltech101", "Natural", "caltech101:3.*.*", 102, {"train": 3060, "test": 6084}, _cut(90)),
    _task("cifar100", "Natural", "cifar100:3.*.*", 100, {"train": 50000, "test": 10000}, _cut(90),
          majority=0.01),
    _task("dtd", "Natural", "dtd:3.*.*", 47, _own(1880, 1880, 1880), _OWN, majority=1 / 47),
    _task("flowers102", "Natural", "oxford_flowers102:2.*.*", 102, _own(1020, 1020, 6149), _OWN),
    # The released code names 3.*.*, which tfds has replaced: 4.0.0 has the same examples in their order.
    _task("pets", "Natural", "oxford_iiit_pet:4.*.*", 37, {"train": 3680, "test": 3669}, _cut(80),
          also=("3.*.*",)),
    _task("sun397", "Natural", "sun397/tfds:4.*.*", 397, _own(76128, 10875, 21750), _OWN),
    _task("svhn", "Natural", "svhn_cropped:3.*.*", 10, {"train": 73257, "test": 26032}, _cut(90)),
    _task("eurosat", "Specialized", "eurosat/rgb:2.*.*", 10, {"train": 27000}, _cut_three(60, 20)),
    _task("resisc45", "Specialized", "resisc45:3.*.*", 45, {"train": 31500}, _cut_three(60, 20),
          manual=_RESISC_MANUAL),
    _task("patch_camelyon", "Specialized", "patch_camelyon:2.*.*", 2, _own(262144, 32768, 32768), _OWN),
    _task("retinopathy", "Specialized", "diabetic_retinopathy_detection/btgraham-300:3.*.*", 5,
          _own(35126, 10906, 42670), _OWN, majority=0.7359, manual=_RETINOPATHY_MANUAL),
    _task("clevr_count", "Structured", "clevr:3.*.*", 8, _own(70000, 15000, 15000), _CLEVR,
          label=clevr_count, fields=("objects",)),
    _task("clevr_distance", "Structured", "clevr:3.*.*", 6, _own(70000, 15000, 15000), _CLEVR,
          label=clevr_distance, fields=("objects",)),
    _task("dsprites_location", "Structured", "dsprites:2.*.*", 16, {"train": 737280}, _cut_three(80, 10),
          label=dsprites_location, fields=("label_x_position",), scale=255),
    _task("dsprites_orientation", "Structured", "dsprites:2.*.*", 16, {"train": 737280}, _cut_three(80, 10),
          label=dsprites_orientation, fields=("label_orientation",), scale=255),
    _task("smallnorb_azimuth", "Structured", "smallnorb:2.*.*", 18, {"train": 24300, "test": 24300}, _NORB,
          label=smallnorb_azimuth, fields=("label_azimuth",)),
    _task("smallnorb_elevation", "Structured", "smallnorb:2.*.*", 9, {"train": 24300, "test": 24300}, _NORB,
          label=smallnorb_elevation, fields=("label_elevation",)),
    _task("dmlab", "Structured", "dmlab:2.0.1", 6, _own(65550, 22628, 22735), _OWN),
    # Later versions change annotations that no label rule reads.
    _task("kitti_distance", "Structured", "kitti:3.1.0", 4, _own(6347, 423, 711), _OWN,
          label=kitti_distance, fields=("objects",), also=("3.2.0", "3.3.0")),
)

_EMBEDDED = (
    _task("digits", "Embedded", "embedded", 10, _own(800, 200, 797), _OWN, majority=102 / 797),
    _task("sprites_location", "Embedded", "embedded", 16, _own(800, 200, 2000), _OWN,
          label=dsprites_location, fields=("label_x_position",), scale=255, majority=145 / 2000),
    _task("sprites_orientation", "Embedded", "embedded", 16, _own(800, 200, 2000), _OWN,
          label=dsprites_orientation, fields=("label_orientation",), scale=255, majority=164 / 2000),
)
# fmt: on

VTAB: tuple[str, ...] = tuple(t.name for t in _VTAB)
EMBEDDED: tuple[str, ...] = tuple(t.name for t in _EMBEDDED)
TASKS: dict[str, Task] = {t.name: t for t in _VTAB + _EMBEDDED}


def get(name: str) -> Task:
    """The task of that name; ``folder:/path`` is a folder of pictures, one sub-folder per class.

    Raises:
      TaskError: there is no such task; the message has the nearest names and the list.
    """
    if name.startswith("folder:"):
        from vtabjax.data import folder

        return folder.find(name)
    if name not in TASKS:
        near = specs.nearest(name, TASKS)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise TaskError(
            f"unknown task {name!r}; {hint}Tasks: {', '.join(TASKS)}; your own pictures: folder:/path"
        )
    return TASKS[name]
