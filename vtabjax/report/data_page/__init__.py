"""A look at the data: one self-contained HTML page per task, with its classes, pictures, copies and doubtful labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtabjax import options, specs
from vtabjax.options import UsageError
from vtabjax.runtime import files

if TYPE_CHECKING:
    from vtabjax.report.data_page._look import Look
    from vtabjax.tasks import Task


def run(config: Any, workdir: str | os.PathLike) -> int:
    """Writes ``WORKDIR/data/<task>.html`` for each task.

    Args:
      config: see configs/data.py.
      workdir: where the pages go, and the image cache unless another one is named.

    Returns:
      The exit status: 0, or 1 if a task's pictures cannot be shown (a line says why; the others are).

    Raises:
      UsageError: a field of the config is wrong, a task does not exist or is not prepared.
    """
    from vtabjax import data
    from vtabjax.report.data_page import _look, _page
    from vtabjax.sweep import worker

    own = options.read(options.DataOptions, config)
    found = _tasks(own)
    folder = files.as_path(workdir) / "data"
    files.write_text(folder / ".writable", "")  # found out before the work
    (folder / ".writable").unlink()
    cache_dir = worker.image_cache(own, files.as_path(workdir))
    failed = 0
    for task in found:
        try:
            look = _look.look(task, own, cache_dir)
        except data.DataError as e:
            failed += 1
            print(f"error: {e}", file=sys.stderr)
            continue
        page = folder / f"{task.file_stem}.html"
        # The name of a file may hold bytes that are no text.
        files.write_text(page, _page.render(look, own).encode("utf-8", "backslashreplace").decode())
        print(_summary(look, page), file=sys.stderr)
    return 1 if failed else 0


def _tasks(own: options.DataOptions) -> list[Task]:
    """The tasks, which can all be read.

    Raises:
      UsageError: one cannot.
    """
    from vtabjax import data, tasks
    from vtabjax.data import pictures

    try:
        pictures.parse_colour(own.background)
    except ValueError as e:
        raise UsageError(
            f"config.background={own.background!r} is not a colour ({e}); write a name such as white, or '#rrggbb'"
        ) from e
    names = specs.split_list(own.tasks)
    if not names:
        raise UsageError("config.tasks is empty; for example --config.tasks=folder:/path/to/pictures")
    try:
        tasks.check_commas(own.tasks)
        if own.group:
            names = [tasks.with_options(name, own.group) if tasks.is_own(name) else name for name in names]
        found = [tasks.get(name, own.data_dir or None) for name in dict.fromkeys(names)]
        for task in found:
            data.require_prepared(task, own.data_dir or None)
    except (tasks.TaskError, data.NotPreparedError) as e:
        raise UsageError(str(e)) from e
    return found


def _summary(look: Look, page: Path) -> str:
    """A line about what was found."""
    from vtabjax.report.data_page import _content

    told = [f"{len(look.ids):,} pictures in {look.task.num_classes:,} classes"]
    for n, what in (
        (len(look.unreadable), "cannot be read"),
        (sum(len(group) - 1 for group in look.alike.groups), "copies"),
        (len(look.alike.near), "pairs nearly equal"),
        (_content.doubtful(look)["count"], "doubtful labels"),
    ):
        if n:
            told.append(f"{n:,} {what}")
    return f"{look.task.name}: {', '.join(told)}: {page}"
