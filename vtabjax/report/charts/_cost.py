"""Charts of means against what a model costs and how it was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from vtabjax.report.analysis import Analysis
from vtabjax.report.boards import NO_NETWORK, RANDOM
from vtabjax.report.charts._base import NAMED, layout, made, rows_axis
from vtabjax.report.costs import costs, front

_CATEGORIES = [NAMED[f"cat{i}"] for i in range(1, 8)]
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_METHODS = (
    "supervised",
    "self-supervised",
    "semi-supervised",
    "image-text",
    "generative",
    RANDOM,
    NO_NETWORK,
)
_NAMED_POINTS = 12
_FEW = 15  # models below which the table of models says what a chart by training would

_SAID = {"images/s": "images a second", "parameters": "parameters", "GFLOPs": "GFLOPs for an image"}


def cost(a: Analysis, unit: str) -> dict[str, Any] | None:
    """Mean accuracy against one of the `costs`, with the front as a line; None with fewer than two models to show."""
    values = costs(a.board)[unit]
    # A model without parameters (the pixels) may be on the front, but has no place on a logarithmic axis.
    shown = np.flatnonzero((values > 0) & np.isfinite(a.mean)).tolist()
    if len(shown) < 2:
        return None
    best = np.flatnonzero(front(unit, values, a.mean))
    best = best[np.argsort(values[best])]
    best = best[values[best] > 0]
    line = go.Scatter(
        x=values[best],
        y=100 * a.mean[best],
        mode="lines",
        hoverinfo="skip",
        # At a cost between two models the cheaper one is what can be had.
        line={"color": NAMED["muted"], "width": 1.5, "shape": "vh" if unit == "images/s" else "hv"},
        name="front",
    )
    x, y = np.log10(values[shown]), 100 * a.mean[shown]
    layout_of = layout(
        380,
        xaxis={
            "type": "log",
            "tickformat": "~g" if unit == "GFLOPs" else "~s",
            # Ticks at 1, 2 and 5; within less than a decade there may be none of those.
            **({"dtick": "D2"} if np.ptp(x) > 1 else {"nticks": 6}),
            "range": _wider(x, 0.06),
            "automargin": False,
        },
        yaxis={"range": _wider(y, 0.08), "automargin": False, "ticksuffix": " %"},
        showlegend=True,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"l": 52, "r": 16, "t": 56, "b": 32},
    )
    on_front = set(best.tolist())
    chart = made(
        [line, *_dots_by_method(a, values, unit, shown, on_front)],
        layout_of,
        f"Mean {a.board.measure} (up) against {_SAID[unit]} (across, logarithmic). The line is the front: no model is "
        "both cheaper and more accurate than those on it.",
        f"Mean {a.board.measure} against {unit}; a line joins the models of the Pareto front.",
    )
    named = dict.fromkeys([*[i for i in a.order if i in set(shown)][:3], *best[::-1].tolist()])
    # Where each name may stand is decided when the chart's width is known.
    with_name = list(named)[:_NAMED_POINTS]
    chart["points"] = [
        {
            "x": round(float(np.log10(values[i])), 5),
            "y": round(float(100 * a.mean[i]), 3),
            "name": a.names[i] if k < len(with_name) else "",
        }
        for k, i in enumerate([*with_name, *(i for i in shown if i not in with_name)])
    ]
    # Names keep off the line, too.
    chart["corners"] = _corners(np.log10(values[best]), 100 * a.mean[best], up_first=unit == "images/s")
    return chart


def _corners(x: np.ndarray, y: np.ndarray, *, up_first: bool) -> list[list[float]]:
    """The corners of a line in steps through points, [N] each: up and then across, or across and then up."""
    through = [[float(x[0]), float(y[0])]] if len(x) else []
    for k in range(1, len(x)):
        corner = [x[k - 1], y[k]] if up_first else [x[k], y[k - 1]]
        through += [[round(float(v), 5) for v in point] for point in (corner, [x[k], y[k]])]
    return through


def _wider(values: np.ndarray, share: float) -> list[float]:
    room = share * max(float(np.ptp(values)), 1e-3 * float(np.abs(values).max()), 0.05)
    return [float(values.min()) - room, float(values.max()) + room]


def _dots_by_method(
    a: Analysis, values: np.ndarray, unit: str, shown: list[int], large: set[int]
) -> list[go.Scatter]:
    models = a.board.models
    dots = []
    for k, method in enumerate(_methods_of(a)):
        rows = [i for i in shown if models[i].method == method]
        if not rows:
            continue
        dots.append(
            go.Scatter(
                x=values[rows],
                y=100 * a.mean[rows],
                mode="markers",
                name=method,
                text=[a.names[i] for i in rows],
                marker={
                    "color": _CATEGORIES[k % 7],
                    "symbol": _SYMBOLS[k % 7],
                    "size": [12 if i in large else 8 for i in rows],
                },
                hovertemplate=f"%{{text}}<br>%{{x:,.4~g}} {unit}, %{{y:.1f}} %<extra></extra>",
            )
        )
    return dots


def _methods_of(a: Analysis) -> list[str]:
    used = {m.method for m in a.board.models}
    return [m for m in _METHODS if m in used] + sorted(used - set(_METHODS))


def methods(a: Analysis) -> dict[str, Any] | None:
    """Mean accuracy of every model by how it was trained; None where that says nothing."""
    models = a.board.models
    by_method = {
        method: [i for i in range(len(models)) if a.complete[i] and models[i].method == method]
        for method in _methods_of(a)
    }
    by_method = {method: rows for method, rows in by_method.items() if rows}
    if len(by_method) < 2 or len(models) < _FEW:
        return None
    dots = [
        go.Scatter(
            x=100 * a.mean[rows],
            y=[k] * len(rows),
            mode="markers",
            text=[a.names[i] for i in rows],
            marker={"color": _CATEGORIES[k % 7], "symbol": _SYMBOLS[k % 7], "size": 9, "opacity": 0.8},
            hovertemplate="%{text}<br>%{x:.1f} %<extra></extra>",
        )
        for k, rows in enumerate(by_method.values())
    ]
    layout_of = layout(
        len(by_method) * 44 + 40,
        yaxis=rows_axis([f"{method} ({len(rows)})" for method, rows in by_method.items()]),
    )
    title = f"Mean {a.board.measure} of each model, %, by how it was trained."
    return made(dots, layout_of, title, title)
