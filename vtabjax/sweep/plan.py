"""What a sweep consists of: its cells, the settings that change their numbers, and each worker's share.

What can be wrong with a config is found here, cheapest first, before anything runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import options, results, specs, tasks
from vtabjax.options import RunOptions, SlurmOptions, UsageError
from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.specs import filters
from vtabjax.sweep import adapters, artefacts, converters_client, filtering, folders


class SweepPlan(NamedTuple):
    """What a config asks for, checked.

    Attributes:
      settings: those of all cells that can change their numbers.
      run: what is compared on what, and how it runs.
      slurm: where --executor=slurm sends it.
    """

    settings: dict[str, Any]
    run: RunOptions
    slurm: SlurmOptions


# Protocols that test no part by what was learnt from the others.
_WITHOUT_FOLDS = {
    "knn": "nearest neighbours leave one example out at a time, so that every one is tested already",
    "transferability": "transferability scores test nothing",
}
# VTAB's thousand examples are for VTAB: of your own pictures, all that are not tested are trained on.
_ALL_OF = {"train800val200": "trainval", "train800": "train", "val200": "val"}


def read(config: Any) -> SweepPlan:
    """Reads a sweep's config.

    Raises:
      UsageError: a field is missing, of another type, or out of its range.
    """
    protocol = config.get("protocol")
    if not isinstance(protocol, str) or protocol not in adapters.PROTOCOLS:
        known = ", ".join(adapters.PROTOCOLS)
        raise UsageError(f"config.protocol={protocol!r} is not known; choose from {known}")
    from vtabjax.data import pictures

    run = options.read(RunOptions, config)
    slurm = options.read(SlurmOptions, config, "slurm")
    for item in specs.split_list(slurm.extra):
        if "=" not in item:
            raise UsageError(
                f"config.slurm.extra={slurm.extra!r}: {item!r} is not option=value, such as constraint=a100"
            )
    try:
        own = adapters.PROTOCOLS[protocol].settings(config)
    except ValueError as e:
        raise UsageError(str(e)) from e
    except (AttributeError, KeyError) as e:  # the fields of another protocol's config
        raise UsageError(
            f"config.protocol={protocol!r} needs fields that this config lacks; "
            f"use --config=configs/{protocol}.py"
        ) from e
    try:
        pictures.parse_colour(run.background)
    except ValueError as e:
        raise UsageError(
            f"config.background={run.background!r} is not a colour ({e}); write a name such as white, or '#rrggbb'"
        ) from e
    shared = {"image_size": run.image_size, "resize": run.resize, "dtype": run.dtype}
    return SweepPlan({**own, **shared}, run, slurm)


def all_cells(asked: SweepPlan, workdir: Path) -> list[Cell]:
    """The cells of a sweep, model by model, with patterns of model names looked up.

    Raises:
      UsageError: a model or a task cannot be had, or the workdir cannot be written.
    """
    run, settings = asked.run, asked.settings
    models, names = _models(run.models), _tasks(run)
    if files.is_remote(workdir) and run.protocol == "finetune":
        raise UsageError(
            f"--workdir={workdir}: fine-tuning keeps checkpoints beside its results, and those need a file system; "
            "mount the bucket (gcsfuse, mountpoint-s3) or name a folder that all machines see"
        )
    for task in names:
        if not tasks.is_own(task):  # those are looked at with their own words below
            _check_sizes(task, settings)
    by_task = {task: _cell_settings(settings, task, run) for task in names}
    if not run.dry_run:
        _check_workdir(workdir)
    try:
        models = processes.broadcast_from_first(lambda: _expand(models, workdir, run))
    except filtering.NothingLeftError as e:
        raise UsageError(f"config.filter={filters.as_text(run.filter)!r} leaves no model: {e}") from e
    except (ValueError, converters_client.ConversionError, processes.OtherProcessError) as e:
        raise UsageError(str(e)) from e
    chosen = {task: {**own, "features": "auto"} for task, own in by_task.items()}
    auto = {model for model in models if run.features == "auto" and specs.parse(model).has_own_features}
    of_auto, of_others = (
        {task: (own, results.config_hash(own)) for task, own in each.items()} for each in (chosen, by_task)
    )
    return [
        Cell(run.protocol, model, task, *(of_auto if model in auto else of_others)[task])
        for model in models
        for task in names
    ]


def _check_sizes(name: str, settings: Mapping[str, Any]) -> None:
    """A task has examples in every split that the protocol uses, and enough of them for its neighbours."""
    task = tasks.get(name)
    sizes = {s: sum(r.stop - r.start for r in tasks.ranges(task, s)) for s in settings["splits"]}
    empty = [split for split, n in sizes.items() if n == 0]
    if empty:
        raise UsageError(
            f"config.tasks: {name} has too few examples: {', '.join(empty)} would be empty "
            f"({', '.join(f'{split}: {n}' for split, n in sizes.items())}); add examples or leave it out"
        )
    fewest = min(sizes.values())
    if settings.get("k", 0) >= fewest:
        raise UsageError(
            f"config.k={settings['k']} is too large for {name}: each of its {fewest} examples has {fewest - 1} others"
        )


def _cell_settings(settings: Mapping[str, Any], task: str, run: RunOptions) -> dict[str, Any]:
    """The settings of a task's cells. For your own pictures what they are is among them: they come and go."""
    settings = {**settings, "task": task}
    if task in tasks.VTAB:
        from vtabjax import data
        from vtabjax.data.sources import vtab_copies

        try:
            if copy := data.vtab_copy(task, run.data_dir or None):
                settings["data"] = vtab_copies.form(tasks.get(task), settings["splits"], copy)
        except data.NotPreparedError as e:
            raise UsageError(str(e)) from e
    if tasks.is_own(task):
        from vtabjax.data.sources import folder

        found = tasks.get(task)
        splits = [_ALL_OF.get(split, split) for split in settings["splits"]]
        versions = [folder.version(folder.pictures(found, tasks.ranges(found, s))) for s in splits]
        settings |= {
            "splits": splits,
            "skip_broken": run.skip_broken,
            "background": run.background,
            "pictures": [version[:16] for version in versions],
        }
        if (groups := folders.group_version(found, splits)) is not None:
            settings["groups"] = groups
        if fold := tasks.without_fold(task)[1]:
            every = sorted(
                f
                for split in ("trainval", "test")
                for f in folder.pictures(found, tasks.ranges(found, split))
            )
            # The same for all folds of the same pictures, which alone may be joined.
            settings |= {"fold": fold[0], "folds": fold[1], "folds_of": folder.version(every)[:16]}
        try:
            folders.check_size(found, run.protocol, settings)
        except ValueError as e:
            raise UsageError(str(e)) from e
    return settings


def _models(text: str) -> list[str]:
    """Specs and patterns in the one form that each has: ``@random:0`` is ``@random``."""
    models = specs.split_list(text)
    if not models:
        raise UsageError(
            "config.models is empty; for example --config.models=timm/resnet50.a1_in1k,baseline/pixels"
        )
    try:
        return list(dict.fromkeys(str(specs.parse(model)) for model in models))
    except specs.SpecError as e:
        raise UsageError(f"config.models: {e}") from e


def _expand(models: Sequence[str], workdir: Path, run: RunOptions) -> list[str]:
    """The models that specs and patterns stand for and that pass the filter, each once."""
    with _remembered(workdir, run.dry_run) as cache:
        expanded = artefacts.expand(models, cache / "patterns.json")
        expanded = filtering.choose(expanded, run.filter, run.image_size, cache / "models.json", _say)
    by_file_name: dict[str, str] = {}
    for model in expanded:
        try:
            name = results.file_stem(model, str(workdir))
        except specs.SpecError:
            name = model  # its weight file is gone; its results may be there
        first = by_file_name.setdefault(name, model)
        if first != model:
            _say(f"{model} has the same weights as {first} and is left out")
    return list(by_file_name.values())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _remembered(workdir: Path, dry_run: bool) -> Iterator[Path]:
    """The folder of what is remembered of patterns and models; a dry run writes into a copy of it."""
    there = workdir / "cache"
    if not dry_run:
        yield there
        return
    with tempfile.TemporaryDirectory(prefix="vtabjax-") as folder:
        for name in ("patterns.json", "models.json"):
            if (there / name).exists():
                text = (there / name).read_text(encoding="utf-8")
                (Path(folder) / name).write_text(text, encoding="utf-8")
        yield Path(folder)


def _tasks(run: RunOptions) -> list[str]:
    """The tasks' names, those of own pictures with their groups, and one for each fold."""
    names = specs.split_list(run.tasks)
    if not names:
        raise UsageError("config.tasks is empty; for example --config.tasks=digits")
    for field, value in (("group", run.group), ("folds", run.folds)):
        if value and not any(map(tasks.is_own, names)):
            raise UsageError(
                f"config.{field}={value!r} is for pictures of your own (folder:/path, table:/path, hf:OWNER/NAME, "
                f"tfds:name), and config.tasks={run.tasks!r} names none"
            )
    folds: list[tuple[int, int] | None] = [(i, run.folds) for i in range(1, run.folds + 1)]
    try:
        tasks.check_commas(run.tasks)
        found = []
        for name in names:
            task = tasks.get(name, run.data_dir or None)
            if not task.own:
                found.append(task.name)
                continue
            fold = tasks.without_fold(task.name)[1]
            if run.protocol in _WITHOUT_FOLDS and (run.folds or fold):
                what = f"config.folds={run.folds}" if run.folds else f"config.tasks={run.tasks!r}"
                raise UsageError(f"{what}: {_WITHOUT_FOLDS[run.protocol]}; folds are for linear and finetune")
            of_folds = [tasks.with_options(task.name, run.group, fold) for fold in folds or [None]]
            found += [tasks.get(of_fold).name for of_fold in of_folds]
        return list(dict.fromkeys(found))  # folders by their absolute path
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


def check_folders(run: RunOptions, workdir: Path) -> None:
    """Makes sure that what a sweep writes within (or beside) its workdir can be written, too.

    Raises:
      UsageError: a folder is read-only, or something else has its name.
    """
    within = ("results", "features", "models", "sweeps", "cache", "cells", "tables")
    named = {"models_dir": run.models_dir, "cache_dir": run.cache_dir}
    folders = {str(workdir / name): "--workdir" for name in within}
    folders |= {path: f"--config.{field}" for field, path in named.items() if path}
    for path, flag in folders.items():
        if files.is_remote(path):
            continue
        there = Path(path)
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent  # what is not there has to be made in there
        if not there.is_dir():
            raise UsageError(f"{there} is not a folder; move it away, or name another one with {flag}=DIR")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(
                f"{there} cannot be written to; make it writable, or name another one with {flag}=DIR"
            )
