"""The page's first picture where a workdir holds an experiment (configs/select.py): who went how far, and why."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import markupsafe

from vtabjax.report import templates
from vtabjax.sweep.progress import duration
from vtabjax.sweep.select import record, shown


def section(workdir: Path) -> markupsafe.Markup:
    """The section's HTML; empty where there was no experiment."""
    selection = record.read(workdir)
    if selection is None or not selection["stages"]:
        return markupsafe.Markup("")
    return markupsafe.Markup(templates.environment().get_template("funnel.html").render(content(selection)))


def content(selection: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a selection.json."""
    total = len(selection["settings"]["models"])
    audit = selection.get("audit", {}).get("stage")
    stages = [*selection["stages"], *([audit] if audit else [])]
    missed = shown.missed(selection).splitlines() if selection.get("leader") else []
    return {
        "finished": selection["finished"],
        "models": total,
        "verdict": selection.get("verdict", ""),
        "stages": [_stage(stage, total) for stage in stages],
        "missed": [line[:1].upper() + line[1:] + "." for line in missed],
        "not_run": selection["hours"]["not_run"],
        "rows": _rows(selection, stages),
        "remark": _remark(selection),
    }


def _stage(stage: Mapping[str, Any], total: int) -> dict[str, Any]:
    measured, kept = len(stage["models"]), len(stage["kept"])
    going_on = f", {kept} kept" if stage["keep"] is not None else ""
    counts = collections.Counter(row["reason"] for row in stage["models"])
    without = "".join(
        f", {counts[reason]} {said}"
        for reason, said in (
            ("no score", "without a score"),
            ("added", "of them added"),
            ("stopped", "not trained to the end"),
        )
        if counts[reason]
    )
    return {
        "name": stage["stage"],
        "width": f"{max(2, 100 * measured / max(1, total)):.2f}",
        "kept_width": f"{100 * kept / max(1, measured):.2f}",
        "said": f"{measured} measured{going_on}{without}; {duration(stage['seconds'] or 0)} of computing",
    }


def _rows(selection: Mapping[str, Any], stages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per model, who came furthest first; a finalist's reason is its place."""
    rows: dict[str, dict[str, Any]] = {}
    for number, stage in enumerate(stages, 1):
        for row in stage["models"]:
            value = row["score"]
            score = (
                ""
                if value is None
                else f"{100 * value:.2f}"
                if stage["score"] == "accuracy"
                else f"{value:.4f}"
            )
            rows[row["model"]] = {
                "model": row["model"],
                "reached": stage["stage"],
                "number": number,
                "score": score,
                "value": value if value is not None else "",
                "why": row["why"],
                "place": row["place"] or len(stage["models"]) + 1,
                "added": "; added for its chance of being much better" if row["reason"] == "added" else "",
            }
    for row in selection.get("ranking", ()):
        behind = f", {100 * row['behind']:.2f} points behind" if row["place"] > 1 else ""
        rows[row["model"]] |= {
            "why": f"place {row['place']}{behind}{rows[row['model']]['added']}",
            "place": row["place"],
        }
    # The audit is no further stage: those drawn come after the finalists.
    last = len(selection["stages"])
    return sorted(rows.values(), key=lambda r: (-min(r["number"], last), r["number"], r["place"]))


def _remark(selection: Mapping[str, Any]) -> str:
    taken, planned = (selection["hours"][name] for name in ("taken", "planned"))
    text = "A bar is as long as the share of all models that the stage measured; the darker part was kept."
    if selection.get("method"):
        text += f" Judged by: {selection['method']}."
    if taken is not None:
        text += f" The experiment took {duration(3600 * taken)}" + (
            f" of {duration(3600 * planned)}." if planned else "."
        )
    return text
