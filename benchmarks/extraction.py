"""Images/s of feature extraction against PyTorch and torchax: python benchmarks/extraction.py

    pip install -r requirements-bench.txt
    python benchmarks/extraction.py                                       # float32 on the CPU
    python benchmarks/extraction.py --device=gpu --dtype=bfloat16 --batch_size=128

Every side takes uint8 images in memory to float32 features in memory, normalisation included, in batches of the same
size, with as many threads as there are cores. PyTorch runs timm's own module in channels_last under inference_mode,
eagerly and compiled; torchax jits the same module through JAX. main.py runs on huge pages (Linux); so does "vtabjax",
and one of PyTorch's sides, because PyTorch gains from them, too, where somebody sets them.

A run adds its models to those in the file, if processor, versions and settings are the same: models can be measured
one at a time. Each processor has a file of its own, --out=benchmarks/results/extraction-NAME.json, and a section of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import _alternate
import numpy as np

MODELS = (
    "resnet50", "vit_small_patch16_224", "convnext_tiny", "efficientnet_b0", "swin_tiny_patch4_window7_224",
    "regnety_032", "mobilenetv3_large_100", "vit_small_patch14_dinov2",
)  # fmt: skip
SIDES = {  # name: environment
    "vtabjax": _alternate.HUGE_PAGES,
    "PyTorch eager": {},
    "PyTorch compiled": {},
    "PyTorch eager, huge pages": _alternate.HUGE_PAGES,
    "torchax": {},
}
MEAN, STD = 0.5, 0.25


def timm_model(name: str):
    sys.path.insert(0, str(_alternate.ROOT))
    from converters import _compat  # noqa: F401  (before timm, which imports torchvision)

    # isort: split
    import timm

    size = {"img_size": 224} if "dinov2" in name else {}  # made for 518
    return timm.create_model(name, num_classes=0, **size).eval()


def vtabjax(name: str, args: argparse.Namespace) -> Callable:
    module = timm_model(name)

    import converters
    from vtabjax import features, model

    graph, variables = converters.from_torch(module, (3, 224, 224))
    info = {"mean": [MEAN] * 3, "std": [STD] * 3, "input_size": [3, 224, 224]}
    return features.extractor(
        model.SavedModel(graph, variables, info), batch_size=args.batch_size, dtype=args.dtype
    )


def pytorch(name: str, args: argparse.Namespace, compiled: bool) -> Callable:
    module = timm_model(name)

    import torch

    device = "cuda" if args.device == "gpu" else "cpu"
    module = module.to(device, memory_format=torch.channels_last)
    module = torch.compile(module) if compiled else module

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = []
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, args.dtype == "bfloat16"):
            for start in range(0, len(images), args.batch_size):
                x = torch.from_numpy(images[start : start + args.batch_size]).to(device)
                x = x.permute(0, 3, 1, 2).float().div_(255).sub_(MEAN).div_(STD)
                found.append(module(x).float().cpu().numpy())
        return {"features": np.concatenate(found)}

    return run


def torchax(name: str, args: argparse.Namespace) -> Callable:
    module = timm_model(name)

    import jax
    import jax.numpy as jnp
    import torch

    # torchax 0.0.13 registers overloads that PyTorch 2.13 no longer has; nothing here calls them.
    packet = torch._ops.OpOverloadPacket
    original = packet.__getattr__

    def lenient(self, key):
        try:
            return original(self, key)
        except AttributeError:
            if key.startswith("__"):
                raise
            return object()

    packet.__getattr__ = lenient
    import torchax

    variables, function = torchax.extract_jax(module)
    variables = jax.tree.map(lambda v: v.astype(args.dtype) if v.dtype == jnp.float32 else v, variables)

    @jax.jit
    def step(variables, images):
        x = jnp.transpose((images.astype(jnp.float32) / 255 - MEAN) / STD, (0, 3, 1, 2)).astype(args.dtype)
        return function(variables, (x,)).astype(jnp.float32)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with jax.default_matmul_precision("float32"):
            parts = [
                step(variables, images[start : start + args.batch_size])
                for start in range(0, len(images), args.batch_size)
            ]
        return {"features": np.concatenate([np.asarray(p) for p in parts])}

    return run


def side(args: argparse.Namespace) -> None:
    name, kind = args.side.split(",", 1)

    def prepare() -> Callable[[], object]:
        if kind == "vtabjax":
            run = vtabjax(name, args)
        elif kind == "torchax":
            run = torchax(name, args)
        else:
            run = pytorch(name, args, kind == "PyTorch compiled")
        images = np.random.default_rng(0).integers(
            0, 256, (args.batches * args.batch_size, 224, 224, 3), np.uint8
        )
        return lambda: run(images)

    _alternate.serve(prepare)


def measure(name: str, args: argparse.Namespace) -> dict:
    options = [f"--{k}={getattr(args, k)}" for k in ("batch_size", "batches", "device", "dtype")]
    kinds = [k for k in args.sides.split(";") if args.device == "cpu" or "huge" not in k]
    commands = [
        ([sys.executable, __file__, "--side", f"{name},{kind}", *options], SIDES[kind]) for kind in kinds
    ]
    found = _alternate.take_turns(commands, args.rounds)
    rows = {}
    for kind, row in zip(kinds, found, strict=True):
        rows[kind] = {
            "images_per_second": args.batches * args.batch_size / row["wall"],
            "times_as_fast_as_this": row["wall"] / found[0]["wall"],
            **row,
        }
        print(
            f"{name}: {kind} {rows[kind]['images_per_second']:.1f} images/s, vtabjax is "
            f"{rows[kind]['times_as_fast_as_this']:.2f} times as fast, first call after {row['start_seconds']:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sides", default=";".join(SIDES), help="vtabjax first")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=3, help="batches per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--out", default=str(_alternate.RESULTS / "extraction.json"), help="one per processor"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args)
        return
    packages = ["jax", "torch", "timm", *(["torchax"] if "torchax" in args.sides else [])]
    record = {
        **_alternate.environment(*packages),
        "settings": {k: getattr(args, k) for k in ("batch_size", "batches", "rounds", "device", "dtype")},
        "results": {},
    }
    out = _alternate.Path(args.out)
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        if _about(before) == _about(record):  # models measured earlier stay
            record["results"] = before["results"]
    for name in args.models.split(","):
        record["results"][name] = measure(name, args)
        _alternate.write(out, record)


def _about(record: dict) -> list:
    """What has to be equal for two runs' figures to stand in one table."""
    return [
        record["machine"]["processor"],
        record["machine"]["cores"],
        record["versions"],
        record["settings"],
    ]


if __name__ == "__main__":
    main()
