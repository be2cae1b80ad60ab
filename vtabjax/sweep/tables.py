"""Tables of a sweep: on the terminal, as CSV and as Markdown.

Accuracies: models x tasks in percent with one digit on the terminal and in Markdown, as fractions and in full in the
CSV; a mean is given only for a row that has all its tasks. Transferability scores: one row per (model, task), a column
per score; they have no common scale, so they are not averaged over tasks.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import specs, tasks
from vtabjax.data import copies
from vtabjax.protocols import measures
from vtabjax.runtime import files
from vtabjax.specs import pooling
from vtabjax.sweep import folds
from vtabjax.tables import (
    AccuracyRow,
    Column,
    Table,
    accuracy_columns,
    levels,
    to_csv,
    to_markdown,
    to_terminal,
    whole_groups,
)

_PATH = re.compile(r"[a-z]+:.*/")  # a task that is named by a path
_LONG = 80  # rows that still make sense on a terminal

Records = Mapping[tuple[str, str], Mapping[str, Any] | None]


def table(protocol: str, records: Records) -> Table:
    """The table of a sweep.

    Args:
      protocol: its name.
      records: (model, task) -> the result's record, or None; in the order of the columns and rows.
    """
    records = folds.of_table(records)
    return score_table(records) if protocol == "transferability" else accuracy_table(records)


def shown(table: Table, *, width: int | None = None, styled: bool = False, file: str | Path = "") -> str:
    """The table for the terminal.

    Args:
      table: a sweep's.
      width: columns of the terminal; None: as many as it takes.
      styled: with bold type.
      file: where the whole table is written.
    """
    table = _with_short_names(table)
    n = len(table.items) - table.n_references
    if n > _LONG:
        remark = f"the first {_LONG} of {n} rows; the files have all of them"
        items = [*table.items[:_LONG], *table.items[n:]]
        table = dataclasses.replace(table, items=items, remarks=[*table.remarks, remark])
    return to_terminal(table, width=width, styled=styled, file=str(file))


def write(table: Table, protocol: str, workdir: str | Path) -> str:
    """Writes ``tables/<protocol>.csv`` and ``.md`` under `workdir`; returns a line that says where."""
    csv = path(protocol, workdir)
    files.write_text(csv, to_csv(table))
    files.write_text(csv.with_suffix(".md"), to_markdown(_with_short_names(table)))
    return f"tables: {csv}, .md"


def path(protocol: str, workdir: str | Path) -> Path:
    """Where `write` puts the CSV."""
    return files.as_path(workdir) / "tables" / f"{protocol}.csv"


def _with_short_names(table: Table) -> Table:
    """The table with folders called by their names instead of their paths."""
    short = short_task_names([v for row in [table.header, *table.rows] for v in row if isinstance(v, str)])

    def shortened(value: Callable[[Any], str]) -> Callable[[Any], str]:
        return lambda item: short.get(value(item), value(item))

    columns = [
        c._replace(name=short.get(c.name, c.name), value=shortened(c.value) if c.kind == "text" else c.value)
        for c in table.columns
    ]
    return dataclasses.replace(table, columns=columns)


def short_task_names(names: Sequence[str]) -> dict[str, str]:
    """Each name -> the shortest that still distinguishes it, of those that are paths; the others stay as they are."""
    return {name: name for name in names} | short_names([name for name in names if _PATH.match(name)])


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of paths such as ``folder:/data/birds``, as many as are needed to distinguish them.

    What follows a '#' (columns, groups) is left out where names differ without it.
    """
    without = {name: name.partition("#")[0] for name in names}
    if len(set(without.values())) == len(without) and any(name != short for name, short in without.items()):
        short = short_names(list(without.values()))
        return {name: short[plain] for name, plain in without.items()}
    parts = {name: [p for p in name.partition(":")[2].split("/") if p] or [name] for name in names}

    def last(name: str, n: int) -> str:
        return "/".join(parts[name][-n:])

    short = {}
    for name in parts:
        n = 1
        while n < len(parts[name]) and any(
            last(other, n) == last(name, n) for other in parts if other != name
        ):
            n += 1
        short[name] = last(name, n)
    unique = len(set(short.values())) == len(short)
    return short if unique else {name: name for name in parts}  # two kinds of tasks with one path


@dataclasses.dataclass(frozen=True)
class _SweepRow(AccuracyRow):
    """A row that has means of a protocol's further accuracies (kNN's second metric), too: metric -> mean."""

    further_means: Mapping[str, float | None]


def accuracy_table(records: Records) -> Table:
    """Models x tasks with means, the best model first, models that lack tasks at the end, and what `levels`
    are reached without looking.

    The means of VTAB's groups are there with all of its nineteen tasks. A further accuracy of a protocol has its own
    mean.
    """
    models = list(dict.fromkeys(model for model, _ in records))
    names = list(dict.fromkeys(task for _, task in records))
    metrics = (name for record in records.values() if record is not None for name in record["metrics"])
    further = list(dict.fromkeys(name for name in metrics if name.startswith("accuracy_")))
    if any(map(_is_skewed, names)):
        further.append("balanced_accuracy")
    groups = whole_groups(names)
    groups = groups if len(groups) == len(tasks.VTAB_GROUPS) else {}
    rows = []
    for model in models:
        of_model = [records.get((model, task)) for task in names]
        values = [_metric(record, "accuracy") for record in of_model]
        means = {name: _mean([_metric(record, name) for record in of_model]) for name in further}
        rows.append(_row(model, values, groups, means))
    rows.sort(key=lambda row: (row.mean is None, -(row.mean or 0)))
    remarks = ["accuracy in percent"]
    n_lacking = sum(row.mean is None for row in rows)
    if n_lacking:
        remarks.append(f"{n_lacking} of {len(rows)} models lack tasks (*), so they have no mean")
    rows = [dataclasses.replace(row, name=f"{row.name} *") if row.mean is None else row for row in rows]
    n_models = len(rows)
    for name, level in levels(names).items():
        rows.append(_row(name, level, groups, dict.fromkeys(further, _mean(level))))
    rows.extend(_uncertainty(models, names, records, groups, further))
    remarks.extend(_sample_sizes(names, records))
    columns = accuracy_columns(names, groups, mean_of_groups=bool(groups), kind="percent")
    for name in further:
        columns.append(
            Column(
                f"mean ({name.removeprefix('accuracy_').replace('_accuracy', '')})",
                "percent",
                _further_mean(name),
                first=True,
                more_is_better=True,
            )
        )
    remarks += [*_features(records), *_copies(records)]
    return Table(columns, rows, remarks, n_references=len(rows) - n_models)


UNCERTAINTY = "(± 95 %)"
_SKEWED = 1.5  # times its even share that the largest class has


def _is_skewed(task: str) -> bool:
    """Whether the classes of a task of one's own are so uneven that accuracy by itself misleads. (VTAB's measure is
    accuracy, whatever the classes.)"""
    if ":" not in task:
        return False
    try:
        known = tasks.get(task)
    except (ValueError, OSError):  # a folder that is gone
        return False
    return known.majority is not None and known.majority > _SKEWED / known.num_classes


def _uncertainty(
    models: Sequence[str],
    names: Sequence[str],
    records: Records,
    groups: Mapping[str, Sequence[int]],
    further: Sequence[str],
) -> list[_SweepRow]:
    """A row with half the width of the 95 % interval of each task's best model, and of means over independent tasks."""
    halves: list[float | None] = []
    for task in names:
        metrics = [record["metrics"] for m in models if (record := records.get((m, task))) is not None]
        intervals = {m["accuracy"]: m["interval"] for m in metrics if m.get("interval") and m.get("accuracy")}
        low, high = intervals[max(intervals)] if intervals else (None, None)
        halves.append(None if low is None or high is None else (high - low) / 2)
    if not any(halves):
        return []

    def of_mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return math.hypot(*known) / len(known) if known and len(known) == len(values) else None

    of_groups = {group: of_mean([halves[j] for j in members]) for group, members in groups.items()}
    mean_of_groups = of_mean(list(of_groups.values())) if groups else None
    nothing = dict.fromkeys(further)
    return [_SweepRow(UNCERTAINTY, halves, of_groups, of_mean(halves), mean_of_groups, nothing)]


def _sample_sizes(names: Sequence[str], records: Records) -> list[str]:
    """A remark on what so many examples can show."""
    differences, short = [], short_task_names(names)
    by_task: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for (_, task), record in records.items():
        if record is not None and record.get("n_examples"):
            by_task[task].append(record)
    for task in names:
        there = by_task[task]
        best = max(there, key=lambda r: r["metrics"].get("accuracy") or 0.0, default=None)
        if best is not None and best["metrics"].get("accuracy") is not None:
            n = best["n_examples"]
            points = 100 * measures.smallest_difference(best["metrics"]["accuracy"], n)
            of = f"{n:,}"
            if best.get("groups"):  # the difference of two independent models from the one's interval
                low, high = best["metrics"]["interval"]
                points = 100 * math.sqrt(2) * (high - low) / 2
                of += f" in {best['groups']['count']:,} groups"
            differences.append(f"{points:.1f} points on {short[task]} ({of})")
    if not differences:
        return []
    return [
        f"{UNCERTAINTY}: half the 95 % interval of the best model; the smallest difference from it that so many "
        f"examples show, if two models err independently: {specs.listed(differences, 4)}"
    ]


def _row(
    name: str,
    values: Sequence[float | None],
    groups: Mapping[str, Sequence[int]],
    further_means: Mapping[str, float | None],
) -> _SweepRow:
    group_means = {group: _mean([values[j] for j in members]) for group, members in groups.items()}
    mean_of_groups = _mean(list(group_means.values()))
    return _SweepRow(name, values, group_means, _mean(values), mean_of_groups, further_means)


def _further_mean(metric: str) -> Callable[[_SweepRow], float | None]:
    return lambda row: row.further_means[metric]


class _ScoreRow(NamedTuple):
    task: str
    model: str
    record: Mapping[str, Any] | None


def score_table(records: Records) -> Table:
    """One row per (task, model) with a column per score."""
    there = [record for record in records.values() if record is not None]
    names = list(dict.fromkeys(name for record in there for name in record["metrics"]))
    order = {task: place for place, task in enumerate(dict.fromkeys(task for _, task in records))}
    rows = [_ScoreRow(task, model, record) for (model, task), record in records.items()]
    rows.sort(key=lambda row: order[row.task])
    remarks = []
    if any(_metric(row.record, name) is None for row in rows for name in names):
        remarks.append(
            "empty: not applicable or undefined (the results' notes say which), or not computed yet"
        )
    for name in names:
        noted = [record for record in there if record["metrics"].get(name) is not None]
        notes = dict.fromkeys(record["notes"][name] for record in noted if name in record.get("notes", {}))
        if notes:
            remarks.append(f"{name}: {', '.join(notes)}")
    remarks += _features(records)
    columns = [
        Column("task", "text", lambda row: row.task),
        Column("model", "text", lambda row: row.model),
        *(Column(name, "number.4", _score(name)) for name in names),
    ]
    return Table(columns, rows, remarks)


def _score(name: str) -> Callable[[_ScoreRow], float | None]:
    return lambda row: _metric(row.record, name)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one is missing: a mean over what happens to be there compares with nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _metric(record: Mapping[str, Any] | None, name: str) -> float | None:
    return None if record is None else record["metrics"].get(name)


def _features(records: Records) -> list[str]:
    """Remarks on how features were made; with features=auto that is another thing for each task."""
    there = [(model, record) for (model, _), record in records.items() if record is not None]
    chosen = {model for model, record in there if "features" in (record.get("chosen") or {})}
    found = {model: (record.get("source") or {}).get("features") for model, record in there}
    remarks = pooling.remarks({model: text for model, text in found.items() if model not in chosen})
    if chosen:
        remarks.append(
            f"features: chosen on validation examples for each task ({specs.listed(sorted(chosen))})"
        )
    return remarks


def _copies(records: Records) -> list[str]:
    """Remarks on tasks with equal pictures, and with neighbours at distance zero."""
    there = {cell: record for cell, record in records.items() if record is not None}
    duplicates = dict.fromkeys(
        (task, copies.said(record.get("copies"))) for (_, task), record in there.items()
    )
    remarks = [f"{task}: {text}" for task, text in duplicates if text]
    zero: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for (model, task), record in there.items():
        if text := record.get("notes", {}).get("distance_zero"):
            zero[task, text].append(model)
    for (task, text), models in zero.items():
        more = f" and {len(models) - 1} more" if len(models) > 1 else ""
        remarks.append(f"{task}: {text} ({models[0]}{more})")
    return remarks
