"""Charts of proxies against fine-tuning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go

from vtabjax.report import naming
from vtabjax.report.charts._base import NAMED, ROW, interval_bars, layout, made, rows_axis
from vtabjax.report.proxies import Proxy, ProxyComparison


def proxy_chart(comparison: ProxyComparison) -> dict[str, Any] | None:
    """Mean weighted Kendall of every proxy with its interval over models."""
    shown, x, low, high = comparison.weighted_kendall()
    if not shown:
        return None
    names = [_name(p, comparison.n_models) for p in shown]
    dots = go.Scatter(
        x=x,
        y=list(range(len(shown))),
        mode="markers",
        text=names,
        marker={
            "size": 9,
            "color": [NAMED["muted" if p.static or p.noise else "accent"] for p in shown],
            "symbol": ["diamond-open" if p.static else "x-thin-open" if p.noise else "circle" for p in shown],
        },
        error_x=interval_bars(x, low, high),
        customdata=np.stack([low, high], 1),
        hovertemplate="%{text}<br>%{x:.2f}, %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    layout_of = layout(
        len(shown) * ROW + 46,
        xaxis={"range": [-1.05, 1.05]},
        yaxis=rows_axis(names),
    )
    title = (
        "Weighted Kendall against fine-tuning (1: the same order, 0: none), mean over tasks, with its 95 % interval "
        f"over models; {comparison.n_models} models unless a name says otherwise. Open diamonds are baselines, which "
        "know nothing about the task."
    )
    if any(p.noise for p in shown):
        title += " Crosses: most models have nearly the same value, so their order is noise."
    return made([dots], layout_of, title, title + " The table below has the numbers.")


def _name(proxy: Proxy, usual: int) -> str:
    own = f" (n = {proxy.n_models})" if proxy.n_models != usual else ""
    return proxy.title + own + (" (noise)" if proxy.noise else "")


def scatter(comparison: ProxyComparison) -> dict[str, Any] | None:
    """What the page needs to draw any proxy against fine-tuning on any task: values, and the empty figure."""
    b = comparison.finetuned
    if not comparison.proxies or b is None:
        return None
    fixed = {"automargin": False, "zeroline": False}
    layout_of = layout(
        380,
        xaxis={**fixed, "title": {"text": ""}},
        yaxis={**fixed, "ticksuffix": " %"},
        margin={"l": 56, "r": 16, "t": 12, "b": 48},
    )
    marker = {"color": NAMED["accent"], "size": 9, "opacity": 0.85}
    return {
        "figure": json.loads(go.Figure([go.Scatter(mode="markers", marker=marker)], layout_of).to_json()),
        "label": "Fine-tuned accuracy against the chosen proxy on the chosen task.",
        "models": naming.of_models(b.models).names,
        "tasks": naming.of_tasks(b.tasks),
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


def _nullable(values: np.ndarray) -> list[Any]:
    rounded = np.round(values, 5).astype(object)
    rounded[~np.isfinite(values)] = None
    nullable: list[Any] = rounded.tolist()
    return nullable
