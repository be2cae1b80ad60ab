"""What a selection may have missed, from its stages to the statistics of `vtabjax.ranking.left_out`."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax.ranking import left_out
from vtabjax.sweep.select import adding
from vtabjax.sweep.select.scores import StageScores
from vtabjax.sweep.select.stopping import Stopped


def estimate(
    models: Sequence[str],
    stages: Sequence[StageScores],
    last: StageScores,
    audited: Collection[str],
    leader: str,
    seed: int,
    stopped: Mapping[str, Stopped] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """The entries "chance_missed" and "expected_regret" of selection.json, and "audit_bounds", null without an audit.

    Args:
      models: all that took part.
      stages: what the stages before the last found.
      last: what the last one found, of the audited models, too.
      audited: those that were drawn at random from the models left out.
      leader: the winner, or who leads.
      seed: of the draws.
      stopped: finalists with results on some tasks or with some seeds; what these say of them counts.
    """
    failed = _failed(stages, last, stopped)
    # A model that cannot be measured is none that could have been chosen.
    there = [model for model in models if model not in failed]
    if last.metric != "accuracy":
        return unknown("the last stage measures no accuracy")
    found = left_out.estimate(
        _rows(there, _with_stopped(last, stopped)),
        [_rows(there, stage) for stage in stages],
        audited=np.array([model in audited for model in there]),
        winner=there.index(leader),
        seed=seed,
    )
    return {
        "chance_missed": _entry(found.chance_missed, len(failed)),
        "expected_regret": _entry(found.expected_regret, len(failed)),
        "audit_bounds": None if found.audit is None else found.audit._asdict(),
    }


def look(
    models: Sequence[str],
    stages: Sequence[StageScores],
    last: StageScores,
    stopped: Mapping[str, Stopped],
    **settings: Any,
) -> tuple[adding.Round, list[str]]:
    """Whom the last stage measures next (`adding.look`, with its `settings`), and their names.

    Args:
      models: all that take part.
      stages: what the stages before the last found.
      last: what the last one found until now.
      stopped: as in `estimate`.
    """
    if last.metric != "accuracy" or not last.scored.any():
        return adding.Round(None, None, [], []), []
    failed = _failed(stages, last, stopped)
    there = [model for model in models if model not in failed]
    means = {
        m: row.mean() for m, row, well in zip(last.models, last.scores, last.scored, strict=True) if well
    }
    found = adding.look(
        _rows(there, _with_stopped(last, stopped)),
        [_rows(there, stage) for stage in stages],
        np.array([model not in last.models for model in there]),
        winner=there.index(max(means, key=lambda m: means[m])),
        **settings,
    )
    return found, [there[i] for i in found.rows]


def _with_stopped(last: StageScores, stopped: Mapping[str, Stopped]) -> StageScores:
    """What the last stage found; of those that were stopped between seeds, what they had reached."""
    filled = last.scores.copy()
    for i, (model, well) in enumerate(zip(last.models, last.scored, strict=True)):
        if not well and model in stopped and (reached := stopped[model].reached):
            filled[i] = [reached[task] for task in last.tasks]
    return last._replace(scores=filled)


def _failed(stages: Sequence[StageScores], last: StageScores, stopped: Collection[str]) -> set[str]:
    """Who has no score where it was measured."""
    failed = {
        m for found in (*stages, last) for m, s in zip(found.models, found.scored, strict=True) if not s
    }
    return failed - {m for m, s in zip(last.models, last.scored, strict=True) if s or m in stopped}


def unknown(reason: str) -> dict[str, Any]:
    """What `estimate` gives where nothing can be said."""
    entry = {"value": None, "interval": None, "level": None, "method": "cannot be said", "reason": reason}
    return {"chance_missed": entry, "expected_regret": dict(entry), "audit_bounds": None}


def _rows(models: Sequence[str], found: StageScores) -> np.ndarray:
    """A stage's scores of all models, [M, T], NaN of those that did not get there."""
    row = dict(zip(found.models, found.scores, strict=True))
    nothing = np.full(len(found.tasks), np.nan)
    return np.array([row.get(model, nothing) for model in models])


def _entry(found: left_out.Estimate, failed: int) -> dict[str, Any]:
    known = found.low is not None and found.high is not None
    return {
        "value": found.value,
        "interval": [found.low, found.high] if known else None,
        "level": found.level,
        "method": found.method,
        "assumptions": list(found.assumptions),
        "counts": {**found.counts, "failed": failed},
        "reason": found.reason,
    }
