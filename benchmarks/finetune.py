"""Training images/s of fine-tuning, against a good PyTorch loop on the same device: python benchmarks/finetune.py

Both take the same steps: uint8 images that are on the device already, normalisation, forward, backward, SGD with
momentum, batch norm in training mode. PyTorch: timm's model in channels_last; on a GPU also bfloat16 autocast and
torch.compile. Sides take turns, so that both see the same machine; each round gives wall and CPU seconds of all
threads, and the best round of each counts (the others measure the neighbours).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

MODELS = ("resnet18", "test_resnet", "vit_tiny_patch16_224")
RESULT = Path(__file__).parent / "results" / "finetune.json"
ROOT = Path(__file__).resolve().parent.parent


def images_and_labels(size: int, classes: int):
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, classes, 1000).astype(np.int32)


def build(name: str, size: int):
    from converters import _compat  # noqa: F401  (before timm, which imports torchvision)

    # isort: split
    import timm

    return timm.create_model(name, num_classes=0, **({"img_size": size} if "vit" in name else {}))


def ours(name: str, args: argparse.Namespace, dtype: str):
    """A function that takes `n` steps and returns when they are done."""
    import converters
    from vtabjax import model
    from vtabjax.protocols import finetune

    size = args.image_size
    graph, variables = converters.from_torch(build(name, size), (3, size, size))
    own = finetune.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=args.batch_size, dtype=dtype)
    parts = model.Parts(graph, variables, {"mean": [0.5] * 3, "std": [0.25] * 3})
    trainer = finetune.Trainer(finetune.trunk(parts, own), own, classes=100, capacity=1000)
    run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=100, seed=0)
    data, state = trainer.data(*images_and_labels(size, 100)), [trainer.start()]

    def steps(n: int) -> None:
        for start in range(0, n, finetune.STEPS_PER_CALL):
            state[0], *_ = trainer.advance(state[0], data, run, min(finetune.STEPS_PER_CALL, n - start))

    return steps


def theirs(name: str, args: argparse.Namespace, dtype: str, compiled: bool):
    import torch

    device = "cuda" if args.device == "gpu" else "cpu"
    trunk = build(name, args.image_size)
    module = torch.nn.Sequential(trunk, torch.nn.Linear(trunk.num_features, 100)).to(device).train()
    module = module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    images, labels = images_and_labels(args.image_size, 100)
    images, labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).long().to(device)

    def forward(index):
        x = images[index].permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = module(x.contiguous(memory_format=torch.channels_last))
        return torch.nn.functional.cross_entropy(logits.float(), labels[index])

    step = torch.compile(forward) if compiled else forward

    def steps(n: int) -> None:
        for _ in range(n):
            loss = step(torch.randperm(1000, device=device)[: args.batch_size])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()

    return steps


def side(args: argparse.Namespace) -> None:
    """One side in a process of its own: a line on stdin asks for a round, a line of JSON answers."""
    sys.path.insert(0, str(ROOT))
    name, kind, dtype, compiled = args.side.split(",")
    begun = time.perf_counter()
    steps = (
        ours(name, args, dtype) if kind == "vtabjax" else theirs(name, args, dtype, compiled == "compiled")
    )
    steps(2)
    if args.device == "gpu":
        steps(args.steps)  # clocks and caches
    print(json.dumps({"start": time.perf_counter() - begun}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        steps(args.steps)
        print(
            json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}),
            flush=True,
        )


def measure(name: str, args: argparse.Namespace) -> list[dict]:
    kinds = [("vtabjax", "float32", "eager"), ("torch", "float32", "eager")]
    if args.device == "gpu":
        kinds += [
            ("vtabjax", "bfloat16", "eager"),
            ("torch", "bfloat16", "eager"),
            ("torch", "bfloat16", "compiled"),
        ]
    rows = []
    options = [f"--{k}={getattr(args, k)}" for k in ("batch_size", "image_size", "steps", "device")]
    workers = []
    for kind in kinds:
        command = [sys.executable, __file__, "--side", ",".join((name, *kind)), *options]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        start = json.loads(workers[-1].stdout.readline())["start"]
        rows.append(
            {"model": name, "library": kind[0], "dtype": kind[1], "mode": kind[2], "start_seconds": start}
        )
    rounds: list[list[dict]] = [[] for _ in workers]
    for _ in range(args.rounds):
        for worker, found in zip(workers, rounds, strict=True):
            worker.stdin.write("\n")
            worker.stdin.flush()
            found.append(json.loads(worker.stdout.readline()))
    images = args.steps * args.batch_size
    for row, worker, found in zip(rows, workers, rounds, strict=True):
        worker.stdin.close()
        worker.wait()
        row["images_per_second"] = images / min(r["wall"] for r in found)
        row["images_per_cpu_second"] = images / min(r["cpu"] for r in found)
        row["rounds"] = found
        print(
            f"{name} {row['library']} {row['dtype']} {row['mode']}: {row['images_per_second']:.1f} images/s, "
            f"{row['images_per_cpu_second']:.1f} per CPU second",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args)
        return
    import importlib.metadata

    load = os.getloadavg()[0]  # of what else runs: above 0 the figures are a lower bound
    rows = [row for name in args.models.split(",") for row in measure(name, args)]
    record = {
        "command": "python benchmarks/finetune.py",
        "settings": {k: getattr(args, k) for k in ("batch_size", "image_size", "steps", "rounds", "device")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load_before": load},
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "torch", "timm")},
        "results": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"-> {args.out}")


if __name__ == "__main__":
    main()
