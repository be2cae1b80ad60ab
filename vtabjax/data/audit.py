"""Your own pictures looked through before anything is computed: every picture of every split, decoded once.

Finds what cannot be read or is too large, by how many bits greys are stored, and equal pictures. What was found is kept
in the image cache under the files' names, sizes and times.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtabjax import tasks
from vtabjax.data import copies, decoding, images, pictures
from vtabjax.data.pictures import Depth, Reading
from vtabjax.data.sources import rows
from vtabjax.data.types import BrokenImageError
from vtabjax.runtime import bars, files
from vtabjax.tasks import PictureFile, Task

_LISTED = 3  # files that a message names
_records: dict[str, dict[str, Any]] = {}  # what was found in this process
_bits: dict[str, int] = {}
_looks: dict[str, dict[str, _Look]] = {}  # of the last task that was looked through


class _Look(NamedTuple):
    """A picture: its pixels' hash, its values' depth if unusual; or why it is broken or too large."""

    hash: int = 0
    depth: Depth | None = None
    nothing: bool = False  # every pixel is transparent
    broken: str = ""
    too_large: str = ""


def _look(picture: Path | bytes, reading: Reading) -> _Look:
    try:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        image, raw_mode = pictures.load(data, upright=True, max_pixels=reading.max_pixels)
        depth, nothing = pictures.depth(image, raw_mode), pictures.shows_nothing(image)
        if depth is None or depth.kind == "colour":
            array = images.to_array(pictures.flatten(image, raw_mode, reading._replace(bits=16)))
        else:  # by how many bits they are scaled is not known yet
            array = np.ascontiguousarray(np.asarray(image)[:, :, None]).view(np.uint8)
        return _Look(copies.pixel_hash(array), depth, nothing)
    except pictures.TooLargeError as e:
        return _Look(too_large=str(e))
    except (OSError, ValueError) as e:
        return _Look(broken=str(e))


def _peek(picture: Path | bytes, reading: Reading) -> _Look:
    """The depth alone; of most pictures the beginning of the file tells it."""
    beginning = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    return _look(picture, reading) if pictures.may_be_deep(beginning) else _Look()


def _all(task: Task) -> Iterator[tuple[str, PictureFile]]:
    return ((split, file) for split, own in task.files.items() for file in own)


@functools.lru_cache(maxsize=32)
def _key(task: Task, reading: Reading) -> str:
    listed = [[split, f.name, f.label, f.stamp] for split, f in _all(task)]
    text = json.dumps([1, task.name, reading.background, reading.max_pixels, listed])
    return hashlib.sha256(text.encode()).hexdigest()


def _through(
    task: Task, look: Callable[[Path | bytes, Reading], _Look], reading: Reading, what: str
) -> dict[str, _Look]:
    found = [file for _, file in _all(task)]
    # The folds of a task hold the same pictures.
    about = [
        tasks.without_fold(task.name)[0],
        look.__name__,
        *reading,
        sorted([f.name, f.stamp] for f in found),
    ]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    if digest in _looks:
        return _looks[digest]
    encoded: Iterator[Path | bytes]
    if task.rows is not None:
        found.sort(key=lambda file: file.row)
        encoded = rows.read_rows(task, [file.row for file in found])
    else:
        encoded = (file.path for file in found if file.path is not None)
    looks = decoding.in_parallel(encoded, lambda chunk: [look(picture, reading) for picture in chunk])
    bar = bars.bar(
        itertools.chain.from_iterable(looks),
        f"{task.name} {what}",
        len(found),
        unit="image",
        disable=not what,
    )
    _looks.clear()
    _looks[digest] = {file.name: result for file, result in zip(found, bar, strict=True)}
    return _looks[digest]


def record(task: Task, reading: Reading, cache_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """What there is to know of an own task's pictures; looks through them if no earlier run has.

    Args:
      task: an own task.
      reading: background and limit of size.
      cache_dir: where it is kept.

    Returns:
      {"broken", "too_large": {name: reason}, "bits": see `Reading`, "depth_error": why the values cannot be read or "",
      "deep": {"pictures", "highest"} of those with more than 8 bits, "copies": see `vtabjax.data.copies.count`,
      "transparent": names of those that are transparent everywhere}
    """
    key = _key(task, reading)
    path = record_path(task, reading, cache_dir)
    if key not in _records:
        _records[key] = _read(path, key) or _make(task, reading, key, path)
    return _records[key]


def record_path(task: Task, reading: Reading, cache_dir: str | os.PathLike | None) -> Path | None:
    """Where `record` keeps what it found."""
    if cache_dir is None:
        return None
    return files.as_path(cache_dir) / f"{task.file_stem}-audit-{_key(task, reading)[:16]}.json"


def _read(path: Path | None, key: str) -> dict[str, Any] | None:
    try:
        kept = files.unseal(path.read_text(encoding="utf-8")) if path is not None else {}
        return kept["found"] if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(task: Task, reading: Reading, key: str, path: Path | None) -> dict[str, Any]:
    looks = _through(task, _look, reading, "check")
    good = {name: look for name, look in looks.items() if not look.broken and not look.too_large}
    deep = {name: look.depth for name, look in good.items() if look.depth is not None}
    bits, error = _shared_bits(deep)
    splits = {
        split: copies.Pictures(
            np.asarray([good[f.name].hash for f in own if f.name in good], np.uint64),
            np.asarray([f.label for f in own if f.name in good], np.int64),
        )
        for split, own in task.files.items()
    }
    found = {
        "broken": {name: look.broken for name, look in looks.items() if look.broken},
        "too_large": {name: look.too_large for name, look in looks.items() if look.too_large},
        "bits": bits,
        "depth_error": error,
        "deep": {"pictures": len(deep), "highest": max(d.high for d in deep.values())} if deep else {},
        "copies": copies.count(splits),
        "transparent": [name for name, look in good.items() if look.nothing],
    }
    if path is not None:
        try:
            files.write_text(path, files.seal({"key": key, "found": found}))
        except OSError:
            pass  # the cache cannot be written, which is told when images go there
    return found


def _shared_bits(deep: Mapping[str, Depth]) -> tuple[int, str]:
    try:
        return pictures.bits(deep), ""
    except pictures.DepthError as e:
        return 0, str(e)


def reading(task: Task, wanted: Reading, cache_dir: str | os.PathLike | None = None) -> Reading:
    """How an own task's pictures are read: `wanted`, with the number of bits that its greys of 16 bits share.

    Raises:
      BrokenImageError: the values of some have no agreed black and white.
    """
    key = _key(task, wanted)
    found = _records.get(key) or _read(record_path(task, wanted, cache_dir), key)
    if found is not None:
        bits, error = found["bits"], found["depth_error"]
    elif key in _bits:
        bits, error = _bits[key], ""
    else:
        looks = _through(task, _peek, wanted, "")
        bits, error = _shared_bits(
            {name: look.depth for name, look in looks.items() if look.depth is not None}
        )
    if error:
        raise BrokenImageError(f"task {task.name}: {error}")
    _bits[key] = bits
    return wanted._replace(bits=bits)


def check(task: Task, found: Mapping[str, Any], *, skip_broken: bool, path: Path | None = None) -> None:
    """Refuses a task with what cannot be read, all of it at once.

    Args:
      task: an own task.
      found: its `record`.
      skip_broken: go on without what cannot be read. (What is too large is no damage, and is refused all the same.)
      path: the file that lists everything.

    Raises:
      BrokenImageError: the message names the first of them and says what to do.
    """
    told = []
    broken = {**task.problems, **found["broken"]}
    if broken and not skip_broken:
        told.append(
            f"{_files(len(broken))} cannot be read; repair or remove them, or go on without them with "
            "--config.skip_broken=true:" + _list(broken, path)
        )
    if found["too_large"]:
        told.append(
            f"{_files(len(found['too_large']))} too large; make them smaller, or raise the limit with "
            "--config.max_pixels (each pixel takes 3 bytes or more while it is read):"
            + _list(found["too_large"], path)
        )
    if found["depth_error"]:
        told.append(found["depth_error"])
    if told:
        raise BrokenImageError(f"task {task.name}: " + "\n".join(told))


def _files(n: int) -> str:
    return f"{n:,} file{'s' * (n != 1)}"


def _list(reasons: Mapping[str, str], path: Path | None) -> str:
    lines = [f"\n  {name}: {why}" for name, why in list(reasons.items())[:_LISTED]]
    if len(reasons) > _LISTED:
        lines.append(
            f"\n  and {len(reasons) - _LISTED:,} more" + (f" (all of them in {path})" if path else "")
        )
    return "".join(lines)
