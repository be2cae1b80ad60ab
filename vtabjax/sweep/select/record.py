"""WORKDIR/select: what was decided and found, written after every stage, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vtabjax.options import UsageError
from vtabjax.runtime import files
from vtabjax.sweep.select.keep import Kept
from vtabjax.sweep.select.scores import StageScores
from vtabjax.sweep.select.stopping import Stopped
from vtabjax.sweep.select.verdict import Verdict

FORMAT = 1
FILE = "selection.json"
T = TypeVar("T")

_WHY = {
    "first": "among the first {n}",
    "close": "its chance of belonging to the first {n} is {chance}",
    "always": "never dropped (config.always)",
    "capped": "its chance of belonging to the first {n} is {chance}, beyond the {cap} kept (config.keep_at_most)",
    "behind": "behind the first {n}",
}


def folder(workdir: Path) -> Path:
    """Where the selection's files are."""
    return workdir / "select"


def stage(
    name: str,
    keeps: str,
    n: int | None,
    found: StageScores,
    kept: Kept | None,
    stopped: Mapping[str, Stopped] = types.MappingProxyType({}),
    added: Mapping[str, float] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """A stage for the file: who was measured, with what result, and who goes on.

    Args:
      name: the protocol.
      keeps: what `config.stages` says of it.
      n: how many were to be kept; None: all.
      found: its scores.
      kept: who was; None for the last stage.
      stopped: whose training was not taken to its end, in the last stage.
      added: who was added to it -> its chance then of being much better than the best.
    """
    decided = kept or _all(found)
    rows = []
    for i, model in enumerate(found.models):
        row: dict[str, Any] = {
            "model": model,
            "score": number(found.scores[i].mean()),
            "scores": {t: number(s) for t, s in zip(found.tasks, found.scores[i], strict=True)},
            "rank": number(decided.mean_rank[i]),
            "place": int(decided.place[i]) or None,
            "chance": number(decided.chance[i]),
            "kept": bool(decided.kept[i]),
            "reason": decided.reason[i],
            "why": why(decided, i, n, found),
            "seconds": number(found.seconds[i]),
        }
        if model in added:
            row |= {"reason": "added", "why": why_added(added[model])}
        if early := stopped.get(model):
            row |= {"reason": "stopped", "why": why_stopped(early), "kept": False}
        rows.append(row)
    rows.sort(key=lambda row: (row["place"] is None, row["place"]))
    return {
        "protocol": name,
        "stage": keeps,
        "score": found.metric,
        "tasks": found.tasks,
        "keep": n,
        "at_most": None if kept is None else kept.cap,
        "models": rows,
        "kept": [row["model"] for row in rows if row["kept"]],
        "dropped": [{"model": row["model"], "why": row["why"]} for row in rows if not row["kept"]],
        "chance_by": None
        if kept is None
        else "paired bootstrap of the examples"
        if found.correct is not None
        else "not known: no results by example, or of different examples",
        "seconds": number(found.seconds.sum()),
    }


def _all(found: StageScores) -> Kept:
    """Everybody with a score, for a stage that drops nobody."""
    from vtabjax.sweep.select import keep

    return keep.choose(found.scores, max(1, len(found.models)))


def why(kept: Kept, i: int, n: int | None, found: StageScores) -> str:
    """In words, why a model goes on or does not."""
    if kept.reason[i] == "no score":
        return f"no score ({found.why.get(found.models[i], 'not run')})"
    if n is None:
        return "ranked"
    text = _WHY[kept.reason[i]].format(n=n, cap=kept.cap, chance=percent(kept.chance[i]))
    if kept.reason[i] == "always" and not np.isfinite(found.scores[i]).all():
        text += f"; no score ({found.why.get(found.models[i], 'not run')})"
    return text


def why_stopped(early: Stopped) -> str:
    """In words, why a finalist was not trained further."""
    done = f"{early.after} of {early.total} {early.unit}"
    return (
        f"not trained further after {done}: its chance of being first in the end was {percent(early.chance)} "
        "(config.stop_chance)"
    )


def why_added(chance: float) -> str:
    """In words, why a model was measured by the last stage though others were ahead of it."""
    return (
        f"added: its chance of being a point better than the best was {percent(chance)} (config.add_chance)"
    )


def percent(share: float) -> str:
    """A probability in words; small ones are not rounded to nothing.

    >>> percent(0.1286), percent(0.0004)
    ('12.9 %', 'under 0.1 %')
    """
    if math.isnan(share):
        return "unknown"
    if not 0.0005 <= share < 0.9995 and share != 1:
        return "under 0.1 %" if share < 0.5 else "over 99.9 %"
    return f"{100 * share:.1f} %"


def ranking(found: StageScores, verdict: Verdict, audited: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The finalists for the file, the best first."""

    def pair(low: np.ndarray | None, high: np.ndarray | None, i: int) -> list[float | None] | None:
        return None if low is None or high is None else [number(low[i]), number(high[i])]

    rows = []
    for place, i in enumerate(verdict.order, 1):
        strength = None if verdict.strength is None else number(verdict.strength[i])
        rows.append(
            {
                "place": place,
                "model": found.models[i],
                "score": number(verdict.mean[i]),
                "scores": {t: number(s) for t, s in zip(found.tasks, found.scores[i], strict=True)},
                "behind": number(verdict.behind[i]),
                "behind_interval": pair(verdict.behind_low, verdict.behind_high, i),
                "strength": strength,
                "strength_interval": pair(verdict.strength_low, verdict.strength_high, i),
                "contends": i in verdict.contenders,
                "audit": found.models[i] in audited,
            }
        )
    return rows


def number(value: float) -> float | None:
    """A number for JSON, which knows none that is not finite."""
    return float(value) if math.isfinite(value) else None


def read(workdir: Path) -> dict[str, Any] | None:
    """The selection that is there, or None; one that cannot be read counts as none, it is written anew."""
    try:
        found = json.loads((folder(workdir) / FILE).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and found.get("format") == FORMAT else None
    except (OSError, ValueError):
        return None


def write(workdir: Path, selection: Mapping[str, Any]) -> None:
    """Writes the selection, unless the same is there, or what became of it later."""
    there = read(workdir) or {}
    if not selection["finished"] and there.get("finished") and there.get("settings") == selection["settings"]:
        n = len(selection["stages"])
        if there["stages"][:n] == json.loads(json.dumps(selection["stages"])):
            return
    text = json.dumps({"format": FORMAT, **selection}, indent=1, allow_nan=False) + "\n"
    path = folder(workdir) / FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def hours_taken(workdir: Path, settings: Mapping[str, Any]) -> float:
    """What earlier runs of an experiment took, whatever hours they had."""
    there = read(workdir) or {}
    if {**there.get("settings", {}), "hours": 0} != {**settings, "hours": 0}:
        return 0.0
    taken = (there.get("hours") or {}).get("taken")
    return float(taken) if isinstance(taken, int | float) else 0.0


def digest(about: Any) -> str:
    """A short name for what a decision depends on."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def agree(workdir: Path, about: Any, decide: Callable[[], T]) -> T:
    """A decision that all workers and all later runs share: the first one's.

    Args:
      workdir: the sweep's folder.
      about: what it depends on, for JSON.
      decide: makes it, for JSON.

    Raises:
      UsageError: the file that holds it is damaged.
    """
    path = folder(workdir) / "decisions" / f"{digest(about)}.json"
    if not path.exists():
        decision = decide()
        if files.create_text(path, files.seal(decision)):
            return decision
    try:
        return files.unseal(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UsageError(f"{path} is damaged ({e}); remove it and run the same command again") from e
