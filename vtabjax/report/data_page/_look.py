"""What the page tells of a task: its pictures as they are stored and as models see them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtabjax import data, tasks
from vtabjax.data import audit, cache, copies, describe, loading, originals, pictures
from vtabjax.data.originals import Original
from vtabjax.options import DataOptions
from vtabjax.report.data_page import _alike
from vtabjax.runtime import bars
from vtabjax.tasks import Task

_BLOCK = 512  # pictures in memory at a time


@dataclasses.dataclass(frozen=True)
class Look:
    """A task, looked at. "Position" is a picture's place in all splits one after the other; there are N.

    Attributes:
      task: the task.
      splits: name -> its examples as models see them, in the order of the positions.
      split: number of each picture's split, [N].
      labels: [N].
      ids: names of the pictures, [N].
      grey: whether all three channels are equal, bool [N].
      brightness: mean of all values, from 0 to 1, [N].
      class_names: by label.
      said: what was taken for what and left out, the parts of a line.
      unreadable: name -> reason, of what cannot be read.
      copies: see `vtabjax.data.copies.count`.
      alike: equal and nearly equal pictures.
      originals: the pictures as they are stored.
      image_size: edge of what models see.
    """

    task: Task
    splits: Mapping[str, data.Examples]
    split: np.ndarray
    labels: np.ndarray
    ids: list[str]
    grey: np.ndarray
    brightness: np.ndarray
    class_names: list[str]
    said: list[str]
    unreadable: Mapping[str, str]
    copies: Mapping[str, Any]
    alike: _alike.Alike
    originals: list[Original]
    image_size: int

    def counts(self) -> np.ndarray:
        """Pictures of each class in each split, [classes, splits]."""
        return np.stack(
            [
                np.bincount(e.labels, minlength=self.task.num_classes).astype(np.int64)
                for e in self.splits.values()
            ],
            axis=1,
        )

    def image(self, position: int) -> np.ndarray:
        """A picture as models see it, `[S, S, 3]` uint8."""
        for examples in self.splits.values():
            if position < len(examples.labels):
                return np.asarray(examples.images[position])
            position -= len(examples.labels)
        raise IndexError(position)


def used_splits(task: Task, data_dir: str | os.PathLike | None) -> list[str]:
    """The splits that are shown: everything of your own pictures and embedded tasks; of VTAB what VTAB-1k uses."""
    if task.own:
        return [split for split in ("train", "val", "test") if task.files[split]]
    if task.builder == "embedded":
        return ["train", "val", "test"]
    copy = data.vtab_copy(task, data_dir)
    return [s for s in ("train800", "val200", "test") if copy is None or s in copy.splits]


def look(task: Task, own: DataOptions, cache_dir: str) -> Look:
    """Looks at a task: decodes what the image cache does not have, compares all pictures.

    Args:
      task: the task, which can be read.
      own: the options.
      cache_dir: of the image cache.

    Raises:
      DataError: pictures are too large, or cannot be read in one way; the cache cannot be written.
    """
    data_dir = own.data_dir or None
    names = used_splits(task, data_dir)
    said, unreadable = _own_pictures(task, own, cache_dir) if task.own else ([], {})
    splits = {
        split: data.load(
            task,
            split,
            image_size=own.image_size,
            resize=own.resize,
            data_dir=data_dir,
            cache_dir=cache_dir,
            skip_broken=True,
            background=own.background,
            max_pixels=own.max_pixels,
        )
        for split in names
    }
    if not any(len(e.labels) for e in splits.values()):
        raise data.DataError(f"task {task.name}: none of its pictures can be read")
    if not task.own:
        said, unreadable = _said(task, splits, own), _left_out(task, splits, data_dir)
    stored: list[Original] = []
    for split, examples in splits.items():
        found = originals.of_split(task, split, data_dir=data_dir, cache_dir=cache_dir)
        stored += [found[name] for name in examples.ids if name in found]
    labels = np.concatenate([e.labels for e in splits.values()]).astype(np.int64)
    hashes = [_hashes(e) for e in splits.values()]
    features, grey, brightness = _passed_over(splits)
    counted = {name: copies.Pictures(h, splits[name].labels) for name, h in zip(splits, hashes, strict=True)}
    return Look(
        task,
        splits,
        np.repeat(np.arange(len(splits)), [len(e.labels) for e in splits.values()]),
        labels,
        [name for e in splits.values() for name in e.ids],
        grey,
        brightness,
        class_names=_class_names(task, data_dir),
        said=said,
        unreadable=unreadable,
        copies=copies.count(counted),
        alike=_alike.find(np.concatenate(hashes), labels, features, own.seed),
        originals=stored,
        image_size=own.image_size,
    )


def _own_pictures(task: Task, own: DataOptions, cache_dir: str) -> tuple[list[str], dict[str, str]]:
    """What was taken for what, and name -> reason of what cannot be read.

    Raises:
      BrokenImageError: some are too large, or have values without an agreed black and white.
    """
    reading = pictures.Reading(pictures.parse_colour(own.background), max_pixels=own.max_pixels)
    found = audit.record(task, reading, cache_dir)
    audit.check(task, found, skip_broken=True, path=audit.record_path(task, reading, cache_dir))
    line = describe.line(task, describe.notes(task, found, reading)).removeprefix(f"{task.name}: ")
    return line.split("; "), {**task.problems, **found["broken"]}


def _left_out(task: Task, splits: Mapping[str, data.Examples], data_dir: str | None) -> dict[str, str]:
    """What `data.load` left out of a prepared data set."""
    left: dict[str, str] = {}
    for split, examples in splits.items():
        kept = set(examples.ids)
        source = loading.open_split(task, split, data_dir)
        left |= {name: "it cannot be decoded" for name in source.ids if name not in kept}
    return left


def _hashes(examples: data.Examples) -> np.ndarray:
    assert examples.hashes is not None  # `data.load` always has them
    return examples.hashes


def _class_names(task: Task, data_dir: str | None) -> list[str]:
    """The names of the classes; of a prepared data set those that it has, if labels are its own."""
    names = list(task.class_names)
    prepared = not task.own and task.builder != "embedded" and data.vtab_copy(task, data_dir) is None
    if not names and prepared and task.label is tasks.stored_label:
        from vtabjax.data.sources import tfds

        names = list(getattr(tfds.open_builder(task, data_dir).info.features["label"], "names", None) or ())
    return names if len(names) == task.num_classes else [f"class {i}" for i in range(task.num_classes)]


def _said(task: Task, splits: Mapping[str, data.Examples], own: DataOptions) -> list[str]:
    """Where the examples of a task that is not your own come from."""
    sizes = ", ".join(f"{split} {len(e.labels):,}" for split, e in splits.items())
    said = [
        f"{task.num_classes:,} classes, {sum(len(e.labels) for e in splits.values()):,} pictures ({sizes})"
    ]
    if task.builder == "embedded":
        return [*said, "made by the program itself"]
    if copy := data.vtab_copy(task, own.data_dir or None):
        from vtabjax.data.sources import vtab_copies

        for split in splits:
            made: dict[str, Any] = vtab_copies.notes(task, split, copy)
            files = ", ".join(f"{n:,} {kind}" for kind, n in made["files"].items())
            said.append(
                f"{split} is read from {made['folder']} ({made['form']}: {files}); compared with the benchmark: "
                f"{', '.join(made['checked'])}; not verified: {made['not_verified']}"
            )
        return said
    return said + [f"{split} is {task.splits[split]} of {task.builder}" for split in splits]


def _passed_over(splits: Mapping[str, data.Examples]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One pass over all images: their cells [N, D], whether they are grey [N], their mean [N]."""
    features, grey, brightness = [], [], []
    with bars.bar(desc="look", total=sum(len(e.labels) for e in splits.values()), unit="image") as bar:
        for examples in splits.values():
            for start in range(0, len(examples.labels), _BLOCK):
                images = np.asarray(examples.images[start : start + _BLOCK])
                features.append(_alike.cells(images))
                grey.append((images == images[..., :1]).all((1, 2, 3)))
                brightness.append(images.mean((1, 2, 3)) / 255)
                bar.update(len(images))
            cache.release(examples.images)
    return np.concatenate(features), np.concatenate(grey), np.concatenate(brightness)
