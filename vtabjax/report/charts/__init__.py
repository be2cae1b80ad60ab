"""The page's interactive charts, as plotly figures.

Colours are placeholders, which charts.js replaces by those of the page's theme (`COLOURS` maps them to the names of CSS
variables), so that a chart follows when the theme changes. What the axes mean stands in a chart's title, above it.
"""

from __future__ import annotations

from typing import Any

from vtabjax.report.analysis import Analysis
from vtabjax.report.charts._base import COLOURS
from vtabjax.report.charts._cost import cost, methods
from vtabjax.report.charts._proxies import proxy_chart, scatter
from vtabjax.report.charts._ranking import ranking, strength, top, wins
from vtabjax.report.standing import Standing

__all__ = ["COLOURS", "board_charts", "proxy_chart", "scatter"]


def board_charts(a: Analysis, s: Standing) -> dict[str, dict[str, Any]]:
    """Charts of one board: name -> {"figure", "title", "label"}; `label` is what a screen reader says."""
    possible = {
        "ranking": ranking(a, s),
        "epp": strength(a, a.strengths) if a.strengths else None,
        "wins": wins(a, a.strengths) if a.strengths else None,
        "top": top(a),
        "speed": cost(a, "images/s"),
        "size": cost(a, "parameters"),
        "operations": cost(a, "GFLOPs"),
        "methods": methods(a),
    }
    return {name: chart for name, chart in possible.items() if chart is not None}
