"""VTAB's tasks read from copies that people have, without tensorflow-datasets.

Images and lists, the adapter papers' form: ``DATA_DIR/NAME/images/...`` beside ``train800.txt``, ``val200.txt``,
``train800val200.txt`` and ``test.txt``, whose lines are a path relative to the task's folder, a blank and the number of
the class.

Webdataset shards, CLIP_benchmark's form: ``DATA_DIR/vtab-NAME/{train,test}/N.tar`` with members ``KEY.jpg`` (or .png,
.webp) and ``KEY.cls``. They hold whole splits in an order of their own, so the 1,000 training examples cannot be
recovered from them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtabjax.data.types import NotPreparedError, Raw, Source
from vtabjax.tasks import Task

# What a task's folder is called in copies of either form, beside the task's own name.
_NAMES: dict[str, tuple[str, ...]] = {
    "caltech101": ("caltech_101", "caltech_102", "caltech102"),
    "cifar100": ("cifar", "cifar_100"),
    "dtd": (),
    "flowers102": ("oxford_flowers102", "flowers"),
    "pets": ("oxford_iiit_pet", "oxford_pets"),
    "sun397": (),
    "svhn": (),
    "eurosat": (),
    "resisc45": (),
    "patch_camelyon": ("pcam",),
    "retinopathy": ("diabetic_retinopathy",),
    "clevr_count": ("clevr_count_all",),
    "clevr_distance": ("clevr_dist", "clevr_closest_object_distance"),
    "dsprites_location": ("dsprites_loc", "dsprites_label_x_position"),
    "dsprites_orientation": ("dsprites_ori", "dsprites_label_orientation"),
    "smallnorb_azimuth": ("smallnorb_azi", "smallnorb_label_azimuth"),
    "smallnorb_elevation": ("smallnorb_ele", "smallnorb_label_elevation"),
    "dmlab": (),
    "kitti_distance": ("kitti", "kitti_dist", "kitti_closest_vehicle_distance"),
}
_LISTS = {"train800": 800, "val200": 200, "train800val200": 1000}
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
# Label counts that are known, largest first: of a split's classes. None: not known in full.
_KNOWN: dict[tuple[str, str], list[int]] = {
    ("cifar100", "test"): [100] * 100,
    ("dtd", "test"): [40] * 47,
    ("eurosat", "train800"): [96, 94, 91, 87, 83, 81, 79, 78, 70, 41],
}
_CLASSES = {("sun397", "train800"): 309, ("resisc45", "train800"): 45}  # how many of them occur
_MAJORITY = {("retinopathy", "test"): 0.7359}  # share of the largest class


class CopyError(NotPreparedError):
    """A copy that is not the benchmark's: another number of examples, other classes, files that are missing."""


class Example(NamedTuple):
    """An example of a copy: its name, its class, and where its picture lies (`offset` bytes into a tar file)."""

    name: str
    label: int
    path: Path
    offset: int = 0
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of one task.

    Attributes:
      task: the task.
      folder: where it lies.
      form: "lists" or "webdataset".
      splits: the splits that it holds -> the file or folder of each.
    """

    task: str
    folder: Path
    form: str
    splits: Mapping[str, Path]


def names(task: str) -> tuple[str, ...]:
    """The folder names that a task goes by; none for a task that is not VTAB's."""
    return (task, *_NAMES[task]) if task in _NAMES else ()


def find(task: str, data_dir: str | os.PathLike) -> Copy | None:
    """The copy of a task in a folder (or in its ``vtab-1k/``), or None.

    Raises:
      CopyError: there are two.
    """
    found: dict[Path, Copy] = {}
    for root in (Path(data_dir).expanduser(), Path(data_dir).expanduser() / "vtab-1k"):
        for name in names(task):
            for folder in (root / name, root / f"vtab-{name}", root / f"wds_vtab-{name}"):
                if copy := _copy(task, folder):
                    found[folder.resolve()] = copy
    if len(found) > 1:
        raise CopyError(
            f"task {task}: {' and '.join(map(str, found))} are two copies of it; name a data_dir with one"
        )
    return next(iter(found.values()), None)


def _copy(task: str, folder: Path) -> Copy | None:
    lists = {split: folder / f"{split}.txt" for split in (*_LISTS, "test")}
    there = {split: path for split, path in lists.items() if path.is_file()}
    if there:
        return Copy(task, folder, "lists", there)
    # Its training examples are of no use, see above.
    return (
        Copy(task, folder, "webdataset", {"test": folder / "test"})
        if any((folder / "test").glob("*.tar"))
        else None
    )


def examples(task: Task, split: str, copy: Copy) -> list[Example]:
    """A split's examples in the copy's order, checked against what is known of the task.

    Raises:
      CopyError: the copy does not have the split, or it is not the benchmark's.
    """
    found = _examples(copy.folder, copy.form, split, tuple(copy.splits.items()), _stamps(copy))
    _check_labels(task, split, found, copy)
    return list(found)


def _stamps(copy: Copy) -> tuple[tuple[str, int, int], ...]:
    files = [
        p for path in copy.splits.values() for p in ([path] if path.is_file() else sorted(path.glob("*.tar")))
    ]
    return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)


@functools.lru_cache(maxsize=64)
def _examples(
    folder: Path, form: str, split: str, splits: tuple[tuple[str, Path], ...], stamps: tuple
) -> tuple[Example, ...]:
    """Read once for each state of the files."""
    return tuple((_from_lists if form == "lists" else _from_shards)(folder, split, dict(splits)))


def _from_lists(folder: Path, split: str, lists: Mapping[str, Path]) -> list[Example]:
    if split in ("train", "val", "trainval"):
        raise CopyError(
            f"{folder} holds the 1,000 examples of VTAB-1k, not the whole training set: use the suite vtab, or prepare "
            "the data set through tensorflow-datasets"
        )
    if split == "train800val200" and "train800" in lists and "val200" in lists:
        # Whatever the order in the copy's own third list, the two parts stay what they are.
        both = [e for part in ("train800", "val200") for e in _read_list(folder, lists[part])]
        if split in lists:
            _same(both, _read_list(folder, lists[split]), lists[split])
        return both
    if split not in lists:
        raise CopyError(f"{folder} lacks {split}.txt")
    return _read_list(folder, lists[split])


def _read_list(folder: Path, path: Path) -> list[Example]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise CopyError(f"cannot read {path}: {e}") from e
    for i, line in enumerate(lines, 1):
        name, blank, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not blank or not label.isdecimal():
            raise CopyError(f"{path}, line {i}: {line[:80]!r} is not a path, a blank and a class number")
        found.append(Example(name, int(label), folder / name))
    repeated = [name for name, n in collections.Counter(e.name for e in found).items() if n > 1]
    if repeated:
        raise CopyError(f"{path} lists {repeated[0]} more than once")
    return found


def _same(both: Sequence[Example], listed: Sequence[Example], path: Path) -> None:
    ours, theirs = {(e.name, e.label) for e in both}, {(e.name, e.label) for e in listed}
    if ours != theirs:
        odd = min(ours ^ theirs)
        raise CopyError(
            f"{path} is not the union of train800.txt and val200.txt: {len(ours - theirs)} of their lines are missing "
            f"and {len(theirs - ours)} are others, such as {odd[0]} {odd[1]}"
        )


def _from_shards(folder: Path, split: str, shards: Mapping[str, Path]) -> list[Example]:
    if split not in shards:
        raise CopyError(
            f"{folder} holds whole splits in an order of its own: the 1,000 training examples of VTAB-1k cannot be "
            f"recovered from it, only its test split is of use (not {split}). Take a copy with lists (train800.txt, "
            "val200.txt), or prepare the data set through tensorflow-datasets"
        )
    found: list[Example] = []
    for shard in sorted(shards[split].glob("*.tar"), key=lambda p: (len(p.name), p.name)):
        found.extend(_read_shard(shard))
    return found


def _read_shard(shard: Path) -> list[Example]:
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, suffix = os.path.splitext(member.name)
                if suffix == ".cls":
                    content = tar.extractfile(member)
                    assert content is not None  # a regular file
                    labels[key] = int(content.read(32))
                elif suffix.lower() in _PICTURES:
                    pictures[key] = member
    except (tarfile.TarError, OSError, ValueError) as e:
        raise CopyError(f"{shard} is not a whole shard of pictures and .cls files: {e}") from e
    if set(pictures) != set(labels):
        raise CopyError(f"{shard}: {min(set(pictures) ^ set(labels))} lacks its picture or its class")
    return [
        Example(f"{shard.name}/{member.name}", labels[key], shard, member.offset_data, member.size)
        for key, member in pictures.items()
    ]


def _check_labels(task: Task, split: str, found: Sequence[Example], copy: Copy) -> None:
    where = copy.splits.get(split, copy.folder)
    if not found:
        raise CopyError(f"{where} holds no examples")
    labels = np.array([e.label for e in found])
    if labels.max() >= task.num_classes:
        raise CopyError(
            f"{where}: {found[int(labels.argmax())].name} has the class {labels.max()}; {task.name} has the classes "
            f"0 to {task.num_classes - 1}"
        )
    wanted = _expected(task, split)
    if wanted is not None and abs(len(found) - wanted) > 1:
        raise CopyError(f"{where} has {len(found):,} examples; split {split} of {task.name} has {wanted:,}")
    counts = np.bincount(labels, minlength=task.num_classes)
    key = (task.name, split)
    if key in _KNOWN and np.abs(np.sort(counts)[::-1] - _KNOWN[key]).sum() > 2:
        raise CopyError(
            f"{where}: its classes have {_brief(counts)} examples; those of the benchmark's {split} have "
            f"{_brief(np.array(_KNOWN[key]))}: it is another choice of examples, or labels are wrong"
        )
    if key in _CLASSES and (counts > 0).sum() != _CLASSES[key]:
        raise CopyError(
            f"{where} has {(counts > 0).sum()} classes; the benchmark's {split} has {_CLASSES[key]}"
        )
    if key in _MAJORITY and abs(counts.max() / len(found) - _MAJORITY[key]) > 1e-3:
        raise CopyError(
            f"{where}: the largest class has {counts.max() / len(found):.2%} of the examples; the benchmark's {split} "
            f"has {_MAJORITY[key]:.2%}"
        )


def _expected(task: Task, split: str) -> int | None:
    if split in _LISTS:
        return _LISTS[split]
    from vtabjax import tasks

    return sum(r.stop - r.start for r in tasks.ranges(task, split))


def _brief(counts: np.ndarray) -> str:
    ordered = np.sort(counts)[::-1]
    return ", ".join(map(str, ordered[:5])) + (", ..." if len(ordered) > 5 else "")


def notes(task: Task, split: str, copy: Copy) -> dict[str, object]:
    """What a result has to say of the copy: its form, the kind of files, what was compared and what could not be."""
    found = examples(task, split, copy)
    kinds = collections.Counter(os.path.splitext(e.name)[1].lower().lstrip(".") for e in found)
    key = (task.name, split)
    checked = ["number of examples", "range of the classes"]
    if key in _KNOWN or key in _MAJORITY:
        checked.append("examples of each class")
    elif key in _CLASSES:
        checked.append("number of classes")
    wanted = _expected(task, split)
    return {
        "form": copy.form,
        "folder": str(copy.folder),
        "files": dict(kinds),
        "examples": len(found),
        **({"published": wanted} if wanted is not None and wanted != len(found) else {}),
        "checked": checked,
        "not_verified": "which examples they are, and the order of the class numbers"
        if "examples of each class" not in checked
        else "which examples they are",
    }


def form(task: Task, splits: Sequence[str], copy: Copy) -> str:
    """The copy in a word or two, such as "lists, jpg": a setting, so that results of other forms are kept apart."""
    kinds = sorted(
        {
            os.path.splitext(e.name)[1].lower().lstrip(".").replace("jpeg", "jpg")
            for split in splits
            for e in examples(task, split, copy)
        }
    )
    return f"{copy.form}, {' and '.join(kinds)}"


def open_source(task: Task, split: str, copy: Copy) -> Source:
    """The examples of a split, in the copy's order.

    Raises:
      CopyError: as `examples`, or a picture of a list is missing.
    """
    found = examples(task, split, copy)
    missing = [e.path for e in found if not e.offset and not e.path.is_file()]
    if missing:
        raise CopyError(
            f"task {task.name}: {len(missing)} of {len(found)} pictures are missing, first {missing[0]}"
        )

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
        for i in positions:
            example = found[int(i)]
            if not example.offset:
                yield Raw(example.path, example.label)
                continue
            with open(example.path, "rb") as f:
                f.seek(example.offset)
                yield Raw(f.read(example.size), example.label)

    def stamp(example: Example) -> str:
        if example.offset:
            return f"{example.offset} {example.size} {example.label}"
        s = example.path.stat()
        return f"{s.st_size} {s.st_mtime_ns} {example.label}"

    version = hashlib.sha256("\n".join([copy.form, *map(stamp, found)]).encode()).hexdigest()
    return Source([e.name for e in found], read, version)
