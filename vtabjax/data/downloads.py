"""Hosts that do not answer, told before tensorflow-datasets tries for minutes; and how far a download is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 10.0  # that a host has to answer
_PORTS = {"http": 80, "https": 443, "ftp": 21}


def unreachable(urls: Iterable[str], seconds: float = SECONDS) -> dict[str, str]:
    """The hosts of URLs that do not answer in time, and why; all are asked at once.

    Behind a proxy (HTTPS_PROXY and its like) nothing can be said without a request: none is unreachable then.
    """
    if urllib.request.getproxies():
        return {}
    hosts = {(u.hostname, u.port or _PORTS.get(u.scheme, 443)) for u in map(urlsplit, urls) if u.hostname}
    pool = concurrent.futures.ThreadPoolExecutor(max(1, len(hosts)))
    asked = {pool.submit(_connect, host, port, seconds): host for host, port in sorted(hosts)}
    done, late = concurrent.futures.wait(asked, seconds)
    pool.shutdown(wait=False, cancel_futures=True)  # a resolver may hang for longer
    failed = {asked[future]: reason for future in done if (reason := future.result())}
    return failed | {asked[future]: f"no answer in {seconds:g} s" for future in late}


def _connect(host: str, port: int, seconds: float) -> str:
    """Why a host does not answer; empty where it does."""
    try:
        socket.create_connection((host, port), seconds).close()
    except socket.gaierror:
        return "its name does not resolve"
    except TimeoutError:
        return f"no answer in {seconds:g} s"
    except OSError as e:
        return e.strerror or type(e).__name__
    return ""


@contextlib.contextmanager
def progress(
    folders: Iterable[str | os.PathLike], expected: float | None, every: float = 30.0
) -> Iterator[None]:
    """Says how many bytes are in folders that something writes to: a line that changes, or one every 30 s in a log.

    Args:
      folders: where downloads and what is made of them arrive.
      expected: bytes in the end; None where that is not known.
      every: seconds between lines where there is no terminal.
    """
    paths = [Path(folder) for folder in folders]
    begun, before = time.monotonic(), _bytes(paths)
    ended = threading.Event()
    terminal = sys.stdout.isatty()

    def say() -> None:
        while not ended.wait(1.0 if terminal else every):
            n, seconds = _bytes(paths) - before, time.monotonic() - begun
            of = f" of about {human(expected)}" if expected else ""
            text = f"  {human(n)}{of}, {human(n / seconds)}/s, {int(seconds // 60)}:{int(seconds % 60):02d}"
            print(f"\r{text:<78}" if terminal else text, end="" if terminal else "\n", flush=True)
        if terminal:
            print("\r" + " " * 78 + "\r", end="", flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes(folders: Iterable[Path]) -> int:
    total = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):  # renamed meanwhile
                    total += os.lstat(os.path.join(root, name)).st_size
    return total


def human(n: float | None) -> str:
    """Bytes in words.

    >>> human(39.1e9), human(None)
    ('39.1 GB', '?')
    """
    if n is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
