"""The failures that a sweep lists at its end."""

from __future__ import annotations

import collections
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vtabjax import results
from vtabjax.results import Cell

_MESSAGE_LINES = 5  # of a failure that are shown; the file has all
_MESSAGE_WIDTH = 400


class FailedCell(NamedTuple):
    """A cell that failed, now or before."""

    cell: Cell
    stage: str
    message: str
    path: Path


def of(cell: Cell, workdir: Path) -> FailedCell:
    """Why a cell without a result has none."""
    path = cell.error_path(workdir)
    try:
        record = results.read(path) or {"stage": "?", "message": "no result and no error file; run again"}
    except ValueError as e:
        record = {"stage": "?", "message": f"{e} with --config.retry_failed=true"}
    return FailedCell(cell, record["stage"], record["message"], path)


def listed(failures: Sequence[FailedCell]) -> str:
    """What failed, where, why, and where the traceback is; cells of a model that failed alike are listed once."""
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    alike: dict[tuple[str, str, str], list[FailedCell]] = collections.defaultdict(list)
    for failure in failures:
        alike[failure.cell.model, failure.stage, failure.message].append(failure)
    lines = [f"{len(failures)} cell{'s' * (len(failures) > 1)} failed:"]
    for (model, stage, message), group in alike.items():
        names = ", ".join(f.cell.task for f in group) if len(group) <= 3 else f"{len(group)} tasks"
        lines += _wrapped(f"{model} / {names}: in {stage}", width, "  ")
        for line in message.strip().splitlines()[:_MESSAGE_LINES]:
            lines += _wrapped(line, width, "    ")
        lines.append(f"    traceback in {group[0].path}")  # never broken: a path is there to be copied
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        textwrap.shorten(text, _MESSAGE_WIDTH, placeholder=" ..."),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
