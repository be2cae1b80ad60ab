"""One table for the terminal, CSV, Markdown, LaTeX and the report's page: columns declared with their values.

A `Table` is columns over items; `accuracy_columns` are those of models x tasks with their means, for a sweep and the
report alike.
"""

from vtabjax.tables._accuracy import MAJORITY, AccuracyRow, accuracy_columns, levels, whole_groups
from vtabjax.tables._formats import printable, to_csv, to_latex, to_markdown
from vtabjax.tables._table import Column, Table, sort_value, text
from vtabjax.tables._terminal import to_terminal

__all__ = [
    "MAJORITY",
    "AccuracyRow",
    "Column",
    "Table",
    "accuracy_columns",
    "levels",
    "printable",
    "sort_value",
    "text",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "whole_groups",
]
