"""Downloading and preparing data sets through tensorflow-datasets, with a table of what is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

from etils import epath

from vtabjax import installation, options, specs, tasks
from vtabjax.data import downloads
from vtabjax.data.downloads import human
from vtabjax.data.loading import vtab_copy
from vtabjax.data.sources import tfds, vtab_copies
from vtabjax.data.types import NotPreparedError
from vtabjax.tasks import Task, TaskError

if TYPE_CHECKING:
    import tensorflow_datasets
    from ml_collections import ConfigDict

# Bytes to download and bytes on disk afterwards (None: not published), from tfds's metadata.
_BYTES: dict[str, tuple[float, float | None]] = {
    "caltech101": (137.4e6, 139.3e6),
    "cifar100": (168.5e6, 138.4e6),
    "dtd": (625.2e6, 411e6),
    "oxford_flowers102": (344.9e6, 347e6),
    "oxford_iiit_pet": (811.1e6, 811e6),
    "sun397/tfds": (39.096e9, None),
    "svhn_cropped": (1.576e9, None),
    "eurosat/rgb": (94.3e6, 93.9e6),
    "resisc45": (0, None),
    "patch_camelyon": (8.028e9, 7.58e9),
    "diabetic_retinopathy_detection/btgraham-300": (1.2e6, 3.92e9),
    "clevr": (19.022e9, 19.06e9),
    "dsprites": (28.0e6, 338e6),
    "smallnorb": (262.8e6, 243e6),
    "dmlab": (3.017e9, 3.36e9),
    "kitti": (12.576e9, 5.66e9),
}


class _Set(NamedTuple):
    """A data set and those of its tasks that were asked for."""

    name: str
    tasks: list[Task]


def _sets(names: list[str]) -> list[_Set]:
    """The data sets of tasks, each once, in order.

    Raises:
      TaskError: a task is unknown or has nothing to prepare.
    """
    found: dict[str, list[Task]] = {}
    for name in names:
        if name.startswith("tfds:"):
            raise TaskError(f"task {name!r}: only the tasks of VTAB are prepared here; use tfds build")
        task = tasks.get(name)
        if task.own:
            raise TaskError(f"task {name!r}: your own pictures need no preparation; leave it out")
        found.setdefault(tfds.builder_name(task), []).append(task)
    return [_Set(name, its_tasks) for name, its_tasks in found.items()]


def _state(data_set: _Set, data_dir: str) -> tuple[bool, str, str]:
    """Whether a data set can be read, that in a word or two, and what is wrong with it."""
    if data_set.name == "embedded":
        return True, "embedded", ""
    try:
        builder = tfds.open_whole(data_set.tasks[0], data_dir)
    except NotPreparedError as e:
        try:
            copies = {task: vtab_copy(task, data_dir or None) for task in data_set.tasks}
            if all(copies.values()):
                states = {_copy_state(task, copy) for task, copy in copies.items() if copy}
                return True, ", ".join(sorted(states)), ""
        except NotPreparedError as wrong:
            return False, "a wrong copy", str(wrong)
        text = str(e).splitlines()[0].partition(": ")[2]
        if "is not prepared in" in text:
            return False, "not prepared", ""
        return False, "other version" if "holds version" in text else "damaged", text
    return True, f"prepared: {builder.version}, {builder.info.file_format.value}", ""


def _copy_state(task: Task, copy: vtab_copies.Copy) -> str:
    """What a copy holds, in a few words."""
    for split in copy.splits:
        vtab_copies.open_source(task, split, copy)
    return f"copy: {vtab_copies.form(task, list(copy.splits), copy)} ({', '.join(copy.splits)})"


def _table(sets: list[_Set], data_dir: str, manual_dir: str) -> tuple[str, list[_Set]]:
    """The table of all data sets, and those of them that are not prepared, the smallest first."""
    import tabulate

    rows, missing, notes = [], [], []
    for data_set in sets:
        ready, state, wrong = _state(data_set, data_dir)
        download, on_disk = _BYTES.get(data_set.name, (0, 0))
        version = "" if data_set.name == "embedded" else data_set.tasks[0].builder.partition(":")[2]
        names = ", ".join(task.name for task in data_set.tasks)
        manual = data_set.tasks[0].manual_download
        size = ["", ""] if ready else [human(download), human(on_disk)]
        rows.append([names, data_set.name, version, state, *size, "" if ready or not manual else "by hand"])
        if not ready:
            missing.append(data_set)
            if wrong:
                notes.append(f"{names}: {wrong}")
            if manual:
                where = manual_dir or tfds.manual_dir(data_dir)
                notes.append(f"By hand for {names}: {manual.format(manual_dir=where)}")
    headers = ["task", "data set", "version", "state", "download", "on disk", "download is"]
    if not any(row[-1] for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    missing.sort(key=lambda data_set: sum(n or 0 for n in _BYTES[data_set.name]))
    return "\n".join([tabulate.tabulate(rows, headers), *notes]), missing


def builder(
    task: Task, data_dir: str | os.PathLike, file_format: str
) -> tensorflow_datasets.core.DatasetBuilder:
    """tfds's builder that can generate a task's data set.

    Its current version if the task can be read from that (tfds offers older ones that it cannot generate),
    else the version that the benchmark names.
    """
    import tensorflow_datasets

    name, _, config = tfds.builder_name(task).partition("/")
    # Not tfds.builder(): for a folder that exists already it returns a reader, which cannot generate.
    cls = tensorflow_datasets.builder_cls(name)
    options = {"config": config or None, "data_dir": os.fspath(data_dir), "file_format": file_format}
    current = cls(**options)
    if any(tfds.matches(str(current.version), pattern) for pattern in tfds.versions(task)):
        return current
    return cls(**options, version=tfds.versions(task)[0])


def _disk_free(folder: epath.Path) -> int | None:
    """Free bytes where `folder` is or will be; None where that cannot be said, as for a cloud bucket."""
    if "://" in os.fspath(folder):
        return None
    path = os.path.abspath(os.fspath(folder))
    while not os.path.exists(path):
        path = os.path.dirname(path)
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _prepare(data_set: _Set, own: options.PrepareOptions, data_dir: epath.Path) -> None:
    """Downloads and prepares one data set."""
    import tensorflow_datasets

    task = data_set.tasks[0]
    needed = sum(n or 0 for n in _BYTES[data_set.name])
    free = _disk_free(data_dir)
    if free is not None and free < needed:
        raise OSError(f"no room in {data_dir}: {human(needed)} needed, {human(free)} free")
    with contextlib.suppress(NotPreparedError):
        folder = tfds.locate(task, data_dir)  # damaged, or it would not be prepared again
        aside = folder.parent / f"{folder.name}.damaged"
        if aside.exists():
            aside.rmtree()
        folder.rename(aside)
        print(f"  {folder} is damaged and was moved to {aside}", flush=True)
    for leftover in (data_dir / data_set.name).glob("incomplete.*"):
        print(f"  an interrupted preparation left {leftover}; remove it if nothing writes there", flush=True)
    generator = builder(task, data_dir, own.file_format)
    options = {"manual_dir": own.manual_dir} if own.manual_dir else {}
    download = tensorflow_datasets.download.DownloadConfig(**options)
    _require_hosts(generator, data_dir)
    tensorflow_datasets.disable_progress_bar()
    local = (
        None
        if "://" in os.fspath(data_dir)
        else [data_dir / "downloads", data_dir / data_set.name.partition("/")[0]]
    )
    with downloads.progress(local or [], needed):
        generator.download_and_prepare(download_config=download)
    tfds.open_whole(task, data_dir)


def _require_hosts(generator: tensorflow_datasets.core.DatasetBuilder, data_dir: epath.Path) -> None:
    """Makes sure that the hosts answer which a data set comes from, where it was not downloaded before.

    Raises:
      ConnectionError: one does not.
    """
    from tensorflow_datasets.core.download import resource

    there = (
        {path.name for path in (data_dir / "downloads").glob("*")}
        if (data_dir / "downloads").exists()
        else set()
    )
    wanted = [
        url
        for url, info in (generator.url_infos or {}).items()
        if resource.get_dl_fname(url, info.checksum) not in there
    ]
    silent = downloads.unreachable(wanted)
    if silent:
        reasons = ", ".join(f"{host} ({reason})" for host, reason in silent.items())
        raise ConnectionError(
            f"no connection to {reasons}: try again later, or set HTTPS_PROXY if the network asks for a proxy; where a "
            "machine without network computes, prepare the data set elsewhere and copy its folder"
        )


def _reason(error: BaseException) -> str:
    """What went wrong, in a few lines, without a trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{type(error).__name__}: " + "\n    ".join(lines[:6])


def main(config: ConfigDict, workdir: str) -> int:
    """Prepares what `config` (configs/prepare.py) asks for; one failure does not stop the others.

    Args:
      config: the settings.
      workdir: unused; data sets go to config.data_dir.

    Returns:
      Exit status: 0 if all data sets are there, 1 if one is missing or failed, 2 for a wrong setting.
    """
    try:
        own = options.read(options.PrepareOptions, config)
        sets = _sets(specs.split_list(own.tasks))
        if not sets:
            raise TaskError("config.tasks is empty; for example --config.tasks=dtd,svhn")
    except (TaskError, options.UsageError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    data_dir = tfds.resolve_data_dir(own.data_dir)
    text, missing = _table(sets, own.data_dir, own.manual_dir)
    free = _disk_free(data_dir)
    print(f"Data sets in {data_dir}" + ("" if free is None else f" ({human(free)} free)"))
    print(text)
    if own.check or not missing:
        print(f"{len(sets) - len(missing)} of {len(sets)} data sets are prepared.", flush=True)
        return 1 if missing else 0

    installation.require("data", "preparing data sets")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    failed: dict[str, str] = {}
    for i, data_set in enumerate(missing, 1):
        print(f"[{i}/{len(missing)}] {data_set.name}", flush=True)
        try:
            _prepare(data_set, own, data_dir)
        except Exception as e:  # whatever goes wrong with one must not stop the others
            failed[data_set.name] = _reason(e)
            print(f"  failed: {failed[data_set.name]}", flush=True)
    print(_table(sets, own.data_dir, own.manual_dir)[0])
    for name, reason in failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0
