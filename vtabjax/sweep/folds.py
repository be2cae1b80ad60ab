"""The folds of a task joined: one result over all of its examples, each tested once."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtabjax import results, tasks
from vtabjax.sweep.adapters import _classified

# Settings in which the folds of a task differ.
OF_THE_FOLD = ("task", "fold", "pictures", "groups")


class Joined(NamedTuple):
    """Results with those of folds joined.

    Attributes:
      records: (where it lies, the result), folds at the place of their first one.
      incomplete: (model, task, how many folds are there, how many belong to it), for which there is no result.
    """

    records: list[tuple[str, Mapping[str, Any]]]
    incomplete: list[tuple[str, str, int, int]]


def join(records: Iterable[tuple[str, Mapping[str, Any]]]) -> Joined:
    """Joins the folds of each task among results; those of which some are missing are left out and named."""
    by_task: dict[str, dict[int, tuple[str, Mapping[str, Any]]]] = collections.defaultdict(dict)
    for path, record in records:
        fold = record["settings"].get("fold")
        # What is no fold is alone.
        by_task[_key(record) if fold else path].setdefault(fold or 0, (path, record))
    joined: list[tuple[str, Mapping[str, Any]]] = []
    incomplete = []
    for parts in by_task.values():
        path, first = next(iter(parts.values()))
        n = first["settings"].get("folds")
        if not n:
            joined.append((path, first))
        elif set(parts) == set(range(1, n + 1)):
            joined.append((parts[1][0], _joined([parts[i][1] for i in range(1, n + 1)])))
        else:
            incomplete.append((first["model"], tasks.without_fold(first["task"])[0], len(parts), n))
    return Joined(joined, incomplete)


def of_table(
    records: Mapping[tuple[str, str], Mapping[str, Any] | None],
) -> dict[tuple[str, str], Mapping[str, Any] | None]:
    """(model, task) -> result, with one entry for the folds of a task: None unless all of them are there."""
    plain = {task: tasks.without_fold(task)[0] for task in {task for _, task in records}}
    whole = {cell: (cell[0], plain[cell[1]]) for cell in records}
    of_folds = [
        (json.dumps(cell), record)
        for cell, record in records.items()
        if record is not None and cell != whole[cell]
    ]
    found = {(record["model"], record["task"]): record for _, record in join(of_folds).records}
    return {whole[cell]: found.get(whole[cell]) if cell != whole[cell] else records[cell] for cell in records}


def _key(record: Mapping[str, Any]) -> str:
    """Equal for the folds of a task under the same settings, with the same code."""
    settings = {k: v for k, v in record["settings"].items() if k not in OF_THE_FOLD}
    about = [
        record["protocol"],
        record["model"],
        record.get("weight_hash"),
        record["versions"].get("vtabjax"),
    ]
    return json.dumps([*about, tasks.without_fold(record["task"])[0], settings], sort_keys=True)


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result over the examples of all folds, in their order."""
    correct = np.concatenate([results.unpack(part["correct"]) for part in parts])
    confusion = np.sum([results.unpack_confusion(part["confusion"]) for part in parts], axis=0)
    groups = _groups(parts)
    # The accuracy that chose the hyperparameters, of each fold by itself; a mean of calibration errors is none.
    val = [
        part["metrics"]["val_accuracy"] for part in parts if part["metrics"].get("val_accuracy") is not None
    ]
    metrics = {"accuracy": float(correct.mean())}
    if len(val) == len(parts):
        metrics["val_accuracy"] = float(np.mean(val))
    outcome = _classified.with_groups(_classified.assembled(metrics, correct, confusion, None), groups)
    first = parts[0]
    seconds: collections.Counter[str] = collections.Counter()
    for part in parts:
        seconds.update(part["seconds"])

    def of_folds(name: str) -> dict[str, Any]:
        return {
            f"{k} of fold {i}": v
            for i, part in enumerate(parts, 1)
            for k, v in (part.get(name) or {}).items()
        }

    return {
        **first,
        "task": tasks.without_fold(first["task"])[0],
        "metrics": dict(outcome.metrics),
        "n_examples": len(correct),
        "correct": results.pack_correct(correct),
        "confusion": results.pack_confusion(confusion),
        **({} if groups is None else {"groups": results.pack_groups(groups)}),
        "settings": {k: v for k, v in first["settings"].items() if k not in OF_THE_FOLD},
        "chosen": {"folds": [part.get("chosen") or {} for part in parts]},
        "data_notes": {
            k: v for k, v in (first.get("data_notes") or {}).items() if k not in ("fold", "splits")
        },
        "notes": of_folds("notes"),
        "data": of_folds("data"),
        "passes": of_folds("passes"),
        "seconds": dict(seconds),
        "copies": None,
        "finished": max(part["finished"] for part in parts),
    }


def _groups(parts: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Numbers of the groups of all folds' examples; none is in two folds."""
    if any(part.get("groups") is None for part in parts):
        return None
    starts = np.cumsum([0, *(part["groups"]["count"] for part in parts)])
    unpacked = [results.unpack_groups(part["groups"]) for part in parts]
    return np.concatenate([start + numbers for start, numbers in zip(starts, unpacked, strict=False)])
