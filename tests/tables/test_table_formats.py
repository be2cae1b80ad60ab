"""Tables as text: kinds of values, and names that hold what a format takes for its own."""

import csv
import html
import io
import math
import re

import numpy as np
import pytest

from vtabjax.tables import Column, Table, printable, text, to_csv, to_latex, to_markdown, to_terminal

HOSTILE = (
    "folder:/a|b/c",
    "a\nb",
    "a\\b|",
    "<img src=x onerror=alert(1)>",
    "50 % & more #1_$x{y}^~",
    "=cmd()|' /C calc'!A0",
    "+1",
    "-1",
    "@x",
    "'quoted",
    "[link](javascript:1) `code` *b* _i_",
    "\x1b[31mred",
    "caf\udce9",
    "a_b timm/mobilenetv3_small_100@random",
)


def hostile_table():
    columns = [
        Column("model", "text", lambda name: name),
        Column(HOSTILE[0], "text", lambda name: name),
        Column(HOSTILE[4], "number", lambda name: 0.5),
    ]
    return Table(columns, HOSTILE, [f"remark {name}" for name in HOSTILE])


def test_markdown_keeps_hostile_names_in_their_cells():
    """Read back by a parser of GitHub's rules for tables: cells end at a | without a backslash before it."""
    text = to_markdown(hostile_table())
    lines = text.split("\n\n")[0].splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    cells = [re.findall(r"((?:[^|\\]|\\.)*)\|", line)[1:] for line in lines]
    read = [[html.unescape(re.sub(r"\\([^A-Za-z0-9\s])", r"\1", c)).strip() for c in row] for row in cells]
    assert all(len(row) == 3 for row in read)
    for name, row in zip(HOSTILE, read[2:], strict=True):
        assert row[0] == row[1] == printable(name)
    assert "<" not in text and not re.search(r"(?<!\\)[\[\]`*]", text)
    assert "mobilenetv3_small_100@random" in text  # readable where nothing has to be done
    assert len(text.split("\n\n")) == 1 + len(HOSTILE)  # a remark each


def test_latex_keeps_hostile_names_in_their_cells():
    text = to_latex(hostile_table())
    remarks, body = text.split("\\begin{tabular}")
    assert all(line.startswith("% ") for line in remarks.strip().splitlines())
    rows = body.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(rows) == len(HOSTILE)
    for row in rows:
        assert row.rstrip().endswith(r"\\") and len(re.split(r"(?<!\\)&", row)) == 3
        bare = re.sub(
            r"\\(textbackslash|textasciitilde|ensuremath|\^)(\{[<>|]?\})?|\\[&%$#_{}]", "", row.rstrip()[:-2]
        )
        assert not re.search(r"[%$#_{}^~\\]", bare), bare


def test_csv_names_are_no_formulas():
    read = list(csv.reader(io.StringIO(to_csv(hostile_table()))))
    assert len(read) == 1 + len(HOSTILE)
    for name, row in zip(HOSTILE, read[1:], strict=True):
        assert row[2] == "0.5" and row[0][0] not in "=+-@\t\r"
        text = name.encode("utf-8", "backslashreplace").decode()
        assert row[0] == (f"'{text}" if name[0] in "=+-@'" else text)
    number = Column("x", "number", lambda x: x)
    assert to_csv(Table([number], [-0.5])) == "x\n-0.5\n"  # a number is a number


@pytest.mark.parametrize(
    "value, kind, expected",
    [
        (0.12345, "percent", "12.3"),
        (0.12345, "percent.2", "12.35"),
        (-0.0125, "points", "-1.2"),
        (-0.0001, "points", "0.0"),
        (0.5, "points", "+50.0"),
        (-1.23456, "number", "-1.23"),
        (-1.23456, "number.4", "-1.2346"),
        (25557032, "whole", "25,557,032"),
        (25557032, "size", "25.6 M"),
        (381_896, "size", "382 k"),
        (-0.001, "number", "0.00"),
        (3.14159, "seconds", "3.14"),
        (1234.5, "seconds", "1,234"),
        ((0.1, 0.25), "interval", "0.10 to 0.25"),
        ((0.1, 0.25), "interval percent", "10.0 to 25.0"),
        ((-0.01, 0.02), "points interval", "-1.0 to +2.0"),
        ((1, 3), "interval whole", "1 to 3"),
        ((math.nan, math.nan), "interval", ""),
        (None, "percent", ""),
        (np.float64("nan"), "number", ""),
        ("a", "text", "a"),
    ],
)
def test_values_are_shown_by_their_kind(value, kind, expected):
    assert text(value, kind) == expected


def test_an_interval_is_two_columns_of_a_csv():
    columns = [
        Column("model", "text", lambda row: row[0]),
        Column("lead", "points interval", lambda row: row[1]),
        Column("n", "whole", lambda row: row[2]),
    ]
    table = Table(columns, [("a", (0.1, 0.2), np.int64(3)), ("b", None, math.nan)])
    assert to_csv(table) == "model,lead low,lead high,n\na,0.1,0.2,3\nb,,,\n"


def test_numbers_are_aligned_to_the_right():
    columns = [Column("model", "text", lambda n: f"m{n}"), Column("n", "whole", lambda n: n)]
    assert to_terminal(Table(columns, [5, 10], ["why"])).splitlines() == [
        "model   n",
        "-----  --",
        "m5      5",
        "m10    10",
        "why",
    ]


def test_a_papers_table_has_numbers_to_the_right_and_the_best_in_bold():
    columns = [
        Column("model", "text", lambda row: row[0]),
        Column("mean", "percent", lambda row: row[1], more_is_better=True),
        Column("lead", "points", lambda row: row[2]),
        Column("family", "text", lambda row: "resnet", paper=False),
    ]
    rows = [("a_1", 0.701, -0.012), ("b", 0.7012, 0.3), ("c", None, 0.0), ("(chance)", 0.9, None)]
    table = Table(columns, rows, ["why"], key="knn-accuracy", title="50 % of it", n_references=1)
    assert to_latex(table).splitlines() == [
        "% needs \\usepackage{booktabs}",
        "% why",
        "\\begin{table}[t]",
        "\\centering",
        "\\caption{50 \\% of it}",
        "\\label{tab:knn-accuracy}",
        "\\begin{tabular}{lrr}",
        "\\toprule",
        "model & mean & lead \\\\",
        "\\midrule",
        "a\\_1 & \\textbf{70.1} & $-$1.2 \\\\",
        "b & \\textbf{70.1} & +30.0 \\\\",
        "c &  & 0.0 \\\\",
        "\\midrule",
        "(chance) & 90.0 &  \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]


def accuracies():
    """Models in rows, a mean and tasks in columns; the last row is there for comparison."""
    columns = [Column("model", "text", lambda row: row[0])]
    for j in range(12):
        columns.append(
            Column(f"task_number_{j}", "percent", lambda row, j=j: row[1] + j / 100, more_is_better=True)
        )
    columns.append(Column("mean", "percent", lambda row: row[1], first=True, more_is_better=True))
    rows = [("timm/resnet50.a1_in1k", 0.5), ("timm/resnet18.a1_in1k", 0.5004), ("(chance)", 0.9)]
    return Table(columns, rows, ["accuracy in percent"], n_references=1)


def test_a_table_fits_the_terminal():
    shown = to_terminal(accuracies(), width=80, file="knn.csv").splitlines()
    assert max(map(len, shown)) <= 80
    first, second, ruler, *rows, more, remark = shown
    assert second.split()[:3] == ["model", "mean", "number_0"] and "task_" in first  # the mean is first
    assert rows[0].split()[:3] == ["timm/resnet50.a1_in1k", "50.0", "50.0"]
    n_shown = len(ruler.split())
    assert 3 < n_shown < 14 and more == f"{14 - n_shown} more columns: knn.csv"
    # Without that limit, and with enough room, the columns are in their order and whole.
    assert to_terminal(accuracies()).splitlines()[0].split()[-1] == "mean"
    assert to_terminal(accuracies(), width=300) == to_terminal(accuracies())


def test_a_name_is_cut_where_there_is_no_room():
    shown = to_terminal(accuracies(), width=24, file="knn.csv").splitlines()
    assert all(len(line) <= 24 for line in shown if "knn.csv" not in line) and "~" in shown[2]


def test_the_best_is_bold():
    shown = to_terminal(accuracies(), styled=True).splitlines()
    bold = [re.findall(r"\x1b\[1m *([^\x1b]*)\x1b\[0m", line) for line in shown]
    assert bold[2] == bold[3] and len(bold[2]) == 13  # both are 50.0 as shown
    assert bold[4] == [] and shown[4].startswith("\x1b[2m(chance)")
    assert "\x1b" not in to_terminal(accuracies())
