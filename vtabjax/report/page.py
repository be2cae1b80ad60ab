"""The page: one self-contained HTML file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe

from vtabjax import __version__, installation, options
from vtabjax.report import cells, charts, funnel, naming, prose, templates
from vtabjax.report.analysis import Analysis, Options
from vtabjax.report.boards import SIZES, ReportData
from vtabjax.report.headline import headline
from vtabjax.report.proxies import ProxyComparison
from vtabjax.report.standing import standing
from vtabjax.report.tables import not_finite
from vtabjax.specs import filters
from vtabjax.tables import Table

# Fields of configs/report.py with their defaults, which the command on the page leaves out.
DEFAULTS = {
    "title": "",
    "published": "",
    "imagenet": "",
    "reference": "",
    "score": "accuracy",
    "filter": (),
    "resamples": 1000,
    "seed": 0,
    "tie_margin": 0.0,
    "example_rounds": 0,
    "figures": True,
    "models_dir": "",
}


def render(
    data: ReportData,
    analyses: Sequence[Analysis],
    tables: dict[str, dict[str, Table]],
    comparison: ProxyComparison,
    proxy_tables: Sequence[Table],
    draws: Options,
    own: options.ReportOptions,
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
      draws: the options of the statistics.
      own: the config's.
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
        "points": {name: c["points"] for name, c in drawn.items() if "points" in c},
        "corners": {name: c["corners"] for name, c in drawn.items() if "corners" in c},
        "colours": charts.COLOURS,
        "scatter": charts.scatter(comparison),
    }
    return (
        templates.environment()
        .get_template("page.html")
        .render(
            title=title,
            version=__version__,
            funnel=funnel.section(workdir),
            workdir=workdir.resolve().name,
            when=_when(data),
            command=_command(own, workdir),
            boards=boards,
            drawn=drawn,
            notices=data.notices,
            missing=prose.missing(data, comparison, workdir),
            comparison=comparison,
            proxy_tables=[cells.of_table(table) for table in proxy_tables],
            proxy_tasks=naming.of_tasks(comparison.finetuned.tasks) if comparison.finetuned else [],
            failures=prose.failures(data),
            methods=prose.methods(data, analyses),
            statistics=prose.statistics(draws),
            versions=prose.versions(data),
            records=data.records,
            figures=figures,
            style=templates.asset("style.css"),
            script=templates.asset("report.js") + templates.asset("charts.js"),
            plotly=markupsafe.Markup(get_plotlyjs().replace("</script", "<\\/script")),
            data=markupsafe.Markup(_json(embedded)),
            told={b["key"]: markupsafe.Markup(_json(b["cells"])) for b in boards},
        )
    )


def _json(data: Any) -> str:
    """JSON that may stand in a <script>."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _when(data: ReportData) -> str:
    """The days on which the results were finished."""
    if not data.finished:
        return ""
    first, last = data.finished[0][:10], data.finished[1][:10]
    return first if first == last else f"{first} to {last}"


def _command(own: options.ReportOptions, workdir: Path) -> str:
    """The command that makes the page again."""
    parts = [f"--config.{name}={_flag(getattr(own, name))}" for name in DEFAULTS if _changed(own, name)]
    fields = " ".join(shlex.quote(part) for part in parts)
    base = f"{installation.command()} --config=configs/report.py --workdir={shlex.quote(str(workdir))}"
    return f"{base} {fields}".rstrip()


def _changed(own: options.ReportOptions, name: str) -> bool:
    value = getattr(own, name)
    return bool(value != DEFAULTS[name] and (value or DEFAULTS[name]))


def _flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return filters.as_text(value) if isinstance(value, tuple) else str(value)


def _board(a: Analysis, tables: dict[str, Table]) -> dict[str, Any]:
    b = a.board
    s = standing(a)
    models = [b.models[i] for i in a.order]
    strongest = a.strengths.strongest[0] if a.strengths else None
    n_models, n_tasks = len(models), len(b.tasks)
    return {
        "key": b.key,
        "title": b.title,
        "measure": b.measure,
        "by_mean": a.leader is not None,
        "headline": headline(a, s),
        "counts": f"{n_models} model{'s' * (n_models != 1)}, {n_tasks} task{'s' * (n_tasks != 1)}.",
        "heat": cells.heat(a),
        "cells": cells.told(a),
        "methods": sorted({m.method for m in models}),
        "families": sorted({m.family for m in models}),
        "sizes": [name for _, name in SIZES if any(m.size == name for m in models)],
        "published": any(m.published for m in models),
        "all_published": all(m.published for m in models),
        "shared": a.shared,
        "strongest": a.names[strongest] if strongest is not None and strongest != s.first else "",
        "tables": {name: cells.of_table(table) for name, table in tables.items()},
        "charts": charts.board_charts(a, s),
        "analysis": a,
        "not_finite": not_finite(a),
    }
