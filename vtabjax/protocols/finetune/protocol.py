"""Fine-tuning on 1,000 examples: VTAB-1k's protocol (Zhai et al., arXiv 1910.04867).

A small grid is trained on train800, the point that is best on val200 is retrained on train800val200 and evaluated
once on the whole test split. SGD with momentum 0.9, no weight decay, no augmentation; a head of zeros on the
features; batch norm in training mode. docs/finetune.md has the whole story.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from vtabjax import results
from vtabjax.protocols.finetune.journal import Journal, Progress
from vtabjax.protocols.finetune.meter import Meter
from vtabjax.protocols.finetune.settings import Settings, schedule
from vtabjax.protocols.finetune.training import (
    STEPS_PER_CALL,
    State,
    Trainer,
    TrainingSet,
    plan,
)
from vtabjax.runtime import devices

# A call of the device is at most so long: what SIGTERM waits for, and progress.
_SECONDS_PER_CALL = 5.0
_CURVE_POINTS = 100

Examples = tuple[np.ndarray, np.ndarray]
T = TypeVar("T")


class DivergedError(ValueError):
    """Training diverged wherever it was tried."""


class GridPoint(NamedTuple):
    """A grid point, trained on the training and evaluated on the validation examples.

    Attributes:
      learning_rate: initial learning rate.
      steps: number of steps.
      val_accuracy: None where it diverged.
      diverged_at: first step whose loss was not finite, or None.
      micro_batch: examples that passed through the model at once.
    """

    learning_rate: float
    steps: int
    val_accuracy: float | None
    diverged_at: int | None
    micro_batch: int


class Final(NamedTuple):
    """A retrained model on the test examples.

    Attributes:
      seed: of the order of the examples.
      learning_rate: initial learning rate.
      steps: number of steps.
      accuracy: on the test examples.
      correct: whether each was classified correctly, bool [N].
      micro_batch: examples that passed through the model at once.
    """

    seed: int
    learning_rate: float
    steps: int
    accuracy: float
    correct: np.ndarray
    micro_batch: int


class Result(NamedTuple):
    """What the protocol found.

    Attributes:
      accuracy: test accuracy, the median over the seeds (of an even number of them the lower middle one, so that it
        is one run's).
      val_accuracy: the chosen grid point's.
      learning_rate: chosen.
      steps: chosen.
      correct: bool [N], of the median run.
      grid: every grid point.
      finals: every seed.
      curves: a dict per point of the learning curves: run, step, learning_rate, loss and accuracy (means over the
        steps since the point before).
    """

    accuracy: float
    val_accuracy: float
    learning_rate: float
    steps: int
    correct: np.ndarray
    grid: tuple[GridPoint, ...]
    finals: tuple[Final, ...]
    curves: list[dict]


def evaluate(
    trainer: Trainer,
    train: Examples,
    val: Examples,
    test: Examples | Callable[[], Examples],
    *,
    classes: int,
    journal: Journal | None = None,
    keep: Callable[[int, State], None] | None = None,
    label: str = "",
) -> Result:
    """Chooses on `val` after training on `train`, retrains on both, evaluates on `test`.

    Args:
      trainer: of the model, with room for train and val together.
      train: (inputs, labels).
      val: (inputs, labels).
      test: (inputs, labels), or a function that gives them when they are needed.
      classes: of the task.
      journal: where progress is kept; in memory by default.
      keep: called with (seed, state) for every retrained model, before its result is recorded.
      label: what the progress bar says.

    Raises:
      DivergedError: every grid point diverged, or every one that could have replaced a diverged retraining.
      ValueError: labels out of range, too many examples.
      SystemExit: the journal was told to stop; progress is saved.
    """
    settings = trainer.settings
    journal = Journal() if journal is None else journal
    curves: list[dict] = []
    points = list(itertools.product(settings.learning_rates, settings.steps))
    meter = Meter(
        sum(steps for _, steps in points) + len(settings.seeds) * max(settings.steps),
        settings.batch_size,
        label,
    )
    with meter:
        grid = []
        data = _Once(lambda: trainer.data(*train))
        for rate, steps in points:
            name = f"grid learning_rate={float(rate)!r} steps={steps}"
            record = journal.finished(name)
            if record is None:
                fitted = _fit(trainer, data(), name, rate, steps, classes, settings.seeds[0], journal, meter)
                accuracy = None
                if fitted.state is not None:
                    accuracy = float(np.mean(trainer.predict(fitted.state, val[0], classes) == val[1]))
                record = {
                    "val_accuracy": accuracy,
                    "diverged_at": fitted.diverged_at,
                    "micro_batch": trainer.micro_batch,
                    "curve": _curve(name, fitted, rate, steps, settings),
                }
                journal.finish(name, record)
                del fitted
            else:
                meter.skip(steps)
            curves += record["curve"]
            fields = (record[k] for k in ("val_accuracy", "diverged_at", "micro_batch"))
            grid.append(GridPoint(rate, steps, *fields))
        del data
        scored = [(p.val_accuracy, p) for p in grid if p.val_accuracy is not None]
        scored.sort(
            key=lambda pair: -pair[0]
        )  # stable: ties go to the point that comes first in the settings
        ranked = [p for _, p in scored]
        if not ranked:
            raise DivergedError(
                "every grid point diverged ("
                + "; ".join(f"learning rate {p.learning_rate:g} at step {p.diverged_at}" for p in grid)
                + "): give smaller finetune.learning_rates or a finetune.warmup"
            )
        meter.expect(len(settings.seeds) * (ranked[0].steps - max(settings.steps)))
        both = tuple(np.concatenate(pair) for pair in zip(train, val, strict=True))
        data, test_data = _Once(lambda: trainer.data(*both)), _Once(test if callable(test) else lambda: test)
        finals = []
        for seed in settings.seeds:
            final, curve = _final(trainer, data, test_data, ranked, seed, classes, journal, keep, meter)
            finals.append(final)
            curves += curve
    middle = statistics.median_low([f.accuracy for f in finals])
    best = next(f for f in finals if f.accuracy == middle)
    return Result(
        middle, scored[0][0], ranked[0].learning_rate, ranked[0].steps, best.correct, tuple(grid),
        tuple(finals), curves,
    )  # fmt: skip


def _final(
    trainer: Trainer,
    data: Callable[[], TrainingSet],
    test: Callable[[], Examples],
    ranked: Sequence[GridPoint],
    seed: int,
    classes: int,
    journal: Journal,
    keep: Callable[[int, State], None] | None,
    meter: Meter,
) -> tuple[Final, list[dict]]:
    """Retrains the best grid point; the next best where that diverges."""
    curves: list[dict] = []
    for point in ranked:
        name = f"final learning_rate={float(point.learning_rate)!r} steps={point.steps} seed={seed}"
        record = journal.finished(name)
        if record is None:
            fitted = _fit(
                trainer, data(), name, point.learning_rate, point.steps, classes, seed, journal, meter
            )
            packed = None
            if fitted.state is not None:
                if keep is not None:
                    keep(seed, fitted.state)
                meter.say(f"{name}: testing")
                inputs, labels = test()
                packed = results.pack(trainer.predict(fitted.state, inputs, classes) == labels)
            record = {
                "correct": packed,
                "micro_batch": trainer.micro_batch,
                "curve": _curve(name, fitted, point.learning_rate, point.steps, trainer.settings),
            }
            journal.finish(name, record)
            del fitted
        else:
            meter.skip(point.steps)
        curves += record["curve"]
        if record["correct"] is not None:
            correct = results.unpack(record["correct"])
            return (
                Final(
                    seed,
                    point.learning_rate,
                    point.steps,
                    float(correct.mean()),
                    correct,
                    record["micro_batch"],
                ),
                curves,
            )
    raise DivergedError(
        f"retraining with seed {seed} diverged at every grid point: give smaller finetune.learning_rates"
    )


class _Fitted(NamedTuple):
    state: State | None  # None: diverged
    losses: list[float]
    hits: list[float]
    diverged_at: int | None


def _fit(
    trainer: Trainer,
    data: TrainingSet,
    name: str,
    rate: float,
    steps: int,
    classes: int,
    seed: int,
    journal: Journal,
    meter: Meter,
) -> _Fitted:
    """Trains from the model as it came, or from where the journal says."""
    run = plan(trainer.settings, learning_rate=rate, steps=steps, classes=classes, seed=seed)
    position, n = None, 1  # the first call compiles
    while True:
        try:
            position = journal.restore(name, trainer) or Progress(trainer.start(), [], [])
            meter.run(name, len(position.losses))
            state, losses, hits = position
            del position  # the state is used up by the next call
            while len(losses) < steps:
                since = time.monotonic()
                n = min(n, steps - len(losses))
                state, loss, hit = trainer.advance(state, data, run, n)
                losses += loss.tolist()
                hits += hit.tolist()
                meter.step(len(loss), losses[-1])
                bad = np.flatnonzero(~np.isfinite(loss))
                if len(bad):
                    first = len(losses) - len(loss) + int(bad[0])
                    meter.say(f"{name}: diverged at step {first}")
                    meter.skip(steps - len(losses))
                    return _Fitted(None, losses[:first], hits[:first], first)
                if len(losses) < steps:
                    journal.checkpoint_if_due(name, Progress(state, losses, hits), trainer)
                n = _pace(n, time.monotonic() - since)
            return _Fitted(state, losses, hits, None)
        except (jax.errors.JaxRuntimeError, MemoryError) as e:
            if not devices.out_of_memory(e):
                raise
            before = trainer.micro_batch
            trainer.halve_micro_batch()
            meter.say(
                f"out of memory with {before} examples at once: going on with {trainer.micro_batch}; batch "
                "statistics are then those of each micro-batch"
            )


def _pace(n: int, seconds: float) -> int:
    """How many steps the next call takes. All processes must agree: with several it does not depend on clocks."""
    if jax.process_count() > 1:
        return 10
    return int(min(STEPS_PER_CALL, 4 * n, max(1, n * _SECONDS_PER_CALL / max(seconds, 1e-3))))


def _curve(name: str, fitted: _Fitted, rate: float, steps: int, settings: Settings) -> list[dict]:
    n = len(fitted.losses)
    ends = np.unique(np.linspace(0, n, min(n, _CURVE_POINTS) + 1).round().astype(int))
    boundaries = settings.boundaries(steps)
    return [
        {
            "run": name,
            "step": int(b),
            "learning_rate": _rounded(
                schedule(b - 1, rate, boundaries, settings.warmup, settings.decay_factor)
            ),
            "loss": float(np.mean(fitted.losses[a:b])),
            "accuracy": float(np.mean(fitted.hits[a:b])),
        }
        for a, b in itertools.pairwise(ends)
    ]


def _rounded(rate: Any) -> float:
    return float(f"{float(rate):.6g}")  # 0.1, not float32's 0.10000000149


class _Once(Generic[T]):
    """A function without arguments whose value is made once, when it is first asked for."""

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._made: list[T] = []

    def __call__(self) -> T:
        if not self._made:
            self._made.append(self._make())
        return self._made[0]
