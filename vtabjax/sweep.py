"""A sweep: cells (protocol, model, task), model by model; what fails does not stop the rest.

For each model all tasks run before the next model: one conversion, one load, one compilation. The next models
are converted in another process meanwhile. A cell's result is a file (`vtabjax.results`), so a sweep that is
killed goes on where it was, and workers that share nothing but the workdir may share a sweep.

A cell that failed has an error file and is not tried again unless asked (config.retry_failed): in a sweep
over hundreds of models most failures are properties of the model, and a second run must not spend its time on
them. They are told again at the end, and the exit status is 1, until they are done.
"""

from __future__ import annotations

import collections
import functools
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import artefacts, cells, files, inputs, plan, results, tables
from vtabjax.plan import UsageError
from vtabjax.progress import Progress, duration
from vtabjax.results import Cell


class Failure(NamedTuple):
    """A cell that failed, now or before."""

    cell: Cell
    stage: str
    message: str
    path: Path


def run(config: Any, workdir: str | os.PathLike, share: str = "") -> int:
    """Runs a sweep.

    Args:
      config: see configs/common.py.
      workdir: where everything goes.
      share: "i/n" for the i-th of n workers (from 0), "" for everything.

    Returns:
      The exit status: 0 if every cell (of the share) is done.

    Raises:
      UsageError: before any long work.
    """
    workdir = Path(workdir)
    everything = plan.all_cells(config, workdir)
    mine = plan.share_of(everything, share)
    try:
        done = [cell for cell in mine if results.find(cell, workdir) is not None]
    except ValueError as e:  # a weight file that cannot be read, a result that was damaged
        raise UsageError(str(e)) from e
    known = set(map(id, done))
    failed = [c for c in mine if id(c) not in known and c.error_path(workdir).exists()]
    skipped = set() if config.retry_failed else set(map(id, failed))
    todo = [c for c in mine if id(c) not in known and id(c) not in skipped]

    _say(
        f"{config.protocol}: {_count(len({c.model for c in everything}), 'model')} x "
        + _count(len({c.task for c in everything}), "task")
        + (f", share {share}: " if share else " = ")
        + _count(len(mine), "cell")
        + f"; {len(done)} done, {len(todo)} to do"
        + (f", {len(skipped)} failed before" if skipped else "")
        + f" ({workdir})"
    )
    beside = sum(results.has_other_settings(cell, workdir) for cell in todo)
    if beside:
        _say(f"{beside} of those to do have results with other settings here, which stay beside the new ones")
    if config.dry_run:
        _foretell(todo, workdir)
        return 0
    if todo:
        _check(todo, config, workdir)
        files.sweep_temporaries(workdir)
        _work(todo, config, workdir)
    else:
        _say("nothing to do: every cell has a result" if not skipped else "nothing to do")
    return _close(mine, everything, config, workdir)


def _check(todo: Sequence[Cell], config: Any, workdir: Path) -> None:
    """Data sets that are not prepared, models that do not exist."""
    from vtabjax import data

    names = list(dict.fromkeys(cell.task for cell in todo))
    missing = {}
    for task in names:
        try:
            data.check(task, config.data_dir or None)
        except data.NotPreparedError as e:
            missing[task] = str(e)
        except (data.DataError, ValueError) as e:
            raise UsageError(str(e)) from e
    if len(missing) == 1:
        raise UsageError(*missing.values())
    if missing:
        option = f" --config.data_dir={config.data_dir}" if config.data_dir else ""
        there = [task for task in names if task not in missing]
        raise UsageError(
            f"{len(missing)} of {len(names)} tasks have no prepared data set: {', '.join(missing)}\n"
            "Prepare them with: python main.py --config=configs/prepare.py "
            f"--config.tasks={','.join(missing)}{option} (add --config.check=true to see sizes, and what has to be "
            "downloaded by hand)"
            + (f"\nOr run the others: --config.tasks={','.join(there)}" if there else "")
        )
    try:
        unknown = artefacts.check(_to_convert(todo, config, workdir))
    except artefacts.ConversionError as e:
        raise UsageError(str(e)) from e
    if unknown:
        raise UsageError("\n".join(f"config.models: {message}" for message in unknown.values()))


def _models_dir(config: Any, workdir: Path) -> Path:
    return Path(config.models_dir or workdir / "models")


def _to_convert(todo: Sequence[Cell], config: Any, workdir: Path) -> list[str]:
    folder = _models_dir(config, workdir)
    models = dict.fromkeys(cell.model for cell in todo)
    return [m for m in models if artefacts.find(folder, m, config.image_size) is None]


# The work.


def _work(todo: Sequence[Cell], config: Any, workdir: Path) -> None:
    by_model: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in todo:
        by_model[cell.model].append(cell)
    converting = _to_convert(todo, config, workdir)
    folder = _models_dir(config, workdir)
    # Converting starts before anything else does; models that are there already are computed meanwhile.
    with artefacts.Conversions(
        converting, folder, config.image_size, config.convert_timeout * 60
    ) as conversions:
        shared = _prepare_run(config, workdir)
        progress = Progress(len(todo))
        try:
            for model in sorted(by_model, key=set(converting).__contains__):
                _run_model(model, by_model[model], conversions, shared, config, workdir, progress)
        finally:
            progress.close()


def _prepare_run(config: Any, workdir: Path) -> inputs.Run:
    from vtabjax import data, parallel

    parallel.use_compilation_cache(str((workdir / "cache" / "xla").absolute()))

    @functools.cache
    def examples(task: str, split: str, image_size: int) -> data.Examples:
        return data.load(
            task,
            split,
            image_size=image_size,
            resize=config.resize,
            data_dir=config.data_dir or None,
            cache_dir=config.cache_dir or str(workdir / "cache" / "images"),
            skip_broken=config.skip_broken,
        )

    return inputs.Run(workdir, parallel.data_mesh(), examples, config.batch_size, config.dtype)


def _run_model(
    model: str,
    todo: Sequence[Cell],
    conversions: artefacts.Conversions,
    shared: inputs.Run,
    config: Any,
    workdir: Path,
    progress: Progress,
) -> None:
    """All cells of a model. Whatever goes wrong ends in error files."""
    progress.doing(f"{model}: converting")
    stages = inputs.Stages()
    try:
        with stages("convert"):
            path = artefacts.find(_models_dir(config, workdir), model, config.image_size)
            converting = 0.0
            if path is None:
                path, converting = conversions.result(model)
        with stages("load"):
            converted = _open(model, path, shared)
    except Exception as e:
        for cell in todo:
            _fail(cell, stages.failed or "convert", e, workdir, progress)
        return
    for cell in todo:
        progress.doing(str(cell))
        stages = inputs.Stages()
        if converting:
            stages.seconds["convert"] = converting  # charged to the model's first cell
        try:
            if results.find(cell, workdir) is not None:  # another worker was faster
                progress.step(f"{cell}: done by another worker")
                continue
            _run_cell(cell, converted, stages, workdir, progress)
            converting = 0.0
        except Exception as e:
            _fail(cell, stages.failed or cell.protocol, e, workdir, progress)


def _open(model: str, path: Path, shared: inputs.Run) -> inputs.Converted:
    try:
        return inputs.Converted(model, path, shared)
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{path} is not a complete converted model ({e}); remove the folder and run again with "
            "--config.retry_failed=true"
        ) from e


def _run_cell(
    cell: Cell, converted: inputs.Converted, stages: inputs.Stages, workdir: Path, progress: Progress
) -> None:
    from vtabjax import parallel

    given = inputs.Inputs(cell, converted, stages, progress.say)
    with stages(cell.protocol):
        outcome = cells.PROTOCOLS[cell.protocol].run(given, cell.settings)
    info = converted.info
    with stages("write"):
        results.save(
            cell,
            workdir,
            metrics=outcome.metrics,
            correct=outcome.correct,
            chosen=outcome.chosen,
            notes=outcome.notes,
            provenance={
                "seed": cell.settings.get("seed"),
                "weight_hash": info["weight_hash"],
                "graph_hash": info["graph_hash"],
                "input": {name: info[name] for name in ("input_size", "mean", "std")},
                "source": {name: info.get(name) for name in results.SOURCE},
                "data": dict(given.fingerprints),
                "passes": dict(given.passes),
                "device": parallel.describe_devices(),
            },
            seconds=stages.seconds,
        )
    shown = "  ".join(
        f"{name} {value:.4g}" for name, value in outcome.metrics.items() if isinstance(value, float)
    )
    progress.step(f"{cell}: {shown}  {sum(stages.seconds.values()):.1f} s")


def _fail(cell: Cell, stage: str, error: Exception, workdir: Path, progress: Progress) -> None:
    message = f"{error}" if str(error) else type(error).__name__
    if not isinstance(error, (ValueError, artefacts.ConversionError)):
        message = f"{type(error).__name__}: {message}"
    try:
        text = "".join(traceback.format_exception(error))
        results.save_error(cell, workdir, stage=stage, message=message, traceback=text)
    except OSError as e:  # a full disk takes the error file, too; the rest of the sweep may still fit
        progress.say(f"{cell}: no error file could be written ({e})")
    progress.step(f"{cell}: FAILED in {stage}: {_first_line(message)}")


# What is told.


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _first_line(text: str, width: int = 160) -> str:
    return textwrap.shorten(text.strip().splitlines()[0] if text.strip() else "", width, placeholder=" ...")


def _foretell(todo: Sequence[Cell], workdir: Path) -> None:
    """What would run, and how long it would take by what such cells took here."""
    by_model = collections.Counter(cell.model for cell in todo)
    for model, n in by_model.items():
        _say(f"  {model}: {_count(n, 'cell')}")
    if todo:
        taken = [sum(record["seconds"].values()) for _, record in results.records(workdir, todo[0].protocol)]
        if taken:
            mean = sum(taken) / len(taken)
            _say(
                f"{_count(len(taken), 'cell')} took {mean:.1f} s each here: "
                f"{len(todo)} would take {duration(mean * len(todo))}"
            )
        else:
            _say("no cell of this protocol has run here, so there is nothing to estimate the time from")
    _say("dry run: nothing was done")


def _close(mine: Sequence[Cell], everything: Sequence[Cell], config: Any, workdir: Path) -> int:
    """Tables, failures, exit status."""
    found = {(c.model, c.task): results.find(c, workdir) for c in everything}
    print(tables.report(config.protocol, found, workdir), flush=True)
    failures = []
    for cell in mine:
        if found[cell.model, cell.task] is None:
            path = cell.error_path(workdir)
            record = results.read(path) or {"stage": "?", "message": "no result and no error file; run again"}
            failures.append(Failure(cell, record["stage"], record["message"], path))
    if failures:
        _say(failure_table(failures))
        _say("add --config.retry_failed=true to try them again")
    return 1 if failures else 0


def failure_table(failures: Sequence[Failure]) -> str:
    """What failed, where, why, and where the traceback is; cells of a model that failed alike share a row."""
    from tabulate import tabulate

    alike: dict[tuple[str, str, str], list[Failure]] = collections.defaultdict(list)
    for failure in failures:
        alike[failure.cell.model, failure.stage, failure.message].append(failure)
    rows = [
        (
            model,
            ", ".join(f.cell.task for f in group) if len(group) <= 3 else f"{len(group)} tasks",
            stage,
            "\n".join(textwrap.wrap(_first_line(message, 240), 60)),
            group[0].path,
        )
        for (model, stage, message), group in alike.items()
    ]
    header = ("model", "task", "stage", "message", "traceback in")
    return f"{_count(len(failures), 'cell')} failed:\n" + tabulate(rows, header, tablefmt="simple")
