"""A training run as inputs of the compiled program (learning rate, schedule, length), and the examples of a step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vtabjax.protocols.finetune.settings import Settings


class Schedule(NamedTuple):
    """What distinguishes one run from another; see `plan`."""

    learning_rate: ArrayLike
    weight_decay: ArrayLike
    boundaries: ArrayLike
    warmup: ArrayLike
    steps: ArrayLike
    classes: ArrayLike
    key: ArrayLike  # raw, uint32 [2]


def plan(
    settings: Settings,
    *,
    learning_rate: float,
    steps: int,
    classes: int,
    seed: int,
    warmup: int | None = None,
    weight_decay: float | None = None,
) -> Schedule:
    """The inputs of a run of `steps` steps.

    Args:
      settings: for the schedule's shape and the dtype.
      learning_rate: before warm-up and decay.
      steps: length of the run, which places the decays.
      classes: of the task; logits beyond are masked.
      seed: of the order of the examples.
      warmup: steps of the warm-up; the settings' by default.
      weight_decay: the settings' first by default.
    """
    return Schedule(
        settings.param_dtype.type(learning_rate),
        settings.param_dtype.type(settings.weight_decay[0] if weight_decay is None else weight_decay),
        settings.boundaries(steps),
        np.int32(settings.warmup if warmup is None else warmup),
        np.int32(steps),
        np.int32(classes),
        np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))),
    )


def rate(settings: Settings, plan: Schedule, step: ArrayLike) -> jax.Array:
    """The learning rate at a step of a run.

    All schedules rise linearly from 0 at step 0 to the learning rate at step `warmup`. Then "piecewise" is
    `schedule`; "constant" stays; "cosine" falls to 0 at the end (Loshchilov and Hutter, arXiv 1608.03983, without
    restarts): ``learning_rate / 2 * (1 + cos(pi * (step - warmup) / (steps - warmup)))``.
    """
    base = jnp.asarray(plan.learning_rate)
    if settings.schedule != "cosine":
        drops = plan.boundaries if settings.schedule == "piecewise" else np.zeros(0, np.int32)
        return schedule(step, base, drops, plan.warmup, settings.decay_factor)
    left = jnp.maximum(jnp.asarray(plan.steps) - plan.warmup, 1).astype(base.dtype)
    done = jnp.clip((jnp.asarray(step) - plan.warmup).astype(base.dtype) / left, 0, 1)
    falling = base * (1 + jnp.cos(jnp.pi * done)) / 2
    return schedule(step, falling, np.zeros(0, np.int32), plan.warmup)


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


def sample(
    raw_key: ArrayLike, step: jax.Array, count: jax.Array, *, size: int, batch: int, sampling: str
) -> jax.Array:
    """Which examples make up the batch of a step, int32 [batch]: a function of the key and the step alone.

    "epoch" cuts an endless sequence of permutations of the examples into batches, so that a batch may hold the end
    of one epoch and the beginning of the next.

    Args:
      raw_key: uint32 [2].
      step: number of the step.
      count: number of examples N.
      size: an upper bound of N; it is static and does not change the result.
      batch: size of the batch.
      sampling: "epoch" or "replacement".
    """
    key = jax.random.wrap_key_data(jnp.asarray(raw_key), impl="threefry2x32")
    if sampling == "replacement":
        return jax.random.randint(jax.random.fold_in(key, step), (batch,), 0, count)
    position = step * batch + jnp.arange(batch, dtype=jnp.int32)
    epoch, offset = position // count, position % count
    place = jnp.arange(size, dtype=jnp.uint32)

    def fill(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        e, index = carry
        noise = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, e), i)))(place)
        # Whatever is beyond the examples sorts last.
        order = jnp.lexsort((noise, place >= count.astype(jnp.uint32)))
        return e + 1, jnp.where(epoch == e, order[offset].astype(jnp.int32), index)

    # A loop over the epochs in the batch: usually two, more when the batch is larger than the data set.
    return jax.lax.while_loop(lambda c: c[0] <= epoch[-1], fill, (epoch[0], jnp.zeros(batch, jnp.int32)))[1]
