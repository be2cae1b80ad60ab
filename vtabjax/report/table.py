"""A table of the report: columns with their values and kind, and how people read them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtabjax.report.boards import Model
from vtabjax.sweep import tables


class Column(NamedTuple):
    """A column: what it is called, and what stands in it.

    Attributes:
      name: its heading.
      kind: "text", "percent" (of a fraction), "points" (a difference of fractions), "number", "whole", "seconds",
        "interval" (low, high), "points interval", "interval percent" or "interval whole".
      value: an item of the table -> what the column says of it; None or NaN where there is nothing.
      label: a shorter heading for the page, where the place says the rest.
    """

    name: str
    kind: str
    value: Callable[[Any], Any]
    label: str = ""


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table: columns over items (numbers of rows of a board, proxies, ...).

    Attributes:
      key: for file names and links.
      title: its caption.
      columns: what is said of each item.
      items: one per row.
      remarks: what has to be known.
    """

    key: str
    title: str
    columns: Sequence[Column]
    items: Sequence[Any]
    remarks: Sequence[str]

    @functools.cached_property
    def rows(self) -> list[list[Any]]:
        """Raw values."""
        return [[column.value(item) for column in self.columns] for item in self.items]

    def raw(self) -> tables.Table:
        """Full precision, for the CSV; an interval is two columns."""
        header: list[str] = []
        rows: list[list[Any]] = [[] for _ in self.items]
        for i, column in enumerate(self.columns):
            split = "interval" in column.kind
            header += [f"{column.name} low", f"{column.name} high"] if split else [column.name]
            for out, row in zip(rows, self.rows, strict=True):
                out += [_none(v) for v in (row[i] or (None, None))] if split else [_none(row[i])]
        return tables.Table(header, rows, list(self.remarks))

    def shown(self) -> tables.Table:
        """As people read it."""
        rows = [[text(v, c.kind) for v, c in zip(row, self.columns, strict=True)] for row in self.rows]
        return tables.Table([c.name for c in self.columns], rows, list(self.remarks))


def _none(value: Any) -> Any:
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
    match kind:
        case "percent":
            return f"{100 * value:.1f}"
        case "points":
            return f"{100 * value:+.2f}"
        case "number":
            return f"{value:.2f}"
        case "whole":
            return f"{value:,.0f}"
        case "seconds":
            return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return str(value)


def sort_value(value: Any) -> Any:
    """What a cell is sorted by."""
    if isinstance(value, tuple):
        value = value[0]
    value = _none(value)
    return "" if value is None else value


SIZES = ((10e6, "< 10 M"), (50e6, "10-50 M"), (200e6, "50-200 M"), (math.inf, "> 200 M"))


def size_of(model: Model) -> str:
    """The class of a model's number of parameters, "" where unknown."""
    return "" if model.parameters is None else next(name for end, name in SIZES if model.parameters < end)
