"""The page's interactive charts, as plotly figures.

Colours are placeholders, which report.js replaces by those of the page's theme (`COLOURS` maps them to the names of
CSS variables), so that a chart follows when the theme changes. Labels are tick texts over numbers, which report.js can
shorten on narrow screens.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go

from vtabjax.report.analysis import Analysis, Strengths, costs, front
from vtabjax.report.boards import Board
from vtabjax.report.proxies import ProxyComparison

# Placeholder -> CSS variable.
COLOURS = {
    "#010101": "--text",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--accent",
    "#050505": "--warm",
    "#060606": "--surface",
    "#070707": "--heat-low",
    "#080808": "--heat-high",
    "#110101": "--cat1",
    "#110202": "--cat2",
    "#110303": "--cat3",
    "#110404": "--cat4",
    "#110505": "--cat5",
    "#110606": "--cat6",
    "#110707": "--cat7",
}
_NAMED = {name.removeprefix("--"): placeholder for placeholder, name in COLOURS.items()}
_CATEGORIES = [_NAMED[f"cat{i}"] for i in range(1, 8)]
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
METHODS = ("supervised", "self-supervised", "semi-supervised", "image-text", "generative", "from scratch")
MOST = 40  # models in a chart with one row per model
_ROW = 22  # pixels


def board_charts(a: Analysis) -> dict[str, dict[str, Any]]:
    """Charts of one board: name -> {"figure", "label"}; `label` is what a screen reader says."""
    out = {}
    if a.strengths:
        out["epp"] = _epp(a.board, a.strengths)
        if len(a.board.models) > 1:
            out["wins"] = _wins(a.board, a.strengths)
    out["top5"] = _top5(a)
    possible = {
        "speed": _cost(a, "images/s"),
        "size": _cost(a, "parameters"),
        "operations": _cost(a, "GFLOPs"),
        "methods": _methods(a),
    }
    return out | {name: chart for name, chart in possible.items() if chart is not None}


def _layout(height: int, **changes: Any) -> dict[str, Any]:
    axis = {
        "gridcolor": _NAMED["line"],
        "zerolinecolor": _NAMED["muted"],
        "linecolor": _NAMED["line"],
        "automargin": True,
        "fixedrange": True,
    }
    layout: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _NAMED["text"], "size": 12, "family": "system-ui, sans-serif"},
        "hoverlabel": {
            "bgcolor": _NAMED["surface"],
            "bordercolor": _NAMED["muted"],
            "font": {"color": _NAMED["text"]},
        },
        "showlegend": False,
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
    for name, value in changes.items():
        layout[name] = {**layout[name], **value} if isinstance(layout.get(name), dict) else value
    return layout


def _rows_axis(names: list[str]) -> dict[str, Any]:
    n = len(names)
    return {
        "tickvals": list(range(n)),
        "ticktext": names,
        "range": [n - 0.4, -0.6],
        "showgrid": False,
        "zeroline": False,
    }


def _made(data: list, layout: dict[str, Any], label: str) -> dict[str, Any]:
    return {"figure": json.loads(go.Figure(data, layout).to_json()), "label": label}


def _epp(b: Board, s: Strengths) -> dict[str, Any]:
    order = s.strongest[:MOST]
    names = [b.models[i].display_name for i in order]
    half = np.nan_to_num((s.high - s.low)[order] / 2)
    dots = go.Scatter(
        x=s.scores[order],
        y=list(range(len(order))),
        mode="markers",
        marker={"color": [_NAMED["warm" if b.models[i].published else "accent"] for i in order], "size": 9},
        error_x={"type": "data", "array": half, "color": _NAMED["muted"], "thickness": 1.5, "width": 3},
        text=names,
        customdata=np.stack([s.low[order], s.high[order]], 1),
        hovertemplate="%{text}<br>EPP %{x:.2f}, %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    layout = _layout(
        len(order) * _ROW + 60,
        xaxis={"title": {"text": "EPP (log odds of winning on a task), 95 % interval"}},
        yaxis=_rows_axis(names),
    )
    more = f"; the first {MOST} of {len(b.models)}" if len(b.models) > MOST else ""
    return _made(
        [dots],
        layout,
        f"Strength of each model with its 95 % interval{more}. The table below has the numbers.",
    )


def _wins(b: Board, s: Strengths) -> dict[str, Any]:
    order = s.strongest[:20]
    names = [b.models[i].display_name for i in order]
    p, low, high = (m[np.ix_(order, order)] for m in s.wins)
    heat = go.Heatmap(
        z=np.where(np.eye(len(order)), np.nan, p),
        x=list(range(len(order))),
        y=list(range(len(order))),
        zmin=0,
        zmax=1,
        zmid=0.5,
        colorscale=[[0, _NAMED["warm"]], [0.5, _NAMED["surface"]], [1, _NAMED["accent"]]],
        customdata=np.stack([low, high], -1),
        text=[[f"{i} beats {j}" for j in names] for i in names],
        hovertemplate="%{text}: %{z:.0%}<br>%{customdata[0]:.0%} to %{customdata[1]:.0%}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0, "len": 0.8},
    )
    axis = {"tickvals": list(range(len(order))), "showgrid": False, "zeroline": False}
    layout = _layout(
        max(240, len(order) * _ROW + 150),
        xaxis={**axis, "ticktext": names, "tickangle": -60},
        yaxis=_rows_axis(names),
    )
    return _made(
        [heat], layout, "Probability that the model of the row beats that of the column on a new task."
    )


def _top5(a: Analysis) -> dict[str, Any]:
    b = a.board
    order = a.by_top5[:20]
    names = [b.models[i].display_name for i in order]
    bars = go.Bar(
        x=a.top5[order],
        y=list(range(len(order))),
        orientation="h",
        marker={"color": [_NAMED["warm" if b.models[i].published else "accent"] for i in order]},
        text=names,
        textposition="none",
        hovertemplate="%{text}: %{x} tasks<extra></extra>",
    )
    layout = _layout(
        len(order) * _ROW + 60,
        xaxis={
            "title": {"text": f"tasks (of {len(b.tasks)}) among the five best"},
            "dtick": max(1, len(b.tasks) // 8),
        },
        yaxis=_rows_axis(names),
        bargap=0.35,
    )
    return _made(
        [bars],
        layout,
        "On how many tasks each model is among the five best. The table below has the numbers.",
    )


def _cost(a: Analysis, unit: str) -> dict[str, Any] | None:
    """Mean accuracy against one of the `costs`; None with fewer than two models to show."""
    cost = costs(a.board)[unit]
    # A model without parameters (the pixels) may be on the front, but has no place on a logarithmic axis.
    shown = np.flatnonzero((cost > 0) & np.isfinite(a.mean)).tolist()
    if len(shown) < 2:
        return None
    best = np.flatnonzero(front(unit, cost, a.mean))
    best = best[np.argsort(cost[best])]
    best = best[cost[best] > 0]
    line = go.Scatter(
        x=cost[best],
        y=100 * a.mean[best],
        mode="lines",
        hoverinfo="skip",
        line={"color": _NAMED["muted"], "width": 1.5, "dash": "dot"},
        showlegend=False,
    )
    # Ticks at 1, 2 and 5; within less than a decade there may be none of those.
    ticks = {"dtick": "D2"} if cost[shown].max() > 10 * cost[shown].min() else {}
    layout = _layout(
        380,
        xaxis={
            "type": "log",
            "tickformat": "~g" if unit == "GFLOPs" else "~s",
            "title": {"text": unit},
            **ticks,
        },
        yaxis={"title": {"text": f"mean {a.board.measure}, %"}},
        showlegend=True,
        legend={"orientation": "h", "y": 1.12},
        margin={"l": 8, "r": 12, "t": 30, "b": 40},
    )
    label = f"Mean {a.board.measure} against {unit}; a dotted line joins the models of the Pareto front."
    return _made([line, *_dots_by_method(a, cost, unit, shown, set(best.tolist()))], layout, label)


def _dots_by_method(
    a: Analysis, cost: np.ndarray, unit: str, shown: list[int], large: set[int]
) -> list[go.Scatter]:
    models = a.board.models
    dots = []
    for k, method in enumerate(_methods_of(a)):
        rows = [i for i in shown if models[i].method == method]
        dots.append(
            go.Scatter(
                x=cost[rows],
                y=100 * a.mean[rows],
                mode="markers",
                name=method,
                text=[models[i].display_name for i in rows],
                marker={
                    "color": _CATEGORIES[k % 7],
                    "symbol": _SYMBOLS[k % 7],
                    "size": [12 if i in large else 8 for i in rows],
                },
                hovertemplate=f"%{{text}}<br>%{{x:,.0f}} {unit}, %{{y:.1f}} %<extra></extra>",
            )
        )
    return dots


def _methods_of(a: Analysis) -> list[str]:
    used = {m.method for m in a.board.models}
    return [m for m in METHODS if m in used] + sorted(used - set(METHODS))


def _methods(a: Analysis) -> dict[str, Any] | None:
    """Mean accuracy of every model by how it was trained."""
    b = a.board
    methods = [
        m
        for m in _methods_of(a)
        if any(a.complete[i] and b.models[i].method == m for i in range(len(b.models)))
    ]
    if len(methods) < 2:
        return None
    dots = []
    for k, method in enumerate(methods):
        rows = [i for i in range(len(b.models)) if a.complete[i] and b.models[i].method == method]
        dots.append(
            go.Scatter(
                x=100 * a.mean[rows],
                y=[k] * len(rows),
                mode="markers",
                text=[b.models[i].display_name for i in rows],
                marker={"color": _CATEGORIES[k % 7], "symbol": _SYMBOLS[k % 7], "size": 9, "opacity": 0.8},
                hovertemplate="%{text}<br>%{x:.1f} %<extra></extra>",
            )
        )
    layout = _layout(
        len(methods) * 44 + 60,
        xaxis={"title": {"text": f"mean {a.board.measure}, %"}},
        yaxis=_rows_axis(methods),
    )
    return _made(dots, layout, f"Mean {a.board.measure} of each model, by how it was trained.")


def proxy_chart(comparison: ProxyComparison) -> dict[str, Any] | None:
    """Mean weighted Kendall of every proxy with its interval over models."""
    shown, x, low, high = comparison.weighted_kendall()
    if not shown:
        return None
    names = [p.title for p in shown]
    dots = go.Scatter(
        x=x,
        y=list(range(len(shown))),
        mode="markers",
        text=names,
        marker={
            "size": 9,
            "color": [_NAMED["muted" if p.static else "accent"] for p in shown],
            "symbol": ["diamond-open" if p.static else "circle" for p in shown],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - x),
            "arrayminus": np.nan_to_num(x - low),
            "color": _NAMED["muted"],
            "thickness": 1.5,
            "width": 3,
        },
        customdata=np.stack([low, high], 1),
        hovertemplate="%{text}<br>%{x:.2f}, %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    layout = _layout(
        len(shown) * _ROW + 60,
        xaxis={
            "title": {"text": "weighted Kendall against fine-tuning, mean over tasks, 95 % interval"},
            "range": [-1, 1],
        },
        yaxis=_rows_axis(names),
    )
    label = "How closely each proxy's ranking matches that of fine-tuning; open diamonds are baselines, "
    label += "which know nothing about the task. The table below has the numbers."
    return _made([dots], layout, label)


def scatter(comparison: ProxyComparison) -> dict[str, Any] | None:
    """What the page needs to draw any proxy against fine-tuning on any task: values, and the empty figure."""
    b = comparison.finetuned
    if not comparison.proxies or b is None:
        return None
    layout = _layout(380, xaxis={"title": {"text": ""}}, yaxis={"title": {"text": "fine-tuned accuracy, %"}})
    marker = {"color": _NAMED["accent"], "size": 9, "opacity": 0.85}
    return {
        "figure": json.loads(go.Figure([go.Scatter(mode="markers", marker=marker)], layout).to_json()),
        "label": "Fine-tuned accuracy against the chosen proxy on the chosen task.",
        "models": [m.label for m in b.models],
        "tasks": list(b.tasks),
        "truth": _nullable(100 * b.values),
        "proxies": [
            {
                "title": p.title,
                "values": _nullable(p.values),
                "tau": _nullable(p.agreement.per_task["weighted_kendall"]),
            }
            for p in comparison.proxies
        ],
    }


def _nullable(values: np.ndarray) -> list:
    rounded = np.round(values, 5).astype(object)
    rounded[~np.isfinite(values)] = None
    return rounded.tolist()
