"""What a sweep costs: measured here per model and per image, then arithmetic for other machines.

    python benchmarks/scale.py                # measures on this machine: minutes on two cores
    python benchmarks/scale.py --table        # only the arithmetic, from benchmarks/results/scale.json

Measured: a real kNN sweep (seconds by stage from its results, the overlap from its worker's file), floating-point
operations of the forward pass as XLA counts them, training steps of fine-tuning. Calculated: everything that
docs/scale.md says about accelerators, from their published peaks and the assumptions below, which are guesses and
named as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "scale.json"
MODELS = ("timm/resnet50@random", "timm/vit_small_patch16_224@random", "timm/convnext_tiny@random")
TASKS = ("digits", "sprites_location")

# Published peaks of dense bfloat16 products, FLOP/s per chip (NVIDIA A100 data sheet; Google Cloud, TPU v5e).
PEAK = {"A100": 312e12, "v5e": 197e12}
# Assumptions, not measurements.
USED = {"features": 0.25, "finetune": 0.30}  # of the peak, with batches of a few hundred images in bfloat16
COMPILE_SECONDS = 30.0  # of one model's program on an accelerator
MACHINES = {  # name: (chip, chips, workers that share the models, chips of each worker)
    "one A100": ("A100", 1, 1, 1),
    "eight A100, a worker each": ("A100", 8, 8, 1),
    "v5e-8, one worker": ("v5e", 8, 1, 8),
    "v5e-64 pod, one worker": ("v5e", 64, 1, 64),
    "64 v5e as 8 slices of 8": ("v5e", 64, 8, 8),
}
N_MODELS, TRAIN_IMAGES, TEST_IMAGES = 300, 19 * 1000, 387_904
# VTAB-1k's lightweight sweep: 2 learning rates x (2,500 + 10,000) steps, the best again (at most 10,000), of 512.
STEPS = 2 * (2500 + 10000) + 10000
BATCH = 512


def sweep(workdir: Path) -> dict:
    """The costs of each model in a kNN sweep, from its files."""
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        f"--config={ROOT}/configs/knn.py",
        f"--config.models={','.join(MODELS)}",
        f"--config.tasks={','.join(TASKS)}",
        "--config.image_size=224",
        "--config.batch_size=16",
        f"--workdir={workdir}",
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    sys.path.insert(0, str(ROOT))
    from vtabjax import status, watch

    (state,) = status.read(workdir)
    events = state.workers[0]["events"]
    converting, idle = watch.waited(events)
    found = {}
    for model in MODELS:
        folder = workdir / "results" / "knn" / model.replace("/", "--")
        seconds = [json.loads((folder / f"{task}.json").read_text())["seconds"] for task in TASKS]
        converted = next(e for e in events if e["what"] == "convert" and e["model"] == model)
        found[model] = {
            "convert_seconds": round(converted["ended"] - converted["began"], 2),
            "load_seconds": round(seconds[0]["load"], 2),
            # The first task's pass has the compilation in it, the second one's has not.
            "compile_seconds": round(max(0.0, seconds[0]["features"] - seconds[1]["features"]), 2),
            "images_per_second": round(1000 / seconds[1]["features"], 2),
            "knn_seconds_per_task": round(seconds[1]["knn"], 3),
            "data_seconds_per_task": round(seconds[1].get("data", 0.0), 3),
            "gflop_per_image": round(flops(workdir / "models" / f"{model.replace('/', '--')}-224") / 1e9, 2),
        }
    return {"models": found, "converting_seconds": round(converting, 1), "idle_meanwhile": round(idle, 1)}


def flops(artefact: Path) -> float:
    """Floating-point operations of one image's forward pass, as XLA counts them."""
    import jax
    import numpy as np

    from vtabjax import model

    parts = model.load_parts(artefact)
    image = np.zeros((1, 224, 224, 3), np.float32)
    lowered = jax.jit(lambda v, x: model.apply(parts.graph, v, x)[0]["features"]).lower(
        parts.variables, image
    )
    return float(lowered.cost_analysis()["flops"])


def training(artefact: Path) -> dict:
    """Training images/s of a model against its forward pass, batch 16."""
    import numpy as np

    from vtabjax import features, model
    from vtabjax.protocols import finetune

    parts = model.load_parts(artefact)
    own = finetune.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=16)
    trainer = finetune.Trainer(finetune.trunk(parts, own), own, classes=100, capacity=64)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
    data = trainer.data(images, np.arange(64, dtype=np.int32))
    run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=100, seed=0)
    extract = features.extractor(parts, batch_size=16)
    began = time.monotonic()
    state, *_ = trainer.advance(trainer.start(), data, run, 1)
    compiling = time.monotonic() - began
    extract(images)
    train, forward = [], []
    for _ in range(3):  # taking turns
        began = time.monotonic()
        state, *_ = trainer.advance(state, data, run, 4)
        train.append(64 / (time.monotonic() - began))
        began = time.monotonic()
        extract(images)
        forward.append(64 / (time.monotonic() - began))
    return {
        "first_step_seconds": round(compiling, 1),
        "train_images_per_second": [round(x, 2) for x in train],
        "forward_images_per_second": [round(x, 2) for x in forward],
        "forward_to_train": round(statistics.median(forward) / statistics.median(train), 2),
    }


def table(found: dict) -> list[dict]:
    """Hours of 300 models x 19 tasks, by the arithmetic of docs/scale.md."""
    own = found["sweep"]["models"]["timm/resnet50@random"]
    flop = own["gflop_per_image"] * 1e9
    convert = statistics.mean(m["convert_seconds"] for m in found["sweep"]["models"].values())
    rows = []
    for name, (chip, chips, workers, each) in MACHINES.items():
        models = N_MODELS / workers
        rate = PEAK[chip] * each
        passes = models * TRAIN_IMAGES * flop / (USED["features"] * rate)
        compiling = models * COMPILE_SECONDS
        converting = models * convert
        # Training: three forward passes' worth (forward, and twice that backward).
        tuning = models * 19 * STEPS * BATCH * 3 * flop / (USED["finetune"] * rate)
        testing = models * TEST_IMAGES * flop / (USED["features"] * rate)
        rows.append(
            {
                "machine": name,
                "knn_passes_hours": passes / 3600,
                "knn_compile_hours": compiling / 3600,
                "convert_hours_beside": converting / 3600,
                "knn_hours": max(passes + compiling, converting) / 3600,
                "finetune_days": (tuning + testing + 2 * compiling) / 86400,
                "finetune_chip_days": (tuning + testing + 2 * compiling) / 86400 * chips,
                "finetune_best_ten_days": (tuning + testing + 2 * compiling) / 86400 * 10 / N_MODELS,
            }
        )
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "| | passes | compiling | converting, beside | kNN, in all | fine-tuning, in all | of the best ten |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['machine']} | {r['knn_passes_hours']:.2f} h | {r['knn_compile_hours']:.2f} h | "
            f"{r['convert_hours_beside']:.2f} h | **{r['knn_hours']:.1f} h** | {r['finetune_days']:,.0f} days | "
            f"{r['finetune_best_ten_days']:.1f} days |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", action="store_true", help="only the arithmetic, from the committed measurements"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.table:
        found = json.loads(args.out.read_text())
    else:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            measured = sweep(Path(folder))
            trained = training(Path(folder) / "models" / "timm--resnet50@random-224")
        found = {
            "command": "python benchmarks/scale.py",
            "machine": {
                "processor": platform.processor(),
                "cores": os.cpu_count(),
                "load_before": round(load, 2),
            },
            "versions": {"jax": __import__("jax").__version__},
            "sweep": measured,
            "training": {"model": "timm/resnet50@random", **trained},
        }
    found["assumptions"] = {
        "peak_flops": PEAK,
        "used": USED,
        "compile_seconds": COMPILE_SECONDS,
        "steps": STEPS,
        "batch": BATCH,
    }
    found["table"] = table(found)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found["table"]))


if __name__ == "__main__":
    main()
