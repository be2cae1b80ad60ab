"""Models x tasks of accuracies: their columns, the means over VTAB's groups, and what is reached without looking."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax import tasks
from vtabjax.tables._table import Column

CHANCE, MAJORITY = "(chance)", "(majority)"


@dataclasses.dataclass(frozen=True)
class AccuracyRow:
    """What a table of accuracies says of a model, or of an answer that looks at no picture.

    Attributes:
      name: the model's, or "(chance)", "(majority)".
      values: by task, [T]; None or NaN where there is none.
      group_means: VTAB's groups whose tasks are all there -> the mean over them.
      mean: over all tasks; None or NaN where one is missing.
      mean_of_groups: over the groups' means; None or NaN without all of them.
    """

    name: str
    values: Sequence[float | None] | np.ndarray
    group_means: Mapping[str, float | None]
    mean: float | None
    mean_of_groups: float | None


def accuracy_columns(
    task_names: Sequence[str], groups: Iterable[str], *, mean_of_groups: bool, kind: str
) -> list[Column]:
    """Columns over `AccuracyRow`s: model, tasks, the means of groups, the plain mean of the tasks ("mean") and the
    mean of the group means ("mean of groups"), two figures that papers print under one name.

    Args:
      task_names: the tasks, [T].
      groups: those that have a mean.
      mean_of_groups: whether the rows have one.
      kind: how fractions are shown, as in `Column`.
    """

    def value_of(j: int) -> Callable[[AccuracyRow], Any]:
        return lambda row: row.values[j]

    def mean_over(group: str) -> Callable[[AccuracyRow], Any]:
        return lambda row: row.group_means[group]

    def accuracy(name: str, value: Callable[[AccuracyRow], Any], first: bool = True) -> Column:
        return Column(name, kind, value, first=first, more_is_better=True)

    of_groups = [accuracy("mean of groups", operator.attrgetter("mean_of_groups"))]
    return [
        Column("model", "text", operator.attrgetter("name")),
        *(accuracy(name, value_of(j), first=False) for j, name in enumerate(task_names)),
        *(accuracy(group, mean_over(group)) for group in groups),
        accuracy("mean", operator.attrgetter("mean")),
        *(of_groups if mean_of_groups else []),
    ]


def whole_groups(task_names: Sequence[str]) -> dict[str, list[int]]:
    """VTAB's groups -> places of their tasks, where all of the group's tasks are there."""
    return {
        group: [task_names.index(member) for member in members]
        for group, members in tasks.VTAB_GROUPS.items()
        if set(members) <= set(task_names)
    }


def levels(task_names: Sequence[str]) -> dict[str, list[float | None]]:
    """What is reached without looking: "(chance)", a uniform guess, and where it is known for a task "(majority)", the
    most frequent class of the test set as the only answer. Each by task, [T]; None where it is not known."""
    known = [tasks.known(name) for name in task_names]
    chance = [None if task is None else task.chance for task in known]
    majority = [None if task is None else task.majority for task in known]
    return {CHANCE: chance} | ({MAJORITY: majority} if any(majority) else {})
