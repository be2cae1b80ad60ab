"""The image cache: decoded and resized images of a split as a memory-mapped ``.npy`` file, a JSON beside it.

The JSON is written last and describes the array file, so a pair that does not fit together (a killed run, a
full disk, a file cut off or replaced) is noticed when it is opened, and built again. Both carry a checksum over
all they hold, which is looked at once per process: a single bit that differs is noticed, too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import io
import logging
import mmap
import os
import pathlib
import shutil
import time
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from vtabjax.data.types import CacheError
from vtabjax.runtime import files

_log = logging.getLogger(__name__)
_HEADER_BYTES = 128  # of the .npy file; room for any shape that images have


class Blocks(Protocol):
    """Images that are made while one goes through them.

    Attributes:
      content: what to keep beside them, as JSON; it is complete when one has gone through all of them.
    """

    content: dict[str, Any]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of images `[B, *image_shape]` uint8."""


@functools.lru_cache(maxsize=4096)
def _checksum(path: str, stamp: tuple[int, ...]) -> int:
    """CRC-32 of all of an array file. `stamp` tells a file from what stood there before."""
    with open(path, "rb") as f:
        header = f.read(_HEADER_BYTES)
        return zlib.crc32(header, files.crc32(f))  # in this order: how many images there are is known last


def _read(array_path: pathlib.Path, key: str) -> tuple[np.ndarray, dict] | str | None:
    """The cached images and their description; why they cannot be used; or None where there are none."""
    json_path = array_path.with_suffix(".json")
    if not json_path.exists():
        return "it was never completed" if array_path.exists() else None
    try:
        try:
            meta = files.unseal(json_path.read_text(encoding="utf-8"))
        except ValueError as e:
            return f"its description cannot be used ({e})"
        if meta["key"] != key:
            return "its description belongs to other settings"
        found = os.stat(array_path)
        if found.st_size != meta["bytes"]:
            return f"it has {found.st_size} bytes instead of {meta['bytes']}"
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if _checksum(str(array_path), stamp) != meta["checksum"]:
            return "its content has changed"
        # An array without elements cannot be memory-mapped.
        images = np.load(array_path, mmap_mode="r" if 0 not in meta["shape"] else None, allow_pickle=False)
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


def _sweep(path: pathlib.Path) -> None:
    """Removes what killed processes left: those of this machine, and of this file what nobody wrote to for an hour
    (a worker elsewhere would write to it)."""
    files.remove_stale_temporaries(path.parent)
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert out.tell() == _HEADER_BYTES
    return out.getvalue()


def _write(array_path: pathlib.Path, key: str, image_shape: tuple[int, ...], blocks: Blocks) -> None:
    n = crc = 0
    with files.replacing(array_path) as temporary, open(temporary, "wb") as f:
        # Written, not memory-mapped: on a full disk a write is an error, a mapped page kills the process.
        f.write(bytes(_HEADER_BYTES))
        for block in blocks:
            data = np.ascontiguousarray(block).data
            f.write(data)
            crc = zlib.crc32(data, crc)
            n += len(block)
        header, size = _header((n, *image_shape)), f.tell()
        f.seek(0)
        f.write(header)
        f.flush()
        os.fsync(f.fileno())
    meta = {
        "key": key,
        "shape": [n, *image_shape],
        "bytes": size,
        "checksum": zlib.crc32(header, crc),
        "content": blocks.content,
    }
    files.write_text(array_path.with_suffix(".json"), files.seal(meta))


def fetch(
    folder: str | os.PathLike, name: str, key: str, image_shape: tuple[int, ...], n: int, blocks: Blocks
) -> tuple[np.ndarray, dict]:
    """Images from the cache; built and put there if they are not there yet.

    Args:
      folder: the cache folder; made if it does not exist.
      name: beginning of the files' names, for people.
      key: hexadecimal digits that stand for everything that determines the images.
      image_shape: shape of one image.
      n: number of images in `blocks`, at most.
      blocks: makes the images; it is not touched if they are there.

    Returns:
      Images `[N, *image_shape]` uint8, memory-mapped read-only, and the content of their blocks.

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
            _write(array_path, key, image_shape, blocks)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(_too_full(folder, needed, shutil.disk_usage(folder).free)) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            why = f"image cache: {folder} cannot be written ({e.strerror}); name another folder"
            if isinstance(found, str):
                why += f" ({array_path.name} would have to be built again: {found})"
            raise CacheError(why) from e
        raise
    found = _read(array_path, key)
    if not isinstance(found, tuple):
        raise CacheError(f"image cache: {array_path} was written, but {found}; is the disk sound?")
    return found


def release(images: np.ndarray) -> None:
    """Lets go of the memory that the pages of a cached file take, after a pass over them; reading brings them back."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _too_full(folder: pathlib.Path, needed: int, free: int) -> str:
    return (
        f"image cache: no room in {folder}: {needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free; "
        "free some, or name a folder on another disk"
    )
