"""The report's tables: one definition for the page and for the CSV, Markdown and LaTeX files."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vtabjax.ranking import ELO, elo, t_multiplier
from vtabjax.report.analysis import Analysis, Differences, Strengths, costs, front
from vtabjax.report.boards import Board, Model
from vtabjax.report.proxies import Proxy, ProxyComparison
from vtabjax.specs import pooling
from vtabjax.tables import AccuracyRow, Column, Table, text


def board_tables(a: Analysis) -> dict[str, Table]:
    """The tables of one board, by what they are about."""
    made = {
        "accuracy": _accuracy(a),
        "best": _best(a),
        "top5": _top5(a),
        "groups": _groups(a),
        "cost": _cost(a),
    }
    if a.strengths:
        made["epp"] = _epp(a, a.strengths)
    if a.differences:
        made["differences"] = _differences(a, a.differences)
    return {name: table for name, table in made.items() if table.items}


def _table(
    a: Analysis, name: str, title: str, columns: list[Column], items: list[Any], remarks: list[str]
) -> Table:
    return Table(columns, items, remarks, key=f"{a.board.key}-{name}", title=f"{a.board.title}: {title}")


def _model_column(a: Analysis) -> Column:
    return Column("model", "text", lambda i: a.board.models[i].display_name)


def _array_column(name: str, kind: str, values: np.ndarray) -> Column:
    """A column of what an array holds for the item's number."""
    return Column(name, kind, lambda i: values[i])


@dataclasses.dataclass(frozen=True)
class _BoardRow(AccuracyRow):
    """A row of the table of accuracies: a model's, or one below the models, of which the rest is not known."""

    mean_rank: float | None = None
    method: str = ""
    family: str = ""
    parameters: int | None = None
    gflops: float | None = None
    license: str = ""
    by: str = ""


def _board_row(a: Analysis, i: int) -> _BoardRow:
    model = a.board.models[i]
    return _BoardRow(
        **vars(a.accuracy_row(i)),
        mean_rank=float(a.mean_rank[i]),
        method=model.method,
        family=model.family,
        parameters=model.parameters,
        gflops=model.gflops,
        license=model.license,
        by=model.source,
    )


def _accuracy(a: Analysis) -> Table:
    columns = [
        *a.accuracy_columns(),
        Column("mean rank", "number", lambda row: row.mean_rank),
        Column("method", "text", lambda row: row.method),
        Column("family", "text", lambda row: row.family),
        Column("parameters", "whole", lambda row: row.parameters),
        Column("GFLOPs", "number", lambda row: row.gflops),
        Column("licence", "text", lambda row: row.license),
        *([Column("by", "text", lambda row: row.by)] if any(m.source for m in a.board.models) else []),
    ]
    remarks = [f"{a.board.measure} in percent (fractions in the CSV)"]
    n_lacking = int((~a.complete).sum())
    if n_lacking:
        remarks.append(f"{n_lacking} of {len(a.order)} models lack tasks: they have no mean")
    remarks += pooling.remarks({m.display_name: m.features for m in (a.board.models[i] for i in a.order)})
    rows = [_board_row(a, i) for i in a.order] + [_BoardRow(**vars(level)) for level in a.levels]
    return _table(a, "accuracy", a.board.measure, columns, rows, remarks)


def _epp(a: Analysis, s: Strengths) -> Table:
    errors = (s.high - s.low) / 2 / t_multiplier(s.fit.n_clusters)
    columns = [
        _model_column(a),
        _array_column("EPP", "number", s.scores),
        _array_column("standard error", "number", errors),
        Column("95 % by task", "interval", lambda i: (s.low[i], s.high[i])),
        Column("95 % bootstrap", "interval", lambda i: (s.boot_low[i], s.boot_high[i])),
        _array_column("Elo", "whole", elo(s.scores)),
        _array_column("Elo error", "whole", ELO * errors),
        Column("rank interval", "interval whole", lambda i: (s.rank_low[i], s.rank_high[i])),
        Column("best in", "percent", lambda i: s.best[i] if len(a.board.tasks) > 1 else None),
    ]
    zero = "mean zero" if s.reference is None else f"{a.board.models[s.reference].label} is zero"
    remarks = [
        f"P(i beats j on a new task) = 1 / (1 + exp(EPP of j - EPP of i)); {zero}; standard errors clustered by task, "
        f"{s.fit.n_clusters} of them; 'best in': share of the task resamples in which a model is the best"
    ]
    if s.within is not None:
        within = s.within
        size = np.bincount(within.components)[within.components]
        columns += [
            _array_column("group", "whole", within.components + 1),
            Column("EPP within group", "number", lambda i: within.scores[i] if size[i] > 1 else None),
        ]
        remarks.append(not_finite(a))
    elif s.n_penalised:
        remarks.append(
            f"{s.n_penalised} of the resamples have no finite estimate (a model wins every match of the tasks drawn); "
            "a penalised fit (ridge 0.1) is used for those"
        )
    return _table(a, "epp", "Elo-based Predictive Power", columns, s.strongest, remarks)


def not_finite(a: Analysis) -> str:
    """Why the strengths are penalised ones, "" where they are not."""
    s = a.strengths
    if s is None or s.within is None:
        return ""
    n = s.within.components.max() + 1
    names = [a.board.models[i].label for i in s.unbeaten]
    others = " and others" if len(names) > 3 else ""
    unbeaten = f"{', '.join(names[:3])}{others} lost no match; " if names else ""
    return (
        f"no finite maximum-likelihood estimate: {unbeaten}the models fall into {n} groups, none of which has a win "
        "or tie against a group above it (or they never met). EPP is a penalised fit (ridge 0.1), and the penalty "
        "determines the distances between groups; within a group the unpenalised estimate is given as well"
    )


class _Winner(NamedTuple):
    """The best of a task: names of all that share the place, accuracy, its interval, lead over the next lower one."""

    task: str
    names: list[str]
    accuracy: float
    interval: tuple[float, float]
    lead: float | None
    n_models: int


def _winner(a: Analysis, j: int) -> _Winner:
    values = a.board.values[:, j]
    order = np.argsort(-np.nan_to_num(values, nan=-1), kind="stable")
    first = order[0]
    best = values[first]
    next_lower = next((values[i] for i in order if values[i] < best), None)
    return _Winner(
        task=a.board.tasks[j],
        names=[a.board.models[i].display_name for i in order if values[i] == best],
        accuracy=best,
        interval=(a.low[first, j], a.high[first, j]),
        lead=None if next_lower is None else best - next_lower,
        n_models=int((~np.isnan(values)).sum()),
    )


def _best(a: Analysis) -> Table:
    columns = [
        Column("task", "text", lambda w: w.task),
        Column("best model", "text", lambda w: ", ".join(w.names[:3]) + (" ..." if len(w.names) > 3 else "")),
        Column(a.board.measure, "percent", lambda w: w.accuracy),
        Column("95 % interval", "interval percent", lambda w: w.interval),
        Column("lead", "points", lambda w: w.lead),
        Column("models", "whole", lambda w: w.n_models),
    ]
    remarks = [
        f"lead in points over the next lower {a.board.measure}; interval of one {a.board.measure} on its test examples"
    ]
    winners = [_winner(a, j) for j in range(len(a.board.tasks))]
    return _table(a, "best", "best model of each task", columns, winners, remarks)


def _top5(a: Analysis) -> Table:
    models = a.board.models
    columns = [
        _model_column(a),
        Column("top 5", "whole", lambda i: int(a.top5[i])),
        Column("best", "whole", lambda i: int((a.ranks[i] == 1).sum())),
        Column("tasks", "whole", lambda i: int((~np.isnan(a.board.values[i])).sum())),
        _array_column("mean rank", "number", a.mean_rank),
        Column("architecture", "text", lambda i: models[i].architecture),
    ]
    remarks = ["on how many tasks a model is among the five best, or ties for fifth place"]
    if len(models) <= 5:
        remarks.append("with five models or fewer, each is always among the five best")
    return _table(a, "top5", "among the five best", columns, a.by_top5, remarks)


def _differences(a: Analysis, d: Differences) -> Table:
    place = {row: k for k, row in enumerate(d.rows)}
    columns = [
        _model_column(a),
        _array_column("mean", "percent", a.mean),
        Column("behind", "points", lambda i: d.difference[place[i]]),
        Column("95 % paired bootstrap", "points interval", lambda i: (d.low[place[i]], d.high[place[i]])),
        Column(
            "lead is",
            "text",
            lambda i: "clear" if d.low[place[i]] > 0 else "within the noise of the test examples",
        ),
    ]
    remarks = [
        "points of mean accuracy; examples of each task are resampled, the same ones for every model; the tasks stay "
        "as they are"
    ]
    followers = [i for i in d.rows if i != d.leader]
    title = f"behind {a.board.models[d.leader].label}"
    return _table(a, "differences", title, columns, followers, remarks)


class _Group(NamedTuple):
    """Models with something in common, such as the family: the row numbers of its members, and of the best one."""

    by: str
    name: str
    members: list[int]
    best: int


def _grouped(a: Analysis) -> list[_Group]:
    """The models that have all tasks by how they were trained, by family, by size; the best group first."""
    what: dict[str, Callable[[Model], str]] = {
        "method": lambda model: model.method,
        "family": lambda model: model.family,
        "parameters": lambda model: model.size or "unknown",
    }
    groups = []
    for by, name_of_group in what.items():
        members: dict[str, list[int]] = collections.defaultdict(list)
        for i, model in enumerate(a.board.models):
            if a.complete[i]:
                members[name_of_group(model)].append(i)
        for name, rows in sorted(members.items(), key=lambda item: -a.mean[item[1]].mean()):
            groups.append(_Group(by, name, rows, max(rows, key=lambda i: a.mean[i])))
    return groups


def _groups(a: Analysis) -> Table:
    s = a.strengths
    columns = [
        Column("by", "text", lambda g: g.by),
        Column("group", "text", lambda g: g.name),
        Column("models", "whole", lambda g: len(g.members)),
        Column("mean", "percent", lambda g: a.mean[g.members].mean()),
        Column("best", "percent", lambda g: a.mean[g.best]),
        Column("best model", "text", lambda g: a.board.models[g.best].display_name),
        Column("mean EPP", "number", lambda g: s.scores[g.members].mean() if s else None),
    ]
    columns += [
        Column(name, "percent", lambda g, means=means: means[g.members].mean())  # type: ignore[misc]
        for name, means in a.group_means.items()
    ]
    remarks = [
        "models that have all tasks; a group's mean says as much about which models were chosen as about the training"
    ]
    return _table(a, "groups", "by training, family and size", columns, _grouped(a), remarks)


def _cost(a: Analysis) -> Table:
    cost = costs(a.board)
    parameters, speed = cost["parameters"], cost["images/s"]
    on_front = {unit: front(unit, values, a.mean) for unit, values in cost.items()}
    columns = [
        _model_column(a),
        _array_column("mean", "percent", a.mean),
        _array_column("parameters", "whole", parameters),
        Column("front (size)", "text", lambda i: "yes" if on_front["parameters"][i] else ""),
        _array_column("GFLOPs", "number", cost["GFLOPs"]),
        Column("front (GFLOPs)", "text", lambda i: "yes" if on_front["GFLOPs"][i] else ""),
        _array_column("images/s", "whole", speed),
        Column("front (speed)", "text", lambda i: "yes" if on_front["images/s"][i] else ""),
    ]
    remarks = ["on the front: no model is both cheaper and more accurate"]
    device = next((m.device for m in a.board.models if m.device), "")
    if device:
        remarks.append(f"images/s: the fastest pass over images while features were computed, on {device}")
    known = ~(np.isnan(parameters) & np.isnan(speed))
    rows = [i for i in a.order if a.complete[i] and known[i]]
    return _table(a, "cost", "accuracy against cost", columns, rows, remarks)


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


def proxy_tables(comparison: ProxyComparison) -> list[Table]:
    """Proxies against fine-tuning: averages with intervals, per task, and without each family."""
    if not comparison.proxies or comparison.finetuned is None:
        return []
    tables = [_proxies(comparison, comparison.finetuned), _proxies_by_task(comparison, comparison.finetuned)]
    families = list(dict.fromkeys(family for p in comparison.proxies for family in p.without))
    if families:
        tables.append(_proxies_without(comparison, families))
    return tables


def _measure_columns(name: str, title: str) -> list[Column]:
    """A measure's mean over the tasks, and its interval."""
    points = name.startswith("regret")

    def mean(proxy: Proxy) -> float:
        return proxy.agreement.mean[name]

    def interval(proxy: Proxy) -> tuple[float, float]:
        return proxy.agreement.low[name], proxy.agreement.high[name]

    return [
        Column(title, "points" if points else "number", mean),
        Column(f"{title} 95 %", "points interval" if points else "interval", interval, label="95 %"),
    ]


def _proxies(comparison: ProxyComparison, finetuned: Board) -> Table:
    columns = [
        Column("proxy", "text", lambda p: p.title),
        Column("kind", "text", lambda p: "baseline" if p.static else "measured"),
    ]
    for name, title in _MEASURES.items():
        columns += _measure_columns(name, title)
    columns += [
        Column("tasks", "whole", lambda p: p.agreement.n_tasks["weighted_kendall"]),
        Column("seconds", "seconds", lambda p: p.seconds),
        Column("with features", "seconds", lambda p: p.with_features),
    ]
    n_models = int(max(p.agreement.n_models.max() for p in comparison.proxies))
    took = "" if comparison.seconds is None else text(comparison.seconds, "seconds")
    remarks = [
        f"against {finetuned.title}: agreement on each task over up to {n_models} models, then the mean "
        "over tasks; intervals: models drawn with replacement",
        "regret@k: points of accuracy lost by fine-tuning only the k models the proxy ranks first; hit@k: share of "
        "tasks on which the best model is among them",
        "seconds: median for a model on a task" + (f"; fine-tuning took {took} s (median)" if took else ""),
    ]
    return Table(
        columns, comparison.proxies, remarks, key="proxies", title="How far each proxy can be trusted"
    )


def _proxies_by_task(comparison: ProxyComparison, finetuned: Board) -> Table:
    columns = [Column("proxy", "text", lambda p: p.title)]
    columns += [
        Column(task, "number", lambda p, j=j: p.agreement.per_task["weighted_kendall"][j])  # type: ignore[misc]
        for j, task in enumerate(finetuned.tasks)
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
