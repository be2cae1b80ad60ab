"""What a sweep costs: measured here per model and per image, then arithmetic for other machines.

    python benchmarks/scale.py                # measures on this machine: minutes on two cores
    python benchmarks/scale.py --table        # only the arithmetic, from benchmarks/results/scale.json

Measured: a real kNN sweep over two small folders of pictures (seconds by stage from its results, the overlap from its
worker's file), images/s forward and in training (the best of several rounds by wall clock, and by processor time of
all threads, which other work on the machine disturbs less), and floating-point operations as XLA counts them.
Calculated: what docs/scale.md says about whole sweeps on accelerators, from images/s measured on one kind of GPU
(benchmarks/results/gpu.json), for others in proportion to their published peaks, and from the assumptions below.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _alternate

ROOT = _alternate.ROOT
RESULT = _alternate.RESULTS / "scale.json"
MODELS = ("timm/resnet50@random", "timm/vit_small_patch16_224@random", "timm/convnext_tiny@random")
PICTURES = 48  # in each of two folders
ROUND = 32  # images

MEASURED = "H200"  # benchmarks/results/gpu.json is about one of these
# Published peaks of dense bfloat16 products, FLOP/s per chip (NVIDIA's data sheets; Google Cloud, TPU v5e).
PEAK = {"H200": 989e12, "A100": 312e12, "v5e": 197e12}
# An assumption: of one model's program on an accelerator.
COMPILE_SECONDS = 30.0
MACHINES = {  # name: (chip, chips, workers that share the models, chips of each worker)
    "one H200": ("H200", 1, 1, 1),
    "eight H200s, a worker each": ("H200", 8, 8, 1),
    "one A100": ("A100", 1, 1, 1),
    "v5e-8, one worker": ("v5e", 8, 1, 8),
    "v5e-64 pod, one worker": ("v5e", 64, 1, 64),
    "64 chips of v5e as 8 slices of 8": ("v5e", 64, 8, 8),
}
N_MODELS, TRAIN_IMAGES, TEST_IMAGES = 300, 19 * 1000, 387_904
# VTAB-1k's lightweight sweep: 2 learning rates x (2,500 + 10,000) steps, the best again (at most 10,000), of 512.
STEPS = 2 * (2500 + 10000) + 10000
BATCH = 512


def sweep(workdir: Path) -> dict:
    """The costs of each model in a kNN sweep, from its files."""
    tasks = [f"folder:{pictures(workdir / name)}" for name in ("a", "b")]
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        f"--config={ROOT}/configs/knn.py",
        f"--config.models={','.join(MODELS)}",
        f"--config.tasks={','.join(tasks)}",
        "--config.image_size=224",
        "--config.batch_size=16",
        f"--workdir={workdir}",
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    sys.path.insert(0, str(ROOT))
    from vtabjax.sweep import heartbeat, status

    (state,) = status.read(workdir)
    events = state.workers[0]["events"]
    converting, idle = heartbeat.conversion_idle_seconds(events)
    found = {}
    for model in MODELS:
        folder = workdir / "results" / "knn" / model.replace("/", "--")
        seconds = [json.loads(path.read_text())["seconds"] for path in sorted(folder.glob("*.json"))]
        converted = next(e for e in events if e["what"] == "convert" and e["model"] == model)
        found[model] = {
            "convert_seconds": round(converted["ended"] - converted["began"], 2),
            "load_seconds": round(seconds[0]["load"], 2),
            # The first task's pass has the compilation in it, the second one's has not.
            "compile_seconds": round(max(0.0, seconds[0]["features"] - seconds[1]["features"]), 2),
            "knn_seconds_per_task": round(seconds[1]["knn"], 3),
            **rates(workdir / "models" / f"{model.replace('/', '--')}-224"),
        }
    return {"models": found, "converting_seconds": round(converting, 1), "idle_meanwhile": round(idle, 1)}


def pictures(folder: Path) -> Path:
    """Random pictures of two classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(len(folder.name))
    for i in range(PICTURES):
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        array = rng.integers(0, 256, (224, 224, 3), np.uint8)
        Image.fromarray(array).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


def rates(artefact: Path) -> dict:
    """A model's images/s forward (and one's in training), batches of 16, and its operations."""
    import jax
    import numpy as np

    from vtabjax import features, model
    from vtabjax.protocols import finetune

    parts = model.load_parts(artefact)
    lowered = jax.jit(lambda v, x: model.apply(parts.graph, v, x)[0]["features"]).lower(
        parts.variables, np.zeros((1, 224, 224, 3), np.float32)
    )
    images = np.random.default_rng(0).integers(0, 256, (ROUND, 224, 224, 3), dtype=np.uint8)
    extract = features.extractor(parts, batch_size=16)
    sides = {"forward": lambda: extract(images)}
    if "resnet50" in artefact.name:
        own = finetune.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=16)
        trainer = finetune.Trainer(finetune.trainable(parts, own), own, classes=100, capacity=ROUND)
        data = trainer.data(images, np.arange(ROUND, dtype=np.int32))
        run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=100, seed=0)
        state = [trainer.initial_state()]

        def train() -> None:
            state[0], *_ = trainer.train_steps(state[0], data, run, ROUND // 16)
            jax.block_until_ready(state[0])

        sides["train"] = train
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(4):  # taking turns; the first round compiles
        for name, call in sides.items():
            wall, cpu = time.monotonic(), time.process_time()
            call()
            if number:
                taken[name].append((time.monotonic() - wall, time.process_time() - cpu))
    found = {"gflop_per_image": round(float(lowered.cost_analysis()["flops"]) / 1e9, 2)}
    for name, rounds in taken.items():
        found[f"{name}_images_per_second"] = round(ROUND / min(wall for wall, _ in rounds), 2)
        found[f"{name}_cpu_seconds_per_image"] = round(min(cpu for _, cpu in rounds) / ROUND, 4)
    if "train" in taken:
        ratio = found["train_cpu_seconds_per_image"] / found["forward_cpu_seconds_per_image"]
        found["train_over_forward"] = round(ratio, 2)
    return found


def table(found: dict) -> list[dict]:
    """Hours of 300 models x 19 tasks, by the arithmetic of docs/scale.md."""
    gpu = json.loads((_alternate.RESULTS / "gpu.json").read_text())
    rates = {
        part: gpu[part]["resnet50"]["vtabjax"]["images_per_second"] for part in ("extraction", "training")
    }
    convert = statistics.mean(m["convert_seconds"] for m in found["sweep"]["models"].values())
    rows = []
    for name, (chip, chips, workers, each) in MACHINES.items():
        models = N_MODELS / workers
        times = each * PEAK[chip] / PEAK[MEASURED]
        passes = models * TRAIN_IMAGES / (times * rates["extraction"])
        compiling = models * COMPILE_SECONDS
        converting = models * convert
        tuning = models * 19 * STEPS * BATCH / (times * rates["training"])
        testing = models * TEST_IMAGES / (times * rates["extraction"])
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
        environment = _alternate.environment("jax", "timm")
        with tempfile.TemporaryDirectory() as folder:
            measured = sweep(Path(folder) / "sweep")
        found = {
            **environment,
            "sweep": measured,
        }
    found["assumptions"] = {
        "peak_flops": PEAK,
        "images_per_second_of": f"resnet50 on one {MEASURED}, benchmarks/results/gpu.json",
        "compile_seconds": COMPILE_SECONDS,
        "steps": STEPS,
        "batch": BATCH,
    }
    found["table"] = table(found)
    _alternate.write(args.out, found)
    print(markdown(found["table"]))


if __name__ == "__main__":
    main()
