"""Training images/s of fine-tuning, against a good PyTorch loop on the same device: python benchmarks/finetune.py

Both take the same steps: uint8 images that are on the device already, normalisation, forward, backward, SGD with
momentum, batch norm in training mode. PyTorch: timm's model in channels_last; on a GPU also bfloat16 autocast and
torch.compile. Sides take turns; medians over the rounds, in wall seconds and in CPU seconds of all threads. As main.py
does, the side of vtabjax runs on huge pages (Linux).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _alternate

MODELS = ("resnet18", "test_resnet", "vit_tiny_patch16_224")
RESULT = _alternate.RESULTS / "finetune.json"


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
    parts = model.SavedModel(graph, variables, {"mean": [0.5] * 3, "std": [0.25] * 3})
    trainer = finetune.Trainer(finetune.trainable(parts, own), own, classes=100, capacity=1000)
    run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=100, seed=0)
    data, state = trainer.data(*images_and_labels(size, 100)), [trainer.initial_state()]

    def steps(n: int) -> None:
        for start in range(0, n, finetune.STEPS_PER_CALL):
            state[0], *_ = trainer.train_steps(state[0], data, run, min(finetune.STEPS_PER_CALL, n - start))

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
    name, kind, dtype, compiled = args.side.split(",")

    def prepare():
        sys.path.insert(0, str(_alternate.ROOT))
        if kind == "vtabjax":
            steps = ours(name, args, dtype)
        else:
            steps = theirs(name, args, dtype, compiled == "compiled")
        if args.device == "gpu":
            steps(args.steps)  # clocks and caches
        return lambda: steps(args.steps)

    _alternate.serve(prepare)


def measure(name: str, args: argparse.Namespace) -> list[dict]:
    kinds = [("vtabjax", "float32", "eager"), ("torch", "float32", "eager")]
    if args.device == "gpu":
        kinds += [
            ("vtabjax", "bfloat16", "eager"),
            ("torch", "bfloat16", "eager"),
            ("torch", "bfloat16", "compiled"),
        ]
    options = [f"--{k}={getattr(args, k)}" for k in ("batch_size", "image_size", "steps", "device")]
    sides = [
        (
            [sys.executable, __file__, "--side", ",".join((name, *kind)), *options],
            _alternate.HUGE_PAGES if kind[0] == "vtabjax" else {},
        )
        for kind in kinds
    ]
    rows = []
    images = args.steps * args.batch_size
    for kind, found in zip(kinds, _alternate.take_turns(sides, args.rounds), strict=True):
        rows.append(
            {"model": name, "library": kind[0], "dtype": kind[1], "mode": kind[2]}
            | {"images_per_second": images / found["wall"], "images_per_cpu_second": images / found["cpu"]}
            | found
        )
        print(
            f"{name} {' '.join(kind)}: {rows[-1]['images_per_second']:.1f} images/s, "
            f"{rows[-1]['images_per_cpu_second']:.1f} per CPU second",
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
    record = {
        **_alternate.environment("jax", "torch", "timm"),
        "settings": {k: getattr(args, k) for k in ("batch_size", "image_size", "steps", "rounds", "device")},
        "results": [row for name in args.models.split(",") for row in measure(name, args)],
    }
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
