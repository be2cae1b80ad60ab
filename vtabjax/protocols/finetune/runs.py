"""A training run from its first step to its last, whatever interrupts it."""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from vtabjax.protocols.finetune.journal import Journal, Progress
from vtabjax.protocols.finetune.meter import Meter
from vtabjax.protocols.finetune.plans import Schedule, plan, rate
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.protocols.finetune.training import STEPS_PER_CALL, State, Trainer, TrainingSet
from vtabjax.runtime import devices

# A call of the device is at most so long: what SIGTERM waits for, and progress.
_SECONDS_PER_CALL = 5.0
_CURVE_POINTS = 100


class Run(NamedTuple):
    """A training run, of the grid or of a seed.

    Attributes:
      name: its key in the journal.
      learning_rate: before warm-up and decay.
      weight_decay: see `Settings`.
      steps: its length, which the schedule goes by.
      seed: of the order of the examples.
      classes: of the task.
      warmup: steps of the warm-up.
      until: the step at which it ends: `steps`, or earlier where it may be given up.
    """

    name: str
    learning_rate: float
    weight_decay: float
    steps: int
    seed: int
    classes: int
    warmup: int
    until: int

    def plan(self, settings: Settings) -> Schedule:
        """The inputs of the compiled program."""
        return plan(
            settings,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            classes=self.classes,
            seed=self.seed,
            warmup=self.warmup,
        )


class Fitted(NamedTuple):
    """How a run ended.

    Attributes:
      state: None where it diverged.
      losses: of each step.
      hits: share of each step's examples that were right.
      diverged_at: first step whose loss was not finite, or None.
      seconds: that it took, interruptions left out.
    """

    state: State | None
    losses: list[float]
    hits: list[float]
    diverged_at: int | None
    seconds: float


def fit(
    run: Run,
    data: TrainingSet,
    trainer: Trainer,
    journal: Journal,
    meter: Meter,
    start: Progress | None = None,
) -> Fitted:
    """Trains from where the journal says; else from `start`, on the host; else from the model as it came.

    Raises:
      SystemExit: the journal was told to stop; progress is saved.
      ValueError: out of memory with the fewest examples at once.
    """
    name, run_plan = run.name, run.plan(trainer.settings)
    n = 1  # the first call compiles
    while True:
        try:
            position = journal.restore(name, trainer)
            if position is None:
                position = _beginning(trainer, start)
            meter.run(name, len(position.losses))
            began = time.monotonic() - position.seconds
            state, losses, hits = position[:3]
            del position  # the state is used up by the next call
            while len(losses) < run.until:
                since = time.monotonic()
                n = min(n, run.until - len(losses))
                state, new_losses, new_hits = trainer.train_steps(state, data, run_plan, n)
                losses += new_losses.tolist()
                hits += new_hits.tolist()
                meter.step(len(new_losses), losses[-1])
                bad = np.flatnonzero(~np.isfinite(new_losses))
                if len(bad):
                    first = len(losses) - len(new_losses) + int(bad[0])
                    meter.say(f"{name}: diverged at step {first}")
                    meter.skip(run.until - len(losses))
                    return Fitted(None, losses[:first], hits[:first], first, time.monotonic() - began)
                if len(losses) < run.until:
                    position = Progress(state, losses, hits, time.monotonic() - began)
                    journal.checkpoint_if_due(name, position, trainer)
                    del position
                n = _pace(n, time.monotonic() - since)
            return Fitted(state, losses, hits, None, time.monotonic() - began)
        except (jax.errors.JaxRuntimeError, MemoryError) as e:
            if not devices.out_of_memory(e):
                raise
            before = trainer.micro_batch
            trainer.halve_micro_batch()
            meter.say(
                f"out of memory with {before} examples at once: continuing with {trainer.micro_batch}; batch "
                "statistics are then those of each micro-batch"
            )


def _beginning(trainer: Trainer, start: Progress | None) -> Progress:
    if start is None:
        return Progress(trainer.initial_state(), [], [])
    return Progress(trainer.put(start.state), list(start.losses), list(start.hits), start.seconds)


def _pace(n: int, seconds: float) -> int:
    """How many steps the next call takes. All processes must agree: with several it does not depend on clocks."""
    if jax.process_count() > 1:
        return 10
    return int(min(STEPS_PER_CALL, 4 * n, max(1, n * _SECONDS_PER_CALL / max(seconds, 1e-3))))


def curve(run: Run, fitted: Fitted, settings: Settings) -> list[dict[str, Any]]:
    """Points of the learning curve, as in `Result.curves`."""
    run_plan = run.plan(settings)
    n = len(fitted.losses)
    ends = np.unique(np.linspace(0, n, min(n, _CURVE_POINTS) + 1).round().astype(int))

    def learning_rate(step: int) -> float:
        return float(f"{float(rate(settings, run_plan, step)):.6g}")  # 0.1, not float32's 0.10000000149

    return [
        {
            "run": run.name,
            "step": int(end),
            "learning_rate": learning_rate(end - 1),
            "loss": float(np.mean(fitted.losses[begin:end])),
            "accuracy": float(np.mean(fitted.hits[begin:end])),
        }
        for begin, end in itertools.pairwise(ends)
    ]
