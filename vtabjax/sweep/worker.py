"""The work of a sweep: model by model, cell by cell; whatever goes wrong ends in error files.

With several processes all of them go through this together. What one of them finds in files decides for all
(`vtabjax.runtime.processes`), and the first one writes.
"""

from __future__ import annotations

import collections
import functools
import gc
import glob
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import bundled, protocols, results, specs, tasks
from vtabjax.options import DataOptions, RunOptions
from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.specs import pooling
from vtabjax.sweep import adapters, artefacts, conversions, converters_client, heartbeat, inputs
from vtabjax.sweep.progress import Progress, duration, first_line


class Failure(NamedTuple):
    """Why a cell failed."""

    stage: str
    message: str
    traceback: str


def models_dir(options: RunOptions, workdir: Path) -> Path:
    """Where converted models are."""
    return files.as_path(options.models_dir) if options.models_dir else workdir / "models"


def image_cache(options: RunOptions | DataOptions, workdir: Path) -> str:
    """Where decoded images are kept."""
    return options.cache_dir or str(
        artefacts.local_cache() / "images" if files.is_remote(workdir) else workdir / "cache" / "images"
    )


def to_convert(pending: Sequence[Cell], options: RunOptions, workdir: Path) -> list[str]:
    """The models of cells that are not converted yet, without those that need no converting.

    All that is measured of a model's features comes from one conversion, which has the name without the choice.
    """
    folder = models_dir(options, workdir)
    models = [m for m in dict.fromkeys(base(cell.model) for cell in pending) if not bundled.is_bundled(m)]
    return [m for m in models if artefacts.find(folder, m, options.image_size) is None]


def base(model: str) -> str:
    """The spec of a model without a choice among its features."""
    return str(specs.parse(model).base)


def converted_sizes(model: str, options: RunOptions, workdir: Path) -> list[int]:
    """Image sizes at which a model is converted already, for image_size=0: its own is known only after converting."""
    stem = results.file_stem(model, str(workdir))
    found = models_dir(options, workdir).glob(f"{glob.escape(stem)}-*/model.json")
    sizes = (path.parent.name.removeprefix(f"{stem}-") for path in found)
    return sorted(int(size) for size in sizes if size.isdecimal())


def run(
    pending: Sequence[Cell],
    options: RunOptions,
    workdir: Path,
    beat: heartbeat.Worker,
    may_start: Callable[[Cell], bool] | None = None,
    started: conversions.Started | None = None,
) -> None:
    """Runs cells.

    Args:
      pending: the cells, model by model.
      options: see configs/common.py.
      workdir: the sweep's folder.
      beat: where it is told.
      may_start: asked before a model is waited for and before each of its cells, which are left out where it says no;
        what is left out has neither a result nor a failure.
      started: converters to begin with.
    """
    by_model: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in pending:
        by_model[base(cell.model)].append(cell)
    converting = processes.broadcast_from_first(lambda: to_convert(pending, options, workdir))
    progress = Progress(pending, enabled=processes.is_first())

    def on_converted(model: str, began: float, ended: float, well: bool) -> None:
        beat.event("convert", model, began, ended, ok=well)

    memory = options.convert_memory_gb * 1e9 if options.convert_memory_gb else None
    limits = conversions.Limits(options.convert_timeout * 60, memory)
    # Converting starts before anything else does; models that are there already are computed meanwhile.
    with conversions.Conversions(
        converting if processes.is_first() else [],
        models_dir(options, workdir),
        options.image_size,
        limits,
        ahead=options.convert_ahead,
        started=started,
        on_converted=on_converted,
    ) as queue:
        sweep = make_context(options, workdir, queue, progress, beat)
        try:
            for model in sorted(by_model, key=set(converting).__contains__):
                if may_start is None or processes.broadcast_from_first(
                    functools.partial(any, map(may_start, by_model[model]))
                ):
                    run_model(model, by_model[model], sweep, may_start)
                gc.collect()  # what the model left on the device goes before the next one comes
        finally:
            progress.close()


def make_context(
    options: RunOptions,
    workdir: Path,
    queue: conversions.Conversions,
    progress: Progress,
    beat: heartbeat.Worker,
) -> inputs.SweepContext:
    """What the cells share: devices, images, who is told; starts the compilation cache."""
    from vtabjax import data
    from vtabjax.features import device_images
    from vtabjax.runtime import devices

    cache = workdir / "cache" / "xla"
    devices.use_compilation_cache(str(cache if files.is_remote(cache) else cache.resolve()))
    images_dir = image_cache(options, workdir)

    @functools.cache
    def examples(task: str, split: str, image_size: int, resize: str) -> data.Examples:
        return data.load(
            task,
            split,
            image_size=image_size,
            resize=resize,
            data_dir=options.data_dir or None,
            cache_dir=images_dir,
            skip_broken=options.skip_broken,
            background=options.background,
            max_pixels=options.max_pixels,
        )

    mesh = devices.data_mesh()
    room = None if options.device_images_gb < 0 else options.device_images_gb * 1e9
    images = device_images.DeviceImageCache(mesh, room)
    return inputs.SweepContext(
        options, workdir, mesh, examples, images, queue, progress, heartbeat=beat, told=set()
    )


def run_model(
    model: str,
    pending: Sequence[Cell],
    sweep: inputs.SweepContext,
    may_start: Callable[[Cell], bool] | None = None,
) -> None:
    """All cells of a model, with each choice of features that they ask for."""
    progress = sweep.progress
    choices = list(dict.fromkeys(cell.model for cell in pending))
    _doing(sweep, choices[0], "waiting for its conversion")
    stages = inputs.Stages()
    try:
        with stages("convert"):
            path, converting = processes.broadcast_from_first(lambda: _converted(model, sweep))
        with stages("load"):
            loaded = processes.all_or_none(lambda: _load(model, path, sweep))
    except Exception as e:
        for cell in pending:
            _fail(cell, _fault(e, stages.failed or "convert"), sweep)
        progress.model(f"{model}: not run", len(choices))
        return
    loaded.wanted = frozenset(name for cell in pending for name in _outputs(cell, loaded))
    began, done = time.time(), 0
    for cell in pending:
        if may_start is not None and not processes.broadcast_from_first(functools.partial(may_start, cell)):
            continue
        _doing(sweep, cell.model, cell.task)
        stages = inputs.Stages()
        if converting:
            stages.seconds["convert"] = converting  # charged to the model's first cell
        try:
            there = processes.broadcast_from_first(functools.partial(_is_done, cell, sweep.workdir))
        except (
            ValueError,
            processes.OtherProcessError,
        ) as e:  # a result that was damaged since the sweep began
            _fail(cell, _fault(e, "results"), sweep)
            continue
        if there:
            progress.step(cell, "done by another worker")
            continue
        if run_cell(cell, loaded, stages, sweep):
            converting = 0.0
            done += 1
    ended = time.time()
    sweep.heartbeat.count(images=loaded.seen)
    sweep.heartbeat.event("compute", model, began, ended, cells=done, images=loaded.seen)
    name = choices[0] if len(choices) == 1 else f"{model} ({len(choices)} choices of features)"
    progress.model(_said(name, len(pending), done, began, ended, sweep), len(choices))


def _outputs(cell: Cell, loaded: inputs.LoadedModel) -> list[str]:
    """The outputs of a model that a cell may be about; none where the model does not have what it asks for."""
    if cell.settings.get("features") == "auto":
        return pooling.alternatives(loaded.info)
    try:
        return [pooling.output(cell.model, loaded.info)]
    except specs.SpecError:  # said where the cell has its turn
        return []


def _is_done(cell: Cell, workdir: Path) -> bool:
    return results.find(cell, workdir) is not None


def _doing(sweep: inputs.SweepContext, model: str, what: str) -> None:
    sweep.progress.doing(f"{model}: {what}")
    sweep.heartbeat.doing(f"{model}: {what}")


def _said(model: str, total: int, done: int, began: float, ended: float, sweep: inputs.SweepContext) -> str:
    # What the other process did while this model was computed: the timeline of the overlap.
    events = sweep.heartbeat.events("convert")
    meanwhile = [e["model"] for e in events if began < e["ended"] <= ended]
    beside = f"; converted meanwhile: {', '.join(meanwhile)}" if meanwhile else ""
    return f"{model}: {done} of {total} cells in {duration(ended - began)}{beside}"


def _converted(model: str, sweep: inputs.SweepContext) -> tuple[str, float]:
    folder, image_size = models_dir(sweep.options, sweep.workdir), sweep.options.image_size
    path = artefacts.find(folder, model, image_size)
    if path is not None:
        return str(path), 0.0
    if bundled.is_bundled(model):
        return str(bundled.write(model, folder, image_size)), 0.0
    found = sweep.conversions.result(model)
    if found.seconds:
        for note in artefacts.notes(artefacts.read_info(found.path)):
            sweep.progress.say(f"{model}: {note}")
    return str(found.path), found.seconds


def _load(model: str, path: str, sweep: inputs.SweepContext) -> inputs.LoadedModel:
    try:
        return inputs.LoadedModel(model, artefacts.local(files.as_path(path)), sweep)
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{path} is not a complete converted model ({e}); remove the folder and run again with "
            "--config.retry_failed=true"
        ) from e


def run_cell(
    cell: Cell, loaded: inputs.LoadedModel, stages: inputs.Stages, sweep: inputs.SweepContext
) -> bool:
    """One cell; whether it is done."""
    given = inputs.CellContext(cell, loaded, stages, sweep.progress.say)
    outcome: protocols.Outcome | None = None
    fault: Failure | None = None
    try:
        with stages(cell.protocol):
            given.output  # noqa: B018  (refused before anything is computed; chosen by features=auto)
            outcome = adapters.PROTOCOLS[cell.protocol].run(given, cell.settings)
            outcome = adapters.with_groups(outcome, given.tested_groups())
    except Exception as e:
        fault = _fault(e, stages.failed or cell.protocol)
    fault = next((Failure(*f) for f in processes.gather(fault) if f is not None), None)
    if fault is not None:
        _fail(cell, fault, sweep)
        return False
    assert outcome is not None  # no process has a fault, this one neither
    if processes.is_first():
        try:
            with stages("write"):
                _save(cell, outcome, given, stages, sweep)
        except Exception as e:
            _fail(cell, _fault(e, "write"), sweep)
            return False
    sweep.heartbeat.count(done=1)
    converting = stages.seconds.get("convert", 0.0)
    seconds = sum(stages.seconds.values()) - converting
    sweep.progress.step(cell, _numbers(outcome.metrics), seconds=seconds, converting=converting)
    return True


def _numbers(metrics: Mapping[str, Any]) -> str:
    """The numbers of a cell for a line: accuracies in percent."""
    shown = []
    for name, value in metrics.items():
        if isinstance(value, float):
            shown.append(f"{name} {100 * value:.1f} %" if "accuracy" in name else f"{name} {value:.4g}")
    return "  ".join(shown)


def _save(
    cell: Cell,
    outcome: protocols.Outcome,
    given: inputs.CellContext,
    stages: inputs.Stages,
    sweep: inputs.SweepContext,
) -> None:
    from vtabjax.runtime import devices

    loaded = given.loaded
    info = loaded.info
    source = {name: info.get(name) for name in results.SOURCE}
    source["gflops"] = loaded.memo("gflops", lambda: artefacts.gflops(loaded.path, info))
    results.save(
        cell,
        sweep.workdir,
        metrics=outcome.metrics,
        correct=outcome.correct,
        confusion=outcome.confusion,
        groups=given.tested_groups() if outcome.correct is not None else None,
        chosen={**outcome.chosen, **given.choice},
        notes=outcome.notes,
        provenance={
            "seed": cell.settings.get("seed"),
            "weight_hash": info["weight_hash"],
            "graph_hash": info["graph_hash"],
            "input": {name: info[name] for name in ("input_size", "mean", "std")}
            | ({"resize": given.loaded.resize} if sweep.options.resize == "source" else {}),
            "source": {
                **source,
                "features": pooling.words(given.output, info),
                "num_features": pooling.width(given.output, info),
            },
            "data": dict(given.fingerprints),
            "copies": given.copies(),
            "passes": dict(given.passes),
            "device": devices.describe_devices(),
            **_data_notes(cell, sweep),
        },
        seconds={
            stage: stages.seconds.get(stage, 0.0) + given.seconds_before.get(stage, 0.0)
            for stage in {**stages.seconds, **given.seconds_before}
        },
    )


def _data_notes(cell: Cell, sweep: inputs.SweepContext) -> dict[str, Any]:
    """What an own task or a copy of VTAB's held and how it was read, for the record."""
    from vtabjax import data

    options = sweep.options
    if "data" in cell.settings and (copy := data.vtab_copy(cell.task, options.data_dir or None)):
        from vtabjax.data.sources import vtab_copies

        task = tasks.get(cell.task)
        return {"data_notes": {s: vtab_copies.notes(task, s, copy) for s in cell.settings["splits"]}}
    if not tasks.is_own(cell.task):
        return {}
    return {
        "data_notes": data.look_through(
            cell.task,
            background=options.background,
            max_pixels=options.max_pixels,
            cache_dir=image_cache(options, sweep.workdir),
            skip_broken=True,
        )
    }


def _fault(error: Exception, stage: str) -> Failure:
    message = f"{error}" if str(error) else type(error).__name__
    if not isinstance(error, (ValueError, converters_client.ConversionError)):
        message = f"{type(error).__name__}: {message}"
    return Failure(stage, message, "".join(traceback.format_exception(error)))


def _fail(cell: Cell, fault: Failure, sweep: inputs.SweepContext) -> None:
    if processes.is_first():
        try:
            results.save_error(cell, sweep.workdir, **fault._asdict())
        except OSError as e:  # a full disk takes the error file, too; the rest of the sweep may still fit
            sweep.progress.say(f"{cell}: no error file could be written ({e})")
    sweep.heartbeat.count(failed=1)
    sweep.progress.step(cell, f"FAILED in {fault.stage}: {first_line(fault.message)}", failed=True)
