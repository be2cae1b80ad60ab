"""Rivals in processes of their own that take turns, so that all of them see the same machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
HUGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"
}  # as main.py starts itself, see vtabjax/cli/__init__.py


class Values(dict[str, float]):
    """What a round measures itself, by name."""


def serve(prepare: Callable[[], Callable[[], object]]) -> None:
    """One side: gets ready, then runs a round for every line on stdin; each answers with a line of JSON."""
    begun = time.perf_counter()
    run = prepare()
    run()
    print(json.dumps({"start": time.perf_counter() - begun}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        values = run()
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if isinstance(values, Values):
            found["values"] = values
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        print(json.dumps(found), flush=True)


def take_turns(sides: Sequence[tuple[Sequence[str], Mapping[str, str]]], rounds: int) -> list[dict]:
    """Runs commands that `serve`, with additions to their environment, in turn.

    Returns:
      For each: {"start_seconds", "rounds": [{"wall", "cpu", "peak_bytes"}], "wall", "cpu", "peak_bytes"}, the latter
      two medians in seconds and the largest; "values" too, medians by name, where rounds return `Values`.
    """
    workers, found = [], []
    for command, extra in sides:
        environment = {k: v for k, v in os.environ.items() if k not in HUGE_PAGES} | dict(extra)
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        workers.append(worker)
        found.append({"start_seconds": _answer(worker)["start"], "rounds": []})
    for _ in range(rounds):
        for worker, result in zip(workers, found, strict=True):
            worker.stdin.write("\n")
            worker.stdin.flush()
            result["rounds"].append(_answer(worker))
    for worker, result in zip(workers, found, strict=True):
        worker.stdin.close()
        worker.wait()
        for key in ("wall", "cpu"):
            result[key] = statistics.median(r[key] for r in result["rounds"])
        if "values" in result["rounds"][0]:
            every = [r["values"] for r in result["rounds"]]
            result["values"] = {name: statistics.median(v[name] for v in every) for name in every[0]}
        result["peak_bytes"] = max(r["peak_bytes"] for r in result["rounds"])
    return found


def _answer(worker: subprocess.Popen) -> dict:
    for line in worker.stdout:
        if line.startswith("{"):  # libraries print things of their own
            return json.loads(line)
    raise RuntimeError(f"{' '.join(worker.args)} ended with status {worker.wait()}")


def environment(*packages: str) -> dict:
    """What a result has to name: command, machine, load, versions."""
    options = [option for option in sys.argv[1:] if not option.startswith("--out=")]
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *options]),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in packages},
        },
    }


def processor() -> str:
    """The processor's model, or only its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def write(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"-> {path}")
