"""The page's first picture where a workdir holds an experiment (configs/select.py): who went how far, and why."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from vtabjax import specs
from vtabjax.report import templates
from vtabjax.report.boards import PROTOCOLS
from vtabjax.sweep.progress import duration
from vtabjax.sweep.select import record, shown
from vtabjax.tables import Column, Table

KEY = "selection"  # of the table's files
_HEADED = 3  # contenders that a heading names
_NAMED = 6
# What became of a model in a stage, as it is counted beside the stage's bar.
_COUNTED = {
    "first": "{n} the best",
    "close": "{n} close to them",
    "always": "{n} never dropped",
    "added": "{n} added afterwards",
    "stopped": "{n} not trained to the end",
    "behind": "{n} dropped as worse",
    "capped": "{n} close, but too many",
    "no score": "{n} without a score",
}


def section(workdir: Path) -> markupsafe.Markup:
    """The section's HTML; empty where there was no experiment."""
    selection = record.read(workdir)
    if selection is None or not selection["stages"]:
        return markupsafe.Markup("")
    return markupsafe.Markup(templates.environment().get_template("funnel.html").render(content(selection)))


def content(selection: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a selection.json."""
    total = len(selection["settings"]["models"])
    stages = _stages(selection)
    computing = sum(stage["seconds"] or 0 for stage in stages)
    return {
        "finished": selection["finished"],
        "counts": _counts(selection, total),
        "lead": _lead(selection),
        "stages": [_stage(stage, total, computing, selection) for stage in stages],
        "facts": list(_facts(selection)),
        "warnings": list(_warnings(selection)),
        "groups": _groups(selection, stages),
        "remark": _remark(selection),
        "key": KEY,
    }


def table(workdir: Path) -> Table | None:
    """A row per model, who came furthest first, for the files beside the page; None where there was no experiment."""
    selection = record.read(workdir)
    if selection is None or not selection["stages"]:
        return None
    stages = _stages(selection)
    kind = {stage["protocol"]: "percent" if stage["score"] == "accuracy" else "number.4" for stage in stages}

    def score(protocol: str) -> Any:
        return lambda row: row["scores"].get(protocol)

    columns = [
        Column("model", "text", lambda row: row["model"]),
        *(Column(protocol, kind[protocol], score(protocol)) for protocol in kind),
        Column("reached", "text", lambda row: row["reached"]),
        Column("why", "text", lambda row: row["why"]),
    ]
    rows = [row for group in _groups(selection, stages) for row in group["rows"]]
    return Table(columns, rows, key=KEY, title="Who went how far, and why")


def _stages(selection: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages, and what was drawn for an audit as a further one."""
    audit = selection.get("audit", {}).get("stage")
    return [*selection["stages"], *([audit] if audit else [])]


def _title(stage: Mapping[str, Any]) -> str:
    title = PROTOCOLS[stage["protocol"]]
    return f"{title}, audit" if stage["stage"].endswith("(audit)") else title


def _counts(selection: Mapping[str, Any], total: int) -> str:
    tasks = len(selection["stages"][0]["tasks"])
    taken, planned = (selection["hours"][name] for name in ("taken", "planned"))
    parts = [f"{total} model{'s' * (total != 1)}", f"{tasks} task{'s' * (tasks != 1)}"]
    if taken is not None:
        parts.append(
            f"took {duration(3600 * taken)}" + (f" of {duration(3600 * planned)}" if planned else "")
        )
    return ", ".join(parts)


def _lead(selection: Mapping[str, Any]) -> str:
    names = selection.get("contenders") or []
    if not names:
        said = selection.get("verdict") or "how far each model went"
        return said[:1].upper() + said[1:]
    if selection["winner"] is not None:
        return f"The winner is {names[0]}"
    few = len(names) <= _HEADED
    said = ", ".join(names[:-1] if few else names[: _HEADED - 1])
    return f"No clear winner: {said} and {names[-1] if few else f'{len(names) - _HEADED + 1} more'}"


def _stage(
    stage: Mapping[str, Any], total: int, computing: float, selection: Mapping[str, Any]
) -> dict[str, Any]:
    measured, kept = len(stage["models"]), len(stage["kept"])
    counts = collections.Counter(row["reason"] for row in stage["models"])
    if stage["keep"] is None:  # the last one ranks all that are there
        counts["first"] = 0
        if stage is selection["stages"][-1]:  # some of these were stopped later
            counts["added"] = len(selection.get("added", {}).get("models", ()))
    reasons = [said.format(n=counts[reason]) for reason, said in _COUNTED.items() if counts[reason]]
    going_on = [f"{kept} go on" if kept != 1 else "1 goes on"] if stage["keep"] is not None else []
    seconds = stage["seconds"] or 0
    return {
        "title": _title(stage),
        "asked": stage["stage"],
        "width": f"{max(2, 100 * measured / max(1, total)):.2f}",
        "kept_width": f"{100 * kept / max(1, measured):.2f}",
        "said": ", ".join([f"{measured} measured", *going_on]),
        "reasons": ", ".join(reasons),
        "cost": duration(seconds),
        "share": f"{100 * seconds / computing:.0f}" if computing else "",
    }


def _facts(selection: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader wants to know first: a term, and what is to be said of it."""
    if not selection.get("leader"):
        return
    rows = selection["ranking"]
    lead = "; ".join(shown.lead(rows, shown.metric(selection)))
    yield "Lead", f"{lead[:1].upper()}{lead[1:]}."
    others = selection["contenders"][1:]
    if others:
        by_wins = " (by how often each wins on a task, not by the mean)" if _by_wins(selection) else ""
        yield "Cannot be told apart from it", f"{specs.listed(others, 3 * _NAMED)}{by_wins}."
    yield "May have been missed", _missed(selection)
    if (audit := selection.get("audit", {})).get("bounds"):
        yield "Audit", shown.audited(audit["bounds"], selection["leader"]) + "."
    if (added := selection.get("added", {})).get("models"):
        names = [f"{row['model']} ({record.percent(row['chance'])})" for row in added["models"]]
        last = "" if added["chance"] is None else f"; in the end it was {record.percent(added['chance'])}"
        yield (
            "Added finalists",
            (
                f"{len(names)}, for their chance of being a point better than the best: {specs.listed(names, _NAMED)}. "
                f"The search went on while that chance was large for all models left out together{last}."
            ),
        )
    if (stopped := selection.get("stopped", {})).get("models"):
        n = len(stopped["models"])
        yield "Not trained to the end", f"{n} finalist{'s' * (n != 1)}; saved {shown.saved(stopped)}."


def _by_wins(selection: Mapping[str, Any]) -> bool:
    return bool(selection["method"].startswith("EPP"))


def _missed(selection: Mapping[str, Any]) -> str:
    said = [shown.estimate(key, selection[key]) for key in ("chance_missed", "expected_regret")]
    if said[0] == said[1]:  # nothing was left out, or nothing can be said
        return f"{said[0][:1].upper()}{said[0][1:]}."
    left_out = len(selection.get("left_out", ()))
    among = f"one of the {left_out} models left out" if left_out > 1 else "the model left out"
    return (
        f"Chance that {among} would have beaten {selection['leader']}: {said[0]}. How much better the best of them "
        f"would be, on average: {said[1]}."
    )


def _warnings(selection: Mapping[str, Any]) -> Iterator[str]:
    not_run = selection["hours"]["not_run"]
    if not_run:
        yield f"No time was left for {len(not_run)} cell{'s' * (len(not_run) != 1)}: {specs.listed(not_run, _NAMED)}."
    last = selection["stages"][-1]
    if selection.get("judged_on"):
        tasks = selection["judged_on"]
        yield f"Judged on {len(tasks)} of {len(last['tasks'])} tasks: {', '.join(tasks)}."
    if selection.get("leader") and selection["judged_by"] != last["protocol"]:
        yield (
            f"Judged by {PROTOCOLS[selection['judged_by']].lower()}: no model has a score in the stages after it."
        )


def _groups(selection: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The models by how far they went, who came furthest first, each with its score in every stage."""
    scores: dict[str, dict[str, float | None]] = collections.defaultdict(dict)
    last_seen: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for number, stage in enumerate(stages):
        for row in stage["models"]:
            scores[row["model"]][stage["protocol"]] = row["score"]
            last_seen[row["model"]] = (number, row)
    places = {row["model"]: row for row in selection.get("ranking", ())}
    n = len(selection["stages"])
    order = [*range(n - 1, n - 2, -1), *range(n, len(stages)), *range(n - 2, -1, -1)]
    columns = list(dict.fromkeys(stage["protocol"] for stage in stages))
    groups = []
    for number in order:
        stage = stages[number]
        rows = [
            _row(row, scores[row["model"]], stage, places.get(row["model"]), columns, selection)
            for at, row in last_seen.values()
            if at == number
        ]
        rows.sort(key=lambda row: row["place"])
        if rows:
            early = sum(row["reason"] == "stopped" for row in stage["models"])
            more = f" ({early} not trained to the end)" if early else ""
            groups.append({"title": f"{_group_title(number, n, stage)}: {len(rows)}{more}", "rows": rows})
    for group in groups:
        group["columns"] = [PROTOCOLS[protocol] for protocol in columns]
    return groups


def _group_title(number: int, n: int, stage: Mapping[str, Any]) -> str:
    if number == n - 1 and stage["keep"] is None:
        return "Finalists"
    if number >= n:
        return "Drawn for the audit"
    return f"Not beyond {_title(stage).lower()}"


def _row(
    row: Mapping[str, Any],
    scores: Mapping[str, float | None],
    stage: Mapping[str, Any],
    ranked: Mapping[str, Any] | None,
    columns: Sequence[str],
    selection: Mapping[str, Any],
) -> dict[str, Any]:
    kinds = {s["protocol"]: s["score"] for s in _stages(selection)}
    why, place = row["why"], (row["place"] or len(stage["models"]) + 1)
    if ranked is not None:
        place = ranked["place"]
        why = "; ".join(_why_ranked(ranked, selection, row["reason"] == "added"))
    return {
        "model": row["model"],
        "scores": dict(scores),
        "cells": [_score(scores.get(protocol), kinds[protocol]) for protocol in columns],
        "reached": stage["stage"],
        "why": why,
        "place": place,
    }


def _why_ranked(ranked: Mapping[str, Any], selection: Mapping[str, Any], added: bool) -> Iterator[str]:
    yield f"place {ranked['place']}" + (
        f", {shown.distance(ranked, shown.metric(selection))}" if ranked["place"] > 1 else ""
    )
    if ranked["place"] > 1 and ranked["model"] in selection["contenders"]:
        yield "cannot be told apart from the first"
    if added:
        yield "added for its chance of being much better"


def _score(value: float | None, kind: str) -> dict[str, Any]:
    if value is None:
        return {"text": "", "sort": ""}
    return {"text": f"{100 * value:.2f}" if kind == "accuracy" else f"{value:.4f}", "sort": value}


def _remark(selection: Mapping[str, Any]) -> str:
    text = (
        "A bar is as long as the share of all models that the stage measured; the darker part went on (in the last "
        "stage: was measured on all tasks). Beside it, the time of computing and the stage's share of it. Accuracies "
        "are means over the tasks, in percent."
    )
    if selection.get("method"):
        text += f" Judged by: {selection['method']}."
    return text
