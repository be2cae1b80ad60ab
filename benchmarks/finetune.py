"""Training images/s of fine-tuning on CPUs, against a good PyTorch loop: python benchmarks/finetune.py

Both take the same steps: uint8 images that are in memory already, normalisation, forward, backward, SGD with momentum,
batch norm in training mode. PyTorch: timm's model in channels_last. Sides take turns; medians over the rounds, in wall
seconds and in CPU seconds of all threads. As main.py does, the side of vtabjax runs on huge pages (Linux).

A row is a model at an image size. Rows that the output has already, with the same settings on the same machine, are
kept, so that a long measurement can be made in pieces (--again measures them anew). On GPUs: benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import _alternate

MODELS = ("resnet18", "test_resnet", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0")
RESULT = _alternate.RESULTS / "finetune.json"


class Work(NamedTuple):
    """A round at one image size."""

    batch_size: int
    steps: int


WORK = {64: Work(batch_size=32, steps=10), 224: Work(batch_size=16, steps=6)}


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


def ours(name: str, size: int, batch_size: int):
    """A function that takes `n` steps and returns when they are done."""
    import converters
    from vtabjax import model
    from vtabjax.protocols import finetune

    graph, variables = converters.from_torch(build(name, size), (3, size, size))
    own = finetune.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=batch_size)
    parts = model.SavedModel(graph, variables, {"mean": [0.5] * 3, "std": [0.25] * 3})
    trainer = finetune.Trainer(finetune.trainable(parts, own), own, classes=100, capacity=1000)
    run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=100, seed=0)
    data, state = trainer.data(*images_and_labels(size, 100)), [trainer.initial_state()]

    def steps(n: int) -> None:
        state[0], *_ = trainer.train_steps(state[0], data, run, n)

    return steps


def theirs(name: str, size: int, batch_size: int):
    import torch

    trunk = build(name, size)
    module = torch.nn.Sequential(trunk, torch.nn.Linear(trunk.num_features, 100)).train()
    module = module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    images, labels = images_and_labels(size, 100)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels).long()

    def steps(n: int) -> None:
        for _ in range(n):
            index = torch.randperm(1000)[:batch_size]
            x = images[index].permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
            logits = module(x.contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits, labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()

    return steps


def side(name: str, library: str, size: int) -> None:
    work = WORK[size]

    def prepare():
        sys.path.insert(0, str(_alternate.ROOT))
        steps = (ours if library == "vtabjax" else theirs)(name, size, work.batch_size)
        return lambda: steps(work.steps)

    _alternate.serve(prepare)


def measure(name: str, size: int, rounds: int) -> list[dict]:
    """The rows of both libraries."""
    libraries = {"vtabjax": _alternate.HUGE_PAGES, "torch": {}}
    sides = [
        ([sys.executable, __file__, f"--side={name},{library},{size}"], environment)
        for library, environment in libraries.items()
    ]
    rows = []
    work = WORK[size]
    images = work.steps * work.batch_size
    for library, found in zip(libraries, _alternate.take_turns(sides, rounds), strict=True):
        rows.append(
            {"model": name, "library": library, "image_size": size, **work._asdict()}
            | {"images_per_second": images / found["wall"], "images_per_cpu_second": images / found["cpu"]}
            | found
        )
        print(
            f"{name} {size} {library}: {rows[-1]['images_per_second']:.1f} images/s, "
            f"{rows[-1]['images_per_cpu_second']:.1f} per CPU second",
            flush=True,
        )
    return rows


def kept(path: Path, record: dict, again: bool) -> list[dict]:
    """Rows of an earlier run that measured the same way on the same machine."""
    if again or not path.exists():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    same = all(before[k] == record[k] for k in ("versions", "settings"))
    same = same and before["machine"]["processor"] == record["machine"]["processor"]
    return before["results"] if same else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sizes", default=",".join(map(str, WORK)), help=f"of {', '.join(map(str, WORK))}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="measure rows that the output has already")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        name, library, size = args.side.split(",")
        side(name, library, int(size))
        return
    record = {
        **_alternate.environment("jax", "torch", "timm"),
        "settings": {"dtype": "float32", "device": "cpu", "rounds": args.rounds},
    }
    rows = kept(args.out, record, args.again)
    done = {(row["model"], row["image_size"]) for row in rows}
    for size in map(int, args.sizes.split(",")):
        for name in args.models.split(","):
            if (name, size) not in done:
                rows += measure(name, size, args.rounds)
                _alternate.write(args.out, record | {"results": rows})


if __name__ == "__main__":
    main()
