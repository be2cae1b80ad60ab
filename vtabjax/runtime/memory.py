"""The memory of processes of this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Iterator

_CGROUP = "/sys/fs/cgroup"


def rss(pid: int) -> int:
    """A process's resident memory in bytes; 0 where the system does not tell (outside Linux) or it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def available() -> float:
    """Bytes that new processes may use, as far as the system and its container tell; 16 GB otherwise."""
    try:
        with open("/proc/meminfo") as f:
            free = _number(r"MemAvailable:\s+(\d+)", f.read()) * 1024.0
    except (OSError, ValueError):
        free = 16e9
    try:  # a container has a limit of its own (control groups, version 2); its file cache is free for the taking
        with open(f"{_CGROUP}/memory.max") as limit, open(f"{_CGROUP}/memory.current") as used:
            with open(f"{_CGROUP}/memory.stat") as stat:
                cache = _number(r"inactive_file (\d+)", stat.read())
                free = min(free, float(limit.read()) - float(used.read()) + cache)
    except (OSError, ValueError):  # no container, or "max"
        pass
    return max(free, 0.0)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in the system's text")
    return int(found[1])


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """While objects are made by the million, none of them in cycles: to look for cycles again and again takes longer
    than to make them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
