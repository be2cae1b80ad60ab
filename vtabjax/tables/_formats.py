"""A table as text: for the terminal, CSV, Markdown and LaTeX. Names are shown as they are, whatever they hold."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from vtabjax.tables._table import Column, Table, sort_value, text


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
    rows = [[_markdown(cell) for cell in row] for row in rows]
    lines = tabulate(rows, [_markdown(name) for name in header], tablefmt="github", disable_numparse=True)
    return "\n\n".join([lines, *map(_markdown, remarks)]) + "\n"


def to_latex(table: Table) -> str:
    """The table for LaTeX (\\usepackage{booktabs}), its remarks as comments.

    Numbers stand to the right, the best of a column in bold; with a title it is a float with caption and label.
    """
    columns = [column for column in table.columns if column.paper]
    header, _, remarks = _printable(table)
    header = [name for name, column in zip(header, table.columns, strict=True) if column.paper]
    columns_of_texts = [_latex_column(table, column) for column in columns]
    kinds = "".join("l" if column.kind == "text" else "r" for column in columns)
    lines = [
        *(f"% {remark}" for remark in ["needs \\usepackage{booktabs}", *remarks]),
        *(["\\begin{table}[t]", "\\centering", f"\\caption{{{_latex(table.title)}}}"] if table.title else []),
        *([f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:-]+', '-', table.key)}}}"] if table.title else []),
        f"\\begin{{tabular}}{{{kinds}}}",
        "\\toprule",
        " & ".join(map(_latex, header)) + r" \\",
        "\\midrule",
        *_latex_rows(columns_of_texts, table.n_references),
        "\\bottomrule",
        "\\end{tabular}",
        *(["\\end{table}"] if table.title else []),
    ]
    return "\n".join(lines) + "\n"


def _latex_rows(columns: list[list[str]], n_references: int) -> list[str]:
    rows = [" & ".join(row) + r" \\" for row in zip(*columns, strict=True)]
    return (
        [*rows[: len(rows) - n_references], "\\midrule", *rows[len(rows) - n_references :]]
        if n_references
        else rows
    )


def _latex_column(table: Table, column: Column) -> list[str]:
    """The cells of a column, the best in bold."""
    values = [column.value(item) for item in table.items]
    texts = [text(value, column.kind) for value in values]
    ranked = [sort_value(value) for value in values[: len(values) - table.n_references]]
    best = max((value for value in ranked if value != ""), default=None) if column.more_is_better else None
    cells = [_latex(printable(t)) for t in texts]
    if column.kind != "text":
        cells = [re.sub(r"(?<![\w])-(?=\d)", "$-$", cell) for cell in cells]
    shown = texts[ranked.index(best)] if best is not None else None
    # All that read the same as the best are in bold: a reader of the paper cannot tell them apart.
    return [
        f"\\textbf{{{cell}}}" if shown is not None and k < len(ranked) and texts[k] == shown else cell
        for k, cell in enumerate(cells)
    ]


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "^": r"\^{}", "~": r"\textasciitilde{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}", "|": r"\ensuremath{|}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def to_csv(table: Table) -> str:
    """The table as CSV, numbers in full; a name that a spreadsheet would take for a formula gets a ``'`` before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[_csv(value) for value in row] for row in table.in_full()])
    return out.getvalue()


def printable(text: str) -> str:
    """A text on one line: what cannot be printed (a line's end, a terminal's command) as Python writes it: ``\\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable(table: Table) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and remarks as printable texts."""
    rows = [[printable(cell) for cell in row] for row in table.texts()]
    return [printable(name) for name in table.header], rows, [printable(r) for r in table.remarks]


def _markdown(text: str) -> str:
    """Without what would end a cell or begin a tag, a link, a code or an emphasis."""
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
