"""Reading data sets that tensorflow-datasets (tfds) has prepared.

A folder prepared as array_record files is read without TensorFlow, one prepared as tfrecord files with it.
Images are handed on encoded in both cases, so that the same decoder gives the same pixels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from vtabjax import installation, tasks
from vtabjax.data.types import DataError, NotPreparedError, Raw, Source
from vtabjax.runtime import tfds_records
from vtabjax.tasks import Range, Task

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_log = logging.getLogger(__name__)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_data_dir() -> str:
    """Where tfds keeps data sets if it is not told otherwise."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def resolve_data_dir(data_dir: str | os.PathLike | None) -> epath.Path:
    """`data_dir`, or tfds's default; ``~`` is expanded."""
    return epath.Path(data_dir or default_data_dir()).expanduser()


def builder_name(task: Task) -> str:
    """``name`` or ``name/config`` of a task's tfds builder."""
    return task.builder.partition(":")[0]


def versions(task: Task) -> tuple[str, ...]:
    """Version patterns a task can be read from, the benchmark's own first."""
    return (task.builder.partition(":")[2], *task.compatible_versions)


def matches(version: str, pattern: str) -> bool:
    """Whether a version such as 3.0.1 fits a pattern such as 3.*.*."""
    return all(p in ("*", v) for v, p in zip(version.split("."), pattern.split("."), strict=True))


def prepare_command(task: Task, data_dir: str | os.PathLike | None) -> str:
    """The command that prepares a task's data set."""
    where = f" --config.data_dir={data_dir}" if data_dir else ""
    return f"{installation.command()} --config=configs/prepare.py --config.tasks={task.name}{where}"


def manual_dir(data_dir: str | os.PathLike | None) -> epath.Path:
    """Where tfds looks for what was downloaded by hand."""
    return resolve_data_dir(data_dir) / "downloads" / "manual"


def _not_prepared(task: Task, data_dir: str | os.PathLike | None, why: str) -> NotPreparedError:
    by_hand = ""
    if task.manual_download:
        by_hand = f"\nFirst download by hand: {task.manual_download.format(manual_dir=manual_dir(data_dir))}"
    return NotPreparedError(
        f"task {task.name}: {why}{by_hand}\nPrepare it with: {prepare_command(task, data_dir)}"
    )


def locate(task: Task, data_dir: str | os.PathLike | None = None) -> epath.Path:
    """The folder of a task's prepared data set, ``data_dir/name[/config]/version``.

    Raises:
      NotPreparedError: there is none of a version that fits.
    """
    root = resolve_data_dir(data_dir) / builder_name(task)
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    found = sorted((n for n in names if _VERSION.fullmatch(n)), key=lambda v: [int(x) for x in v.split(".")])
    for pattern in versions(task):
        fitting = [v for v in found if matches(v, pattern)]
        if fitting:
            return root / fitting[-1]
    why = f"{builder_name(task)} {' or '.join(versions(task))} is not prepared in {root.parent}"
    if found:
        why = f"{root} holds version {', '.join(found)}, but the task needs {' or '.join(versions(task))}"
    if any("incomplete" in n for n in names):
        why += f" (an interrupted preparation lies in {root}; preparing again starts it anew)"
    raise _not_prepared(task, data_dir, why)


@functools.lru_cache(maxsize=64)
def _builder(folder: str, info: bytes) -> tfds.core.DatasetBuilder:
    """tfds's reader of a folder; `info` tells a folder that was prepared anew from what it was before."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


@functools.cache
def _warn_sizes(folder: str, differences: tuple[str, ...]) -> None:
    """Says once per data set that its sizes are not the published ones."""
    text = ", ".join(differences)
    _log.warning("%s differs from the published data set: %s. The splits follow what is there.", folder, text)


def open_builder(task: Task, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """tfds's reader of a task's prepared data set, after a check that all of its files are there.

    Raises:
      NotPreparedError: not prepared, in another version, or files are missing.
    """
    folder = locate(task, data_dir)
    installation.require("data", f"reading {folder}", "tensorflow_datasets", "array_record")
    try:
        builder = _builder(str(folder), (folder / "dataset_info.json").read_bytes())
        features = builder.info.features
    except Exception as e:  # tfds raises a different type for each file that is missing or cut off
        raise _not_prepared(task, data_dir, f"{folder} is not a complete data set ({_first_line(e)})") from e
    needed = _needed(task)
    for split in needed:
        if split not in builder.info.splits:
            raise _not_prepared(task, data_dir, f"{folder} lacks the split {split}")
        files = builder.info.splits[split].filepaths
        missing = [file for file in files if not epath.Path(file).exists()]
        if missing:
            why = f"{len(missing)} of {len(files)} files of split {split} are missing, first {missing[0]}"
            raise _not_prepared(task, data_dir, why)
    lacking = [name for name in ("image", *task.label_fields) if name not in features]
    if lacking:
        raise _not_prepared(task, data_dir, f"{folder} lacks the field {', '.join(lacking)}")
    sizes = split_sizes(builder)
    differ = [s for s in needed if sizes[s] != task.sizes[s]]
    if differ:
        _warn_sizes(
            str(folder), tuple(f"{s} has {sizes[s]:,} examples, not {task.sizes[s]:,}" for s in differ)
        )
    return builder


def _needed(task: Task) -> list[str]:
    """The data set's splits that a task uses."""
    return sorted({part.split for parts in task.parts.values() for part in parts})


def open_whole(task: Task, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """`open_builder` after a look at every file: is it whole, does it hold as many examples as dataset_info.json says?

    Raises:
      NotPreparedError: as `open_builder`, and where a file is cut off.
    """
    builder = open_builder(task, data_dir)
    for split in _needed(task):
        if wrong := _unsound(builder, split, tuple(map(_stamp, builder.info.splits[split].filepaths))):
            raise _not_prepared(task, data_dir, f"{builder.data_dir} is damaged: {wrong}")
    return builder


class _Stamp(NamedTuple):
    size: int
    changed: float


def _stamp(file: str | os.PathLike) -> _Stamp:
    found = epath.Path(file).stat()
    return _Stamp(found.length, found.mtime)


@functools.lru_cache(maxsize=256)
def _unsound(builder: tfds.core.DatasetBuilder, split: str, stamps: tuple[_Stamp, ...]) -> str:
    """What is wrong with the files of a split, "" if nothing is: how many records each holds, not what is in them."""
    info = builder.info.splits[split]
    array_record = builder.info.file_format.value == "array_record"
    # tfds counts the bytes of the examples; each has a frame of 16. Where the sum is right, no file is looked into.
    if not array_record and sum(s.size for s in stamps) == info.num_bytes + 16 * info.num_examples:
        return ""
    count = _records_of_array_record if array_record else _records_of_tfrecord
    for file, expected in zip(info.filepaths, info.shard_lengths, strict=True):
        name = os.path.basename(file)
        try:
            found = count(os.fspath(file))
        except Exception as e:  # the reader has no error type of its own
            return f"{name} is cut off or no such file at all ({_first_line(e)})"
        if found != expected:
            return f"{name} holds {found:,} examples, and dataset_info.json says {expected:,}"
    return ""


def _records_of_array_record(path: str) -> int:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(path)
    try:
        if not reader.ok():
            reader.num_records()  # raises, with what is wrong
            raise OSError("it cannot be read")
        return reader.num_records()
    finally:
        with contextlib.suppress(RuntimeError):  # raised again by a reader that is not well
            reader.close()


def _records_of_tfrecord(path: str) -> int:
    """Goes from frame to frame: length (8 bytes), its checksum (4), the example, its checksum (4)."""
    n, position = 0, 0
    with epath.Path(path).open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        while position < size:
            f.seek(position)
            position += 16 + int.from_bytes(f.read(8), "little")
            n += 1
    if position != size:
        raise EOFError(f"it ends within example {n - 1}")
    return n


def split_sizes(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    """Examples in each split of a prepared data set."""
    return {name: info.num_examples for name, info in builder.info.splits.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def open_source(task: Task, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """The examples of a task's split, exactly the benchmark's and in its order.

    Raises:
      NotPreparedError: the data set is not prepared.
    """
    builder = open_builder(task, data_dir)
    sizes = split_sizes(builder)
    pieces = tasks.ranges(task, split, sizes)
    ids: list[str] = []
    for piece in pieces:
        for file in builder.info.splits[tasks.notation([piece], sizes)].file_instructions:
            n = file.take if file.take >= 0 else file.examples_in_shard - file.skip
            ids.extend(f"{file.basename()}__{file.skip + i}" for i in range(n))

    random_access = builder.info.file_format.value == "array_record"

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Raw]:
        at = 0
        if not len(positions):
            return
        try:
            if random_access:
                examples = _read_any(builder, tasks.notation(pieces, sizes), positions)
            else:
                examples = _read_range(builder, _within(pieces, positions[0], positions[-1] + 1), sizes)
            for example in examples:
                label = task.label(example)
                if not 0 <= label < task.num_classes:
                    raise ValueError(f"its label {label} is not in 0 ... {task.num_classes - 1}")
                yield Raw(example["image"], label)
                at += 1
            if at < len(positions):
                raise EOFError("the file ends there")
        except Exception as e:  # the readers of the file formats have no error type in common
            raise DataError(
                f"task {task.name}, split {split}: cannot read {ids[positions[at]]} in {builder.data_dir} "
                f"({_first_line(e)}). The data set is damaged: move the folder away and prepare it anew with\n"
                f"{prepare_command(task, data_dir)}"
            ) from e

    info = builder.info
    shards = {s: [info.splits[s].shard_lengths, int(info.splits[s].num_bytes)] for s in sorted(sizes)}
    version = f"{info.full_name} {info.file_format.value} {tasks.notation(pieces, sizes)} {shards}"
    return Source(ids, read, version, random_access)


def _within(pieces: list[Range], start: int, stop: int) -> list[Range]:
    """The examples number `start` to `stop` of consecutive ranges."""
    cut = []
    for piece in pieces:
        size = piece.stop - piece.start
        low, high = max(start, 0), min(stop, size)
        if low < high:
            cut.append(Range(piece.split, piece.start + low, piece.start + high))
        start, stop = start - size, stop - size
    return cut


def _read_any(
    builder: tfds.core.DatasetBuilder, split: str, positions: Sequence[int] | np.ndarray
) -> Iterator[dict[str, Any]]:
    """Examples in any order, from array_record files, as dicts of numpy values."""
    examples = builder.as_data_source(split=split, decoders=tfds_records.encoded(builder))
    for i in positions:
        yield examples[int(i)]


def _read_range(
    builder: tfds.core.DatasetBuilder, pieces: list[Range], sizes: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Examples in the order of the files, from tfrecord files, as dicts of numpy values."""
    for piece in pieces:
        yield from tfds_records.in_order(builder, tasks.notation([piece], sizes))
