"""Ten models, end to end, against a plain script of timm and scikit-learn: python benchmarks/sweep.py

Both start from nothing, in turn, and give the same table: features, leave-one-out kNN, linear evaluation over 12 values
of C and LEEP, on embedded tasks at 64 x 64. Ours: main.py three times on a new folder, so that converting and verifying
every model, compiling, writing results and starting Python three times count. Theirs: benchmarks/plain_script.py, once,
PyTorch in channels_last. Both have weights at random from the same seed, and the scores they agree on are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _alternate

MODELS = (
    "resnet18,resnet26,resnet50,mobilenetv3_small_100,efficientnet_b0,regnetx_002,"
    "convnext_atto,vit_tiny_patch16_224,vit_small_patch16_224,test_resnet"
)
TASKS = "digits,sprites_orientation"


def ours(folder: Path, args: argparse.Namespace) -> dict:
    names = ",".join(f"timm/{name}@random" for name in args.models.split(","))
    seconds = {}
    for protocol, extra in (("knn", []), ("linear", []), ("transferability", ["--config.scores=leep"])):
        begun = time.perf_counter()
        command = [sys.executable, "main.py", f"--config=configs/{protocol}.py", f"--workdir={folder}"]
        command += [
            f"--config.models={names}",
            f"--config.tasks={args.tasks}",
            "--config.image_size=64",
            *extra,
        ]
        run(command)
        seconds[protocol] = time.perf_counter() - begun
    scores: dict[str, dict] = {}
    for path in folder.glob("results/*/*/*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        name = result["model"].removeprefix("timm/").removesuffix("@random")
        metrics = result["metrics"]
        value = {"knn": "accuracy", "linear": "accuracy", "transferability": "leep"}[result["protocol"]]
        protocol = "leep" if value == "leep" else result["protocol"]
        scores.setdefault(f"{name} {result['task']}", {})[protocol] = metrics[value]
    return {"seconds": seconds, "scores": scores}


def theirs(folder: Path, args: argparse.Namespace) -> dict:
    out = folder / "plain.json"
    script = str(Path(__file__).parent / "plain_script.py")
    run([sys.executable, script, f"--models={args.models}", f"--tasks={args.tasks}", f"--out={out}"])
    return json.loads(out.read_text(encoding="utf-8"))


def run(command: list[str], clone: Path = _alternate.ROOT) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in _alternate.HUGE_PAGES}
    process = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stdout + process.stderr)


def agreement(a: dict, b: dict) -> dict:
    """How many scores differ by at most 0.002 (two examples of a thousand; 0.002 nats)."""
    found = {}
    for protocol in ("knn", "linear", "leep"):
        pairs = [(a[k][protocol], b[k][protocol]) for k in b]
        found[protocol] = {
            "of": len(pairs),
            "equal_within_0.002": sum(abs(x - y) <= 0.002 for x, y in pairs),
            "mean_difference": statistics.fmean(x - y for x, y in pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "sweep.json")
    args = parser.parse_args()
    record = {
        **_alternate.environment("jax", "torch", "timm", "scikit-learn"),
        "settings": {"models": args.models, "tasks": args.tasks, "image_size": 64, "repeats": args.repeats},
    }
    runs: dict[str, list[dict]] = {"vtabjax": [], "plain script": []}
    for _ in range(args.repeats):
        for name, side in (("vtabjax", ours), ("plain script", theirs)):
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                found = side(Path(folder), args)
            runs[name].append({"total": time.perf_counter() - begun, **found})
            print(f"{name}: {runs[name][-1]['total']:.1f} s {found['seconds']}", flush=True)
    seconds = {name: statistics.median(r["total"] for r in found) for name, found in runs.items()}
    record["seconds"] = seconds
    record["times_faster"] = seconds["plain script"] / seconds["vtabjax"]
    record["stages"] = {name: [r["seconds"] for r in found] for name, found in runs.items()}
    record["agreement"] = agreement(runs["vtabjax"][0]["scores"], runs["plain script"][0]["scores"])
    print(f"{record['times_faster']:.2f} times faster; {record['agreement']}")
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
