"""The table of VTAB's nineteen tasks and the embedded ones."""

from __future__ import annotations

from typing import Any

from vtabjax.tasks._labels import (
    clevr_count,
    clevr_distance,
    dsprites_location,
    dsprites_orientation,
    kitti_distance,
    smallnorb_azimuth,
    smallnorb_elevation,
    stored_label,
)
from vtabjax.tasks._task import Part, Task, split_texts


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


_OWN_SPLITS = {"train": (Part("train"),), "val": (Part("validation"),), "test": (Part("test"),)}
# The test split of CLEVR has no annotations, so validation is the test set here.
_CLEVR = {**_cut(90), "test": (Part("validation"),)}
# Validation is half of the test set: other toys than those of the training set.
_NORB = {"train": (Part("train"),), "val": (Part("test", 0, 50),), "test": (Part("test", 50, 100),)}


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
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
    _task("dtd", "Natural", "dtd:3.*.*", 47, _sizes(1880, 1880, 1880), _OWN_SPLITS, majority=1 / 47),
    _task("flowers102", "Natural", "oxford_flowers102:2.*.*", 102, _sizes(1020, 1020, 6149), _OWN_SPLITS),
    # The released code names 3.*.*, which tfds has replaced: 4.0.0 has the same examples in their order.
    _task("pets", "Natural", "oxford_iiit_pet:4.*.*", 37, {"train": 3680, "test": 3669}, _cut(80),
          compatible_versions=("3.*.*",)),
    _task("sun397", "Natural", "sun397/tfds:4.*.*", 397, _sizes(76128, 10875, 21750), _OWN_SPLITS),
    _task("svhn", "Natural", "svhn_cropped:3.*.*", 10, {"train": 73257, "test": 26032}, _cut(90)),
    _task("eurosat", "Specialized", "eurosat/rgb:2.*.*", 10, {"train": 27000}, _cut_three(60, 20)),
    _task("resisc45", "Specialized", "resisc45:3.*.*", 45, {"train": 31500}, _cut_three(60, 20),
          manual_download=_RESISC_MANUAL),
    _task("patch_camelyon", "Specialized", "patch_camelyon:2.*.*", 2, _sizes(262144, 32768, 32768), _OWN_SPLITS),
    _task("retinopathy", "Specialized", "diabetic_retinopathy_detection/btgraham-300:3.*.*", 5,
          _sizes(35126, 10906, 42670), _OWN_SPLITS, majority=0.7359, manual_download=_RETINOPATHY_MANUAL),
    _task("clevr_count", "Structured", "clevr:3.*.*", 8, _sizes(70000, 15000, 15000), _CLEVR,
          label=clevr_count, label_fields=("objects",)),
    _task("clevr_distance", "Structured", "clevr:3.*.*", 6, _sizes(70000, 15000, 15000), _CLEVR,
          label=clevr_distance, label_fields=("objects",)),
    _task("dsprites_location", "Structured", "dsprites:2.*.*", 16, {"train": 737280}, _cut_three(80, 10),
          label=dsprites_location, label_fields=("label_x_position",), scale=255),
    _task("dsprites_orientation", "Structured", "dsprites:2.*.*", 16, {"train": 737280}, _cut_three(80, 10),
          label=dsprites_orientation, label_fields=("label_orientation",), scale=255),
    _task("smallnorb_azimuth", "Structured", "smallnorb:2.*.*", 18, {"train": 24300, "test": 24300}, _NORB,
          label=smallnorb_azimuth, label_fields=("label_azimuth",)),
    _task("smallnorb_elevation", "Structured", "smallnorb:2.*.*", 9, {"train": 24300, "test": 24300}, _NORB,
          label=smallnorb_elevation, label_fields=("label_elevation",)),
    _task("dmlab", "Structured", "dmlab:2.0.1", 6, _sizes(65550, 22628, 22735), _OWN_SPLITS),
    # Later versions change annotations that no label rule reads.
    _task("kitti_distance", "Structured", "kitti:3.1.0", 4, _sizes(6347, 423, 711), _OWN_SPLITS,
          label=kitti_distance, label_fields=("objects",), compatible_versions=("3.2.0", "3.3.0")),
)

_EMBEDDED = (
    _task("digits", "Embedded", "embedded", 10, _sizes(800, 200, 797), _OWN_SPLITS, majority=102 / 797),
    _task("sprites_location", "Embedded", "embedded", 16, _sizes(800, 200, 2000), _OWN_SPLITS,
          label=dsprites_location, label_fields=("label_x_position",), scale=255, majority=145 / 2000),
    _task("sprites_orientation", "Embedded", "embedded", 16, _sizes(800, 200, 2000), _OWN_SPLITS,
          label=dsprites_orientation, label_fields=("label_orientation",), scale=255, majority=164 / 2000),
)
# fmt: on

VTAB: tuple[str, ...] = tuple(t.name for t in _VTAB)
EMBEDDED: tuple[str, ...] = tuple(t.name for t in _EMBEDDED)
TASKS: dict[str, Task] = {t.name: t for t in _VTAB + _EMBEDDED}
# The benchmark's groups -> their tasks.
VTAB_GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(t.name for t in _VTAB if t.group == group) for group in dict.fromkeys(t.group for t in _VTAB)
}
