"""A table on a terminal: what matters most where there is no room for all, the best of each column in bold type."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence

from vtabjax.runtime import terminal
from vtabjax.tables._formats import printable, printables
from vtabjax.tables._table import Column, Table

_GAP = "  "
_LEAST = 12  # columns a name keeps, and a remark


def to_terminal(table: Table, *, width: int | None = None, styled: bool = False, file: str = "") -> str:
    """The table with its remarks below, columns aligned.

    Args:
      table: the table.
      width: columns that there are; None: as many as it takes. Where they do not suffice, headings are broken, and
        then columns left out, those with `Column.first` last.
      styled: bold for the best of a column, faint for the rows for comparison.
      file: what has all the columns, for the remark that some are left out.
    """
    laid = _Layout.of(table, wrapped=False)
    if width is not None and laid.width > width:
        laid = _Layout.of(table, wrapped=True)
    left_out: list[str] = []
    if width is not None and laid.width > width:
        columns, left_out = _that_fit(table.columns, laid.widths, width)
        laid = _Layout.of(dataclasses.replace(table, columns=columns), wrapped=True)
    remarks = [printable(remark) for remark in table.remarks]
    if left_out:
        more = f"{len(left_out)} more column{'s' * (len(left_out) > 1)}"
        remarks.insert(0, f"{more}: {file or ', '.join(left_out)}")
    lines = laid.lines(width, styled)
    for remark in remarks:
        lines += textwrap.wrap(
            remark, max(_LEAST, width or 1 << 30), break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def _that_fit(columns: Sequence[Column], widths: Sequence[int], width: int) -> tuple[list[Column], list[str]]:
    """The columns that there is room for, and the names of the others: texts, then `first` ones, then from the left."""
    rank = [0 if c.kind == "text" else 1 if c.first else 2 for c in columns]
    room = width
    taken: list[int] = []
    for i in sorted(range(len(columns)), key=rank.__getitem__):
        # The first name and one number are there in any case; the name is cut.
        least = _LEAST if columns[i].kind == "text" else widths[i]
        if room < least and len(taken) >= 2:
            break
        taken.append(i)
        room -= widths[i] + len(_GAP)
    return [columns[i] for i in taken], [c.name for i, c in enumerate(columns) if i not in taken]


@dataclasses.dataclass(frozen=True)
class _Layout:
    table: Table
    header: list[list[str]]  # lines of each heading
    rows: list[list[str]]
    widths: list[int]

    @classmethod
    def of(cls, table: Table, wrapped: bool) -> _Layout:
        names, rows, _ = printables(table)
        header = []
        for j, name in enumerate(names):
            widest = max((len(row[j]) for row in rows), default=0)
            text = table.columns[j].kind == "text"
            header.append(_broken(name, max(widest, 8)) if wrapped and not text else [name])
        widths = [
            max(map(len, [*lines, *(row[j] for row in rows)]), default=0) for j, lines in enumerate(header)
        ]
        return cls(table, header, rows, widths)

    @property
    def width(self) -> int:
        return sum(self.widths) + len(_GAP) * (len(self.widths) - 1)

    def lines(self, width: int | None, styled: bool) -> list[str]:
        widths = list(self.widths)
        if width is not None and self.width > width:  # names are cut
            longest = self._longest_text()
            widths[longest] = max(min(_LEAST, widths[longest]), widths[longest] - (self.width - width))
        height = max(map(len, self.header))
        lines = []
        for i in range(height):
            cells = [lines[i - height] if i >= height - len(lines) else "" for lines in self.header]
            lines.append(self._line(cells, widths))
        lines.append(_GAP.join("-" * w for w in widths))
        best = self.table.best() if styled else set()
        n_models = len(self.rows) - self.table.n_references
        for i, row in enumerate(self.rows):
            line = self._line(row, widths, {j for k, j in best if k == i})
            lines.append(terminal.dim(line) if styled and i >= n_models else line)
        return lines

    def _longest_text(self) -> int:
        texts = [j for j, column in enumerate(self.table.columns) if column.kind == "text"] or [0]
        return max(texts, key=self.widths.__getitem__)

    def _line(self, cells: Sequence[str], widths: Sequence[int], bold: set[int] = frozenset()) -> str:  # type: ignore[assignment]
        made = []
        for j, (cell, w) in enumerate(zip(cells, widths, strict=True)):
            if len(cell) > w:
                cell = cell[: w - w // 3 - 1] + "~" + cell[len(cell) - w // 3 :]
            padded = f"{cell:{w}}" if self.table.columns[j].kind == "text" else f"{cell:>{w}}"
            made.append(terminal.bold(padded) if j in bold else padded)
        return _GAP.join(made).rstrip()


def _broken(name: str, width: int) -> list[str]:
    """A heading on several lines, broken after blanks, underscores and hyphens."""
    lines = [""]
    for part in re.findall(r"[^\s_-]*[\s_-]*", name):
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip(" ") for line in lines if line.strip()] or [""]
