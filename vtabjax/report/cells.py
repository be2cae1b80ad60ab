"""What the page's template and script need of tables: texts, shades, what each cell tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtabjax import tasks
from vtabjax.report.analysis import Analysis
from vtabjax.report.boards import value_text
from vtabjax.report.mean_intervals import mean_intervals
from vtabjax.sweep.tables import UNCERTAINTY
from vtabjax.tables import Column, Table, sort_value, text


def of_table(table: Table) -> dict[str, Any]:
    """A table for the template: a cell is its text, what it is sorted by, and the interval beside it."""
    shown = [k for k, column in enumerate(table.columns) if not column.beside]
    # An interval stands in the cell of the column before it.
    intervals = {k - 1: k for k, column in enumerate(table.columns) if column.beside}
    rows = [[_cell(table, n, k, intervals.get(k)) for k in shown] for n in range(len(table.items))]
    columns = [table.columns[k] for k in shown]
    of_95 = [" (95 %)" if k in intervals else "" for k in shown]
    return {
        "key": table.key,
        "title": table.title,
        "columns": [
            {"label": (c.label or c.name) + said, "numeric": c.kind != "text"}
            for c, said in zip(columns, of_95, strict=True)
        ],
        "rows": rows,
        "remarks": table.remarks,
        "n_references": table.n_references,
    }


def _cell(table: Table, n: int, k: int, interval: int | None) -> dict[str, Any]:
    column, value = table.columns[k], table.rows[n][k]
    beside = "" if interval is None else _text(table.columns[interval], table.rows[n][interval])
    said = column.shown(table.items[n]) if column.shown else _text(column, value)
    return {
        "text": said,
        "sort": said if column.shown else sort_value(value),
        "interval": f"({beside})" if beside else "",
    }


def _text(column: Column, value: Any) -> str:
    """A value with a true minus where it is a number."""
    said = text(value, column.kind)
    return said if column.kind == "text" else re.sub(r"(?<![\w.])-(?=\d)", "−", said)


def _heat_columns(a: Analysis) -> list[Column]:
    """Means first, then the tasks; the model's name is not one of them."""
    columns = a.accuracy_columns()[1:]
    n_tasks = len(a.board.tasks)
    means = columns[n_tasks:]
    order = {"mean": 0, "mean of groups": 1}
    return [*sorted(means, key=lambda c: order.get(c.name, 2)), *columns[:n_tasks]]


def _groups(task_names: Sequence[str]) -> list[str]:
    """The group of each task, "other" outside of VTAB's."""
    group_of = {task: group for group, members in tasks.VTAB_GROUPS.items() for task in members}
    return [group_of.get(task, "other") for task in task_names]


def _intervals(a: Analysis, columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of the heat map's cells: two of [M, columns], rows in its order; NaN where not known."""
    of_means, n_means = mean_intervals(a), len(columns) - len(a.board.tasks)
    low, high = (
        np.concatenate([np.array([of_means[c.name][k] for c in columns[:n_means]]).T, of_tasks], axis=1)
        for k, of_tasks in enumerate((a.low, a.high))
    )
    return low[a.order], high[a.order]


def _halves(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[str]:
    """Half the interval of the best of each column that has one, as text; "–" where none has."""
    known = np.where(np.isnan(low), -np.inf, values)
    best = known.argmax(axis=0), np.arange(values.shape[1])
    return [text(half, "percent") or "–" for half in ((high - low) / 2)[best]]


def heat(a: Analysis) -> dict[str, Any]:
    """The heat map: columns under their groups, rows of cells (text, half the interval of a mean, shade from 0 to 1
    within the column, whether it is no better than not looking), and the rows below them."""
    columns = _heat_columns(a)
    n_means = len(columns) - len(a.board.tasks)
    rows = [a.accuracy_row(i) for i in a.order]
    values = np.array([[c.value(row) for c in columns] for row in rows], float)
    low, high = _intervals(a, columns)
    levels = [
        {"name": level.name, "cells": [text(c.value(level), "percent") or "–" for c in columns]}
        for level in a.levels
    ]
    if np.isfinite(low).any():
        levels.append({"name": UNCERTAINTY, "cells": _halves(values, low, high)})
    floor = np.array([[c.value(level) for c in columns] for level in a.levels], float).reshape(
        -1, len(columns)
    )
    highest = np.nan_to_num(floor, nan=-np.inf).max(axis=0, initial=-np.inf)
    at_floor = np.where(np.isnan(low), values, low) <= highest
    shades = np.stack([_shades(column) for column in values.T], axis=1)
    spans: list[list[Any]] = []
    for name in ["means"] * n_means + _groups(a.board.tasks):
        if spans and spans[-1][0] == name:
            spans[-1][1] += 1
        else:
            spans.append([name, 1])
    starts = np.cumsum([0, *(n for _, n in spans)])
    names = [c.name for c in columns[:n_means]] + a.task_names
    return {
        "columns": [
            {"name": name, "task": k >= n_means, "starts": k in starts} for k, name in enumerate(names)
        ],
        "spans": spans if {name for name, _ in spans} & set(tasks.VTAB_GROUPS) else [],
        "rows": [
            {
                "model": a.board.models[i],
                "name": a.names[i],
                "size": a.board.models[i].size,
                "cells": [
                    None
                    if np.isnan(value)
                    else {
                        "text": text(value, "percent"),
                        "half": text(half, "percent") if column < n_means else "",
                        "shade": f"{shade:.2f}",
                        "floor": bool(is_floor),
                    }
                    for column, (value, half, shade, is_floor) in enumerate(
                        zip(values[k], (high - low)[k] / 2, shades[k], at_floor[k], strict=True)
                    )
                ],
            }
            for k, i in enumerate(a.order)
        ],
        "levels": levels,
        "intervals": bool(np.isfinite(low).any()),
    }


def _shades(values: np.ndarray) -> np.ndarray:
    """How near each value [M] is to the best of its column: from 0 to 1; NaN where there is none."""
    known = values[~np.isnan(values)]
    low, spread = (known.min(), np.ptp(known)) if known.size else (0, 0)
    return np.clip((values - low) / spread, 0, 1) if spread > 0 else np.where(np.isnan(values), np.nan, 0.5)


def told(a: Analysis) -> dict[str, Any]:
    """What the page tells about each cell of the heat map, rows in the order of the heat map: [M][columns] for values
    and intervals, [M][tasks] for the rest."""
    b = a.board
    columns = _heat_columns(a)
    n_means = len(columns) - len(b.tasks)
    values = np.array([[c.value(a.accuracy_row(i)) for c in columns] for i in a.order], float)
    low, high = _intervals(a, columns)
    return {
        "n_means": n_means,
        "values": _nullable(values),
        "low": _nullable(low),
        "high": _nullable(high),
        "n": [[int(v) for v in b.n_examples[i]] for i in a.order],
        "files": [list(b.files[i]) for i in a.order],
        "sources": [b.models[i].source for i in a.order],
        "chosen": [[_chosen(b.chosen.get((i, j))) for j in range(len(b.tasks))] for i in a.order],
    }


def _nullable(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in values]


def _chosen(chosen: Any) -> str:
    """Chosen hyperparameters that fit in a line."""
    return ", ".join(
        f"{k} {value_text(v)}"
        for k, v in (chosen or {}).items()
        if isinstance(v, (int, float, str)) and k != "curves"
    )
