"""GFLOP/s of single operators on CPUs, against PyTorch: python benchmarks/operators.py

    pip install -r requirements-bench.txt
    python benchmarks/operators.py

The operators in which the models of benchmarks/extraction.py spend most of their time, float32, batches of 16 images:
they say where XLA's product or convolution is the limit, and where it is not. Both sides have what depends on the
weight alone done beforehand, take turns, and work in the memory layout that is fastest for them, channels last.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import _alternate
import numpy as np

# By name: ("product", rows, inputs, outputs) or ("conv", pixels, inputs, outputs, kernel, groups).
SHAPES: dict[str, tuple] = {
    "MLP of ViT-S, 3,152 x 384 x 1,536": ("product", 3152, 384, 1536),
    "1 x 1 of ResNet-50, 14 x 14, 1,024 to 256": ("product", 3136, 1024, 256),
    "3 x 3 of ResNet-50, 56 x 56, 64 to 64": ("conv", 56, 64, 64, 3, 1),
    "3 x 3 of ResNet-50, 14 x 14, 256 to 256": ("conv", 14, 256, 256, 3, 1),
    "3 x 3 of RegNetY-032, 14 x 14, 24 groups of 24": ("conv", 14, 576, 576, 3, 24),
    "7 x 7 of ConvNeXt-T, 28 x 28, 192 groups of 1": ("conv", 28, 192, 192, 7, 192),
    "5 x 5 of EfficientNet-B0, 14 x 14, 672 groups of 1": ("conv", 14, 672, 672, 5, 672),
}
BATCH, REPEATS = 16, 10


def arrays(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(x, ATen's weight, additions and multiplications)."""
    rng = np.random.default_rng(0)
    kind, *sizes = SHAPES[name]
    if kind == "product":
        rows, inputs, outputs = sizes
        shapes, work = ((rows, inputs), (outputs, inputs)), 2 * rows * inputs * outputs
    else:
        pixels, inputs, outputs, kernel, groups = sizes
        shapes = (BATCH, pixels, pixels, inputs), (outputs, inputs // groups, kernel, kernel)
        work = 2 * BATCH * pixels**2 * int(np.prod(shapes[1]))
    x, weight = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, weight, work


def vtabjax(name: str) -> Callable[[], object]:
    sys.path.insert(0, str(_alternate.ROOT))
    import jax

    from vtabjax.model import hoist
    from vtabjax.ops import conv, linear_algebra, trials

    kind, *sizes = SHAPES[name]
    x, weight = map(jax.numpy.asarray, arrays(name)[:2])

    def function(weight: jax.Array, x: jax.Array) -> jax.Array:
        if kind == "product":
            return linear_algebra.linear(x, weight)
        return conv.conv_channels_last(x, weight, None, 1, weight.shape[-1] // 2, 1, sizes[-1])

    # As models of that kind are compiled, see vtabjax/model/compiling.py.
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    options |= {} if "ViT" in name else {"xla_cpu_experimental_ynn_fusion_type": ""}
    with trials.measured(options):
        first, rest = hoist.split(function, weight, x)
    prepared, step = jax.jit(first)(weight), jax.jit(rest, compiler_options=options)
    return lambda: step(prepared, x).block_until_ready()


def pytorch(name: str) -> Callable[[], object]:
    import torch

    kind, *sizes = SHAPES[name]
    x, weight, _ = arrays(name)
    x, weight = torch.from_numpy(x), torch.from_numpy(weight)
    if kind == "product":
        return torch.inference_mode()(lambda: torch.nn.functional.linear(x, weight))
    x, weight = x.permute(0, 3, 1, 2), weight.to(memory_format=torch.channels_last)
    pad, groups = weight.shape[-1] // 2, sizes[-1]
    return torch.inference_mode()(lambda: torch.nn.functional.conv2d(x, weight, None, 1, pad, 1, groups))


def side(which: str) -> None:
    """Rounds of all operators in turn, each with its seconds."""

    def prepare() -> Callable[[], object]:
        runs = {name: (vtabjax if which == "vtabjax" else pytorch)(name) for name in SHAPES}

        def run() -> _alternate.Values:
            taken = _alternate.Values()
            for name, one in runs.items():
                one()
                begun = time.perf_counter()
                for _ in range(REPEATS):
                    one()
                taken[name] = (time.perf_counter() - begun) / REPEATS
            return taken

        return run

    _alternate.serve(prepare)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default=str(_alternate.RESULTS / "operators.json"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side)
        return
    sides = ("vtabjax", "PyTorch eager")
    environments = (_alternate.HUGE_PAGES, {})
    commands = [
        ([sys.executable, __file__, f"--side={s}"], e) for s, e in zip(sides, environments, strict=True)
    ]
    record = {**_alternate.environment("jax", "torch"), "settings": {"rounds": args.rounds}}
    found = _alternate.take_turns(commands, args.rounds)
    record["results"] = {
        name: {
            s: {"gflops": arrays(name)[2] / f["values"][name] / 1e9, "seconds": f["values"][name]}
            for s, f in zip(sides, found, strict=True)
        }
        for name in SHAPES
    }
    for name, row in record["results"].items():
        print(name, {s: round(v["gflops"]) for s, v in row.items()})
    _alternate.write(_alternate.Path(args.out), record)


if __name__ == "__main__":
    main()
