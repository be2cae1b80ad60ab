"""What recomputing activations saves and costs in a step of fine-tuning: python benchmarks/remat.py

For each model and dtype: keeping everything, `finetune.remat` (products with weights and convolutions are kept, what
lies between them is computed again) and computing everything again. "Temporary bytes" are what XLA plans for a step
beyond weights, optimizer and examples; seconds are medians of steps that take turns. On whatever device JAX has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import _alternate
import jax
import numpy as np
from _gpu_sides import jax_parts

from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import backbone as backbones

POLICIES = ("keep all", "finetune.remat", "recompute all")
EDGE, CLASSES, EXAMPLES = 224, 100, 64


def one_step(name: str, dtype: str, policy: str, batch: int) -> tuple[Callable[[], float], int]:
    """A function that takes a step and returns its seconds; temporary bytes of the compiled step."""
    own = finetune.Settings(
        learning_rates=(0.01,),
        steps=(100,),
        batch_size=batch,
        dtype=dtype,
        remat=policy == "finetune.remat",
    )
    below = backbones.trainable(jax_parts(name, EDGE), own)
    if policy == "recompute all":
        below = below._replace(forward=jax.checkpoint(below.forward, static_argnums=3))
    trainer = finetune.Trainer(below, own, classes=CLASSES, capacity=EXAMPLES)
    plan = finetune.plan(own, learning_rate=0.01, steps=100, classes=CLASSES, seed=0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, EDGE, EDGE, 3), np.uint8)
    data = trainer.data(images, rng.integers(0, CLASSES, EXAMPLES).astype(np.int32))
    state = [trainer.initial_state()]
    with jax.default_matmul_precision("float32"):
        step = jax.jit(trainer._one_step, donate_argnums=0, compiler_options=below.compiler_options)
        compiled = step.lower(state[0], trainer._frozen, data, plan).compile()

    def run() -> float:
        begun = time.perf_counter()
        state[0], loss, _ = compiled(state[0], trainer._frozen, data, plan)
        loss.block_until_ready()
        return time.perf_counter() - begun

    return run, compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet18,vit_tiny_patch16_224,convnext_atto")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=_alternate.RESULTS / "remat.json")
    args = parser.parse_args()
    record = {**_alternate.environment("jax", "timm"), "device": jax.devices()[0].device_kind, "rows": {}}
    for name in args.models.split(","):
        for dtype in args.dtypes.split(","):
            made = {policy: one_step(name, dtype, policy, args.batch) for policy in POLICIES}
            seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            for _ in range(args.rounds + 1):
                for policy, (run, _) in made.items():
                    seconds[policy].append(run())
            rows = record["rows"].setdefault(name, {})
            rows[dtype] = {
                policy: {
                    "seconds": statistics.median(seconds[policy][1:]),
                    "temporary_bytes": made[policy][1],
                }
                for policy in POLICIES
            }
            print(name, dtype, rows[dtype], flush=True)
            _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
