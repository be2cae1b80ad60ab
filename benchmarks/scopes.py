"""What scopes of fine-tuning cost and reach on the embedded tasks: python benchmarks/scopes.py

Runs main.py once per scope, each with the same grid of AdamW, and keeps accuracies, trained parameters and seconds of a
cell's training and testing (of the median task: the first also compiles).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import _alternate

TASKS = ("digits", "sprites_location", "sprites_orientation")
SCOPES = ("all", "head", "bias", "norm", "lora", "prompt", "prompt_deep")
OF_TOKENS = ("prompt", "prompt_deep")  # need a model that works on tokens
FIELDS = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "learning_rates": "0.001,0.01",
    "steps": "100",
    "warmup": "10",
}


def run(scope: str, models: list[str], workdir: Path) -> None:
    """One sweep of main.py."""
    command = [sys.executable, "main.py", "--config=configs/finetune.py", f"--workdir={workdir}"]
    command += [f"--config.models={','.join(models)}", f"--config.tasks={','.join(TASKS)}"]
    command += [f"--config.finetune.{name}={value}" for name, value in {**FIELDS, "scope": scope}.items()]
    subprocess.run(command, cwd=_alternate.ROOT, check=True, stdout=subprocess.DEVNULL)


def measured(workdir: Path) -> dict[str, dict[str, dict]]:
    """{model: {scope: {accuracy by task, trained parameters by task, seconds}}} of all results."""
    found: dict[str, dict[str, dict]] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    for path in sorted((workdir / "results" / "finetune").glob("*/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        model, scope = record["model"], record["settings"]["scope"]
        of = found.setdefault(model, {}).setdefault(scope, {"accuracy": {}, "trainable_parameters": {}})
        of["accuracy"][record["task"]] = record["metrics"]["accuracy"]
        of["trainable_parameters"][record["task"]] = record["chosen"]["trainable_parameters"]
        seconds.setdefault((model, scope), []).append(record["seconds"]["finetune"])
    for (model, scope), times in seconds.items():
        found[model][scope]["seconds"] = statistics.median(times)
    return {m: {s: scopes[s] for s in SCOPES if s in scopes} for m, scopes in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="embedded/sprites_resnet")
    parser.add_argument("--token_models", default="timm/test_vit@random")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "scopes.json")
    args = parser.parse_args()
    maps, tokens = args.models.split(","), args.token_models.split(",")
    record = {
        **_alternate.environment("jax", "optax", "torch", "timm"),
        "settings": {**FIELDS, "batch_size": 32, "image_size": 64, "tasks": list(TASKS)},
    }
    with tempfile.TemporaryDirectory() as folder:
        for scope in SCOPES:
            run(scope, tokens if scope in OF_TOKENS else [*maps, *tokens], Path(folder))
            print(scope, flush=True)
        record["results"] = measured(Path(folder))
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
