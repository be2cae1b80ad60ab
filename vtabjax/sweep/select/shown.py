"""What a selection says on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vtabjax import specs
from vtabjax.runtime import processes, terminal
from vtabjax.sweep.progress import duration
from vtabjax.sweep.select import record, stopping
from vtabjax.sweep.select.scores import StageScores
from vtabjax.sweep.select.stopping import Stopped
from vtabjax.sweep.select.verdict import Verdict
from vtabjax.sweep.tables import short_task_names
from vtabjax.tables import Column, Table, to_terminal

_NAMED = 8  # models that are still named one by one


def say(text: str) -> None:
    """Tells what goes on, once however many processes there are."""
    if processes.is_first():
        print(text, file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """Shows a result, where tables go."""
    if processes.is_first():
        print(text, flush=True)


def stage(done: Mapping[str, Any], entered: int) -> str:
    """Who goes on after a stage, and who does not and why."""
    kept, rows = done["kept"], done["models"]
    lines = [f"{done['stage']}: {len(kept)} of {entered} models go on: {specs.listed(kept, _NAMED)}"]
    for reason, text in (
        ("close", f"cannot be told apart from the first {done['keep']}, and kept"),
        ("always", "kept because config.always names it"),
        ("capped", f"close to the first {done['keep']}, and dropped: at most {done['at_most']} are kept"),
    ):
        found = [row for row in rows if row["reason"] == reason]
        if found:
            names = [f"{row['model']} ({_chance(row)})" for row in found]
            lines.append(f"  {text}: {specs.listed(names, _NAMED)}")
    if len(done["ranked_by"]) > 1:
        lines[0] += f" (ranked by the scores of {' and '.join(done['ranked_by'])} together)"
    for row in rows:
        if row["reason"] == "no score":
            lines.append(f"  {row['model']}: {row['why']}")
    return "\n".join(lines)


def stopped(out: Mapping[str, Stopped]) -> None:
    """Tells who is not trained further."""
    for model, row in out.items():
        say(f"{model}: {record.why_stopped(row)}")
    if out:
        say(f"  saves {saved(stopping.listed(out))}")


def added(found: Mapping[str, Any], add_chance: float) -> None:
    """Tells who is measured besides the finalists, and why. See `adding.Round`."""
    if found["chance"] is None:
        return
    text = (
        f"the chance that a model left out would be a point better than the best is "
        f"{record.percent(found['chance'])}, at most {record.percent(found['at_most'])} "
        f"(config.add_chance={add_chance:g})"
    )
    names = found["models"]
    say(text + (f"; {len(names)} more: {specs.listed(names, _NAMED)}" if names else "; nobody is added"))


def saved(found: Mapping[str, Any]) -> str:
    """What stopping has saved, in words. See `stopping.listed`."""
    hours = "" if found["hours"] is None else f", about {duration(3600 * found['hours'])} of computing"
    what = "retraining" if any(row.get("unit") == "seeds" for row in found["models"]) else "cell"
    cells = f"{found['cells']} {what}" + ("" if found["cells"] == 1 else "s")
    risk = f"the chance that one of them would have been first was {record.percent(found['chance'])} at most"
    return f"{cells}{hours}; {risk}"


def _chance(row: Mapping[str, Any]) -> str:
    return "chance unknown" if row["chance"] is None else f"{100 * row['chance']:.0f} %"


def verdict(found: StageScores, judged: Verdict) -> str:
    """The answer in a sentence or two."""
    names = [found.models[i] for i in judged.contenders]
    rows = record.ranking(found, judged)
    if not judged.clear:
        return (
            f"No clear winner: {', '.join(names)} cannot be told apart (the first of them leads with "
            f"{mean(rows[0], found.metric)})"
        )
    alone = ", the only one that reached the last stage" if len(rows) == 1 else ""
    return f"The winner is {names[0]}{alone}, with {', '.join(lead(rows, found.metric))}"


def metric(selection: Mapping[str, Any]) -> str:
    """What the scores of the ranking are: those of the stage that it is judged by."""
    by = selection["judged_by"]
    return next(stage["score"] for stage in selection["stages"] if stage["protocol"] == by)


def mean(row: Mapping[str, Any], metric: str) -> str:
    """A finalist's mean score, in words."""
    value = f"{100 * row['score']:.2f} %" if metric == "accuracy" else f"{row['score']:.4f}"
    tasks, article = len(row["scores"]), "an" if metric == "accuracy" else "a"
    return f"a mean {metric} of {value} over {tasks} tasks" if tasks > 1 else f"{article} {metric} of {value}"


def lead(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """What the first reached, and by how much it leads: one or two parts of a sentence.

    Args:
      rows: as `record.ranking` has them, the best first.
      metric: what a score is.
    """
    parts = [mean(rows[0], metric)]
    if len(rows) > 1:
        second = rows[1]
        if second["behind"] < 0:
            parts.append(
                f"before {second['model']}, whose mean is higher, but which wins less often (EPP decides)"
            )
        else:
            parts.append(distance(second, metric, f"ahead of {second['model']}"))
    return parts


def distance(row: Mapping[str, Any], metric: str, how: str = "behind") -> str:
    """How far a finalist's mean is behind the first one's, in words."""
    if metric != "accuracy":
        return f"{row['behind']:.4f} {how}"
    low, high = row["behind_interval"] or (None, None)
    known = low is not None and high is not None
    interval = f" (95 % interval {100 * low:.2f} to {100 * high:.2f})" if known else ""  # type: ignore[operator]
    if how == "behind" and row["behind"] < 0:
        return f"{-100 * row['behind']:.2f} points ahead by the mean, but wins less often (EPP decides)"
    return f"{100 * row['behind']:.2f} points {how}{interval}"


def audited(bounds: Mapping[str, Any], leader: str) -> str:
    """What an audit says without a model of the scores. See `vtabjax.ranking.auditing.Audit`."""
    n = bounds["n_drawn"]
    return (
        f"{bounds['n_better']} of {n} model{'s' * (n != 1)} drawn at random from the {bounds['n_left']} left out "
        f"beat {leader}; so {bounds['number_low']} to {bounds['number_high']} of the {bounds['n_left']} do "
        f"({100 * bounds['level']:.0f} % interval), and a better one was overlooked with a chance of at most "
        f"{record.percent(bounds['overlooked_at_most'])}, whatever the scores say"
    )


def ranking(selection: Mapping[str, Any]) -> str:
    """The finalists as a table."""
    rows = selection["ranking"]
    tasks = list(rows[0]["scores"])
    short = short_task_names(tasks)
    kind = "percent" if metric(selection) == "accuracy" else "number.4"

    def score(task: str) -> Any:
        return lambda row: row["scores"][task]

    unit, of = (100, "points") if kind == "percent" else (1, "that much")

    def between(row: Mapping[str, Any]) -> tuple[Any, Any] | None:
        low, high = row["behind_interval"] or (None, None)
        return None if low is None or high is None or row["place"] == 1 else (unit * low, unit * high)

    columns = [
        Column("place", "whole", lambda row: row["place"]),
        Column("model", "text", lambda row: row["model"]),
        *(Column(short[task], kind, score(task), more_is_better=True) for task in tasks),
        Column("mean", kind, lambda row: row["score"], first=True, more_is_better=True),
        # Not "points", which have a sign: nobody is ahead of the first.
        Column(
            "behind",
            "number.1" if unit == 100 else kind,
            lambda row: unit * row["behind"] if row["place"] > 1 else None,
            first=True,
        ),
        Column("95 % interval", "interval number.1", between, first=True),
    ]
    if rows[0]["strength"] is not None:
        columns.append(Column("EPP", "number.2", lambda row: row["strength"], first=True))
    table = Table(columns, rows, [f"behind: {of} of the mean behind the first", selection["method"]])
    return to_terminal(table, width=terminal.width(sys.stdout), styled=terminal.is_styled(sys.stdout))


def estimate(key: str, found: Mapping[str, Any] | None) -> str:
    """An estimate of what may have been missed, in words.

    Args:
      key: "chance_missed" or "expected_regret".
      found: the entry of that name.
    """
    if not found or (found["value"] is None and not found["interval"]):
        return f"cannot be said ({(found or {}).get('reason') or 'not estimated'})"
    if found["method"] == "nothing was left out":
        return "none, nothing was left out"
    unit = "%" if key == "chance_missed" else "points"
    interval = ""
    if found["interval"]:
        low, high = (100 * end for end in found["interval"])
        interval = f"{100 * found['level']:.0f} % interval {low:.2f} to {high:.2f}, "
    if found["value"] is None:
        return f"{low:.2f} to {high:.2f} {unit} ({100 * found['level']:.0f} % interval by the audit; {found['reason']})"
    return f"{100 * found['value']:.2f} {unit} ({interval}by {found['method']})"


def missed(selection: Mapping[str, Any]) -> str:
    """What may have been missed, and whose training was not taken to its end, in two or three lines."""
    stopped = selection.get("stopped") or stopping.listed({})
    early = f"\nfinalists not trained to the end: {len(stopped['models'])}; saved {saved(stopped)}"
    return (
        f"chance that a model left out would have beaten {selection['leader']}: "
        f"{estimate('chance_missed', selection['chance_missed'])}\n"
        f"how much better the best of them would be, on average: "
        f"{estimate('expected_regret', selection['expected_regret'])}"
    ) + (early if stopped["models"] else "")
