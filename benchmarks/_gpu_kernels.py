"""Which kernels a GPU spends its time in."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def of(run: Callable[[], Any], side: str) -> list[dict[str, Any]]:
    """The GPU's kernels in one round, those first that took longest in all: name, milliseconds, how often."""
    total: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if side.startswith("PyTorch"):
            import torch

            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                run()
            profiler.export_chrome_trace(f"{folder}/trace.json")
            events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
            events = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        else:
            import jax

            with jax.profiler.trace(folder):
                run()
            events = [
                event
                for file in Path(folder).rglob("*.trace.json.gz")
                for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
            ]
            devices = {
                e["pid"] for e in events if e.get("ph") == "M" and "/device:GPU" in str(e["args"].get("name"))
            }
            streams = {
                (e["pid"], e["tid"])
                for e in events
                if e.get("ph") == "M"
                and e.get("name") == "thread_name"
                and "Stream" in str(e["args"].get("name"))
            }
            events = [e for e in events if e.get("pid") in devices and (e["pid"], e.get("tid")) in streams]
    for event in events:
        if event.get("ph") == "X":
            total.setdefault(event["name"][:120], []).append(event["dur"] / 1000)
    rows = [{"name": k, "ms": round(sum(v), 3), "count": len(v)} for k, v in total.items()]
    rows.sort(key=lambda row: -row["ms"])
    return [{"name": "all", "ms": round(sum(r["ms"] for r in rows), 3), "count": len(rows)}, *rows[:25]]
