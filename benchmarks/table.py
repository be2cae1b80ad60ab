"""A sweep on a table of 200,000 small pictures: memory, seconds, progress: python benchmarks/table.py

Writes made-up pictures (32 x 32, ten classes) into one Parquet file, as bytes, or as files that a .csv file lists
(--forms=parquet,csv), and runs nearest neighbours of the model in the box on them, in a process of its own with a
terminal of its own: looking through the pictures, decoding, features, neighbours of the 160,000 not in test. Kept are
its wall seconds, the largest resident memory of any of its processes, how often it wrote, the longest pause between.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import json
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import _alternate
import numpy as np

CLASSES = 10
EDGE = 32
GROUP = 20_000  # rows of the Parquet file that are written together


def pictures(n: int) -> Iterator[tuple[str, bytes, str]]:
    """Path, PNG and class of made-up pictures: waves whose direction is the class, noise, a tint; no two are equal."""
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:EDGE, :EDGE] / EDGE
    waves = []
    for i in range(100 * CLASSES):
        angle, phase = np.pi * (i % CLASSES) / CLASSES, rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * 3 * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        array = 128 + 60 * wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 60, (EDGE, EDGE, 3))
        waves.append(array.clip(0, 191).astype(np.uint8))
    for i in range(n):
        j = i // len(waves)
        tint = np.uint8([j % 64, j // 64 % 64, j // 4096])
        file = io.BytesIO()
        Image.fromarray(waves[i % len(waves)] + tint).save(file, "PNG", compress_level=1)
        yield f"{i % CLASSES}/{i:06d}.png", file.getvalue(), f"class {i % CLASSES}"


def write_parquet(folder: Path, n: int) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "pictures.parquet"
    schema = pyarrow.schema(
        [("path", pyarrow.string()), ("image", pyarrow.binary()), ("label", pyarrow.string())]
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows = []
        for row in pictures(n):
            rows.append(dict(zip(schema.names, row, strict=True)))
            if len(rows) == GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return path


def write_csv(folder: Path, n: int) -> Path:
    with open(folder / "pictures.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for path, png, label in pictures(n):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(png)
            writer.writerow([path, label])
    return folder / "pictures.csv"


def watched(command: list[str]) -> dict:
    """Runs a command with a terminal; what it took, and when it wrote."""
    ours, its = pty.openpty()
    fcntl.ioctl(
        its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0)
    )  # without columns no bar is drawn
    environment = {k: v for k, v in os.environ.items() if k not in _alternate.HUGE_PAGES}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=_alternate.ROOT, env=environment, stdout=its, stderr=its)
    os.close(its)
    times, written = [begun], b""
    while True:
        select.select([ours], [], [])
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
        times.append(time.perf_counter())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"status {process.returncode}: {written[-2000:].decode(errors='replace')}")
    pauses = np.diff(times)
    return {
        "wall_seconds": round(seconds, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "progress": {
            "times_written": len(times) - 1,
            "longest_pause_seconds": round(float(pauses.max()), 1),
            "longest_pause_began_at": round(times[int(pauses.argmax())] - begun, 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--forms", default="parquet", help="parquet, csv or both, separated by a comma")
    parser.add_argument(
        "--folder", type=Path, help="where pictures and workdirs go; a temporary one by default"
    )
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "table.json")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for form in args.forms.split(","):
            folder = Path(name) / form
            folder.mkdir()
            table = {"parquet": write_parquet, "csv": write_csv}[form](folder, args.n)
            workdir = folder / "w"
            flags = [
                "--config=configs/knn.py:vtab_full",
                "--config.models=embedded/sprites_resnet",
                "--config.metric=euclidean",
            ]
            flags += [f"--config.tasks=table:{table}", f"--config.image_size={EDGE}", f"--workdir={workdir}"]
            found[form] = watched([sys.executable, "main.py", *flags])
            (result,) = (workdir / "results" / "knn").rglob("table-*.json")
            record = json.loads(result.read_text(encoding="utf-8"))
            found[form] |= {
                "examples": record["n_examples"],
                "accuracy": round(record["metrics"]["accuracy"], 4),
                "seconds": {stage: round(s, 1) for stage, s in record["seconds"].items()},
                "table_bytes": table.stat().st_size,
            }
    settings = {"pictures": args.n, "edge": EDGE, "forms": args.forms}
    packages = ("jax", "pyarrow", "pillow", "numpy")
    _alternate.write(args.out, {**_alternate.environment(*packages), "settings": settings, "tables": found})


if __name__ == "__main__":
    main()
