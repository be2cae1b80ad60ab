"""Names of own tasks taken apart: ``hf:OWNER/NAME#label=species+image=photo``."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from vtabjax import specs
from vtabjax.tasks._task import TaskError

COLUMNS = ("path", "image", "label", "split", "group")


class OwnName(NamedTuple):
    """An own task's name.

    Attributes:
      source: "table", "hf" or "tfds".
      target: the file, folder, repository or builder.
      columns: what columns are called, where that is said: "label" -> "species".
    """

    source: str
    target: str
    columns: Mapping[str, str]

    def __str__(self) -> str:
        chosen = "+".join(f"{column}={self.columns[column]}" for column in sorted(self.columns))
        return f"{self.source}:{self.target}" + (f"#{chosen}" if chosen else "")


def parse(name: str, columns: Collection[str] = COLUMNS) -> OwnName:
    """Takes an own task's name apart.

    Args:
      name: the name.
      columns: those that it may name.

    Raises:
      TaskError: it names nothing, or a column that there is none of.
    """
    source, _, rest = name.partition(":")
    target, hash_sign, chosen = rest.rpartition("#")
    if not hash_sign or not re.fullmatch(r"\w+=[^+=]+(\+\w+=[^+=]+)*", chosen) or os.path.exists(rest):
        target, chosen = rest, ""
    if not target.strip():
        raise TaskError(f"task {name!r} does not name any data (is a shell variable unset?)")
    pairs = [(item.partition("=")[0], item.partition("=")[2]) for item in chosen.split("+")] if chosen else []
    for column, _ in pairs:
        if column not in columns:
            raise TaskError(
                f"task {name!r}: {column!r} cannot be chosen after '#'; there are {', '.join(columns)}"
            )
    if len(dict(pairs)) < len(pairs):
        raise TaskError(f"task {name!r} chooses a column twice; leave one out")
    return OwnName(source, target, dict(pairs))


def choice(name: OwnName, column: str, candidates: Collection[str]) -> str:
    """How to say which column is meant, for messages: ``hf:a/b#label=fine_label or ...#label=coarse_label``."""
    first, *others = list(candidates)[:3]
    chosen = OwnName(name.source, name.target, {**name.columns, column: first})
    return specs.listed([str(chosen), *(f"...#{column}={other}" for other in others)])


def chosen(name: OwnName, column: str, there: Collection[str]) -> str | None:
    """The column that a name says; None where it says none.

    Raises:
      TaskError: the data have no such column.
    """
    wanted = name.columns.get(column)
    if wanted is None or wanted in there:
        return wanted
    near = specs.nearest(wanted, there, 1)
    raise TaskError(
        f"task {str(name)!r}: there is no column {wanted!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" There are {specs.listed(there, 12)}"
    )
