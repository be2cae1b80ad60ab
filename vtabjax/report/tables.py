"""The report's tables: one definition for the page and for the CSV, Markdown and LaTeX files."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtabjax.ranking import ELO, elo, t_multiplier
from vtabjax.report import standing
from vtabjax.report.analysis import Analysis, Differences, Strengths
from vtabjax.report.boards import Model
from vtabjax.report.costs import costs, front
from vtabjax.specs import pooling
from vtabjax.tables import AccuracyRow, Column, Table

# More tasks than a page is wide enough for: then a paper's table has them as rows, and so many models.
_WIDE = 8
_BESIDE = 8


def board_tables(a: Analysis) -> dict[str, Table]:
    """The tables of one board, by what they are about."""
    made = {
        "accuracy": _accuracy(a),
        "best": _best(a),
        "top": _top(a),
        "groups": _groups(a),
        "cost": _cost(a),
    }
    if a.groups:
        made["means"] = _means(a)
    if len(a.board.tasks) > _WIDE:
        made["transposed"] = _transposed(a)
    if a.strengths:
        made["strength"] = _strength(a, a.strengths)
        made["epp"] = _epp(a, a.strengths)
    if a.differences:
        made["differences"] = _differences(a, a.differences)
    return {name: table for name, table in made.items() if table.items}


def _table(
    a: Analysis,
    name: str,
    title: str,
    columns: Sequence[Column],
    items: Sequence[Any],
    remarks: list[str],
    n_references: int = 0,
) -> Table:
    key, title = f"{a.board.key}-{name}", f"{a.board.title}: {title}"
    return Table(columns, items, remarks, key=key, title=title, n_references=n_references)


def _model_column(a: Analysis) -> Column:
    return Column("model", "text", lambda i: a.board.models[i].display_name, shown=lambda i: a.names[i])


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
        Column("mean rank", "number", lambda row: row.mean_rank, paper=False),
        Column("method", "text", lambda row: row.method, paper=False),
        Column("family", "text", lambda row: row.family, paper=False),
        Column("parameters", "size", lambda row: row.parameters),
        Column("GFLOPs", "number", lambda row: row.gflops, paper=False),
        Column("licence", "text", lambda row: row.license, paper=False),
        *(
            [Column("by", "text", lambda row: row.by, paper=False)]
            if any(m.source for m in a.board.models)
            else []
        ),
    ]
    remarks = [f"{a.board.measure} in percent (fractions in the CSV)"]
    n_lacking = int((~a.complete).sum())
    if n_lacking:
        remarks.append(f"{n_lacking} of {len(a.order)} models lack tasks: they have no mean")
    remarks += pooling.remarks({m.display_name: m.features for m in (a.board.models[i] for i in a.order)})
    rows = [_board_row(a, i) for i in a.order] + [_BoardRow(**vars(level)) for level in a.levels]
    return _table(a, "accuracy", a.board.measure, columns, rows, remarks, len(a.levels))


def _means(a: Analysis) -> Table:
    """Models and the means alone, for a paper's column."""
    columns = [column for column in a.accuracy_columns() if column.name not in a.board.tasks]
    rows = [a.accuracy_row(i) for i in a.order] + list(a.levels)
    title = f"mean {a.board.measure} in each group"
    return _table(a, "means", title, columns, rows, [f"mean {a.board.measure} in percent"], len(a.levels))


def _transposed(a: Analysis) -> Table:
    """Tasks as rows, the first models as columns, for a page that is higher than wide."""
    best = [a.accuracy_row(i) for i in a.order[:_BESIDE]] + list(a.levels)
    columns = [Column("task", "text", lambda column: column.name)]
    columns += [Column(row.name, "percent", lambda c, row=row: c.value(row)) for row in best]  # type: ignore[misc]
    shown = f"the first {_BESIDE} of {len(a.order)} models" if len(a.order) > _BESIDE else "all models"
    remarks = [f"{a.board.measure} in percent; {shown}"]
    items = a.accuracy_columns()[1:]
    n_means = len(items) - len(a.board.tasks)
    return _table(a, "transposed", f"{a.board.measure}, {shown}", columns, items, remarks, n_means)


def _strength(a: Analysis, s: Strengths) -> Table:
    """Strengths as chances: what the page shows."""
    chances = standing.against_average(s)
    columns = [
        _model_column(a),
        Column("chance to beat an average model", "percent", lambda i: chances.p[i]),
        Column("95 %", "interval percent", lambda i: (chances.low[i], chances.high[i]), beside=True),
        Column("place among resampled tasks", "interval whole", lambda i: (s.rank_low[i], s.rank_high[i])),
        Column("first in", "percent", lambda i: s.best[i] if len(a.board.tasks) > 1 else None),
    ]
    remarks = [
        "percent: the chance to be better than an average model on a new task, with its 95 % interval; 'first in': "
        "share of the resampled tasks in which a model is the best"
    ]
    return _table(a, "strength", "strength", columns, s.strongest, remarks)


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
    zero = "mean zero" if s.reference is None else f"{a.names[s.reference]} is zero"
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
    if s.one_step:
        remarks.append(
            "with more than 1,000 models a resample is one Newton step from the strengths of all tasks, not a fit"
        )
    return _table(a, "epp", "Elo-based Predictive Power", columns, s.strongest, remarks)


def not_finite(a: Analysis) -> str:
    """Why the strengths are penalised ones, "" where they are not."""
    s = a.strengths
    if s is None or s.within is None:
        return ""
    n = s.within.components.max() + 1
    names = [a.names[i] for i in s.unbeaten]
    others = " and others" if len(names) > 3 else ""
    unbeaten = f"{', '.join(names[:3])}{others} lost no match; " if names else ""
    return (
        f"no finite maximum-likelihood estimate: {unbeaten}the models fall into {n} groups, none of which has a win "
        "or tie against a group above it (or they never met). EPP is a penalised fit (ridge 0.1), and the penalty "
        "determines the distances between groups; within a group the unpenalised estimate is given as well"
    )


class _Winner(NamedTuple):
    """The best of a task: its number, all rows that share the place, accuracy, its interval, lead over the next."""

    task: int
    rows: list[int]
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
        task=j,
        rows=[int(i) for i in order if values[i] == best],
        accuracy=best,
        interval=(a.low[first, j], a.high[first, j]),
        lead=None if next_lower is None else best - next_lower,
        n_models=int((~np.isnan(values)).sum()),
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _best(a: Analysis) -> Table:
    columns = [
        Column("task", "text", lambda w: a.board.tasks[w.task], shown=lambda w: a.task_names[w.task]),
        Column(
            "best model",
            "text",
            lambda w: _listed([a.board.models[i].display_name for i in w.rows]),
            shown=lambda w: _listed([a.names[i] for i in w.rows]),
        ),
        Column(a.board.measure, "percent", lambda w: w.accuracy),
        Column("95 % interval", "interval percent", lambda w: w.interval, beside=True),
        Column("lead", "points", lambda w: w.lead),
        Column("models", "whole", lambda w: w.n_models),
    ]
    remarks = [
        f"lead in points over the next lower {a.board.measure}; interval of one {a.board.measure} on its test examples"
    ]
    winners = [_winner(a, j) for j in range(len(a.board.tasks))]
    return _table(a, "best", "best model of each task", columns, winners, remarks)


def _top(a: Analysis) -> Table:
    models = a.board.models
    columns = [
        _model_column(a),
        *([Column(f"top {a.top}", "whole", lambda i: int(a.top_counts[i]))] if a.top > 1 else []),
        Column("best", "whole", lambda i: int((a.ranks[i] == 1).sum())),
        Column("tasks", "whole", lambda i: int((~np.isnan(a.board.values[i])).sum())),
        _array_column("mean rank", "number", a.mean_rank),
        Column("architecture", "text", lambda i: models[i].architecture, paper=False),
    ]
    remarks = [
        f"on how many tasks a model is among the best {a.top}, or ties with them"
        if a.top > 1
        else "on how many tasks a model is the best, or ties with it"
    ]
    return _table(a, "top", f"among the best {a.top}" if a.top > 1 else "best", columns, a.by_top, remarks)


def _differences(a: Analysis, d: Differences) -> Table:
    place = {row: k for k, row in enumerate(d.rows)}
    columns = [
        _model_column(a),
        _array_column("mean", "percent", a.mean),
        Column(
            "mean, 95 %",
            "interval percent",
            lambda i: (d.mean_low[place[i]], d.mean_high[place[i]]),
            beside=True,
        ),
        Column("behind", "points", lambda i: d.difference[place[i]]),
        Column(
            "95 % paired bootstrap",
            "points interval",
            lambda i: (d.low[place[i]], d.high[place[i]]),
            beside=True,
        ),
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
    title = f"behind {a.names[d.leader]}"
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
        if len(members) < 2:  # all alike, or nothing is known: a row that says nothing
            continue
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
        Column(
            "best model",
            "text",
            lambda g: a.board.models[g.best].display_name,
            shown=lambda g: a.names[g.best],
        ),
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
    ]
    for unit, kind, front_by in (
        ("parameters", "size", "size"),
        ("GFLOPs", "number", "GFLOPs"),
        ("images/s", "whole", "speed"),
    ):
        if np.isfinite(cost[unit]).any():
            columns += [
                _array_column(unit, kind, cost[unit]),
                _array_column(f"front ({front_by})", "text", np.where(on_front[unit], "yes", "")),
            ]
    remarks = ["on the front: no model is both cheaper and more accurate"]
    device = next((m.device for m in a.board.models if m.device), "")
    if device:
        remarks.append(f"images/s: the fastest pass over images while features were computed, on {device}")
    known = ~(np.isnan(parameters) & np.isnan(speed))
    rows = [i for i in a.order if a.complete[i] and known[i]]
    return _table(a, "cost", "accuracy against cost", columns, rows, remarks)
