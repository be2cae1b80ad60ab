"""A table as text: for the terminal, CSV, Markdown and LaTeX. Names are shown as they are, whatever they hold."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from vtabjax.tables._table import Table


def to_terminal(table: Table) -> str:
    """The table with its remarks below, columns aligned."""
    from tabulate import tabulate

    align = ["left" if column.kind == "text" else "right" for column in table.columns]
    header, rows, remarks = _printable(table)
    lines = tabulate(rows, header, tablefmt="simple", colalign=align, disable_numparse=True)
    return "\n".join([lines, *remarks])


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its remarks."""
    from tabulate import tabulate

    header, rows, remarks = _printable(table)
    rows = [[_markdown(text) for text in row] for row in rows]
    lines = tabulate(rows, [_markdown(name) for name in header], tablefmt="github", disable_numparse=True)
    return "\n\n".join([lines, *map(_markdown, remarks)]) + "\n"


def to_latex(table: Table) -> str:
    """The table for LaTeX (booktabs), its remarks as comments."""
    from tabulate import tabulate

    header, rows, remarks = _printable(table)
    lines = tabulate(rows, header, tablefmt="latex_booktabs", disable_numparse=True)
    return "\n".join([*(f"% {remark}" for remark in remarks), lines]) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV, numbers in full; a name that a spreadsheet would take for a formula gets a ``'`` before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[_csv(value) for value in row] for row in table.in_full()])
    return out.getvalue()


def printable(text: str) -> str:
    """A text on one line: what cannot be printed (a line's end, a terminal's command) as Python writes it: ``\\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable(table: Table) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and remarks as printable texts."""
    rows = [[printable(text) for text in row] for row in table.texts()]
    return [printable(name) for name in table.header], rows, [printable(r) for r in table.remarks]


def _markdown(text: str) -> str:
    """Without what would end a cell or begin a tag, a link, a code or an emphasis."""
    if text.replace(".", "").isalnum():  # nearly all cells are numbers
        return text
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]~|])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # within a word it is an underscore


def _csv(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    text = value.encode(
        "utf-8", "backslashreplace"
    ).decode()  # a file's name may hold bytes that are not text
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text
