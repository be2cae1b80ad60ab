"""The report's tables: one definition for the page and for the CSV, Markdown and LaTeX files."""

from __future__ import annotations

import collections
import math

import numpy as np

from vtabjax.ranking import ELO, elo, quantile
from vtabjax.report.analysis import Analysis, pareto
from vtabjax.report.boards import Model
from vtabjax.report.proxies import Judged
from vtabjax.report.sheet import Column, Sheet, name_of, size_of, text


def board_sheets(a: Analysis) -> dict[str, Sheet]:
    """The tables of one board, by what they are about."""
    out = {
        "accuracy": _accuracy(a),
        "best": _best(a),
        "top5": _top5(a),
        "groups": _groups(a),
        "cost": _cost(a),
    }
    if a.strengths:
        out["epp"] = _epp(a)
    if a.differences:
        out["differences"] = _differences(a)
    return {name: sheet for name, sheet in out.items() if sheet.rows}


def _key(a: Analysis, name: str) -> str:
    return f"{a.board.key}-{name}"


def _accuracy(a: Analysis) -> Sheet:
    b = a.board
    columns = [Column("model"), *(Column(t, "percent") for t in b.tasks)]
    columns += [Column(g, "percent") for g in a.groups] + [Column("mean", "percent")]
    columns += [Column("mean of groups", "percent")] if a.mean_of_groups is not None else []
    columns += [
        Column("mean rank", "number"),
        Column("method"),
        Column("family"),
        Column("parameters", "whole"),
    ]
    rows = []
    for i in a.order:
        m = b.models[i]
        row = [name_of(m), *b.values[i], *(v[i] for v in a.group_means.values()), a.mean[i]]
        row += [a.mean_of_groups[i]] if a.mean_of_groups is not None else []
        rows.append([*row, a.mean_rank[i], m.method, m.family, m.parameters])
    for level in a.levels:
        row = [level.name, *level.values, *level.group_means.values(), level.mean]
        row += [level.mean_of_groups] if a.mean_of_groups is not None else []
        rows.append([*row, None, "", "", None])
    remarks = ["accuracy in percent (fractions in the CSV)"]
    lacking = int((~a.complete).sum())
    if lacking:
        remarks.append(f"{lacking} of {len(b.models)} models lack tasks: they have no mean")
    return Sheet(_key(a, "accuracy"), f"{b.title}: accuracy", columns, rows, remarks)


def _epp(a: Analysis) -> Sheet:
    s, b = a.strengths, a.board
    order = s.strongest
    columns = [Column("model"), Column("EPP", "number"), Column("standard error", "number")]
    columns += [
        Column("95 % by task", "interval"),
        Column("95 % bootstrap", "interval"),
        Column("Elo", "whole"),
    ]
    columns += [
        Column("Elo error", "whole"),
        Column("rank interval", "interval whole"),
        Column("best in", "percent"),
    ]
    half = (s.high - s.low) / 2
    errors = half / quantile(s.fit.n_clusters)
    rows = []
    points = elo(s.scores)
    for i in order:
        row = [
            name_of(b.models[i]),
            s.scores[i],
            errors[i],
            (s.low[i], s.high[i]),
            (s.boot_low[i], s.boot_high[i]),
        ]
        rows.append(
            [
                *row,
                points[i],
                ELO * errors[i],
                (s.rank_low[i], s.rank_high[i]),
                s.best[i] if len(b.tasks) > 1 else None,
            ]
        )
    remarks = [
        "P(i beats j on a new task) = 1 / (1 + exp(EPP of j - EPP of i)); "
        + ("mean zero" if s.reference is None else f"{b.models[s.reference].label} is zero")
        + f"; standard errors clustered by task, {s.fit.n_clusters} of them; 'best in': share of resamples of the tasks"
    ]
    if s.within is not None:
        columns += [Column("group", "whole"), Column("EPP within group", "number")]
        for row, i in zip(rows, order, strict=True):
            alone = (s.within.components == s.within.components[i]).sum() == 1
            row += [s.within.components[i] + 1, None if alone else s.within.scores[i]]
        remarks.append(not_finite(a))
    elif s.n_penalised:
        remarks.append(
            f"{s.n_penalised} of the resamples have no finite estimate (a model wins every match of the tasks drawn); "
            "a penalised fit (ridge 0.1) stands in for those"
        )
    return Sheet(_key(a, "epp"), f"{b.title}: Elo-based Predictive Power", columns, rows, remarks)


def not_finite(a: Analysis) -> str:
    """Why the strengths are penalised ones, "" where they are not."""
    s = a.strengths
    if s is None or s.within is None:
        return ""
    n = s.within.components.max() + 1
    names = [a.board.models[i].label for i in s.unbeaten]
    said = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} lost no match; " if names else ""
    return (
        f"no finite maximum-likelihood estimate: {said}the models fall into {n} groups of which none has a win or tie "
        "against one above it (or they never met). EPP is a penalised fit (ridge 0.1), whose distances between groups "
        "the penalty decides; within a group the unpenalised one is given, too"
    )


def _best(a: Analysis) -> Sheet:
    b, rows = a.board, []
    for j, task in enumerate(b.tasks):
        column = b.values[:, j]
        ran = int((~np.isnan(column)).sum())
        order = np.argsort(-np.nan_to_num(column, nan=-1), kind="stable")
        best = column[order[0]]
        names = [name_of(b.models[i]) for i in order if column[i] == best]
        runner = next((column[i] for i in order if column[i] < best), None)
        rows.append(
            [
                task,
                ", ".join(names[:3]) + (" ..." if len(names) > 3 else ""),
                best,
                (a.low[order[0], j], a.high[order[0], j]),
                None if runner is None else best - runner,
                ran,
            ]
        )
    columns = [
        Column("task"),
        Column("best model"),
        Column("accuracy", "percent"),
        Column("95 % interval", "interval percent"),
    ]
    return Sheet(
        _key(a, "best"),
        f"{b.title}: best model of each task",
        [*columns, Column("lead", "points"), Column("models", "whole")],
        rows,
        [
            "lead in points over the next lower accuracy; interval (Wilson) of one accuracy on its test examples"
        ],
    )


def _top5(a: Analysis) -> Sheet:
    b = a.board
    order = a.by_top5
    first = (a.ranks == 1).sum(1)
    ran = (~np.isnan(b.values)).sum(1)
    rows = [
        [
            name_of(b.models[i]),
            int(a.top5[i]),
            int(first[i]),
            int(ran[i]),
            a.mean_rank[i],
            b.models[i].architecture,
        ]
        for i in order
    ]
    columns = [Column("model"), Column("top 5", "whole"), Column("best", "whole"), Column("tasks", "whole")]
    remarks = ["on how many tasks a model is among the five best, or shares the fifth place"]
    if len(b.models) <= 5:
        remarks.append(f"{len(b.models)} models: everyone is always among the five best")
    return Sheet(
        _key(a, "top5"),
        f"{b.title}: among the five best",
        [*columns, Column("mean rank", "number"), Column("architecture")],
        rows,
        remarks,
    )


def _differences(a: Analysis) -> Sheet:
    d, b = a.differences, a.board
    rows = []
    for k, i in enumerate(d.rows):
        if i != d.leader:
            verdict = "clear" if d.low[k] > 0 else "within the noise of the test examples"
            rows.append([name_of(b.models[i]), a.mean[i], d.difference[k], (d.low[k], d.high[k]), verdict])
    columns = [Column("model"), Column("mean", "percent"), Column("behind", "points")]
    columns += [Column("95 % paired bootstrap", "points interval"), Column("lead is")]
    return Sheet(
        _key(a, "differences"),
        f"{b.title}: behind {b.models[d.leader].label}",
        columns,
        rows,
        [
            "points of mean accuracy; examples of each task are resampled, the same ones for every model; the tasks "
            "stay as they are"
        ],
    )


def _groups(a: Analysis) -> Sheet:
    """Mean accuracy by how models were trained, by family, by size."""
    b, rows = a.board, []
    for kind, label in (("method", _by_method), ("family", _by_family), ("parameters", _by_size)):
        members = collections.defaultdict(list)
        for i, model in enumerate(b.models):
            if a.complete[i]:
                members[label(model)].append(i)
        for name, found in sorted(members.items(), key=lambda item: -a.mean[item[1]].mean()):
            best = max(found, key=lambda i: a.mean[i])
            strength = a.strengths.scores[found].mean() if a.strengths else None
            rows.append(
                [
                    kind,
                    name,
                    len(found),
                    a.mean[found].mean(),
                    a.mean[best],
                    name_of(b.models[best]),
                    strength,
                    *(v[found].mean() for v in a.group_means.values()),
                ]
            )
    columns = [
        Column("by"),
        Column("group"),
        Column("models", "whole"),
        Column("mean", "percent"),
        Column("best", "percent"),
    ]
    columns += [
        Column("best model"),
        Column("mean EPP", "number"),
        *(Column(g, "percent") for g in a.group_means),
    ]
    return Sheet(
        _key(a, "groups"),
        f"{b.title}: by training, family and size",
        columns,
        rows,
        [
            "models that have all tasks; a group's mean says as much about which models were chosen as about the "
            "training"
        ],
    )


def _by_method(model: Model) -> str:
    return model.method


def _by_family(model: Model) -> str:
    return model.family


def _by_size(model: Model) -> str:
    return size_of(model) or "unknown"


def _cost(a: Analysis) -> Sheet:
    b = a.board
    cost = {
        "parameters": np.array([math.nan if m.parameters is None else m.parameters for m in b.models]),
        "images/s": np.array([m.images_per_second or math.nan for m in b.models]),
    }
    fronts = [pareto(cost["parameters"], a.mean), pareto(-cost["images/s"], a.mean)]
    rows = [
        [
            name_of(b.models[i]),
            a.mean[i],
            cost["parameters"][i],
            "yes" if fronts[0][i] else "",
            cost["images/s"][i],
            "yes" if fronts[1][i] else "",
        ]
        for i in a.order
        if a.complete[i] and not (math.isnan(cost["parameters"][i]) and math.isnan(cost["images/s"][i]))
    ]
    device = next((m.device for m in b.models if m.device), "")
    remarks = ["on the front: no model is both cheaper and more accurate"]
    remarks += (
        [f"images/s: the fastest pass over images while features were computed, on {device}"]
        if device
        else []
    )
    columns = [
        Column("model"),
        Column("mean", "percent"),
        Column("parameters", "whole"),
        Column("front (size)"),
    ]
    return Sheet(
        _key(a, "cost"),
        f"{b.title}: accuracy against cost",
        [*columns, Column("images/s", "whole"), Column("front (speed)")],
        rows,
        remarks,
    )


def trust_sheets(judged: Judged) -> list[Sheet]:
    """Proxies against fine-tuning: averages with intervals, per task, and without each family."""
    if not judged.proxies:
        return []
    shown = {
        "weighted_kendall": "weighted Kendall",
        "kendall": "Kendall",
        "pearson": "Pearson",
        "spearman": "Spearman",
        "regret@1": "regret@1",
        "regret@3": "regret@3",
        "hit@1": "hit@1",
        "hit@3": "hit@3",
    }
    columns = [Column("proxy"), Column("kind")]
    for name, title in shown.items():
        points = name.startswith("regret")
        columns += [Column(title, "points" if points else "number")]
        columns += [Column(f"{title} 95 %", "points interval" if points else "interval", "95 %")]
    columns += [Column("tasks", "whole"), Column("seconds", "seconds"), Column("with features", "seconds")]
    rows = []
    for p in judged.proxies:
        row = [p.title, "baseline" if p.static else "measured"]
        for name in shown:
            row += [p.trust.mean[name], (p.trust.low[name], p.trust.high[name])]
        rows.append([*row, p.trust.n_tasks["weighted_kendall"], p.seconds, p.with_features])
    models = int(max(p.trust.n_models.max() for p in judged.proxies))
    cost = (
        "" if judged.seconds is None else f"; fine-tuning took {text(judged.seconds, 'seconds')} s (median)"
    )
    remarks = [
        f"against {judged.board.title}: agreement on each task over up to {models} models, then the mean over tasks; "
        "intervals: models drawn with replacement",
        "regret@k: points of accuracy lost by fine-tuning only the k models the proxy puts first; hit@k: share "
        "of tasks on which the best model is among them",
        f"seconds: median for a model on a task{cost}",
    ]
    out = [Sheet("proxies", "How far each proxy can be trusted", columns, rows, remarks)]
    tasks = judged.board.tasks
    out.append(
        Sheet(
            "proxies-by-task",
            "Weighted Kendall of each proxy, task by task",
            [Column("proxy"), *(Column(t, "number") for t in tasks)],
            [[p.title, *p.trust.per_task["weighted_kendall"]] for p in judged.proxies],
            ["empty: undefined (fewer than two models, or all equal)"],
        )
    )
    families = list(dict.fromkeys(f for p in judged.proxies for f in p.without))
    if families:
        out.append(
            Sheet(
                "proxies-without-family",
                "Weighted Kendall without one family of models",
                [
                    Column("proxy"),
                    Column("all", "number"),
                    *(Column(f"without {f}", "number") for f in families),
                ],
                [
                    [p.title, p.trust.mean["weighted_kendall"], *(p.without.get(f) for f in families)]
                    for p in judged.proxies
                ],
                ["a proxy that needs one family to look good orders families, not models"],
            )
        )
    return out
