"""The page: one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from vtabjax import __version__
from vtabjax.report import charts, funnel, prose, templates
from vtabjax.report.analysis import Analysis, Options
from vtabjax.report.boards import SIZES, ReportData, value_text
from vtabjax.report.proxies import ProxyComparison
from vtabjax.report.tables import not_finite
from vtabjax.tables import Table, sort_value, text


def render(
    data: ReportData,
    analyses: Sequence[Analysis],
    tables: dict[str, dict[str, Table]],
    comparison: ProxyComparison,
    proxy_tables: Sequence[Table],
    options: Options,
    workdir: Path,
    title: str,
    figures: Sequence[str] = (),
) -> str:
    """The page's HTML.

    Args:
      data: what the workdir holds.
      analyses: its boards, the most telling first.
      tables: board -> name -> table.
      comparison: proxies against fine-tuning.
      proxy_tables: its tables.
      options: of the statistics.
      workdir: named in commands.
      title: of the page.
      figures: stems of the static figures that lie beside it.
    """
    from plotly.offline import get_plotlyjs

    boards = [_board(a, tables[a.board.key]) for a in analyses]
    drawn = {f"{b['key']}/{name}": chart for b in boards for name, chart in b["charts"].items()}
    chart = charts.proxy_chart(comparison)
    if chart:
        drawn["proxies"] = chart
    embedded = {
        "charts": {name: c["figure"] for name, c in drawn.items()},
        "colours": charts.COLOURS,
        "cells": {b["key"]: b["cells"] for b in boards},
        "scatter": charts.scatter(comparison),
    }
    return (
        templates.environment()
        .get_template("page.html")
        .render(
            title=title,
            version=__version__,
            funnel=funnel.section(workdir),
            boards=boards,
            drawn=drawn,
            notices=data.notices,
            missing=prose.missing(data, comparison, workdir),
            comparison=comparison,
            proxy_tables=[_cells_of(table) for table in proxy_tables],
            failures=prose.failures(data),
            methods=prose.methods(data),
            statistics=prose.statistics(options),
            versions=prose.versions(data),
            records=data.records,
            figures=figures,
            style=templates.asset("style.css"),
            script=templates.asset("report.js"),
            plotly=markupsafe.Markup(get_plotlyjs().replace("</script", "<\\/script")),
            data=markupsafe.Markup(_json(embedded)),
        )
    )


def _json(data: Any) -> str:
    """JSON that may stand in a <script>."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _cells_of(table: Table) -> dict[str, Any]:
    """What the page's template needs of a table: a cell is its text and what it is sorted by."""
    numeric = [column.kind != "text" for column in table.columns]
    rows = [
        [
            {"text": text(value, column.kind), "sort": sort_value(value), "numeric": is_number}
            for value, column, is_number in zip(row, table.columns, numeric, strict=True)
        ]
        for row in table.rows
    ]
    return {
        "title": table.title,
        "columns": table.columns,
        "numeric": numeric,
        "rows": rows,
        "remarks": table.remarks,
    }


def _board(a: Analysis, tables: dict[str, Table]) -> dict[str, Any]:
    b = a.board
    models = [b.models[i] for i in a.order]
    return {
        "key": b.key,
        "title": b.title,
        "headline": prose.headline(a),
        "heat": _heat(a),
        "cells": _cells(a),
        "methods": sorted({m.method for m in models}),
        "families": sorted({m.family for m in models}),
        "sizes": [name for _, name in SIZES if any(m.size == name for m in models)],
        "published": any(m.published for m in models),
        "tables": {name: _cells_of(table) for name, table in tables.items()},
        "charts": charts.board_charts(a),
        "analysis": a,
        "not_finite": not_finite(a),
        "goodness": a.strengths.goodness if a.strengths else None,
    }


def _heat(a: Analysis) -> dict[str, Any]:
    """The heat map: columns, rows of cells (text, shade from 0 to 1 within the column), and the rows below them."""
    columns = a.accuracy_columns()[1:]
    columns.insert(
        0, columns.pop([column.name for column in columns].index("mean"))
    )  # beside the model's name
    table = Table(columns, [a.accuracy_row(i) for i in a.order])
    values = np.array(table.rows, float)
    shades = np.stack([_shades(column) for column in values.T], axis=1)
    rows = [
        {
            "model": a.board.models[i],
            "cells": [
                None if np.isnan(value) else (text(value, "percent"), f"{shade:.2f}")
                for value, shade in zip(values[k], shades[k], strict=True)
            ],
            "size": a.board.models[i].size,
        }
        for k, i in enumerate(a.order)
    ]
    below = Table(columns, a.levels)
    return {
        "columns": [{"name": name, "task": name in a.board.tasks} for name in table.header],
        "rows": rows,
        "levels": [
            {"name": level.name, "cells": [cell or "–" for cell in cells]}
            for level, cells in zip(a.levels, below.texts(), strict=True)
        ],
    }


def _shades(values: np.ndarray) -> np.ndarray:
    """How near each value [M] is to the best of its column: from 0 to 1; NaN where there is none."""
    known = values[~np.isnan(values)]
    low, spread = (known.min(), np.ptp(known)) if known.size else (0, 0)
    return np.clip((values - low) / spread, 0, 1) if spread > 0 else np.where(np.isnan(values), np.nan, 0.5)


def _cells(a: Analysis) -> dict[str, Any]:
    """What the page tells about each cell of the heat map, rows in the order of the heat map."""
    b = a.board

    def rounded(values: np.ndarray) -> list:
        return [[None if np.isnan(v) else round(float(v), 6) for v in values[i]] for i in a.order]

    settings = ", ".join(f"{k} {value_text(v)}" for k, v in b.settings.items())
    return {
        "settings": settings,
        "tasks": list(b.tasks),
        "values": rounded(b.values),
        "mean": [None if np.isnan(a.mean[i]) else round(float(a.mean[i]), 6) for i in a.order],
        "low": rounded(a.low),
        "high": rounded(a.high),
        "n": [[int(v) for v in b.n_examples[i]] for i in a.order],
        "files": [list(b.files[i]) for i in a.order],
        "sources": [b.models[i].source for i in a.order],
        "chosen": [[_chosen(b.chosen.get((i, j))) for j in range(len(b.tasks))] for i in a.order],
    }


def _chosen(chosen: Any) -> str:
    """Chosen hyperparameters that fit in a line."""
    return ", ".join(
        f"{k} {value_text(v)}"
        for k, v in (chosen or {}).items()
        if isinstance(v, (int, float, str)) and k != "curves"
    )
