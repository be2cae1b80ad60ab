"""From a stage's results to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtabjax import results
from vtabjax.results import Cell

Record = Mapping[str, Any]


class StageScores(NamedTuple):
    """What a stage found.

    Attributes:
      models: specs, [M].
      tasks: names, [T].
      metric: which number of a result is the score.
      scores: [M, T]; NaN where there is none.
      correct: for each task bool [M, N_t], rows of models without a score all False; None where nothing is classified,
        or where the models saw different examples.
      seconds: that each model's cells took, conversions included, [M].
      records: (model, task) -> the result, or None.
      why: model -> why it has no score.
    """

    models: list[str]
    tasks: list[str]
    metric: str
    scores: np.ndarray
    correct: list[np.ndarray] | None
    seconds: np.ndarray
    records: dict[tuple[str, str], Record | None]
    why: dict[str, str]

    @property
    def scored(self) -> np.ndarray:
        """Who has a score on every task, bool [M]."""
        return np.isfinite(self.scores).all(1)

    def of(self, models: Sequence[str]) -> StageScores:
        """Only some of the models."""
        rows = [self.models.index(model) for model in models]
        return self._replace(
            models=[self.models[i] for i in rows],
            scores=self.scores[rows],
            correct=None if self.correct is None else [c[rows] for c in self.correct],
            seconds=self.seconds[rows],
            records={key: r for key, r in self.records.items() if key[0] in models},
        )

    def shared_tasks(self) -> list[str]:
        """The tasks on which most can be compared: those that the first k models by their number of scores all have.

        k, two or more, is the one with the most scores in all, the larger one of equals. Empty if no two models share
        a task.
        """
        there = np.isfinite(self.scores)
        order = np.argsort(-there.sum(1), kind="stable")
        best, most = np.zeros(len(self.tasks), bool), 0
        for k in range(2, len(order) + 1):
            common = there[order[:k]].all(0)
            if k * common.sum() >= max(1, most):
                best, most = common, k * common.sum()
        return [task for task, both in zip(self.tasks, best, strict=True) if both]


def metric_of(cells: Sequence[Cell]) -> str:
    """Which number is the score: the accuracy; of transferability LogME, which every model has, or else the first."""
    first = cells[0]
    if first.protocol != "transferability":
        return "accuracy"
    return "logme" if "logme" in first.settings["scores"] else first.settings["scores"][0]


def read(cells: Sequence[Cell], workdir: Path) -> StageScores:
    """The results of a stage's cells; what is missing or damaged is no score."""
    damaged: list[str] = []
    found = results.find_all(cells, workdir, damaged)
    models, tasks = (list(dict.fromkeys(getattr(c, what) for c in cells)) for what in ("model", "task"))
    metric = metric_of(cells)
    records: dict[tuple[str, str], Record | None] = {
        (c.model, c.task): r for c, r in zip(cells, found, strict=True)
    }

    def number(record: Record | None) -> float:
        value = None if record is None else record["metrics"].get(metric)
        return np.nan if value is None else float(value)

    scores = np.array([[number(records[m, t]) for t in tasks] for m in models])
    taken = [sum(sum(r["seconds"].values()) for t in tasks if (r := records[m, t])) for m in models]
    scored = [m for m, row in zip(models, scores, strict=True) if np.isfinite(row).all()]
    correct = _correct(records, models, tasks, set(scored))
    lacking = {c.model: c for c in reversed(cells) if np.isnan(number(records[c.model, c.task]))}  # the first
    why = {m: _why(c, metric, records[m, c.task], workdir) for m, c in lacking.items()}
    return StageScores(models, tasks, metric, scores, correct, np.array(taken), records, why)


def _correct(
    records: Mapping[tuple[str, str], Record | None],
    models: Sequence[str],
    tasks: Sequence[str],
    scored: set[str],
) -> list[np.ndarray] | None:
    """Per-example correctness of all models about the same examples; None where there is none."""
    found = []
    for task in tasks:
        own = {m: r for m in models if m in scored and (r := records[m, task]) is not None}
        if not own or any(r.get("correct") is None for r in own.values()):
            return None
        if len({(str(sorted((r.get("data") or {}).items())), r["n_examples"]) for r in own.values()}) > 1:
            return None
        rows = {m: results.unpack(r["correct"]) for m, r in own.items()}
        nothing = np.zeros(len(next(iter(rows.values()))), bool)
        found.append(np.array([rows.get(m, nothing) for m in models], bool))
    return found


def _why(cell: Cell, metric: str, record: Record | None, workdir: Path) -> str:
    """Why a cell has no score (or another one of its model has none)."""
    if record is not None:
        return f"{cell.task}: {record['notes'].get(metric, f'no {metric}')}"
    try:
        failure = results.read(cell.error_path(workdir))
    except ValueError as e:
        return f"{cell.task}: {e}"
    if failure is None:
        return f"{cell.task}: not run"
    return f"{cell.task}: failed in {failure['stage']}: {' '.join(failure['message'].split())[:200]}"
