"""The work of a sweep: model by model, cell by cell; whatever goes wrong ends in error files.

With several processes all of them go through this together. What one of them finds in files decides for all
(`vtabjax.runtime.processes`), and the first one writes.
"""

from __future__ import annotations

import collections
import functools
import gc
import glob
import textwrap
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import bundled, protocols, results
from vtabjax.options import RunOptions
from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.sweep import adapters, artefacts, conversions, converters_client, heartbeat, inputs
from vtabjax.sweep.progress import Progress, duration


class Failure(NamedTuple):
    """Why a cell failed."""

    stage: str
    message: str
    traceback: str


class Session(NamedTuple):
    """What the models of a run share."""

    run: RunOptions
    workdir: Path
    shared: inputs.Run
    conversions: conversions.Conversions
    progress: Progress
    worker: heartbeat.Worker


def models_dir(run: RunOptions, workdir: Path) -> Path:
    """Where converted models are."""
    return files.as_path(run.models_dir) if run.models_dir else workdir / "models"


def image_cache(run: RunOptions, workdir: Path) -> str:
    """Where decoded images are kept."""
    return run.cache_dir or str(
        artefacts.local_cache() / "images" if files.is_remote(workdir) else workdir / "cache" / "images"
    )


def to_convert(todo: Sequence[Cell], run: RunOptions, workdir: Path) -> list[str]:
    """The models of cells that are not converted yet, without those that need no converting."""
    folder = models_dir(run, workdir)
    models = [m for m in dict.fromkeys(cell.model for cell in todo) if not bundled.is_bundled(m)]
    return [m for m in models if artefacts.find(folder, m, run.image_size) is None]


def converted_sizes(model: str, run: RunOptions, workdir: Path) -> list[int]:
    """Image sizes at which a model is converted already, for image_size=0: its own is known only after converting."""
    stem = results.slug(model, str(workdir))
    found = models_dir(run, workdir).glob(f"{glob.escape(stem)}-*/model.json")
    sizes = (path.parent.name.removeprefix(f"{stem}-") for path in found)
    return sorted(int(size) for size in sizes if size.isdecimal())


def run(todo: Sequence[Cell], run: RunOptions, workdir: Path, worker: heartbeat.Worker) -> None:
    """Runs cells.

    Args:
      todo: the cells, model by model.
      run: see configs/common.py.
      workdir: the sweep's folder.
      worker: where it is told.
    """
    by_model: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in todo:
        by_model[cell.model].append(cell)
    converting = processes.broadcast_from_first(lambda: to_convert(todo, run, workdir))
    progress = Progress(len(todo), models=len(by_model), enabled=processes.is_first())

    def on_converted(model: str, began: float, ended: float, well: bool) -> None:
        worker.event("convert", model, began, ended, ok=well)

    limits = conversions.Limits(
        run.convert_timeout * 60, run.convert_memory_gb * 1e9 if run.convert_memory_gb else None
    )
    # Converting starts before anything else does; models that are there already are computed meanwhile.
    with conversions.Conversions(
        converting if processes.is_first() else [],
        models_dir(run, workdir),
        run.image_size,
        limits,
        ahead=run.convert_ahead,
        on_converted=on_converted,
    ) as queue:
        session = Session(run, workdir, make_context(run, workdir), queue, progress, worker)
        try:
            for model in sorted(by_model, key=set(converting).__contains__):
                run_model(model, by_model[model], session)
                gc.collect()  # what the model left on the device goes before the next one comes
        finally:
            progress.close()


def make_context(run: RunOptions, workdir: Path) -> inputs.Run:
    """What the cells share: devices, images, the compilation cache."""
    from vtabjax import data
    from vtabjax.features import device_images
    from vtabjax.runtime import devices

    cache = workdir / "cache" / "xla"
    devices.use_compilation_cache(str(cache if files.is_remote(cache) else cache.absolute()))
    images_dir = image_cache(run, workdir)

    @functools.cache
    def examples(task: str, split: str, image_size: int) -> data.Examples:
        return data.load(
            task,
            split,
            image_size=image_size,
            resize=run.resize,
            data_dir=run.data_dir or None,
            cache_dir=images_dir,
            skip_broken=run.skip_broken,
            background=run.background,
            max_pixels=run.max_pixels,
        )

    mesh = devices.data_mesh()
    room = None if run.device_images_gb < 0 else run.device_images_gb * 1e9
    images = device_images.DeviceImageCache(mesh, room)
    return inputs.Run(workdir, mesh, examples, run.batch_size, run.dtype, images, told=set())


def run_model(model: str, todo: Sequence[Cell], session: Session) -> None:
    """All cells of a model."""
    workdir, progress, worker = session.workdir, session.progress, session.worker
    _doing(session, model, "waiting for its conversion")
    stages = inputs.Stages()
    try:
        with stages("convert"):
            path, converting = processes.broadcast_from_first(lambda: _converted(model, session))
        with stages("load"):
            converted = processes.all_or_none(lambda: _load(model, path, session.shared))
    except Exception as e:
        for cell in todo:
            _fail(cell, _fault(e, stages.failed or "convert"), session)
        progress.model(f"{model}: not run")
        return
    began, done = time.time(), 0
    for cell in todo:
        _doing(session, model, cell.task)
        stages = inputs.Stages()
        if converting:
            stages.seconds["convert"] = converting  # charged to the model's first cell
        try:
            there = processes.broadcast_from_first(lambda cell=cell: results.find(cell, workdir) is not None)
        except (
            ValueError,
            processes.OtherProcessError,
        ) as e:  # a result that was damaged since the sweep began
            _fail(cell, _fault(e, "results"), session)
            continue
        if there:
            progress.step(f"{cell}: done by another worker")
            continue
        if run_cell(cell, converted, stages, session):
            converting = 0.0
            done += 1
    ended = time.time()
    worker.count(images=converted.seen)
    worker.event("compute", model, began, ended, cells=done, images=converted.seen)
    _say_model(model, len(todo), done, converted.seen, ended - began, session)


def _doing(session: Session, model: str, what: str) -> None:
    session.progress.doing(f"{model}: {what}")
    session.worker.doing(f"{model}: {what}")


def _say_model(model: str, total: int, done: int, images: int, seconds: float, session: Session) -> None:
    rate = f", {images / seconds:,.0f} images/s" if images and seconds else ""
    # What the other process did while this model was computed: the timeline of the overlap.
    events = session.worker.events("convert")
    meanwhile = [e["model"] for e in events if e["ended"] > time.time() - seconds]
    beside = f"; converted meanwhile: {', '.join(meanwhile)}" if meanwhile else ""
    session.progress.model(f"{model}: {done} of {total} cells in {duration(seconds)}{rate}{beside}")


def _converted(model: str, session: Session) -> tuple[str, float]:
    path = artefacts.find(models_dir(session.run, session.workdir), model, session.run.image_size)
    if path is not None:
        return str(path), 0.0
    if bundled.is_bundled(model):
        folder = models_dir(session.run, session.workdir)
        return str(bundled.write(model, folder, session.run.image_size)), 0.0
    found = session.conversions.result(model)
    if found.seconds:
        for note in artefacts.notes(artefacts.read_info(found.path)):
            session.progress.say(f"{model}: {note}")
    return str(found.path), found.seconds


def _load(model: str, path: str, shared: inputs.Run) -> inputs.LoadedModel:
    try:
        return inputs.LoadedModel(model, artefacts.local(files.as_path(path)), shared)
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{path} is not a complete converted model ({e}); remove the folder and run again with "
            "--config.retry_failed=true"
        ) from e


def run_cell(cell: Cell, converted: inputs.LoadedModel, stages: inputs.Stages, session: Session) -> bool:
    """One cell; whether it is done."""
    given = inputs.CellContext(cell, converted, stages, session.progress.say)
    fault = outcome = None
    try:
        with stages(cell.protocol):
            outcome = adapters.PROTOCOLS[cell.protocol].run(given, cell.settings)
    except Exception as e:
        fault = _fault(e, stages.failed or cell.protocol)
    fault = next((Failure(*f) for f in processes.gather(fault) if f is not None), None)
    if fault is None and processes.is_first():
        try:
            with stages("write"):
                _save(cell, outcome, given, stages, session)
        except Exception as e:
            fault = _fault(e, "write")
    if fault is not None:
        _fail(cell, fault, session)
        return False
    session.worker.count(done=1)
    shown = "  ".join(
        f"{name} {value:.4g}" for name, value in outcome.metrics.items() if isinstance(value, float)
    )
    session.progress.step(f"{cell}: {shown}  {sum(stages.seconds.values()):.1f} s")
    return True


def _save(
    cell: Cell, outcome: protocols.Outcome, given: inputs.CellContext, stages: inputs.Stages, session: Session
) -> None:
    from vtabjax.runtime import devices

    info = given.model.info
    results.save(
        cell,
        session.workdir,
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
            "copies": given.copies(),
            "passes": dict(given.passes),
            "device": devices.describe_devices(),
            **_data_notes(cell, session),
        },
        seconds=stages.seconds,
    )


def _data_notes(cell: Cell, session: Session) -> dict[str, Any]:
    """What a folder of pictures held and how it was read, for the record."""
    if not cell.task.startswith("folder:"):
        return {}
    from vtabjax import data

    run = session.run
    return {
        "data_notes": data.look_through(
            cell.task,
            background=run.background,
            max_pixels=run.max_pixels,
            cache_dir=image_cache(run, session.workdir),
            skip_broken=True,
        )
    }


def _fault(error: Exception, stage: str) -> Failure:
    message = f"{error}" if str(error) else type(error).__name__
    if not isinstance(error, (ValueError, converters_client.ConversionError)):
        message = f"{type(error).__name__}: {message}"
    return Failure(stage, message, "".join(traceback.format_exception(error)))


def _fail(cell: Cell, fault: Failure, session: Session) -> None:
    if processes.is_first():
        try:
            results.save_error(cell, session.workdir, **fault._asdict())
        except OSError as e:  # a full disk takes the error file, too; the rest of the sweep may still fit
            session.progress.say(f"{cell}: no error file could be written ({e})")
    session.worker.count(failed=1)
    session.progress.step(f"{cell}: FAILED in {fault.stage}: {first_line(fault.message)}")


def first_line(text: str, width: int = 160) -> str:
    """The first line of a message, cut where it is longer than `width`."""
    return textwrap.shorten(text.strip().splitlines()[0] if text.strip() else "", width, placeholder=" ...")
