"""What a large sweep costs apart from its arithmetic: python benchmarks/sweep_scale.py

Results are made up and written through vtabjax.results, everything else is main.py on them: a dry run of a sweep that
has no results yet ("plan"), the first and the second run of a finished one ("first look", "resume": the first one reads
every file, and remembers), status, and the report with its opening in Chromium. Wall seconds and peak memory of whole
commands. Tasks are VTAB's 19 and folders of twenty pictures each. Making the files leaves out what makes each of them
safe against a power cut (fsync).

Then workers share a folder: processes that run the sweep's own code for shares and results on cells that only sleep.
No cell may be run by two, and the number of cells in a second is counted.

Each part is written as soon as it is there; a second call goes on with those that are missing (--again repeats them).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import _alternate
import numpy as np

from configs import knn
from vtabjax import results, tasks
from vtabjax.sweep import heartbeat, plan, runner, shares

SIZES = ((300, 19), (1000, 19), (3000, 19), (3000, 190))
WITH_REPORT = 60_000  # cells; beyond, the page is not made
RESAMPLES = 100  # of the report; strengths of thousands of models take seconds for each
WORKERS = (1, 2, 4, 8, 16, 32, 64)
PICTURES = 20


def model_names(n: int) -> list[str]:
    return [f"timm/net{i:04d}@random" for i in range(n)]


def task_names(n: int, folder: Path) -> list[str]:
    """VTAB's tasks, and as many folders of pictures as are missing."""
    return [
        *tasks.VTAB[:n],
        *(f"folder:{_pictures(folder / f'own{i:03d}')}" for i in range(len(tasks.VTAB), n)),
    ]


def _pictures(folder: Path) -> Path:
    from PIL import Image

    for i in range(PICTURES):
        path = folder / f"class{i % 2}" / f"{i}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (i, len(folder.name), int(folder.name[-3:]))).save(path)
    return folder


def config_of(n_models: int, n_tasks: int, folder: Path) -> Any:
    config = knn.get_config("vtab")
    config.models = ",".join(model_names(n_models))
    config.tasks = ",".join(task_names(n_tasks, folder / "pictures"))
    return config


def flags(config: Any) -> list[str]:
    return [
        "--config=configs/knn.py:vtab", f"--config.models={config.models}", f"--config.tasks={config.tasks}"
    ]  # fmt: skip


def cells_of(config: Any, workdir: Path) -> list[results.Cell]:
    return plan.all_cells(plan.read(config), workdir)


def save(cell: results.Cell, workdir: Path, i: int) -> bool:
    """A result of about the size that those of nearest neighbours have."""
    accuracy = (i * 7919 % 1000) / 1000
    return results.save(
        cell,
        workdir,
        metrics={"accuracy": accuracy, "accuracy_cosine": 1 - accuracy, "interval": [accuracy / 2, (1 + accuracy) / 2]},
        correct=np.arange(1000) < 1000 * accuracy,
        provenance={
            "weight_hash": f"{hash(cell.model):x}",
            "source": {"source": "timm", "family": f"net{i % 30}", "method": "none", "parameters": 10**7 + i},
            "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        },
        seconds={"features": 1.0 + i % 7, "knn": 0.1},
    )  # fmt: skip


def fill(config: Any, workdir: Path) -> dict[str, float]:
    """Writes all results that are missing."""
    cells = cells_of(config, workdir)
    by_folder: dict[str, list[results.Cell]] = {}
    for cell in cells:
        by_folder.setdefault(str(cell.folder(workdir)), []).append(cell)
    fsync, os.fsync = os.fsync, lambda fd: None
    begun = time.perf_counter()
    try:
        for folder, own in by_folder.items():
            if not os.path.isdir(folder) or len(os.listdir(folder)) < len(own):
                for i, cell in enumerate(own):
                    save(cell, workdir, len(folder) + 31 * i + hash(folder) % 1000)
    finally:
        os.fsync = fsync
    heartbeat.describe(heartbeat.folder(workdir, "knn", shares.digest(cells)), cells)
    return {"cells": len(cells), "seconds": time.perf_counter() - begun}


def command(arguments: list[str]) -> dict[str, float]:
    """Wall seconds and peak memory of main.py, and after how long it says how many cells there are to do."""
    found: dict[str, float] = {}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "main.py", *arguments],
        cwd=_alternate.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " to do" in line:
            found.setdefault("seconds_until_known", time.perf_counter() - begun)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"main.py ended with {process.returncode}: {''.join(lines[-20:])}")
    return found | {"seconds": time.perf_counter() - begun, "peak_bytes": usage.ru_maxrss * 1024}


def parts(n_models: int, n_tasks: int, folder: Path) -> Iterator[tuple[str, Callable[[], dict]]]:
    """What is measured at a size, in this order."""
    config = config_of(n_models, n_tasks, folder)
    empty, workdir = folder / "empty", folder / f"{n_models}x{n_tasks}"
    sweep = [*flags(config), f"--workdir={workdir}"]
    yield "plan", lambda: command([*flags(config), f"--workdir={empty}", "--config.dry_run=true"])
    yield "write", lambda: fill(config, workdir)
    yield "first look", lambda: command(sweep)
    yield "resume", lambda: command(sweep)
    yield "dry run when finished", lambda: command([*sweep, "--config.dry_run=true"])
    yield "status", lambda: command(["--config=configs/report.py:status", f"--workdir={workdir}"])
    if n_models * n_tasks <= WITH_REPORT:
        own = ["--config=configs/report.py", "--config.figures=false", f"--config.resamples={RESAMPLES}"]
        own.append(f"--workdir={workdir}")
        yield "report", lambda: command(own)
        yield "page", lambda: page(workdir / "report" / "report.html")


def page(path: Path) -> dict:
    """The page in Chromium."""
    import report as report_benchmark

    return {"megabytes": path.stat().st_size / 1e6, **report_benchmark.opened(path)}


# Workers on one folder.


def _work(number: int, total: int, config: Any, workdir: Path, sleep: float, told: Any) -> None:
    """What a worker does with its share, but for the arithmetic."""
    asked = plan.read(config)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        state = runner.assess(asked, workdir, shares.Share(number, total, "--cells"))
    told.put(("ready", number, 0, 0.0))
    begun = time.monotonic()
    written = 0
    for i, cell in enumerate(state.pending):
        if results.find(cell, workdir) is not None:
            continue
        time.sleep(sleep)
        written += save(cell, workdir, i)
    told.put(("done", number, written, time.monotonic() - begun))


def together(workers: int, models_each: int, sleep: float, folder: Path) -> dict:
    """Cells a second of many workers, and whether each cell was run once."""
    config = config_of(models_each * workers, len(tasks.VTAB), folder)
    workdir = folder / f"together{workers}"
    shutil.rmtree(workdir, ignore_errors=True)
    expected = len(cells_of(config, workdir))
    context = multiprocessing.get_context("forkserver")  # what they import is there already, and no threads
    context.set_forkserver_preload(["sweep_scale"])
    told = context.Queue()
    processes = [
        context.Process(target=_work, args=(i, workers, config, workdir, sleep, told)) for i in range(workers)
    ]
    begun = time.monotonic()
    for process in processes:
        process.start()
    found = [told.get(timeout=600) for _ in range(2 * workers)]
    for process in processes:
        process.join()
    wall = time.monotonic() - begun
    done = [f for f in found if f[0] == "done"]
    files = len(results.paths(workdir, "knn"))
    shutil.rmtree(workdir, ignore_errors=True)
    slowest = max(f[3] for f in done)
    return {
        "cells": expected,
        "files": files,
        "written": sum(f[2] for f in done),
        "seconds": slowest,
        "seconds_with_start": wall,
        "cells_per_second": expected / slowest,
        "at_best": workers / sleep,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="models and tasks in turn")
    parser.add_argument("--workers", type=int, nargs="*", default=list(WORKERS))
    parser.add_argument("--models-each", type=int, default=2, help="models of 19 tasks for each worker")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that a cell of a worker takes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "vtabjax-sweep-scale")
    parser.add_argument("--again", nargs="*", default=[], help="parts to measure again")
    parser.add_argument("--only", nargs="*", default=[], help="parts to measure")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "sweep_scale.json")
    args = parser.parse_args()
    sizes = list(zip(args.sizes[::2], args.sizes[1::2], strict=True)) if args.sizes else SIZES
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    commands = record.get("command", "").split(" && ") if record else []
    record |= _alternate.environment("numpy", "playwright")
    record["command"] = " && ".join(dict.fromkeys([*commands, record["command"]]))
    record["settings"] = {"sleep": args.sleep, "models_each": args.models_each, "resamples": RESAMPLES}

    def measure(section: dict, name: str, call: Callable[[], dict]) -> None:
        if (args.only and name not in args.only) or (name in section and name not in args.again):
            return
        section[name] = call()
        print(name, section[name], flush=True)
        _alternate.write(args.out, record)

    for n_models, n_tasks in sizes:
        section = record.setdefault("sweeps", {}).setdefault(f"{n_models} x {n_tasks}", {})
        for name, call in parts(n_models, n_tasks, args.folder):
            measure(section, name, call)
    for workers in args.workers:
        of_many = record.setdefault("workers", {})
        measure(
            of_many, str(workers), lambda n=workers: together(n, args.models_each, args.sleep, args.folder)
        )


if __name__ == "__main__":
    main()
