"""Seconds and peak memory of main.py from its start to its end, cold and warm: python benchmarks/start.py

Each line is a command, timed from outside; medians over --repeats, in turn. "cold" is the README's first command in an
empty folder: converting, compiling and running six models on three tasks. "again" finds everything done. Beside them,
as a measure of the machine: how long it takes Python to import PyTorch with timm, and JAX.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _alternate

KNN = ["main.py", "--config=configs/knn.py"]


def timed(command: list[str]) -> tuple[float, int]:
    """Wall seconds, and the largest resident memory of any of its processes in bytes."""
    environment = {k: v for k, v in os.environ.items() if k not in _alternate.HUGE_PAGES}
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=_alternate.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and "--help" not in command:  # absl ends that with status 1
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "start.json")
    args = parser.parse_args()
    record = {**_alternate.environment("jax", "torch", "timm"), "settings": {"repeats": args.repeats}}
    imports = "from converters import _compat; import timm"
    found: dict[str, list[tuple[float, int]]] = {}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            commands = {
                "import PyTorch and timm": ["-c", imports],
                "import JAX": ["-c", "import jax.numpy as jnp; jnp.zeros(1)"],
                "main.py --help": ["main.py", "--help"],
                "mini kNN, dry run": [*KNN, f"--workdir={folder}", "--config.dry_run=true"],
                "mini kNN, cold": [*KNN, f"--workdir={folder}"],
                "mini kNN, again": [*KNN, f"--workdir={folder}"],
                "mini kNN, k=5 on the same features": [*KNN, f"--workdir={folder}", "--config.k=5"],
            }
            for name, command in commands.items():
                found.setdefault(name, []).append(timed([sys.executable, *command]))
                print(f"{name}: {found[name][-1][0]:.2f} s", flush=True)
    record["results"] = {
        name: {
            "seconds": statistics.median(s for s, _ in runs),
            "peak_bytes": max(b for _, b in runs),
            "all_seconds": [s for s, _ in runs],
        }
        for name, runs in found.items()
    }
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
