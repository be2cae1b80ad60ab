"""What a sweep consists of: its cells, the settings that change their numbers, and each worker's share.

What can be wrong with a config is found here, cheapest first, before anything runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import artefacts, cells, specs, tasks
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
    _check_workdir(workdir)
    try:
        models = artefacts.expand(models, workdir / "cache" / "patterns.json")
    except (ValueError, artefacts.ConversionError) as e:
        raise UsageError(str(e)) from e
    by_task = {task: _cell_settings(settings, task, config) for task in names}
    return [Cell(config.protocol, model, task, by_task[task]) for model in models for task in names]


def share_of(everything: Sequence[Cell], share: str) -> list[Cell]:
    """The cells of worker i of n: whole models while there are enough of them, so that each is converted
    once.

    Raises:
      UsageError: the share is not i/n with 0 <= i < n.
    """
    if not share:
        return list(everything)
    i, slash, n = share.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise UsageError(f"--cells={share!r} is not i/n with 0 <= i < n, such as --cells=0/4 ... --cells=3/4")
    i, n = int(i), int(n)
    models = list(dict.fromkeys(cell.model for cell in everything))
    if n <= len(models):
        chosen = set(models[i::n])
        return [cell for cell in everything if cell.model in chosen]
    return list(everything[i * len(everything) // n : (i + 1) * len(everything) // n])


def _settings(config: Any) -> dict[str, Any]:
    """The settings of all cells that can change their numbers, checked."""
    from vtabjax.data import images

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
        settings |= {"skip_broken": config.skip_broken, "pictures": [version[:16] for version in versions]}
    return settings


def _models(config: Any) -> list[str]:
    models = specs.split_list(config.models)
    if not models:
        raise UsageError(
            "config.models is empty; for example --config.models=timm/resnet50.a1_in1k,baseline/pixels"
        )
    for model in models:
        try:
            specs.parse(model)
        except specs.SpecError as e:
            raise UsageError(f"config.models: {e}") from e
    return models


def _tasks(config: Any) -> list[str]:
    names = specs.split_list(config.tasks)
    if not names:
        raise UsageError("config.tasks is empty; for example --config.tasks=digits")
    try:
        return list(dict.fromkeys(tasks.get(name).name for name in names))  # folders by their absolute path
    except ValueError as e:
        raise UsageError(f"config.tasks: {e}") from e


def _check_workdir(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".writable-"):
            pass
    except OSError as e:
        raise UsageError(
            f"--workdir={workdir} cannot be written to ({e.strerror}); name another folder with --workdir=DIR"
        ) from e
