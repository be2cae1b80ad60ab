"""Charts of who is first: means, strengths, who beats whom, who is often among the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from vtabjax.report.analysis import Analysis, Strengths
from vtabjax.report.charts._base import (
    MOST,
    NAMED,
    ROW,
    first_of,
    interval_bars,
    layout,
    made,
    rows_axis,
    whose,
)
from vtabjax.report.standing import Standing, against_average

_ON_FIRST_SCREEN = 12  # models: as many as fit beside the answer
_NUMBERS = 12  # models up to which the cells of the matrix say their number


def ranking(a: Analysis, s: Standing) -> dict[str, Any] | None:
    """Means in their order, with intervals that reach the first one's line where there is no sure difference."""
    rows = [i for i in a.order if a.complete[i]][:_ON_FIRST_SCREEN]
    if len(rows) < 2:
        return None
    best, means = 100 * a.mean[s.first], 100 * a.mean[rows]
    # Where a mean would lie beside the first one's, which itself has no interval here.
    low, high = best - 100 * s.high[rows], best - 100 * s.low[rows]
    itself = [i == s.first for i in rows]
    low[itself] = high[itself] = np.nan
    level = set(s.level_with_first) | {s.first}
    colours = [
        colour if i in level else NAMED["muted"] for i, colour in zip(rows, whose(a.board, rows), strict=True)
    ]
    intervals = [
        f"<br>95 %: {x:.1f} to {y:.1f} beside the first" if np.isfinite(x) else ""
        for x, y in zip(low, high, strict=True)
    ]
    dots = go.Scatter(
        x=means,
        y=list(range(len(rows))),
        mode="markers",
        marker={"color": colours, "size": 10},
        error_x=interval_bars(means, low, high),
        text=[a.names[i] for i in rows],
        customdata=intervals,
        hovertemplate="%{text}<br>%{x:.1f} %%{customdata}<extra></extra>",
        cliponaxis=False,
    )
    line = {"type": "line", "xref": "x", "yref": "paper", "x0": best, "x1": best, "y0": 0, "y1": 1}
    numbers = [
        {
            "x": 1, "xref": "paper", "y": k, "yref": "y", "text": f"<b>{mean:.1f}</b>" if k == 0 else f"{mean:.1f}",
            "showarrow": False, "xanchor": "left", "xshift": 8, "font": {"size": 12},
        }
        for k, mean in enumerate(means)
    ]  # fmt: skip
    layout_of = layout(
        len(rows) * ROW + 46,
        xaxis={"zeroline": False, "nticks": 8},
        yaxis=rows_axis([a.names[i] for i in rows]),
        shapes=[{**line, "line": {"color": NAMED["accent"], "width": 1.5, "dash": "dot"}}],
        annotations=numbers,
        margin={"l": 8, "r": 52, "t": 6, "b": 32},
    )
    title, label = _ranking_words(a, s, rows, bool(np.isfinite(low).any()))
    return made([dots], layout_of, title, label)


def _ranking_words(a: Analysis, s: Standing, rows: list[int], bars: bool) -> tuple[str, str]:
    """Title of the ranking and what a screen reader says."""
    over = {"examples": "with other test examples (paired bootstrap)", "tasks": "with other tasks like these"}
    title = f"Mean {a.board.measure}, %" + first_of(len(rows), int(a.complete.sum()))
    label = f"Mean {a.board.measure} of the first {len(rows)} models"
    if bars:
        title += f". Bars: 95 % intervals beside the first, {over[s.over]}; a bar that reaches the dotted line is no "
        title += "difference"
        label += ", each with the interval of its difference to the first"
    return title + ".", label + ". The table below has the numbers."


def strength(a: Analysis, s: Strengths) -> dict[str, Any]:
    """The chance of each model to beat an average one, on a scale of log odds with percent at its ticks."""
    order = s.strongest[:MOST]
    names = [a.names[i] for i in order]
    chances = against_average(s)
    p, low, high = (np.asarray(v)[order] for v in (chances.p, chances.low, chances.high))
    least, most = 0.002, 0.998  # beyond these a chance is as good as none, or sure
    x, x_low, x_high = (_log_odds(np.clip(v, least, most)) for v in (p, low, high))
    ends = [v for v in np.concatenate([x, x_low, x_high]) if np.isfinite(v)]
    dots = go.Scatter(
        x=x,
        y=list(range(len(order))),
        mode="markers",
        marker={"color": whose(a.board, order), "size": 9},
        error_x=interval_bars(x, x_low, x_high),
        text=names,
        customdata=np.round(100 * np.stack([p, low, high], 1), 1),
        hovertemplate="%{text}<br>%{customdata[0]:.1f} %, %{customdata[1]:.1f} to %{customdata[2]:.1f}<extra></extra>",
    )
    ticks = np.array([0.01, 0.05, 0.12, 0.27, 0.5, 0.73, 0.88, 0.95, 0.99])
    layout_of = layout(
        len(order) * ROW + 46,
        xaxis={
            "tickvals": _log_odds(ticks).round(4).tolist(),
            "tickangle": 0,
            "ticktext": [f"{100 * t:.0f} %" for t in ticks],
            "range": [min(ends) - 0.3, max(ends) + 0.3],
            "zeroline": True,
        },
        yaxis=rows_axis(names),
    )
    title = "Chance to beat an average model on a new task, with its 95 % interval"
    title += f"{first_of(len(order), len(a.names))}."
    return made([dots], layout_of, title, title + " The table below has the numbers.")


def _log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def wins(a: Analysis, s: Strengths) -> dict[str, Any] | None:
    """Who would beat whom."""
    if len(a.names) < 2:
        return None
    order = s.strongest[:20]
    names = [a.names[i] for i in order]
    p, low, high = (m[np.ix_(order, order)] for m in s.wins)
    z = np.where(np.eye(len(order)), np.nan, p)
    numbers = [["" if np.isnan(v) else f"{100 * v:.0f}" for v in row] for row in z]
    heat = go.Heatmap(
        z=z,
        x=list(range(len(order))),
        y=list(range(len(order))),
        zmin=0,
        zmax=1,
        zmid=0.5,
        colorscale=[[0, NAMED["warm"]], [0.5, NAMED["surface"]], [1, NAMED["accent"]]],
        customdata=np.stack([low, high], -1),
        hovertext=[[f"{i} beats {j}" for j in names] for i in names],
        hovertemplate="%{hovertext}: %{z:.1%}<br>%{customdata[0]:.1%} to %{customdata[1]:.1%}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        showscale=len(order) > _NUMBERS,
        colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0, "len": 0.8},
        **(
            {"text": numbers, "texttemplate": "%{text}", "textfont": {"size": 11}}
            if len(order) <= _NUMBERS
            else {}
        ),
    )
    # A column has the number of its row: names across would lie on each other.
    numbered = [f"{name}  {k}" for k, name in enumerate(names, 1)]
    axis = {"showgrid": False, "zeroline": False, "tickvals": list(range(len(order)))}
    layout_of = layout(
        len(order) * ROW + 40,
        xaxis={**axis, "ticktext": [f"{k}" for k in range(1, len(order) + 1)], "side": "top"},
        yaxis=rows_axis(numbered),
        margin={"l": 8, "r": 12, "t": 26, "b": 8},
        plot_bgcolor=NAMED["line"],
    )
    title = "Chance, in percent, that the model of the row beats that of the column on a new task"
    title += f"{first_of(len(order), len(a.names))}. Grey: itself."
    return made([heat], layout_of, title, title)


def top(a: Analysis) -> dict[str, Any] | None:
    """On how many tasks each is among the best; None where that says nothing."""
    if a.top < 5:
        return None  # with few models the table says it all
    order = a.by_top[:20]
    names = [a.names[i] for i in order]
    bars = go.Bar(
        x=a.top_counts[order],
        y=list(range(len(order))),
        orientation="h",
        marker={"color": whose(a.board, order)},
        hovertext=names,
        hovertemplate="%{hovertext}: %{x} tasks<extra></extra>",
    )
    layout_of = layout(
        len(order) * ROW + 46,
        xaxis={"dtick": max(1, len(a.board.tasks) // 8), "rangemode": "tozero"},
        yaxis=rows_axis(names),
        bargap=0.35,
    )
    title = f"On how many of {len(a.board.tasks)} tasks a model is among the best {a.top}"
    title += f"{first_of(len(order), len(a.names))}."
    return made([bars], layout_of, title, title + " The table below has the numbers.")
