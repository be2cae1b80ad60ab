"""What a worker tells about itself while it works, in a file that anybody may read.

``WORKDIR/sweeps/<protocol>-<digest>/sweep.json`` says what the sweep consists of, ``<host>-<pid>-<start>.json``
beside it what one worker has done and when: each conversion and each model's computing with its beginning and end,
so that one can see how they overlap. It is rewritten at each event and once a minute, whole, because an object
store cannot append.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax.results import Cell
from vtabjax.runtime import files

HEARTBEAT = 60.0  # seconds; a worker that has not been heard of for some of these is gone
FORMAT = 1


def folder(workdir: Path, protocol: str, digest: str) -> Path:
    """Where a sweep's own files are."""
    return workdir / "sweeps" / f"{protocol}-{digest}"


def describe(place: Path, cells: Sequence[Cell]) -> None:
    """Writes down what a sweep consists of, unless it is there already."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    # Models with a choice of features of their own have the others' settings without "features=auto".
    asked = sorted(cells, key=lambda cell: "features" in cell.settings)
    settings = {cell.task: cell for cell in asked}
    record = {
        "format": FORMAT,
        "protocol": cells[0].protocol,
        "models": models,
        "tasks": list(settings),
        "config_hashes": {task: cell.hash for task, cell in settings.items()},
        "settings": {task: dict(cell.settings) for task, cell in settings.items()},
    }
    if not (place / "sweep.json").exists():
        files.create_text(place / "sweep.json", json.dumps(record, indent=1) + "\n")


class Worker:
    """This worker's file.

    Args:
      place: the sweep's folder.
      about: what else to say, such as the share and the devices.
      enabled: False in all processes but the first.
    """

    def __init__(self, place: Path, about: Mapping[str, Any], enabled: bool = True):
        now = time.time()
        self._path = place / f"{files.host()}-{os.getpid()}-{int(now)}.json"
        self._record: dict[str, Any] = {
            "format": FORMAT,
            "host": files.host(),
            "pid": os.getpid(),
            **about,
            "started": round(now, 3),
            "seen": round(now, 3),
            "ended": None,
            "status": None,
            "doing": "",
            "done": 0,
            "failed": 0,
            "images": 0,
            "events": [],
        }
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._enabled = enabled
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        if enabled:
            self._write()
            self._thread.start()

    def doing(self, text: str) -> None:
        """What it does now; the file has it with the next beat or event."""
        self._record["doing"] = text

    def count(self, *, done: int = 0, failed: int = 0, images: int = 0) -> None:
        """Adds to what has been done."""
        for name, value in (("done", done), ("failed", failed), ("images", images)):
            self._record[name] += value

    def event(self, what: str, model: str, began: float, ended: float, **more: Any) -> None:
        """Something that took time: "convert" or "compute", with time.time() at its ends."""
        times = {"began": round(began, 3), "ended": round(ended, 3)}
        with self._lock:
            self._record["events"].append({"what": what, "model": model, **times, **more})
        self._write()

    def events(self, what: str) -> list[dict[str, Any]]:
        """What has been told of that kind."""
        with self._lock:
            return [event for event in self._record["events"] if event["what"] == what]

    def close(self, status: str) -> None:
        """The last word: "ended", or "interrupted"."""
        self._over.set()
        if self._enabled:
            self._thread.join()
        self._record |= {"ended": round(time.time(), 3), "status": status, "doing": ""}
        self._write()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            self._write()

    def _write(self) -> None:
        if not self._enabled:
            return
        with self._lock:
            self._record["seen"] = round(time.time(), 3)
            text = json.dumps(self._record)
            try:
                files.write_text(self._path, text)
            except OSError:  # a full disk: the cells will say so, this is only about watching
                pass


def conversion_idle_seconds(events: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Seconds that conversions took, and seconds of them in which nothing was computed.

    Args:
      events: a worker's, with "what", "began" and "ended".
    """
    computing = sorted((e["began"], e["ended"]) for e in events if e["what"] == "compute")
    total = idle = 0.0
    for event in events:
        if event["what"] != "convert":
            continue
        began, ended = event["began"], event["ended"]
        total += ended - began
        idle += ended - began - sum(max(0.0, min(ended, b) - max(began, a)) for a, b in computing)
    return total, max(0.0, idle)
