"""The numbers of the fine-tuning protocol: settings, and the learning-rate schedule."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

SAMPLING = ("epoch", "replacement")
SCOPES = ("all", "head")
DTYPES = ("float32", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what fine-tuning computes. The defaults are VTAB's lightweight sweep.

    Attributes:
      learning_rates: candidates; with `steps` they span the grid.
      steps: candidates for the number of steps.
      batch_size: examples per step, over all devices.
      momentum: of SGD (no Nesterov, no weight decay).
      decay_at: fractions of the steps after which the learning rate is multiplied by `decay_factor`.
      decay_factor: see `decay_at`.
      warmup: steps in which the learning rate rises linearly from 0.
      sampling: "epoch": every example once before any comes again; "replacement": each drawn independently.
      scope: "all" trains every weight, "head" a linear layer on the features of the model as it is.
      seeds: of the order of the examples. The choice on the validation set is made with the first one; the chosen
        point is retrained and tested with each.
      dtype: what the model computes in; parameters, running statistics and the head stay float32 ("float64":
        everything in float64, under ``jax.enable_x64``).
      micro_batch: examples that pass through the model at once, or 0 for the whole batch. Gradients are summed, so
        the step is the batch's; batch statistics are those of each micro-batch.
      remat: compute activations again in the backward pass instead of keeping them (less memory, ~1/3 slower).

    Raises:
      ValueError: a value that makes no sense; the message has the field, the value, the way out.
    """

    learning_rates: tuple[float, ...] = (0.1, 0.01)
    steps: tuple[int, ...] = (2500, 10000)
    batch_size: int = 512
    momentum: float = 0.9
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay_factor: float = 0.1
    warmup: int = 0
    sampling: str = "epoch"
    scope: str = "all"
    seeds: tuple[int, ...] = (0,)
    dtype: str = "float32"
    micro_batch: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        def check(fine: bool, field: str, wanted: str) -> None:
            if not fine:
                raise ValueError(f"finetune.{field}={getattr(self, field)!r}: {wanted}")

        rates = self.learning_rates
        check(bool(rates) and all(0 < r < math.inf for r in rates), "learning_rates", "give positive numbers")
        check(bool(self.steps) and all(n >= 1 for n in self.steps), "steps", "give numbers of at least 1")
        check(self.batch_size >= 1, "batch_size", "it must be at least 1")
        check(0 <= self.momentum < 1, "momentum", "it must be at least 0 and below 1")
        check(all(0 < f < 1 for f in self.decay_at), "decay_at", "give fractions between 0 and 1")
        check(
            list(self.decay_at) == sorted(self.decay_at), "decay_at", "give the fractions in ascending order"
        )
        check(0 < self.decay_factor <= 1, "decay_factor", "it must be above 0 and at most 1")
        check(0 <= self.warmup <= min(self.steps), "warmup", "it must be between 0 and the smallest of steps")
        check(self.sampling in SAMPLING, "sampling", f"choose {' or '.join(SAMPLING)}")
        check(self.scope in SCOPES, "scope", f"choose {' or '.join(SCOPES)}")
        check(
            bool(self.seeds)
            and all(0 <= s < 2**31 for s in self.seeds)
            and len(set(self.seeds)) == len(self.seeds),
            "seeds",
            "give distinct whole numbers, 0 or larger",
        )
        check(self.dtype in DTYPES, "dtype", f"choose {' or '.join(DTYPES)}")
        check(
            self.micro_batch >= 0 and self.batch_size % (self.micro_batch or 1) == 0,
            "micro_batch",
            f"it must divide batch_size={self.batch_size}, or be 0 for the whole batch",
        )
        # Positions in the stream of examples are 32-bit numbers on every device.
        check(
            max(self.steps) * self.batch_size < 2**31, "steps", f"too many for batch_size={self.batch_size}"
        )

    @property
    def param_dtype(self) -> Any:
        """dtype of parameters, running statistics, head and loss."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def boundaries(self, total: int) -> np.ndarray:
        """Steps after which the learning rate of a run of `total` steps drops, int32 [len(decay_at)]."""
        return np.asarray([math.floor(f * total + 1e-9) for f in self.decay_at], np.int32)


def schedule(
    step: ArrayLike,
    base: ArrayLike,
    boundaries: ArrayLike,
    warmup: ArrayLike = 0,
    factor: float = 0.1,
) -> jax.Array:
    """The learning rate at a step, as in VTAB's released code (github.com/google-research/task_adaptation).

    ``base * step / warmup`` while ``step < warmup``; then ``base * factor**k`` with k the number of boundaries
    *below* the step: like TensorFlow's piecewise constant, a boundary belongs to the piece before it, so that the
    drop at 750 shows from step 751 on. Boundaries are not shifted by the warm-up.

    Args:
      step: number of the step, from 0.
      base: the learning rate.
      boundaries: steps, ascending, [K].
      warmup: number of steps of the warm-up.
      factor: what each boundary multiplies by.
    """
    base = jnp.asarray(base)
    drops = jnp.sum(jnp.asarray(step) > jnp.asarray(boundaries))
    decayed = base * jnp.asarray(factor, base.dtype) ** drops
    rising = base * jnp.asarray(step, base.dtype) / jnp.maximum(warmup, 1).astype(base.dtype)
    return jnp.where(jnp.asarray(step) < warmup, rising, decayed)
