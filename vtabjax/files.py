"""Files that are there completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

# Temporary files carry the writer's host and process, so that what a killed run left can be told from what
# another worker is writing now.
_TEMPORARY = re.compile(r"^\..*\.(?P<host>[^.]+)\.(?P<pid>\d+)\.tmp$")


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname()) or "host"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder; what was written there becomes `path` when the block ends
    well.

    Missing folders are made. Nothing stays behind when the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically, over one that may be there."""
    with replacing(path) as temporary:
        _write(temporary, text)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())  # or a power cut may leave a name with nothing in it


def create_text(path: str | os.PathLike, text: str) -> bool:
    """Writes a text file atomically unless there is one already: of several writers exactly one gets True."""
    path = Path(path)
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


def sweep_temporaries(folder: str | os.PathLike) -> int:
    """Removes temporary files that dead processes of this machine left under `folder`; returns how many."""
    removed = 0
    for root, _, names in os.walk(folder):
        for name in names:
            match = _TEMPORARY.match(name)
            if match and match["host"] == _host() and not _alive(int(match["pid"])):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(root, name))
                    removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
