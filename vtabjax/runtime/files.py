"""Files that are there completely or not at all, on file systems and in object stores.

A file system has renames: a file is written under another name and renamed. An object store (``gs://...``, through
`etils.epath`) has none that are atomic, and needs none: an object is there when its upload is complete. What is more
than one file (a converted model) has one that is written last and says that the others are there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# Temporary files and folders carry the writer's host and process, so that what a killed run left can be told from
# what another worker is writing now.
_OWNER = re.compile(r"\.(?P<host>[^.]+)\.(?P<pid>\d+)(\.tmp|\.orbax-checkpoint-tmp.*)?$")


def as_path(path: str | os.PathLike) -> Path:
    """A path; for a URL such as ``gs://bucket/runs`` one with the same methods that reaches there."""
    if is_remote(path):
        from etils import epath

        return epath.Path(path)
    return Path(path)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an object store's."""
    return "://" in os.fspath(path)


def host() -> str:
    """This machine's name, as part of a file name."""
    return re.sub(r"[^\w-]", "_", socket.gethostname()) or "host"


def owner() -> str:
    """This process, as the end of the name of what it alone may remove while it lives."""
    return f".{host()}.{os.getpid()}"


def is_abandoned(name: str) -> bool:
    """Whether the process that `owner` put into a file's name ran on this machine and is gone."""
    match = _OWNER.search(name)
    return match is not None and match["host"] == host() and not _alive(int(match["pid"]))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{owner()}.tmp")


def _temporary_folder(path: Path) -> Path:
    """A new folder beside `path`."""
    # Not tempfile: its folders are their owner's alone, and models are shared.
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{owner()}.tmp")
    folder.mkdir()
    return folder


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder (of an object store: a local one); what was written there becomes
    `path` when the block ends well.

    Missing folders are made. Nothing stays behind when the block raises.
    """
    path = as_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="vtabjax-") as folder:
            yield Path(folder) / path.name
            upload(Path(folder) / path.name, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike, unless: str = "") -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which becomes `path` when the block ends well.

    Missing folders are made. Nothing stays behind when the block raises. Of several writers at once each succeeds.

    Args:
      path: the folder; one that is there is replaced.
      unless: a folder that has a file of this name stays: somebody else was faster, and may be reading it.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_folder(path)
    try:
        yield temporary
        while not _renamed(temporary, path):
            if unless and (path / unless).exists():
                break
            old = _temporary_folder(path)
            with contextlib.suppress(FileNotFoundError):  # another writer moved it away
                path.rename(old / "old")
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Renames a folder; whether that went, or there was another one."""
    try:
        source.rename(target)
        return True
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically, over one that may be there."""
    if is_remote(path):
        as_path(path).write_text(text)
        return
    with replacing(path) as temporary:
        _write(temporary, text)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())  # or a power cut may leave a name with nothing in it


def create_text(path: str | os.PathLike, text: str) -> bool:
    """Writes a text file atomically unless there is one already: of several writers exactly one gets True.

    In an object store two that come at the same moment may both get it: the later one's content stays.
    """
    path = as_path(path)
    if is_remote(path):
        if path.exists():
            return False
        path.write_text(text)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        _write(temporary, text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            # A file system without hard links (some network and cloud mounts): the gap between looking and
            # renaming is the best there is.
            if path.exists():
                return False
            os.replace(temporary, path)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def upload(source: Path, target: Path) -> None:
    """Copies a local file into an object store."""
    with open(source, "rb") as f, target.open("wb") as g:
        shutil.copyfileobj(f, g, 1 << 24)


def upload_tree(source: Path, target: Path, last: str) -> None:
    """Copies a local folder into an object store; the file `last`, which says that it is complete, comes last."""
    names = sorted(p for p in source.rglob("*") if p.is_file())
    for path in sorted(names, key=lambda p: p == source / last):
        upload(path, target / path.relative_to(source).as_posix())


def download_tree(source: Path, target: Path, last: str) -> None:
    """Copies a folder of an object store to a local one, which appears when it is complete and has a file `last`."""
    with replacing_folder(target, unless=last) as temporary:
        pending = [source]
        while pending:
            folder = pending.pop()
            for path in folder.iterdir():
                if path.is_dir():
                    pending.append(path)
                    continue
                here = temporary / path.relative_to(source)
                here.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as f, open(here, "wb") as g:
                    shutil.copyfileobj(f, g, 1 << 24)


def remove_stale_temporaries(folder: str | os.PathLike) -> int:
    """Removes temporary files and folders that dead processes of this machine left under `folder`; returns how many."""
    removed = 0
    if is_remote(folder):
        return removed  # nothing is ever half there
    for root, folders, names in os.walk(os.fspath(folder)):
        for name in [n for n in folders if _is_leftover(n)]:
            folders.remove(name)  # nothing to look for in there
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
            removed += 1
        for name in filter(_is_leftover, names):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(root, name))
                removed += 1
    return removed


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp") and is_abandoned(name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


# The CRC-32 of anything that is followed by its own CRC-32 (four bytes, the lowest first).
SOUND = 0x2144DF1C


def seal(content: Any) -> str:
    """`content` as JSON text that begins with a digest of the rest, so that `unseal` notices every change."""
    text = json.dumps(content)
    return f'{{"digest": "{hashlib.sha256(text.encode()).hexdigest()}", "content": {text}}}'


def unseal(text: str) -> Any:
    """What `seal` was given.

    Raises:
      ValueError: `seal` did not make this text, or a character of it is another one since.
    """
    try:
        content = json.loads(text)["content"]
    except (KeyError, TypeError, RecursionError) as e:
        raise ValueError("another version or another program wrote it") from e
    if seal(content) != text:  # compared as text: JSON has several ways to write one and the same content
        raise ValueError("its content has changed")
    return content


def crc32(file: BinaryIO, start: int = 0) -> int:
    """CRC-32 of a file from where it stands to its end, going on from `start`; no flipped bit leaves it as it is."""
    while block := file.read(1 << 22):
        start = zlib.crc32(block, start)
    return start
