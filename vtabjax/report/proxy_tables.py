"""The tables about proxies: how far each can be trusted, task by task, and without each family."""

from __future__ import annotations

from collections.abc import Mapping

from vtabjax.report import naming
from vtabjax.report.boards import Board
from vtabjax.report.proxies import Proxy, ProxyComparison
from vtabjax.tables import Column, Table, text

_MEASURES = {
    "weighted_kendall": "weighted Kendall",
    "kendall": "Kendall",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "regret@1": "regret@1",
    "regret@3": "regret@3",
    "hit@1": "hit@1",
    "hit@3": "hit@3",
}
# Which proxy to use, in as many columns as a screen has.
_SHORT = {name: _MEASURES[name] for name in ("weighted_kendall", "regret@1", "hit@3")}


def proxy_tables(comparison: ProxyComparison) -> list[Table]:
    """Proxies against fine-tuning: what to use, all measures, task by task, and without each family."""
    if not comparison.proxies or comparison.finetuned is None:
        return []
    tables = [
        _proxies(comparison, comparison.finetuned, _SHORT),
        _proxies(comparison, comparison.finetuned, _MEASURES),
        _proxies_by_task(comparison, comparison.finetuned),
    ]
    families = list(dict.fromkeys(family for p in comparison.proxies for family in p.without))
    if families:
        tables.append(_proxies_without(comparison, families))
    return tables


def _measure_columns(name: str, title: str) -> list[Column]:
    """A measure's mean over the tasks, and its interval."""

    def mean(proxy: Proxy) -> float:
        return proxy.agreement.mean[name]

    def interval(proxy: Proxy) -> tuple[float, float]:
        return proxy.agreement.low[name], proxy.agreement.high[name]

    kind = "percent" if name.startswith(("regret", "hit")) else "number"
    of_interval = "interval percent" if kind == "percent" else "interval"
    return [
        Column(title, kind, mean),
        Column(f"{title} 95 %", of_interval, interval, beside=True),
    ]


def _proxies(comparison: ProxyComparison, finetuned: Board, measures: Mapping[str, str]) -> Table:
    whole = measures is _MEASURES
    columns = [
        Column("proxy", "text", lambda p: p.title),
        Column("kind", "text", lambda p: "baseline" if p.static else "measured"),
    ]
    for name, title in measures.items():
        columns += _measure_columns(name, title)
    columns += [
        Column("models", "whole", lambda p: p.n_models),
        *([Column("tasks", "whole", lambda p: p.agreement.n_tasks["weighted_kendall"])] if whole else []),
        Column("seconds", "seconds", lambda p: p.seconds),
        Column("with features", "seconds", lambda p: p.with_features),
    ]
    if any(p.flat_on for p in comparison.proxies):
        columns.append(Column("noise on", "text", lambda p: f"{p.flat_on} tasks" if p.flat_on else ""))
    took = "" if comparison.seconds is None else text(comparison.seconds, "seconds")
    remarks = [
        f"against {finetuned.title}: agreement on each task, then the mean over tasks; intervals: models drawn with "
        "replacement; 'models': over how many, where they differ the numbers do not compare",
        "regret@k: points of accuracy lost by fine-tuning only the k models the proxy ranks first; hit@k: share of "
        "tasks on which the best model is among them",
        "seconds: median for a model on a task" + (f"; fine-tuning took {took} s (median)" if took else ""),
    ]
    key, title = ("proxies", "all measures") if whole else ("proxies-short", "how far each can be trusted")
    return Table(columns, comparison.proxies, remarks, key=key, title=f"Proxies: {title}")


def _proxies_by_task(comparison: ProxyComparison, finetuned: Board) -> Table:
    columns = [Column("proxy", "text", lambda p: p.title)]
    columns += [
        Column(task, "number", lambda p, j=j: p.agreement.per_task["weighted_kendall"][j], label=name)  # type: ignore[misc]
        for j, (task, name) in enumerate(zip(finetuned.tasks, naming.of_tasks(finetuned.tasks), strict=True))
    ]
    remarks = ["empty: undefined (fewer than two models, or all equal)"]
    title = "Weighted Kendall of each proxy, task by task"
    return Table(columns, comparison.proxies, remarks, key="proxies-by-task", title=title)


def _proxies_without(comparison: ProxyComparison, families: list[str]) -> Table:
    columns = [
        Column("proxy", "text", lambda p: p.title),
        Column("all", "number", lambda p: p.agreement.mean["weighted_kendall"]),
    ]
    columns += [
        Column(f"without {family}", "number", lambda p, family=family: p.without.get(family))  # type: ignore[misc]
        for family in families
    ]
    remarks = ["a proxy that needs one family to look good ranks families, not models"]
    title = "Weighted Kendall without one family of models"
    return Table(columns, comparison.proxies, remarks, key="proxies-without-family", title=title)
