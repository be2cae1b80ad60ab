"""A sweep: cells (protocol, model, task), model by model; what fails does not stop the rest.

For each model all tasks run before the next model: one conversion, one load, one compilation. The next models
are converted in another process meanwhile. A cell's result is a file (`vtabjax.results`), so a sweep that is
killed resumes where it stopped, and any number of workers may share a sweep through the workdir alone.

A cell that failed has an error file and is not tried again unless asked (config.retry_failed): in a sweep
over hundreds of models most failures are properties of the model, and a second run must not spend its time on
them. They are listed again at the end, and the exit status is 1, until they are done.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import results, tasks
from vtabjax.options import RunOptions, UsageError
from vtabjax.results import Cell
from vtabjax.runtime import files, memory, processes, terminal
from vtabjax.sweep import (
    artefacts,
    conversions,
    converters_client,
    costs,
    failures,
    folders,
    heartbeat,
    placing,
    plan,
    shares,
    tables,
    worker,
)
from vtabjax.sweep.progress import duration, working

_FIRST = 300  # cells of embedded tasks up to which a sweep may be a first look


class WorkerShare(NamedTuple):
    """Where a worker's part of a sweep stands when it starts.

    Attributes:
      cells: all cells of the sweep.
      own: this worker's.
      n_done: how many of them have a result.
      n_failed: how many failed before and are not tried again.
      pending: those to run.
      folder: the sweep's own folder in the workdir.
      records: position in `cells` -> the result that was there; only the first of several processes has any.
    """

    cells: list[Cell]
    own: list[Cell]
    n_done: int
    n_failed: int
    pending: list[Cell]
    folder: Path
    records: dict[int, dict[str, Any]]


def run(config: Any, workdir: str | os.PathLike, share: str = "") -> int:
    """Runs a sweep.

    Args:
      config: see configs/common.py.
      workdir: where everything goes.
      share: "i/n" for the i-th of n workers (from 0); "": what an array job says, or else everything.

    Returns:
      The exit status: 0 if every cell (of the share) is done.

    Raises:
      UsageError: before any long work.
    """
    asked = plan.read(config)
    workdir = files.as_path(workdir)
    connect(asked.run.distributed)
    state = work(asked, workdir, own_share(share))
    return conclude(state, asked.run, workdir)


def own_share(flag: str) -> shares.Share | None:
    """This worker's share, by --cells or by what started it (see `shares.which_share`)."""
    return shares.which_share(flag, _share_environment())


def work(
    asked: plan.SweepPlan,
    workdir: Path,
    share: shares.Share | None,
    only: Collection[tuple[str, str]] | None = None,
    may_start: Callable[[Cell], bool] | None = None,
) -> WorkerShare:
    """Runs what is missing of a share.

    Args:
      asked: the sweep.
      workdir: where everything goes.
      share: which worker this is; None: everything.
      only: (model, task) of the cells that this call is about; None: all of the share's.
      may_start: asked before each cell (see `worker.run`).

    Raises:
      UsageError: before any long work.
    """
    state = assess(asked, workdir, share)
    if only is not None:
        state = state._replace(pending=[c for c in state.pending if (c.model, c.task) in only])
    if state.pending and not asked.run.dry_run:
        started = preflight(state.pending, asked.run, workdir, convert=True)
        try:
            _run(state, asked.run, workdir, share, may_start, started)
        finally:
            if started is not None:
                started.close()
    elif not asked.run.dry_run:
        _say("nothing to do: every cell has a result" if not state.n_failed else "nothing to do")
    return state


def conclude(state: WorkerShare, run: RunOptions, workdir: Path) -> int:
    """Shows and writes the tables and what failed (in a dry run: what would run). Returns the exit status.

    Raises:
      UsageError: the tables cannot be written; they have been shown.
    """
    try:
        if run.dry_run:
            processes.broadcast_from_first(lambda: _print_dry_run(state, run, workdir))
            return 0
        return processes.broadcast_from_first(lambda: _report(state, run.protocol, workdir))
    except processes.OtherProcessError as e:
        raise UsageError(str(e)) from e


def connect(wanted: bool) -> None:
    """Connects the processes of a pod, where there are some."""
    # An Indexed Job's pods are shares of a sweep, unless they were told to be one worker or hold a TPU slice together.
    slice_of_tpus = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    indexed = "JOB_COMPLETION_INDEX" in os.environ and not slice_of_tpus
    try:
        processes.initialize(wanted, detect=not indexed)
    except ValueError as e:
        raise UsageError(str(e)) from e


def _share_environment() -> dict[str, str]:
    """The environment's variables that may name a share."""
    names = dict(os.environ)
    if processes.count() > 1:  # then the index is the number of the process
        names.pop("JOB_COMPLETION_INDEX", None)
    return names


@memory.without_collection()
def assess(asked: plan.SweepPlan, workdir: Path, share: shares.Share | None) -> WorkerShare:
    """What a worker has to do; prints it, too.

    Raises:
      UsageError: a field of the config is wrong, or a file that is there cannot be read.
    """
    run, cells = asked.run, plan.all_cells(asked, workdir)
    folder = heartbeat.folder(workdir, run.protocol, shares.digest(cells))
    records: dict[int, dict[str, Any]] = {}

    def estimate() -> Callable[[Cell], float | None]:
        if files.is_remote(workdir):  # two may write the plan at once, so that it must not depend on the time
            return lambda cell: None
        return _costs(cells, workdir).seconds

    def own_positions() -> tuple[list[int], list[int], list[int]]:
        """Positions of this worker's cells, of those without a result, and of those that failed before."""
        written = folder / f"shares-{share.total if share else 1}.json"
        own = shares.share_of(cells, share, written, estimate, remember=not run.dry_run)
        found = results.find_summaries([cells[i] for i in own], workdir, remember=not run.dry_run)
        records.update((i, record) for i, record in zip(own, found, strict=True) if record is not None)
        missing = [i for i in own if i not in records]
        before = results.failed_before([cells[i] for i in missing], workdir)
        failed = [] if run.retry_failed else [i for i, f in zip(missing, before, strict=True) if f]
        return own, missing, failed

    try:
        own, missing, failed = processes.broadcast_from_first(own_positions)
    except (ValueError, processes.OtherProcessError) as e:  # a weight file or a result that cannot be read
        raise UsageError(str(e)) from e
    skipped = set(failed)
    state = WorkerShare(
        cells=cells,
        own=[cells[i] for i in own],
        n_done=len(own) - len(missing),
        n_failed=len(failed),
        pending=[cells[i] for i in missing if i not in skipped],
        folder=folder,
        records=records,
    )
    _print_summary(state, run.protocol, workdir, share)
    return state


def _costs(cells: Sequence[Cell], workdir: Path) -> costs.Costs:
    """What such cells took here, judging by the results that can be read."""
    protocol = cells[0].protocol
    records = (record for _, record in results.records(workdir, protocol, damaged=[]))
    return costs.Costs(records, protocol, cells[0].settings)


def _print_summary(state: WorkerShare, protocol: str, workdir: Path, share: shares.Share | None) -> None:
    models, names = ({getattr(c, what) for c in state.cells} for what in ("model", "task"))
    source = f" ({share.source})" if share and share.source != "--cells" else ""
    _say(
        f"{protocol}: {_count(len(models), 'model')} x {_count(len(names), 'task')}"
        + (f", share {share}{source}: " if share else " = ")
        + _count(len(state.own), "cell")
        + f"; {state.n_done} done, {len(state.pending)} to do"
        + (f", {state.n_failed} failed before" if state.n_failed else "")
        + (f", {processes.count()} processes" if processes.count() > 1 else "")
        + f" ({workdir})"
    )
    if processes.is_first():
        beside = results.with_other_settings(state.pending, workdir)
        if beside:
            _say(f"{beside} of the cells to do have results with other settings here, which are kept")


def preflight(
    pending: Sequence[Cell], run: RunOptions, workdir: Path, *, convert: bool = False
) -> conversions.Started | None:
    """Makes sure that folders can be written, data sets are prepared and models exist, before long work.

    Returns:
      The converters that were asked, where they shall `convert` afterwards and there is something to convert.

    Raises:
      UsageError: some are not.
    """
    started: conversions.Started | None = None

    def unavailable() -> dict[str, str]:
        nonlocal started
        models, folder = worker.to_convert(pending, run, workdir), worker.models_dir(run, workdir)
        if convert and models and not files.is_remote(folder):
            started = conversions.Started(models, folder, run.image_size)
        try:
            return artefacts.unavailable_models(models, started.check if started is not None else None)
        except BaseException:
            if started is not None:
                started.close()
            raise

    try:
        processes.broadcast_from_first(lambda: plan.check_folders(run, workdir))
        with working("looking at the data"):
            processes.all_or_none(lambda: folders.check_prepared(pending, run.data_dir))
            folders.look_through(
                pending,
                _say,
                background=run.background,
                max_pixels=run.max_pixels,
                skip_broken=run.skip_broken,
                cache_dir=worker.image_cache(run, workdir),
            )
        with working("looking up the models"):
            unknown = processes.broadcast_from_first(unavailable)
    except (ValueError, converters_client.ConversionError, processes.OtherProcessError) as e:
        raise UsageError(str(e)) from e
    if unknown:
        if started is not None:
            started.close()
        raise UsageError("\n".join(f"config.models: {message}" for message in unknown.values()))
    return started


def _run(
    state: WorkerShare,
    run: RunOptions,
    workdir: Path,
    share: shares.Share | None,
    may_start: Callable[[Cell], bool] | None,
    started: conversions.Started | None,
) -> None:
    first = processes.is_first()
    if first:
        files.remove_stale_temporaries(workdir)
        heartbeat.describe(state.folder, state.cells)
    with working("starting"):
        from vtabjax.runtime import devices

        device = devices.describe_devices()
    about = {"share": str(share or ""), "device": device, "todo": len(state.pending)}
    me = heartbeat.Worker(state.folder, about, enabled=first)
    status = "interrupted"
    try:
        worker.run(state.pending, run, workdir, me, may_start, started)
        status = "ended"
    finally:
        me.close(status)


# What is reported.


def _say(text: str) -> None:
    if processes.is_first():
        print(text, file=sys.stderr, flush=True)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _print_dry_run(state: WorkerShare, run: RunOptions, workdir: Path) -> None:
    """What would run, and how long it would take, judging by such cells here."""
    pending = state.pending
    folders.foretell(pending, _say)
    by_model: dict[str, list[Cell]] = collections.defaultdict(list)
    for cell in pending:
        by_model[cell.model].append(cell)
    known = _costs(state.cells, workdir)
    try:
        converting = set(worker.to_convert(pending, run, workdir))
        sizes = (
            {m: worker.converted_sizes(m, run, workdir) for m in converting} if run.image_size == 0 else {}
        )
    except ValueError as e:  # a weight file that cannot be read
        raise UsageError(str(e)) from e
    converting -= {model for model, found in sizes.items() if found}
    for model, own in by_model.items():
        taken = known.total(own)
        base = worker.base(model)
        notes = ["to convert"] if base in converting else []
        if sizes.get(base):
            there = ", ".join(map(str, sizes[base]))
            notes = [f"converted at {there} pixels; to convert if its own size differs"]
        if taken is not None:
            notes.append(
                f"about {duration(taken)}" + ("" if known.has(model) else ", judging by similar models")
            )
        _say(f"  {model}: {_count(len(own), 'cell')}" + (f" ({'; '.join(notes)})" if notes else ""))
    if pending:
        total = known.total(pending)
        if total is not None:
            _say(
                f"judging by {_count(known.known, 'similar cell')} here, {len(pending)} would take about "
                f"{duration(total)} (plus conversions: {len(converting)})"
            )
        else:
            _say("no cell of this protocol has run here, so there is nothing to estimate the time from")
    _say("dry run: nothing was done")


@memory.without_collection()
def _report(state: WorkerShare, protocol: str, workdir: Path) -> int:
    """Tables, failures, exit status. Reads the results that were not there at the start, whoever wrote them."""
    damaged: list[str] = []
    later = [i for i in range(len(state.cells)) if i not in state.records]
    new = results.find_summaries([state.cells[i] for i in later], workdir, damaged)
    records = {**state.records, **dict(zip(later, new, strict=True))}
    found = {(cell.model, cell.task): records[i] for i, cell in enumerate(state.cells)}
    table = tables.table(protocol, found)
    width, styled = terminal.width(sys.stdout), terminal.is_styled(sys.stdout)
    print(tables.shown(table, width=width, styled=styled, file=tables.path(protocol, workdir)), flush=True)
    first = [cell for cell in state.cells if cell.task in tasks.EMBEDDED]
    if len(first) <= _FIRST and {cell.task for cell in first} == set(tasks.EMBEDDED):
        of_first = results.find_all(first, workdir, [])
        if place := placing.among_small_models(record for record in of_first if record is not None):
            _say(terminal.folded(place, sys.stderr))
    failed = [failures.of(cell, workdir) for cell in state.own if found[cell.model, cell.task] is None]
    if failed:
        _say(failures.listed(failed))
    for message in damaged:
        _say(f"left out of the table: {message}")
    try:
        print(tables.write(table, protocol, workdir), flush=True)
    except OSError as e:  # a full or read-only disk: what was computed has been shown
        raise UsageError(
            f"the tables above cannot be written to {workdir / 'tables'} ({e.strerror}); make room or make "
            "the folder writable, and run the same command again"
        ) from e
    if failed:
        _say("the same command with --config.retry_failed=true tries what failed again")
    return 1 if failed else 0
