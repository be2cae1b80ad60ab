"""What tables and the state of a sweep need of its results, remembered in the workdir's cache, a file for each model.

A result holds which examples were right and which classes were confused; reading that for every cell is what looking at
a large sweep would spend its time on. A summary counts as long as size and time of its file are the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from vtabjax.runtime import files

_FORMAT = 2
_WORTH = 4  # files that had to be read; fewer are as quickly read again
_OWN = ("config_hash", "n_examples", "metrics", "seconds")
_SHARED = ("protocol", "model", "task", "settings")
_OF_CELL = ("task", "settings")  # of those that differ within a model's folder
_OPTIONAL = ("notes", "chosen", "source", "copies", "groups")  # left out where there are none

_Known = tuple[tuple[int, int], dict[str, Any]]  # size and time of a result's file, and its summary

_object = functools.lru_cache(1 << 16)(json.loads)  # equal parts of many results are one object


class ModelFolder:
    """The files of a model's results of a protocol, listed when this is made, not afterwards.

    Args:
      path: the local folder; it need not be there.
      memory: the file that remembers summaries; it need not be there.
      read: gives a file's record, or raises ValueError.
    """

    def __init__(self, path: str, memory: str, read: Callable[[str], dict[str, Any] | None]):
        self._memory, self._read = memory, read
        self._files: dict[str, os.DirEntry[str]] = {}
        self._known: dict[str, _Known] = {}
        self._n_read = 0
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            self._files = {entry.name: entry for entry in entries}
        if self._files:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
                self._known = _loaded(memory)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> dict[str, Any] | None:
        """A result, or None where there is no such file: without predictions, unless it is one fold of several.

        Raises:
          ValueError: the file cannot be read as a result.
        """
        entry = self._files.get(name)
        if entry is None:
            return None
        try:
            status = entry.stat()
        except OSError:
            return self._read(entry.path)
        seen = (status.st_size, status.st_mtime_ns)
        known = self._known.get(name)
        if known is not None and known[0] == seen:
            return known[1]
        record = self._read(entry.path)
        if record is None or record["settings"].get("fold"):  # folds are joined example by example
            return record
        self._n_read += 1
        self._known[name] = (seen, summary(record))
        return self._known[name][1]

    def remember(self) -> None:
        """Writes down what had to be read; where that cannot be written, it is read again the next time."""
        if self._n_read >= _WORTH:
            with contextlib.suppress(OSError), files.replacing(self._memory) as temporary:
                temporary.write_text(_text(self._known), encoding="utf-8")  # not worth waiting for the disk


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is held of single examples; what is equal in many is one object."""
    shared = {name: record[name] for name in _SHARED}
    shared |= {name: record[name] for name in _OPTIONAL if record.get(name)}
    if seeds := shared.get("chosen", {}).get("seeds"):
        without = [{k: v for k, v in seed.items() if k != "correct"} for seed in seeds]
        shared["chosen"] = {**shared["chosen"], "seeds": without}
    if "groups" in shared:
        shared["groups"] = {"count": shared["groups"]["count"]}
    one = {name: _object(json.dumps(part)) for name, part in shared.items()}
    own = {name: record[name] for name in _OWN}
    own["config_hash"] = sys.intern(own["config_hash"])
    for name in ("metrics", "seconds"):  # JSON makes names of its own for every file
        own[name] = {sys.intern(key): value for key, value in own[name].items()}
    return own | one


def _text(known: Mapping[str, _Known]) -> str:
    """What is remembered; equal parts are written once, and parts that go together in most records are one number."""
    texts: dict[str, int] = {}
    together: dict[str, int] = {}
    rows = {}
    for name, (seen, record) in known.items():
        parts = {k: record[k] for k in (*_SHARED, *_OPTIONAL) if k in record}
        numbers = {k: texts.setdefault(json.dumps(part), len(texts)) for k, part in parts.items()}
        of_cell = [numbers.pop(k) for k in _OF_CELL]
        common = together.setdefault(json.dumps(numbers), len(together))
        rows[name] = [*seen, common, *of_cell, *(record.get(k) for k in _OWN)]
    held = {
        "format": _FORMAT,
        "texts": list(texts),
        "together": list(map(json.loads, together)),
        "files": rows,
    }
    text = json.dumps(held, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}\n{text}"


def _loaded(path: str) -> dict[str, _Known]:
    with open(path, "rb") as f:
        checksum, _, text = f.read().partition(b"\n")
    held = json.loads(text)
    if held["format"] != _FORMAT or int(checksum, 16) != zlib.crc32(text):
        return {}
    objects = [_object(text) for text in held["texts"]]
    together = [{key: objects[number] for key, number in parts.items()} for parts in held["together"]]
    found: dict[str, _Known] = {}
    for name, (size, changed, common, task, settings, digest, n, metrics, seconds) in held["files"].items():
        record = {
            **together[common],
            "task": objects[task],
            "settings": objects[settings],
            "config_hash": sys.intern(digest),
            "n_examples": n,
            "metrics": metrics,
            "seconds": seconds,
        }
        found[name] = ((size, changed), record)
    return found
