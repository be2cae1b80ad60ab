"""Names of own tasks taken apart: ``hf:OWNER/NAME#label=species+image=photo``.

What tasks of every source may have besides: groups by a regular expression on the pictures' names, percent-encoded,
``folder:/path#group=~%28patient%5Cd%2B%29_``, and one of several folds, ``folder:/path#fold=2of5``.
"""

from __future__ import annotations

import os
import re
import urllib.parse
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


class Derived(NamedTuple):
    """What makes a task out of another one.

    Attributes:
      name: of the task.
      pattern: a regular expression that finds a picture's group in its name; "" for none.
      fold: (number from 1, how many) of the part that is tested; None for the usual cut.
    """

    name: str
    pattern: str = ""
    fold: tuple[int, int] | None = None


def derived(name: str) -> tuple[str, Derived]:
    """The task that the data make by themselves, and what is made of it.

    Raises:
      TaskError: a fold that there is none of.
    """
    source, target, columns = _parts(name)
    rest = dict(columns)
    pattern, fold = "", None
    if "group" in rest and (rest["group"].startswith("~") or source == "folder"):
        pattern = urllib.parse.unquote(rest.pop("group").removeprefix("~"))
    if "fold" in rest:
        match = re.fullmatch(r"([1-9]\d*)of([1-9]\d*)", text := rest.pop("fold"))
        if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
            raise TaskError(f"task {name!r}: fold={text} is not a fold; write fold=1of5")
        fold = int(match[1]), int(match[2])
    if not pattern and fold is None:
        return name, Derived(name)
    return str(OwnName(source, target, rest)), Derived(name, pattern, fold)


def with_options(base: str, pattern: str = "", fold: tuple[int, int] | None = None) -> str:
    """The one name that a task has with groups by a regular expression, or as a fold.

    A task whose name says already what its groups are keeps them.
    """
    source, target, columns = _parts(base)
    more = dict(columns)
    if pattern and not more.get("group", "").startswith("~"):
        more["group"] = "~" + urllib.parse.quote(pattern, safe="")
    if fold is not None:
        more["fold"] = f"{fold[0]}of{fold[1]}"
    return str(OwnName(source, target, more))


def _parts(name: str) -> OwnName:
    """A name taken apart, whatever its source."""
    source, _, rest = name.partition(":")
    target, hash_sign, chosen = rest.rpartition("#")
    wellformed = hash_sign and re.fullmatch(r"\w+=[^+=]+(\+\w+=[^+=]+)*", chosen)
    if not wellformed or os.path.exists(os.path.expanduser(rest)):
        return OwnName(source, rest, {})
    pairs = [(item.partition("=")[0], item.partition("=")[2]) for item in chosen.split("+")]
    if len(dict(pairs)) < len(pairs):
        raise TaskError(f"task {name!r} chooses a column twice; leave one out")
    return OwnName(source, target, dict(pairs))


def parse(name: str, columns: Collection[str] = COLUMNS) -> OwnName:
    """Takes an own task's name apart.

    Args:
      name: the name.
      columns: those that it may name.

    Raises:
      TaskError: it names nothing, or a column that there is none of.
    """
    parsed = _parts(name)
    if not parsed.target.strip():
        raise TaskError(f"task {name!r} does not name any data (is a shell variable unset?)")
    for column in parsed.columns:
        if column not in columns:
            raise TaskError(
                f"task {name!r}: {column!r} cannot be chosen after '#'; there are {', '.join(columns)}"
            )
    return parsed


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
