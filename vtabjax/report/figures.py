"""The report's figures for papers: PDF and PNG, by matplotlib."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax.report import naming
from vtabjax.report.analysis import Analysis
from vtabjax.report.costs import costs, front
from vtabjax.report.proxies import Proxy, ProxyComparison
from vtabjax.runtime import files

MOST = 50  # models in a figure with one row per model
_DRAWN = 4  # proxies that have a figure of their own, the most trusted
_ACCENT, _WARM, _MUTED = "#1f5fbf", "#b4540a", "#5a6675"
_STYLE: Any = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
}


def write(analyses: Sequence[Analysis], comparison: ProxyComparison, folder: Path) -> list[str]:
    """Writes every figure there are numbers for; returns their names."""
    import matplotlib
    from matplotlib.figure import Figure

    drawings: list[tuple[str, Callable[[Any], bool]]] = []
    for a in analyses:
        for name, draw in (("heat", _heat), ("epp", _epp), ("top", _top), ("cost", _cost)):
            drawings.append((f"{a.board.key}-{name}", functools.partial(draw, a)))
    drawings.append(("proxies", functools.partial(_proxies, comparison)))
    for proxy in [p for p in comparison.proxies if not p.static and not p.noise][:_DRAWN]:
        drawings.append(
            (f"proxy-{_file_name(proxy)}-by-task", functools.partial(_scatter, comparison, proxy))
        )
    written = []
    with matplotlib.rc_context(_STYLE):
        for name, draw_on in drawings:
            figure = Figure()
            if draw_on(figure):
                written.append(_save(figure, folder, name))
    return written


def _save(figure: Any, folder: Path, name: str) -> str:
    for kind in ("pdf", "png"):
        with files.replacing(folder / f"{name}.{kind}") as temporary:
            # No date in the file: the same numbers are the same bytes.
            figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return name


def _named(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _of(n: int) -> str:
    return f" (the first {MOST} of {n} models)" if n > MOST else ""


def _heat(a: Analysis, figure: Any) -> bool:
    b, rows = a.board, a.order[:MOST]
    v = b.values[rows]
    low = np.nanmin(np.where(np.isnan(v), np.inf, v), axis=0)
    spread = np.nanmax(np.where(np.isnan(v), -np.inf, v), axis=0) - low
    figure.set_size_inches(2.6 + 0.33 * len(b.tasks), 1.2 + 0.17 * len(rows))
    axes = figure.add_subplot()
    shades = np.ma.masked_invalid((v - low) / np.where(spread > 0, spread, 1))
    axes.imshow(shades, aspect="auto", cmap="Blues", vmin=-0.1, vmax=1.6)
    for (i, j), value in np.ndenumerate(v):
        axes.text(
            j, i, "–" if np.isnan(value) else f"{100 * value:.1f}", ha="center", va="center", fontsize=5.5
        )
    _named(axes, [a.names[i] for i in rows])
    axes.set_xticks(range(len(b.tasks)), a.task_names, rotation=60, ha="right")
    axes.set_title(f"{b.title}: {b.measure}, %{_of(len(b.models))}", loc="left")
    return True


def _epp(a: Analysis, figure: Any) -> bool:
    s, b = a.strengths, a.board
    if s is None:
        return False
    rows = s.strongest[:MOST]
    figure.set_size_inches(5.5, 0.9 + 0.17 * len(rows))
    axes = figure.add_subplot()
    half = np.nan_to_num((s.high - s.low)[rows] / 2)
    colours = [_WARM if b.models[i].published else _ACCENT for i in rows]
    axes.errorbar(s.scores[rows], range(len(rows)), xerr=half, fmt="none", ecolor=_MUTED, elinewidth=0.8)
    axes.scatter(s.scores[rows], range(len(rows)), s=16, c=colours, zorder=3)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.6)
    _named(axes, [a.names[i] for i in rows])
    axes.set_xlabel(
        "EPP, 95 % interval clustered by task" + (" (penalised fit)" if s.within is not None else "")
    )
    axes.set_title(f"{b.title}{_of(len(b.models))}", loc="left")
    return True


def _top(a: Analysis, figure: Any) -> bool:
    b = a.board
    if len(b.models) < 2:
        return False
    rows = a.by_top[:MOST]
    figure.set_size_inches(5.5, 0.9 + 0.17 * len(rows))
    axes = figure.add_subplot()
    axes.barh(range(len(rows)), a.top_counts[rows], color=_ACCENT, height=0.65)
    _named(axes, [a.names[i] for i in rows])
    among = f"among the best {a.top}" if a.top > 1 else "on which it is the best"
    axes.set_xlabel(f"tasks (of {len(b.tasks)}) {among}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f"{b.title}{_of(len(b.models))}", loc="left")
    return True


def _cost(a: Analysis, figure: Any) -> bool:
    from matplotlib import ticker

    b = a.board
    known = costs(b)
    units = [u for u in ("images/s", "parameters") if ((known[u] > 0) & np.isfinite(a.mean)).sum() > 1]
    if not units:
        return False
    figure.set_size_inches(3.6 * len(units), 3.0)
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        cost = known[unit]
        best = np.flatnonzero(front(unit, cost, a.mean))
        best = best[np.argsort(cost[best])]
        best = best[cost[best] > 0]  # no parameters, no place on a logarithmic axis
        steps: Any = "steps-pre" if unit == "images/s" else "steps-post"
        axes.plot(cost[best], 100 * a.mean[best], color=_MUTED, linewidth=1, drawstyle=steps)
        there = cost > 0
        axes.scatter(cost[there], 100 * a.mean[there], s=14, c=_ACCENT, zorder=3)
        named = dict.fromkeys([*[i for i in a.order if there[i]][:3], *best[:12].tolist()])
        for i in named:
            axes.annotate(
                a.names[i],
                (cost[i], 100 * a.mean[i]),
                fontsize=5,
                xytext=(3, 3),
                textcoords="offset points",
            )
        axes.set(xscale="log", xlabel=unit, ylabel=f"mean {a.board.measure}, %")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks(ticker.EngFormatter(sep=""))
        axes.tick_params(axis="x", which="both", labelsize=6)
    return True


def _proxies(comparison: ProxyComparison, figure: Any) -> bool:
    shown, x, low, high = comparison.weighted_kendall()
    if not shown:
        return False
    figure.set_size_inches(5.5, 0.9 + 0.19 * len(shown))
    axes = figure.add_subplot()
    errors = np.nan_to_num([x - low, high - x]).clip(0)
    axes.errorbar(x, range(len(shown)), xerr=errors, fmt="none", ecolor=_MUTED, elinewidth=0.8)
    for i, p in enumerate(shown):
        axes.scatter(
            x[i],
            i,
            s=20,
            marker="D" if p.static else "o",
            zorder=3,
            edgecolor=_MUTED if p.static else _ACCENT,
            facecolor="white" if p.static else _ACCENT,
        )
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.6)
    _named(axes, [p.title for p in shown])
    axes.set_xlabel("weighted Kendall against fine-tuning, mean over tasks, 95 % interval over models")
    return True


def _file_name(proxy: Proxy) -> str:
    return re.sub(r"[^a-z0-9]+", "-", proxy.title.lower()).strip("-")


def _scatter(comparison: ProxyComparison, proxy: Proxy, figure: Any) -> bool:
    """A proxy against fine-tuning, one panel per task."""
    finetuned = comparison.finetuned
    if finetuned is None:
        return False
    names = naming.of_tasks(finetuned.tasks)
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    figure.set_size_inches(1.9 * columns + 0.4, 1.7 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    for j, (name, axes) in enumerate(zip(names, panels.flat, strict=False)):
        axes.scatter(proxy.values[:, j], 100 * finetuned.values[:, j], s=8, c=_ACCENT)
        tau = proxy.agreement.per_task["weighted_kendall"][j]
        axes.set_title(name + ("" if np.isnan(tau) else f"  {tau:.2f}"), fontsize=7)
        axes.tick_params(labelsize=6)
    figure.supxlabel(f"{proxy.title} (weighted Kendall in the titles)", fontsize=8)
    figure.supylabel("fine-tuned accuracy, %", fontsize=8)
    return True
