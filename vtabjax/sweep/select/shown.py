"""What a selection says on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
    if not judged.clear:
        return (
            f"No clear winner: {', '.join(names)} cannot be told apart (the first of them leads with a mean of "
            f"{100 * judged.mean[judged.order[0]]:.2f} %)"
        )
    text = f"The winner is {names[0]}, with a mean of {100 * judged.mean[judged.order[0]]:.2f} %"
    if len(judged.order) > 1:
        second = judged.order[1]
        lead = f"{100 * judged.behind[second]:.2f} points ahead of {found.models[second]}"
        if judged.behind_low[second] == judged.behind_low[second]:
            lead += f" (95 % interval {100 * judged.behind_low[second]:.2f} to {100 * judged.behind_high[second]:.2f})"
        text += f", {lead}"
    return text


def ranking(selection: Mapping[str, Any]) -> str:
    """The finalists as a table."""
    rows = selection["ranking"]
    tasks = list(rows[0]["scores"])
    short = short_task_names(tasks)
    kind = "percent" if selection["stages"][-1]["score"] == "accuracy" else "number"

    def score(task: str) -> Any:
        return lambda row: row["scores"][task]

    def between(row: Mapping[str, Any]) -> tuple[Any, Any] | None:
        low, high = row["behind_interval"] or (None, None)
        return None if low is None or high is None or row["place"] == 1 else (100 * low, 100 * high)

    columns = [
        Column("place", "whole", lambda row: row["place"]),
        Column("model", "text", lambda row: row["model"]),
        *(Column(short[task], kind, score(task), more_is_better=True) for task in tasks),
        Column("mean", kind, lambda row: row["score"], first=True, more_is_better=True),
        # Not "points", which have a sign: nobody is ahead of the first.
        Column(
            "behind", "number.1", lambda row: 100 * row["behind"] if row["place"] > 1 else None, first=True
        ),
        Column("95 % interval", "interval number.1", between, first=True),
    ]
    if rows[0]["strength"] is not None:
        columns.append(Column("EPP", "number.2", lambda row: row["strength"], first=True))
    table = Table(columns, rows, ["behind: points of the mean behind the first", selection["method"]])
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
