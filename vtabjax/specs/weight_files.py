"""What the path of a checkpoint or of a model stands for (a file, shards, a folder), and the hash of its content.

Nothing here reads tensors, and nothing but regular files is ever opened: a pipe would wait for ever.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtabjax.runtime import files

STORE = "files"  # the folder, beside what is made from weight files, that remembers their hashes
# What a folder of weights holds, the first that is there: names of transformers, timm and open_clip.
_IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
_INDEX_BYTES = 64 << 20  # an index is text and never as large as that
_RACY = 2.0  # seconds: a file that young may change again without its time showing it


class WeightFileError(ValueError):
    """A path that holds no weights; the message names it and says why."""


class MissingError(WeightFileError):
    """There is nothing under the path."""


def parts(path: str | os.PathLike) -> list[Path]:
    """The regular files that a path stands for: itself; an index and its shards; those of a folder's weights.

    Raises:
      MissingError: nothing is there.
      WeightFileError: it is not a regular file, empty, a folder without weights, or an index without its shards.
    """
    path = Path(path)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return parts(_in_folder(path))
    if not stat.S_ISREG(mode):
        raise WeightFileError(
            f"{path} is not a regular file but {_kind(mode)}; name the file of the weights itself"
        )
    if not path.stat().st_size:
        raise WeightFileError(f"{path} is empty; copy or download it again")
    if not os.access(path, os.R_OK):
        raise WeightFileError(f"the weight file {path} is not readable")
    index = read_index(path)
    if index is None:
        return [path]
    shards = [path.parent / name for name in sorted(set(index.values()))]
    if not shards:
        raise WeightFileError(f"{path} is an index of shards, but its weight_map names no tensors")
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise WeightFileError(
            f"{path} is an index of {len(shards)} shards, of which {len(missing)} are not beside it: "
            f"{', '.join(missing[:3])}"
        )
    return [path, *shards]


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError as e:
        raise MissingError(f"there is no weight file {path}") from e
    except (OSError, ValueError) as e:  # ValueError: a null byte in the path
        raise WeightFileError(
            f"cannot read the weight file {path}: {getattr(e, 'strerror', None) or e}"
        ) from e


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if (folder / name).exists():
            return folder / name
    try:
        found = sorted(p for p in folder.iterdir() if p.name.lower().endswith(_SUFFIXES) and p.is_file())
    except OSError as e:
        raise WeightFileError(f"cannot read the folder {folder}: {e.strerror}") from e
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found[:5]) + (", ..." if len(found) > 5 else "")
        raise WeightFileError(
            f"{folder} is a folder with {len(found)} weight files ({names}); name one of them"
        )
    raise WeightFileError(f"{folder} is a folder, not a weight file{_foreign(folder)}")


def _foreign(folder: Path) -> str:
    """What else a folder without weight files is, where that is known."""
    if (folder / ".metadata").exists() or any(folder.glob("*.distcp")):
        return (
            ", of torch.distributed.checkpoint; turn it into one file with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch`"
        )
    if (folder / "saved_model.pb").exists():
        return ": it is a TensorFlow SavedModel, which is not read"
    if (folder / "model.json").exists() and (folder / "graph.json").exists():
        return ": it is a converted model, which needs no conversion"
    return "; it holds no model.safetensors, pytorch_model.bin or other file of weights"


def read_index(path: str | os.PathLike) -> dict[str, str] | None:
    """The map {tensor: shard} of an index of shards, told by its content; None for any other file."""
    path = Path(path)
    if path.stat().st_size > _INDEX_BYTES:
        return None
    with open(path, "rb") as f:
        if f.read(1) not in (b"{", b" ", b"\n", b"\r", b"\t"):
            return None
        f.seek(0)
        try:
            found = json.loads(f.read().decode("utf-8")).get("weight_map")
        except (ValueError, AttributeError):
            return None
    if not isinstance(found, dict):
        return None
    return {str(tensor): os.path.basename(str(shard)) for tensor, shard in found.items()}


def model_parts(path: str | os.PathLike) -> list[Path]:
    """The regular files that a whole model consists of: a file; of a repository's folder also what configures it.

    Of a converted model's folder they are ``graph.json`` and ``model.json``, which has the hash of the weights.

    Raises:
      WeightFileError: as `parts`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingError(f"there is no file or folder {path}")
    converted = [path / "graph.json", path / "model.json"]
    if all(part.is_file() for part in converted):
        return converted
    if path.is_dir():
        return list(dict.fromkeys([*sorted(p for p in path.glob("*.json") if p.is_file()), *parts(path)]))
    return parts(path)


def code_parts(function: str) -> list[Path]:
    """The Python files of the package (or the module) that ``package.module:function`` is in; imports nothing.

    Raises:
      MissingError: there is no such module.
    """
    top = function.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(top) or importlib.machinery.PathFinder.find_spec(
        top, [os.getcwd(), *sys.path]
    )
    folders = [Path(p) for p in (found.submodule_search_locations or ())] if found else []
    files_ = [p for folder in folders for p in sorted(folder.rglob("*.py"))]
    if found and not folders and found.origin and Path(found.origin).is_file():
        files_ = [Path(found.origin)]
    if not files_:
        raise MissingError(
            f"there is no Python module {top!r} in the current folder or among what is installed"
        )
    return files_


def digest(
    path: str | os.PathLike,
    store: str | os.PathLike | None = None,
    find: Callable[[Any], list[Path]] | None = None,
) -> str:
    """SHA-256, in hexadecimal, of a weight file's content; where there are several files, over all of them.

    Each file is read once in a process, and again when it changed.

    Args:
      path: what `find` takes.
      store: a folder that remembers hashes between processes. With it the hash of a file that was moved away is
        still known, so that its results can be found.
      find: gives the files: `parts` (the default), `model_parts` or `code_parts`.

    Raises:
      WeightFileError: as `find`.
    """
    try:
        found = (find or parts)(path)
    except MissingError:
        known = _recall(path, store)
        if known is None:
            raise
        return known["sha256"]
    stamps = tuple(_stamp(part) for part in found)
    known = _recall(path, store)
    if known is not None and known["stamps"] == [list(stamp) for stamp in stamps] and not _young(found):
        return known["sha256"]
    try:
        digests = [
            _file_digest(stamp) if not _young([p]) else _read(p)
            for stamp, p in zip(stamps, found, strict=True)
        ]
    except OSError as e:
        raise WeightFileError(f"cannot read the weight file {path}: {e.strerror}") from e
    total = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    _remember(path, store, {"path": os.path.abspath(path), "stamps": stamps, "sha256": total}, known)
    return total


def _stamp(path: Path) -> tuple[str, int, int, int, int]:
    """What changes when a file does: a rewritten file may keep its size and be given its old time."""
    s = path.stat()
    return os.path.realpath(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino


def _young(paths: list[Path]) -> bool:
    return any(time.time() - path.stat().st_mtime < _RACY for path in paths)


@functools.cache
def _file_digest(stamp: tuple[str, int, int, int, int]) -> str:
    return _read(Path(stamp[0]))


def _read(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _record(path: str | os.PathLike, store: str | os.PathLike) -> Path:
    # One small file for each: workers that share the folder never write over each other's.
    return files.as_path(store) / f"{hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]}.json"


def _recall(path: str | os.PathLike, store: str | os.PathLike | None) -> dict[str, Any] | None:
    if store is None:
        return None
    try:
        found = json.loads(_record(path, store).read_text(encoding="utf-8"))
        return found if found["sha256"] and found["stamps"] else None
    except Exception:  # not there or not readable: hashed again (an object store has errors of its own)
        return None


def _remember(path: Any, store: Any, record: dict[str, Any], known: dict[str, Any] | None) -> None:
    if store is None or (
        known is not None and known["sha256"] == record["sha256"] and not _changed(record, known)
    ):
        return
    try:
        files.write_text(_record(path, store), json.dumps(record, indent=1))
    except Exception:  # a folder that cannot be written to: nothing is lost but the time of hashing
        return


def _changed(record: dict[str, Any], known: dict[str, Any]) -> bool:
    return [list(stamp) for stamp in record["stamps"]] != known["stamps"]
