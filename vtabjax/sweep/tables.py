"""Tables of a sweep: on the terminal, as CSV and as Markdown.

Accuracies: models x tasks in percent on the terminal and in Markdown, as fractions and in full in the CSV; a
mean is there only for a row that has all its tasks. Transferability scores: one row per (model, task), a
column per score; they have no common scale, so they are not averaged over tasks.
"""

from __future__ import annotations

import collections
import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import tasks
from vtabjax.data import copies
from vtabjax.runtime import files

CHANCE, MAJORITY = "(chance)", "(majority)"
GROUPS = ("Natural", "Specialized", "Structured")
_PATH = re.compile(r"[a-z]+:.*/")  # a task that is named by a path
_LONG = 80  # rows that still make sense on a terminal

Found = Mapping[tuple[str, str], Mapping[str, Any] | None]


class Table(NamedTuple):
    """A table.

    Attributes:
      header: names of the columns.
      rows: a text or number per column; None where there is nothing.
      remarks: what has to be known about it.
    """

    header: list[str]
    rows: list[list[Any]]
    remarks: list[str]


def shown(protocol: str, found: Found) -> str:
    """The table of a sweep for the terminal.

    Args:
      protocol: its name.
      found: (model, task) -> the result's record, or None; in the order of the columns and rows.
    """
    table = _read_by_people(protocol, _table(protocol, found))
    if len(table.rows) > _LONG:
        table = table._replace(
            rows=table.rows[:_LONG],
            remarks=[*table.remarks, f"the first {_LONG} of {len(table.rows)} rows; the files have all"],
        )
    return _terminal(table)


def write(protocol: str, found: Found, workdir: str | Path) -> str:
    """Writes ``tables/<protocol>.csv`` and ``.md`` under `workdir`; returns a line that says where."""
    table = _table(protocol, found)
    folder = files.as_path(workdir) / "tables"
    files.write_text(folder / f"{protocol}.csv", to_csv(table))
    files.write_text(folder / f"{protocol}.md", to_markdown(_read_by_people(protocol, table)))
    return f"tables: {folder / protocol}.csv, .md"


def _table(protocol: str, found: Found) -> Table:
    return score_table(found) if protocol == "transferability" else accuracy_table(found)


def _read_by_people(protocol: str, table: Table) -> Table:
    """Accuracies in percent, and folders by their names instead of their paths."""
    table = table if protocol == "transferability" else in_percent(table)
    texts = [v for row in [table.header, *table.rows] for v in row if isinstance(v, str)]
    short = short_names([text for text in texts if _PATH.match(text)])
    rows = [[short.get(v, v) if isinstance(v, str) else v for v in row] for row in table.rows]
    return table._replace(header=[short.get(name, name) for name in table.header], rows=rows)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of paths such as ``folder:/data/birds``, as many as tell them from each other."""
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


def accuracy_table(found: Found) -> Table:
    """Models x tasks with means, the best model first, models that lack tasks at the end, and what `levels`
    are reached without looking.

    With all of VTAB's nineteen tasks: the mean of each group, the plain mean of the tasks ("mean") and the
    mean of the group means ("mean of groups"), two figures that papers print under one name. A further
    accuracy of a protocol (kNN's second metric) has its own mean.
    """
    models = list(dict.fromkeys(model for model, _ in found))
    names = list(dict.fromkeys(task for _, task in found))
    extra = list(
        dict.fromkeys(
            name
            for record in found.values()
            if record is not None
            for name in record["metrics"]
            if name.startswith("accuracy_")
        )
    )
    groups = _groups(names)
    header = ["model", *names, *groups, "mean"]
    header += (["mean of groups"] if groups else []) + [
        f"mean ({name.removeprefix('accuracy_')})" for name in extra
    ]
    rows = []
    for model in models:
        records = {task: found.get((model, task)) for task in names}
        values = {task: _metric(record, "accuracy") for task, record in records.items()}
        more = [_mean([_metric(record, name) for record in records.values()]) for name in extra]
        rows.append([model, *values.values(), *_means(values, groups), *more])
    column = header.index("mean")
    rows.sort(key=lambda row: (row[column] is None, -(row[column] or 0), models.index(row[0])))
    remarks = []
    lacking = [row for row in rows if row[column] is None]
    if lacking:
        remarks.append(f"{len(lacking)} of {len(rows)} models lack tasks (*): no mean over the others")
        for row in lacking:
            row[0] += " *"
    for name, level in levels(names).items():
        rows.append(
            [name, *level.values(), *_means(level, groups), *([_mean(list(level.values()))] * len(extra))]
        )
    remarks += _copies(found)
    return Table(header, rows, remarks)


def score_table(found: Found) -> Table:
    """One row per (task, model) with a column per score."""
    names = list(dict.fromkeys(name for r in found.values() if r is not None for name in r["metrics"]))
    order = list(dict.fromkeys(task for _, task in found))
    rows = [
        [task, model, *(_metric(record, name) for name in names)]
        for (model, task), record in sorted(found.items(), key=lambda item: order.index(item[0][1]))
    ]
    remarks = []
    if any(None in row for row in rows):
        remarks.append(
            "an empty place: not applicable or undefined (the results' notes say which), or not there yet"
        )
    for name in names:
        noted = [r for r in found.values() if r is not None and r["metrics"].get(name) is not None]
        said = dict.fromkeys(r["notes"][name] for r in noted if name in r.get("notes", {}))
        if said:
            remarks.append(f"{name}: {', '.join(said)}")
    return Table(["task", "model", *names], rows, remarks)


def in_percent(table: Table) -> Table:
    """The table with its fractions in percent, two digits after the point."""
    rows = [[f"{100 * v:.2f}" if isinstance(v, float) else v for v in row] for row in table.rows]
    return table._replace(rows=rows, remarks=["accuracy in percent", *table.remarks])


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    """VTAB's groups, where all of its tasks are there."""
    if not set(tasks.VTAB) <= set(names):
        return {}
    return {group: [name for name in tasks.VTAB if tasks.get(name).group == group] for group in GROUPS}


def _means(values: Mapping[str, float | None], groups: Mapping[str, Sequence[str]]) -> list[float | None]:
    by_group = [_mean([values[task] for task in members]) for members in groups.values()]
    return [*by_group, _mean(list(values.values())), *([_mean(by_group)] if groups else [])]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one is missing: a mean over what happens to be there compares with nothing."""
    return None if not values or None in values else sum(values) / len(values)


def _metric(record: Mapping[str, Any] | None, name: str) -> float | None:
    return None if record is None else record["metrics"].get(name)


def levels(names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """What is reached without looking: "(chance)", a uniform guess, and where it is known for a task "(majority)", the
    most frequent class of the test set as the only answer. Each by task; None where it is not known."""
    known = {name: _task(name) for name in names}
    chance = {name: None if task is None else task.chance for name, task in known.items()}
    majority = {name: None if task is None else task.majority for name, task in known.items()}
    return {CHANCE: chance} | ({MAJORITY: majority} if any(majority.values()) else {})


def _task(name: str) -> tasks.Task | None:
    try:
        return tasks.get(name)
    except (ValueError, OSError):  # a folder that is gone
        return None


def _copies(found: Found) -> list[str]:
    """Remarks on tasks with equal pictures, and with neighbours at distance zero."""
    there = {cell: record for cell, record in found.items() if record is not None}
    said = dict.fromkeys((task, copies.said(record.get("copies"))) for (_, task), record in there.items())
    remarks = [f"{task}: {text}" for task, text in said if text]
    zero: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for (model, task), record in there.items():
        if text := record.get("notes", {}).get("distance_zero"):
            zero[task, text].append(model)
    for (task, text), models in zero.items():
        more = f" and {len(models) - 1} more" if len(models) > 1 else ""
        remarks.append(f"{task}: {text} ({models[0]}{more})")
    return remarks


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """A text on one line: what cannot be printed (a line's end, a terminal's command) as Python writes it: ``\\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _texts(table: Table) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and remarks as printable texts."""
    rows = [[_text(v) for v in row] for row in table.rows]
    return [_text(name) for name in table.header], rows, [printable(remark) for remark in table.remarks]


def _terminal(table: Table) -> str:
    from tabulate import tabulate

    header, rows, remarks = _texts(table)
    align = ["left" if all(isinstance(r[i], str) and not _number(r[i]) for r in table.rows) else "right"
             for i in range(len(table.header))]  # fmt: skip
    text = tabulate(rows, header, tablefmt="simple", colalign=align, disable_numparse=True)
    return "\n".join([text, *remarks])


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its remarks; names are shown as they are, whatever they hold."""
    from tabulate import tabulate

    header, rows, remarks = _texts(table)
    rows = [[_markdown(text) for text in row] for row in rows]
    text = tabulate(rows, [_markdown(h) for h in header], tablefmt="github", disable_numparse=True)
    return "\n\n".join([text, *map(_markdown, remarks)]) + "\n"


def _markdown(text: str) -> str:
    """Without what would end a cell or begin a tag, a link, a code or an emphasis."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]~|])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # within a word it is an underscore


def to_latex(table: Table) -> str:
    """The table for LaTeX (booktabs), its remarks as comments."""
    from tabulate import tabulate

    header, rows, remarks = _texts(table)
    lines = tabulate(rows, header, tablefmt="latex_booktabs", disable_numparse=True)
    return "\n".join([*(f"% {remark}" for remark in remarks), lines]) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV, numbers in full; a name that a spreadsheet would take for a formula gets a ``'`` before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[_csv(v) for v in row] for row in [table.header, *table.rows]])
    return out.getvalue()


def _csv(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    text = value.encode(
        "utf-8", "backslashreplace"
    ).decode()  # names of files may hold bytes that are no text
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text
