"""The sweep of benchmarks/sweep.py with this commit and another, in turn: python benchmarks/sweep_before.py FOLDER

    git worktree add ../before COMMIT
    python benchmarks/sweep_before.py ../before --seconds=200

FOLDER is a checkout of the other commit. Every stage (a command) runs with both before the next one; each has a folder
of its own, which is empty at first. With --seconds it stops before the next stage once they have passed, and the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _alternate
import sweep

STAGES = {"knn": (), "linear": (), "transferability": ("--config.scores=leep",)}


def commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run(clone: Path, workdir: Path, protocol: str) -> float:
    names = ",".join(f"timm/{name}@random" for name in sweep.MODELS.split(","))
    command = [sys.executable, "main.py", f"--config=configs/{protocol}.py", f"--workdir={workdir}"]
    command += [f"--config.models={names}", f"--config.tasks={sweep.TASKS}", "--config.image_size=64"]
    begun = time.perf_counter()
    sweep.run([*command, *STAGES[protocol]], clone)
    return time.perf_counter() - begun


def numbers(workdir: Path) -> dict[str, dict]:
    """The metrics of each result, by its place in the folder."""
    found = {}
    for path in sorted(workdir.glob("results/*/*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[f"{result['protocol']} {result['model']} {result['task']}"] = result["metrics"]
    return found


def compared(before: dict[str, dict], after: dict[str, dict]) -> dict:
    """By protocol, in how many results all metrics are the same, and the largest difference of one."""
    table: dict[str, dict] = {}
    for key, old in before.items():
        row = table.setdefault(key.split()[0], {"of": 0, "equal": 0, "largest_difference": 0.0})
        row["of"] += 1
        row["equal"] += old == after[key]
        changes = [abs(v - after[key][k]) for k, v in old.items() if isinstance(v, float)]
        row["largest_difference"] = max([row["largest_difference"], *changes])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="FOLDER")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vtabjax-sweep-before")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "sweep_before.json")
    args = parser.parse_args()
    begun = time.perf_counter()
    clones = {"before": args.before, "after": _alternate.ROOT}
    commits = {side: commit(clone) for side, clone in clones.items()}
    unfinished = args.work / "record.json"
    args.work.mkdir(parents=True, exist_ok=True)
    if unfinished.exists():
        record = json.loads(unfinished.read_text(encoding="utf-8"))
        if record["commits"] != commits:
            sys.exit(f"{args.work} is about the commits {record['commits']}; remove it to begin anew")
    else:
        settings = {
            "models": sweep.MODELS,
            "tasks": sweep.TASKS,
            "image_size": 64,
            "repeats": args.repeats,
        }
        versions = _alternate.environment("jax", "torch", "timm")
        record = {**versions, "settings": settings, "commits": commits, "seconds": {}}
    for number in range(args.repeats):
        for protocol in args.stages.split(","):
            for side, clone in clones.items():
                seconds = record["seconds"].setdefault(side, {}).setdefault(protocol, [])
                if len(seconds) > number:
                    continue
                if time.perf_counter() - begun > args.seconds:
                    print("the same command goes on from here")
                    return
                seconds.append(run(clone, args.work / f"{side}-{number}", protocol))
                print(f"{side} ({commits[side]}), {protocol}: {seconds[-1]:.1f} s", flush=True)
                unfinished.write_text(json.dumps(record), encoding="utf-8")
    record["agreement"] = compared(*(numbers(args.work / f"{side}-0") for side in clones))
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
