"""What the charts share: colours, layout, axes of names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from vtabjax.report.boards import Board

# Placeholder -> CSS variable.
COLOURS = {
    "#010101": "--text",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--accent",
    "#050505": "--published",
    "#060606": "--surface",
    "#070707": "--heat-low",
    "#080808": "--heat-high",
    "#090909": "--warm",
    "#110101": "--cat1",
    "#110202": "--cat2",
    "#110303": "--cat3",
    "#110404": "--cat4",
    "#110505": "--cat5",
    "#110606": "--cat6",
    "#110707": "--cat7",
}
NAMED = {name.removeprefix("--"): placeholder for placeholder, name in COLOURS.items()}
MOST = 40  # models in a chart with one row per model
ROW = 22  # pixels


def layout(height: int, **changes: Any) -> dict[str, Any]:
    """A chart's layout: colours of the page, room for what the axes say, then `changes`."""
    axis = {
        "gridcolor": NAMED["line"],
        "zerolinecolor": NAMED["muted"],
        "linecolor": NAMED["line"],
        "automargin": True,
        "fixedrange": True,
    }
    made: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 32},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": NAMED["text"], "size": 12, "family": "system-ui, sans-serif"},
        "hoverlabel": {
            "bgcolor": NAMED["surface"],
            "bordercolor": NAMED["muted"],
            "font": {"color": NAMED["text"]},
        },
        "showlegend": False,
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
    for name, value in changes.items():
        made[name] = {**made[name], **value} if isinstance(made.get(name), dict) else value
    return made


def interval_bars(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Horizontal bars from `low` to `high` of dots at `x`, [N] each; none where they are NaN."""
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - x),
        "arrayminus": np.nan_to_num(x - low),
        "color": NAMED["muted"],
        "thickness": 1.5,
        "width": 3,
    }


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with a name per row, the first on top."""
    n = len(names)
    return {
        "tickvals": list(range(n)),
        "ticktext": list(names),
        "range": [n - 0.4, -0.6],
        "showgrid": False,
        "zeroline": False,
    }


def whose(board: Board, rows: Sequence[int]) -> list[str]:
    """Colours of rows: those of others stand out on a board that has some of ours."""
    mixed = any(m.published for m in board.models) and not all(m.published for m in board.models)
    return [NAMED["published" if mixed and board.models[i].published else "accent"] for i in rows]


def made(data: list[Any], layout_of: dict[str, Any], title: str, label: str) -> dict[str, Any]:
    """A chart: its figure, its title, and what a screen reader says."""
    return {"figure": json.loads(go.Figure(data, layout_of).to_json()), "title": title, "label": label}


def first_of(shown: int, n: int) -> str:
    """Says that not all models are shown; "" where they are."""
    return f"; the first {shown} of {n} models" if n > shown else ""
