"""The audit's table: a CSV file, one line for the terminal, and the summary in Markdown."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vtabjax.runtime import files

from . import hub

COLUMNS = (
    "source", "name", "family", "parameters", "input_size", "dtype", "blocks", "features_error", "logits_error",
    "seconds", "status", "message", "operators",
)  # fmt: skip


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table; none if there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def write(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the table, torchvision's few rows first."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda r: (r["source"] != "torchvision", r["source"], r["name"])))
    files.write_text(path, text.getvalue())


def describe(row: Mapping[str, Any]) -> str:
    """One row for the terminal."""
    error = f"{float(row['features_error']):.0e}" if row["features_error"] not in (None, "") else ""
    kind = " ".join(str(row[k]) for k in ("dtype", "blocks") if row[k] not in (None, "", "all"))
    return f"{row['status']:<8} {row['name']:<44} {error:>6} {kind} {row['seconds']} s  {row['message']}".rstrip()


# The summary.


def summary(rows: Iterable[Mapping[str, str]]) -> str:
    """The table by family, in Markdown, and every model that did not pass or was changed, with the reason."""
    rows = list(rows)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in _packages(rows))
    lines = [
        "# Coverage",
        "",
        "Written by `python -m converters audit`; the rows are in [coverage.csv](coverage.csv). Each architecture is",
        "built with random parameters, biases and running statistics, converted, and compared with torch on the same",
        "3 images. The error is max |Flax - torch| / max |torch| over features and logits, the worst of the family.",
        "",
        f"Versions: {versions}.",
    ]
    for source in sorted({r["source"] for r in rows}, reverse=True):
        here = [r for r in rows if r["source"] == source]
        passed = sum(r["status"] == "passed" for r in here)
        lines += ["", f"## {source}: {passed} of {len(here)} pass", ""]
        lines += ["| family | models | passed | parameters (M) | error, float64 | error, float32 |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for name in sorted({r["family"] for r in here}):
            lines.append(_family_line(name, [r for r in here if r["family"] == name]))
        lines += _listed("Not passed", [r for r in here if r["status"] != "passed"])
        fewer = [r for r in here if r["status"] == "passed" and r["blocks"] != "all"]
        if source in hub.SOURCES:
            lines += [
                "",
                f"{len(fewer)} of them with fewer blocks of the same kind (the table's `blocks`) and, where they",
            ]
            lines += ["take them, smaller images (`input_size`)."]
        else:
            lines += _listed("With fewer blocks of the same kind (too big otherwise)", fewer)
        lines += _listed("In float64 with a part that the model itself computes in float32", [
            r for r in here if r["status"] == "passed" and r["dtype"] == "mixed"
        ])  # fmt: skip
        lines += _listed("In float32 (too big for float64)", [
            r for r in here if r["status"] == "passed" and r["dtype"] == "float32"
        ])  # fmt: skip
    return "\n".join(lines) + "\n"


def _packages(rows: list[Mapping[str, str]]) -> list[str]:
    sources = {r["source"] for r in rows}
    added = {"transformers": "transformers", "open_clip": "open_clip_torch"}
    return ["torch", "torchvision", "timm", *(added[s] for s in sorted(sources & set(added))), "jax"]


def _family_line(name: str, rows: list[Mapping[str, str]]) -> str:
    millions = sorted(int(r["parameters"]) / 1e6 for r in rows if r["parameters"])
    span = f"{millions[0]:.1f}-{millions[-1]:.1f}" if millions else ""
    passed = [r for r in rows if r["status"] == "passed"]

    def worst(dtype: str) -> str:
        errors = [
            float(r[k])
            for r in passed
            if r["dtype"] == dtype
            for k in ("features_error", "logits_error")
            if r[k]
        ]
        return f"{max(errors):.0e}" if errors else ""

    return f"| {name} | {len(rows)} | {len(passed)} | {span} | {worst('float64')} | {worst('float32')} |"


def _listed(title: str, rows: list[Mapping[str, str]]) -> list[str]:
    if not rows:
        return []
    return ["", f"### {title}", ""] + [
        f"- `{r['name']}`" + "".join(f", {t}" for t in (_remark(r), r["message"]) if t) for r in rows
    ]


def _remark(row: Mapping[str, str]) -> str:
    return row["blocks"] if row["blocks"] not in ("", "all") else ""
