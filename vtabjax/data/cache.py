"""The image cache: decoded and resized images of a split as a memory-mapped ``.npy`` file, a JSON beside it.

The JSON is written last and describes the array file, so a pair that does not fit together (a killed run, a
full disk, a file cut off or replaced) is noticed when it is opened, and built again.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import pathlib
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from vtabjax.data.base import CacheError

_log = logging.getLogger(__name__)
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16

# (write a block of images) -> what to keep beside them, as JSON
Build = Callable[[Callable[[np.ndarray], None]], dict]


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the first, the last and evenly spaced pieces: at 4 GB as fast as at 4 MB."""
    size = file.seek(0, os.SEEK_END)
    crc = 0
    for start in sorted({int(x) for x in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES)}):
        file.seek(start)
        crc = zlib.crc32(file.read(_SAMPLE_BYTES), crc)
    return crc


def _read(array_path: pathlib.Path, key: str) -> tuple[np.ndarray, dict] | str | None:
    """The cached images and their description; why they cannot be used; or None where there are none."""
    json_path = array_path.with_suffix(".json")
    if not json_path.exists():
        return "it was never completed" if array_path.exists() else None
    try:
        with open(json_path, encoding="utf-8") as f:
            meta = json.load(f)
        if meta["key"] != key:
            return "its description belongs to other settings"
        with open(array_path, "rb") as f:
            if os.fstat(f.fileno()).st_size != meta["bytes"]:
                return f"it has {os.fstat(f.fileno()).st_size} bytes instead of {meta['bytes']}"
            if _checksum(f) != meta["checksum"]:
                return "its content has changed"
        # An array without elements cannot be memory-mapped.
        images = np.load(array_path, mmap_mode="r" if 0 not in meta["shape"] else None, allow_pickle=False)
        if images.dtype != np.uint8 or list(images.shape) != meta["shape"]:
            return f"it holds {images.dtype} {list(images.shape)} instead of uint8 {meta['shape']}"
        return images, meta["content"]
    except FileNotFoundError:
        return "the array file is missing"
    except (OSError, ValueError, KeyError, TypeError) as e:
        return f"it cannot be read ({e})"


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time build a file. The lock goes with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: both build it, the later one replaces the same content
        yield
        return
    with open(path, "ab") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("another process is building %s; waiting for it", path.stem[1:])
            fcntl.flock(f, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: as above
        yield


def _replace(path: pathlib.Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file in full under another name in the same folder, then gives it its name."""
    # Not tempfile: its files are readable by their owner alone, and caches are shared.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "x+b") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sweep(path: pathlib.Path) -> None:
    """Removes what killed processes left of this file; an hour's age spares those at work without a lock."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _write(array_path: pathlib.Path, key: str, image_shape: tuple[int, ...], n: int, build: Build) -> None:
    meta: dict = {}

    def header(rows: int) -> dict:
        return {"descr": "|u1", "fortran_order": False, "shape": (rows, *image_shape)}

    def write_array(f: BinaryIO) -> None:
        # Written, not memory-mapped: on a full disk a write is an error, a mapped page kills the process.
        np.lib.format.write_array_header_1_0(f, header(n))
        start, rows = f.tell(), 0

        def write(block: np.ndarray) -> None:
            nonlocal rows
            f.write(np.ascontiguousarray(block).data)
            rows += len(block)

        content = build(write)
        if rows != n:  # some were left out; numpy keeps room for the number to change
            f.seek(0)
            np.lib.format.write_array_header_1_0(f, header(rows))
            assert f.tell() == start
        size = f.seek(0, os.SEEK_END)
        meta.update(key=key, shape=[rows, *image_shape], bytes=size, checksum=_checksum(f), content=content)

    _replace(array_path, write_array)
    _replace(array_path.with_suffix(".json"), lambda f: f.write(json.dumps(meta).encode()) and None)


def fetch(
    folder: str | os.PathLike, name: str, key: str, image_shape: tuple[int, ...], n: int, build: Build
) -> tuple[np.ndarray, dict]:
    """Images from the cache; built and put there if they are not there yet.

    Args:
      folder: the cache folder; made if it does not exist.
      name: beginning of the files' names, for people.
      key: hexadecimal digits that stand for everything that determines the images.
      image_shape: shape of one image.
      n: number of images that `build` will write, at most.
      build: writes the images, block by block `[B, *image_shape]`, and returns what else to keep (as JSON).

    Returns:
      Images `[N, *image_shape]` uint8, memory-mapped read-only, and what `build` returned.

    Raises:
      CacheError: the folder cannot be written, or the disk is full. Nothing half-written is left there.
    """
    folder = pathlib.Path(folder).expanduser()
    array_path = folder / f"{name}-{key[:16]}.npy"
    found = _read(array_path, key)
    if isinstance(found, tuple):
        return found
    needed = n * int(np.prod(image_shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{array_path.stem}.lock"):
            _sweep(array_path)
            found = _read(array_path, key)  # another process may have built it meanwhile
            if isinstance(found, tuple):
                return found
            if found:
                _log.warning("image cache: %s is built again: %s", array_path, found)
            if (free := shutil.disk_usage(folder).free) < needed:
                raise CacheError(_too_full(folder, needed, free))
            _write(array_path, key, image_shape, n, build)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(_too_full(folder, needed, shutil.disk_usage(folder).free)) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            why = f"image cache: {folder} cannot be written ({e.strerror}); name another folder"
            raise CacheError(why) from e
        raise
    found = _read(array_path, key)
    if not isinstance(found, tuple):
        raise CacheError(f"image cache: {array_path} was written, but {found}; is the disk sound?")
    return found


def _too_full(folder: pathlib.Path, needed: int, free: int) -> str:
    return (
        f"image cache: no room in {folder}: {needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free; "
        "free some, or name a folder on another disk"
    )
