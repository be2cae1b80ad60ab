"""What a sweep consists of: its cells, the settings that change their numbers, and each worker's share.

What can be wrong with a config is found here, cheapest first, before anything runs.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import artefacts, cells, distributed, files, folders, specs, tasks, weight_files
from vtabjax.results import Cell

MAX_IMAGE_SIZE = 2048


class UsageError(ValueError):
    """Something to change before anything can run; the message has the field, the value, the way out."""


def all_cells(config: Any, workdir: Path) -> list[Cell]:
    """The cells of a config, model by model, with patterns of model names looked up.

    Raises:
      UsageError: a field of the config is wrong, or the workdir cannot be written.
    """
    settings, models, names = _settings(config), _models(config), _tasks(config)
    if files.is_remote(workdir) and config.protocol == "finetune":
        raise UsageError(
            f"--workdir={workdir}: fine-tuning keeps checkpoints beside its results, and those need a file system; "
            "mount the bucket (gcsfuse, mountpoint-s3) or name a folder that all machines see"
        )
    _check_workdir(workdir)
    try:
        models = distributed.from_first(lambda: artefacts.expand(models, workdir / "cache" / "patterns.json"))
    except (ValueError, artefacts.ConversionError, distributed.OtherProcessError) as e:
        raise UsageError(str(e)) from e
    models = _once(models, workdir)
    by_task = {task: _cell_settings(settings, task, config) for task in names}
    return [Cell(config.protocol, model, task, by_task[task]) for model in models for task in names]


def _once(models: list[str], workdir: Path) -> list[str]:
    """Models without those that are others under another path: the same weights are one row, not two."""
    found: dict[str, str] = {}
    for model in models:
        try:
            name = specs.slug(model, workdir / "cache" / weight_files.STORE)
        except specs.SpecError as e:
            raise UsageError(f"config.models: {e}") from e
        first = found.setdefault(name, model)
        if first != model and distributed.first():
            print(f"{model} has the same weights as {first} and is left out", file=sys.stderr, flush=True)
    return list(found.values())


class Share(NamedTuple):
    """A worker's part of a sweep.

    Attributes:
      number: which worker, from 0.
      count: how many there are.
      source: where that was read, for messages.
    """

    number: int
    count: int
    source: str

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def which_share(flag: str, environment: Mapping[str, str]) -> Share | None:
    """This worker's share: what --cells says, or else what an array job says; None: everything.

    A SLURM array's elements are counted in the order of their numbers, so that ``--array=0-7`` and ``--array=1-8``
    are eight shares alike. Kubernetes tells an Indexed Job's pods their index, and the number of indices only where
    the manifest hands it on as JOB_COMPLETIONS.

    Raises:
      UsageError: not i/n with 0 <= i < n, or an array that cannot be read.
    """
    if flag:
        i, slash, n = flag.partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
            raise UsageError(
                f"--cells={flag!r} is not i/n with 0 <= i < n, such as --cells=0/4 ... --cells=3/4"
            )
        return Share(int(i), int(n), "--cells")
    array = "SLURM_ARRAY_TASK"
    try:
        if f"{array}_ID" in environment:
            number, count, least, most = (
                int(environment[f"{array}_{name}"]) for name in ("ID", "COUNT", "MIN", "MAX")
            )
            step = (most - least) // (count - 1) if count > 1 else 1
            place, rest = divmod(number - least, step)
            if rest or not 0 <= place < count or least + step * (count - 1) != most:
                raise ValueError("the array's numbers are not evenly spaced")
            return Share(place, count, f"{array}_ID={number}")
        if "JOB_COMPLETION_INDEX" in environment:
            number, count = int(environment["JOB_COMPLETION_INDEX"]), int(environment["JOB_COMPLETIONS"])
            if not 0 <= number < count:
                raise ValueError(f"JOB_COMPLETIONS={count}")
            return Share(number, count, f"JOB_COMPLETION_INDEX={number}")
    except (KeyError, ValueError) as e:
        name = f"{array}_ID" if f"{array}_ID" in environment else "JOB_COMPLETION_INDEX"
        why = f"{e.args[0]} is not set" if isinstance(e, KeyError) else str(e)
        raise UsageError(
            f"{name}={environment[name]} is set, but not which share that is ({why}); say it with --cells=i/n, or "
            "--cells=0/1 for everything"
        ) from e
    return None


def assign(everything: Sequence[Cell], count: int, seconds: Callable[[Cell], float | None]) -> list[int]:
    """Which of `count` workers gets each cell, by expected cost.

    Whole models while there are enough of them, so that each is converted and compiled once: the most expensive
    first, each to the worker with the least so far. With more workers than models: equally expensive pieces of the
    list.

    Args:
      everything: the cells, model by model.
      count: workers.
      seconds: expected cost of a cell; None: unknown, as much as the mean of the others.

    Returns:
      Numbers of the workers, one per cell.
    """
    given = [seconds(cell) for cell in everything]
    known = [g for g in given if g is not None]
    mean = sum(known) / len(known) if known and sum(known) > 0 else 1.0
    costs = [mean if g is None else max(g, 1e-6 * mean) for g in given]
    models: dict[str, float] = {}
    for cell, cost in zip(everything, costs, strict=True):
        models[cell.model] = models.get(cell.model, 0.0) + cost
    if count <= len(models):
        loads = [(0.0, worker) for worker in range(count)]
        worker_of = {}
        for model in sorted(models, key=models.__getitem__, reverse=True):  # stable: ties in the given order
            load, worker = heapq.heappop(loads)
            worker_of[model] = worker
            heapq.heappush(loads, (load + models[model], worker))
        return [worker_of[cell.model] for cell in everything]
    total, before, found = sum(costs), 0.0, []
    for cost in costs:
        found.append(min(count - 1, int(count * (before + cost / 2) / total)))
        before += cost
    return found


def share_of(
    everything: Sequence[Cell],
    share: Share | None,
    file: Path,
    seconds: Callable[[], Callable[[Cell], float | None]],
) -> list[Cell]:
    """A worker's cells.

    What cells cost is judged by the results that are there, which are others when the next worker starts. So the
    first one that comes writes down who does what, and the others read that.

    Args:
      everything: all cells of the sweep, the same for each worker.
      share: which worker; None: everything.
      file: where it is written down, one for each number of workers.
      seconds: gives the function from a cell to its expected seconds, if it is needed.
    """
    if share is None or share.count == 1:
        return list(everything)
    if not file.exists():
        numbers = assign(everything, share.count, seconds())
        files.create_text(file, json.dumps({"workers": share.count, "cells": numbers}) + "\n")
    numbers = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [cell for cell, number in zip(everything, numbers, strict=True) if number == share.number]


def digest(everything: Sequence[Cell]) -> str:
    """A short name of a sweep: the same cells have the same."""
    text = json.dumps([[cell.model, cell.task, cell.hash] for cell in everything])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _settings(config: Any) -> dict[str, Any]:
    """The settings of all cells that can change their numbers, checked."""
    from vtabjax.data import images, pictures

    if config.protocol not in cells.PROTOCOLS:
        raise UsageError(
            f"config.protocol={config.protocol!r} is not known; there are {', '.join(cells.PROTOCOLS)}"
        )
    size = config.image_size
    if not (size == 0 or 8 <= size <= MAX_IMAGE_SIZE):
        raise UsageError(
            f"config.image_size={size}: it must be 8 to {MAX_IMAGE_SIZE} pixels, or 0 for each model's own"
        )
    if config.batch_size < 1:
        raise UsageError(f"config.batch_size={config.batch_size} must be at least 1")
    if config.resize not in images.METHODS:
        raise UsageError(f"config.resize={config.resize!r} is not known; choose {', '.join(images.METHODS)}")
    try:
        pictures.parse_colour(config.background)
    except ValueError as e:
        raise UsageError(
            f"config.background={config.background!r} is not a colour ({e}); write a name such as white, or '#rrggbb'"
        ) from e
    if config.max_pixels < 1:
        raise UsageError(f"config.max_pixels={config.max_pixels} must be at least 1")
    if config.dtype not in ("float32", "bfloat16"):
        raise UsageError(f"config.dtype={config.dtype!r} is not known; choose float32 or bfloat16")
    try:
        own = cells.PROTOCOLS[config.protocol].settings(config)
    except ValueError as e:
        raise UsageError(str(e)) from e
    except (AttributeError, KeyError) as e:  # the fields of another protocol's config
        raise UsageError(
            f"config.protocol={config.protocol!r} needs fields that this config lacks; "
            f"use --config=configs/{config.protocol}.py"
        ) from e
    return {**own, "image_size": size, "resize": config.resize, "dtype": config.dtype}


def _cell_settings(settings: Mapping[str, Any], task: str, config: Any) -> dict[str, Any]:
    """The settings of a task's cells. For a folder of pictures its files are among them: they come and go."""
    settings = {**settings, "task": task}
    if task.startswith("folder:"):
        from vtabjax.data import folder

        found = tasks.get(task)
        versions = [folder.open_source(found, tasks.ranges(found, s)).version for s in settings["splits"]]
        settings |= {
            "skip_broken": config.skip_broken,
            "background": config.background,
            "pictures": [version[:16] for version in versions],
        }
        try:
            folders.check_size(found, config.protocol, settings)
        except ValueError as e:
            raise UsageError(str(e)) from e
    return settings


def _models(config: Any) -> list[str]:
    models = specs.split_list(config.models)
    if not models:
        raise UsageError(
            "config.models is empty; for example --config.models=timm/resnet50.a1_in1k,baseline/pixels"
        )
    try:
        return list(dict.fromkeys(str(specs.parse(model)) for model in models))  # @random:00 is @random
    except specs.SpecError as e:
        raise UsageError(f"config.models: {e}") from e


def _tasks(config: Any) -> list[str]:
    names = specs.split_list(config.tasks)
    if not names:
        raise UsageError("config.tasks is empty; for example --config.tasks=digits")
    try:
        tasks.check_commas(config.tasks)
        return list(dict.fromkeys(tasks.get(name).name for name in names))  # folders by their absolute path
    except ValueError as e:
        raise UsageError(f"config.tasks: {e}") from e


def _check_workdir(workdir: Path) -> None:
    if files.is_remote(workdir):
        probe = workdir / f".writable-{files.host()}"
        try:
            probe.write_text("")
            probe.unlink()
        except Exception as e:  # each store has errors of its own
            raise UsageError(
                f"--workdir={workdir} cannot be written to ({type(e).__name__}: {e}); check the bucket's name and the "
                "credentials, or name another folder with --workdir=DIR"
            ) from e
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".writable-"):
            pass
    except OSError as e:
        raise UsageError(
            f"--workdir={workdir} cannot be written to ({e.strerror}); name another folder with --workdir=DIR"
        ) from e
