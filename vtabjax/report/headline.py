"""A board in a few words: who is first, by how much, and whether that is sure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtabjax.report.analysis import Analysis
from vtabjax.report.standing import Standing
from vtabjax.tables import text


class Headline(NamedTuple):
    """A board in a few words.

    Attributes:
      lead: the answer: the model that is first, or that there is no clear winner.
      sentences: by how much, and the uncertainty. They compare the first with the second, and with no other.
    """

    lead: str
    sentences: list[str]


def headline(a: Analysis, s: Standing) -> Headline:
    """Who wins, by how much, and with what uncertainty."""
    first = a.names[s.first]
    if s.second is None:
        return Headline(first, _lead(a, s))
    second = a.names[s.second]
    lead = f"No clear winner{_where(s)}: {first} and {second}" if s.clear is False else first
    sentences = _lead(a, s) if a.leader is not None else [
        f"No model has all {len(a.board.tasks)} tasks, so there are no means to compare; models are ordered by "
        "their strength on the tasks they share."
    ]  # fmt: skip
    return Headline(lead, [*sentences, *_new_task(a, s, first, second)])


def _where(s: Standing) -> str:
    """What is not clear where the examples of these tasks settle it, and only new tasks may say otherwise."""
    settled = s.over == "examples" and s.second is not None and s.low[s.second] > 0
    return " on new tasks" if settled else ""


def percent(value: float) -> str:
    """A fraction as people read it, with its unit."""
    return f"{text(value, 'percent')}\N{NO-BREAK SPACE}%"


def within(low: float, high: float, kind: str = "percent") -> str:
    """An interval in brackets, after a number with the same unit; "" where it is not known."""
    if not np.isfinite([low, high]).all():
        return ""
    return f" ({text(low, kind)} to {text(high, kind)})"


def _lead(a: Analysis, s: Standing) -> list[str]:
    """The first mean, how far the second is behind, and what other test examples or tasks might say."""
    n = len(a.board.tasks)
    where = f"on {a.task_names[0]}" if n == 1 else f"over {n} tasks"
    reached = f"{a.names[s.first]} has the best mean {a.board.measure} {where}, {percent(a.mean[s.first])}"
    if a.differences:
        reached += within(a.differences.mean_low[0], a.differences.mean_high[0])
    if s.second is None or not a.complete[s.second]:
        return [reached + "."]
    gap = s.behind[s.second]
    follows = f"{a.names[s.second]} follows, {text(gap, 'percent')} points behind"
    low, high = s.low[s.second], s.high[s.second]
    if not s.over:
        return [f"{reached}.", f"{follows}; how sure that is cannot be said."]
    others = "other test examples of these tasks" if s.over == "examples" else "other tasks like these"
    follows += f" ({_points(low)} to {_points(high)} with {others}, 95\N{NO-BREAK SPACE}%)"
    level = [i for i in s.level_with_first if i != s.second]
    if level:
        more = f"{len(level)} more model{'s' * (len(level) > 1)}"
        follows += f"; the interval of {more} reaches {a.names[s.first]}, too"
    return [f"{reached}.", f"{follows}."]


def _points(value: float) -> str:
    return text(value, "percent").replace("-", "−")


def _new_task(a: Analysis, s: Standing, first: str, second: str) -> list[str]:
    """What new tasks might say."""
    n = a.strengths.fit.n_clusters if a.strengths else 0
    few = "One task says" if n == 1 else f"{n} tasks say"
    if s.chance is None:
        return [f"{few} little about new ones."] if n == 1 else []
    if not s.chance.says_something:
        return [f"{few} little about new ones: on one like these, either could win."]
    chance = (
        f"On a new task like these, {first} would beat {second} with a chance of {percent(s.chance.p)}"
        f"{within(s.chance.low, s.chance.high)}."
    )
    return [chance, *([f"{few} little about new ones: intervals over tasks are rough."] if n < 8 else [])]
