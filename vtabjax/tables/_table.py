"""A table: columns with their values and kind, and how people read them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Column(NamedTuple):
    """A column: what it is called, and what stands in it.

    Attributes:
      name: its heading.
      kind: "text", "percent" (of a fraction), "points" (a difference of fractions), "number", "whole", "size" (a
        number of parameters), "seconds", "interval" (low, high), "points interval", "interval percent" or "interval
        whole"; "percent.2" and "number.4" have as many digits after the point.
      value: an item of the table -> what the column says of it; None or NaN where there is nothing.
      label: a shorter heading for the page, where the place says the rest.
      shown: what the page says instead of `value`, such as a model's name without what all names share.
      beside: of an interval, that the page puts it into the cell of the column before.
      more_is_better: whether the highest value is the best, and set in bold.
      paper: whether the column is in a paper's table.
      first: whether it comes before the others where there is no room for all.
    """

    name: str
    kind: str
    value: Callable[[Any], Any]
    label: str = ""
    shown: Callable[[Any], str] | None = None
    beside: bool = False
    more_is_better: bool = False
    paper: bool = True
    first: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: columns over items (rows of accuracies, proxies, ...).

    Attributes:
      columns: what is said of each item.
      items: one per row.
      remarks: what has to be known.
      key: for file names and links.
      title: its caption.
      n_references: how many of the last rows are for comparison only (chance) and never the best.
    """

    columns: Sequence[Column]
    items: Sequence[Any]
    remarks: Sequence[str] = ()
    key: str = ""
    title: str = ""
    n_references: int = 0

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    @functools.cached_property
    def rows(self) -> list[list[Any]]:
        """Raw values."""
        return [[column.value(item) for column in self.columns] for item in self.items]

    def in_full(self) -> list[list[Any]]:
        """Header and rows in full precision, for the CSV; an interval is two columns."""
        header: list[str] = []
        rows: list[list[Any]] = [[] for _ in self.items]
        for i, column in enumerate(self.columns):
            split = "interval" in column.kind
            header += [f"{column.name} low", f"{column.name} high"] if split else [column.name]
            for out, row in zip(rows, self.rows, strict=True):
                out += [_plain(v) for v in (row[i] or (None, None))] if split else [_plain(row[i])]
        return [header, *rows]

    def texts(self) -> list[list[str]]:
        """Rows as people read them."""
        return [[text(v, c.kind) for v, c in zip(row, self.columns, strict=True)] for row in self.rows]

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of the highest values of `Column.more_is_better`, and of all that read the same."""
        texts, found = self.texts(), set()
        n = len(texts) - self.n_references
        for j, column in enumerate(self.columns):
            known = {i: row[j] for i, row in enumerate(self.rows[:n]) if _plain(row[j]) is not None}
            if column.more_is_better and len(known) > 1:
                shown = texts[max(known, key=known.__getitem__)][j]
                found |= {(i, j) for i in known if texts[i][j] == shown}
        return found


def _plain(value: Any) -> Any:
    """Python's own number; None for NaN."""
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value


def text(value: Any, kind: str) -> str:
    """A value as people read it; "" for nothing."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    if "interval" in kind:
        low, high = value
        inner = "points" if kind.startswith("points") else kind.partition(" ")[2] or "number"
        return f"{text(low, inner)} to {text(high, inner)}" if text(low, inner) else ""
    unit, _, digits = kind.partition(".")
    match unit:
        case "percent":
            return _rounded(100 * value, int(digits or 1))
        case "points":
            return _rounded(100 * value, int(digits or 1), "+")
        case "number":
            return _rounded(value, int(digits or 2))
        case "whole":
            return f"{value:,.0f}"
        case "size":
            return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value / 1e3:.0f} k" if value else "0"
        case "seconds":
            return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return str(value)


def _rounded(value: float, digits: int, sign: str = "") -> str:
    """With so many digits after the point; zero has no sign."""
    shown = f"{value:{sign}.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown


def sort_value(value: Any) -> Any:
    """What a cell is sorted by."""
    if isinstance(value, tuple):
        value = value[0]
    value = _plain(value)
    return "" if value is None else value
