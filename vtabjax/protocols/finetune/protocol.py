"""Fine-tuning on 1,000 examples: VTAB-1k's protocol (Zhai et al., arXiv 1910.04867).

A small grid is trained on train800, the point that is best on val200 is retrained on train800val200 and evaluated
once on the whole test split. SGD with momentum 0.9, no weight decay, no augmentation; a head of zeros on the
features; batch norm in training mode. docs/finetune.md has the whole story.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vtabjax import results
from vtabjax.protocols import measures
from vtabjax.protocols.finetune.journal import Journal, Progress
from vtabjax.protocols.finetune.meter import Meter
from vtabjax.protocols.finetune.plans import Schedule, plan, rate
from vtabjax.protocols.finetune.result import DivergedError, Final, GridPoint, Result
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.protocols.finetune.training import STEPS_PER_CALL, State, Trainer, TrainingSet, averaged
from vtabjax.runtime import devices

# A call of the device is at most so long: what SIGTERM waits for, and progress.
_SECONDS_PER_CALL = 5.0
_CURVE_POINTS = 100

Examples = tuple[np.ndarray, np.ndarray]


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
    meter = Meter(
        sum(steps for _, steps in _grid(settings)) + len(settings.seeds) * max(settings.steps),
        settings.batch_size,
        label,
    )
    protocol = _Protocol(trainer, classes, Journal() if journal is None else journal, meter, keep)
    with meter:
        grid = protocol.train_grid(train, val)
        ranked = _ranked(grid)
        meter.expect(len(settings.seeds) * (ranked[0].steps - max(settings.steps)))
        finals = protocol.retrain(ranked, train, val, test)
    middle = statistics.median_low([f.accuracy for f in finals])
    return Result(
        accuracy=middle,
        val_accuracy=max(p.val_accuracy for p in grid if p.val_accuracy is not None),
        learning_rate=ranked[0].learning_rate,
        steps=ranked[0].steps,
        correct=next(f.correct for f in finals if f.accuracy == middle),
        grid=tuple(grid),
        finals=tuple(finals),
        curves=protocol.curves,
    )


def _grid(settings: Settings) -> list[tuple[float, int]]:
    return list(itertools.product(settings.learning_rates, settings.steps))


def _ranked(grid: Sequence[GridPoint]) -> list[GridPoint]:
    """The points at which training did not diverge, the best on the validation examples first."""
    scored = [(p.val_accuracy, p) for p in grid if p.val_accuracy is not None]
    if not scored:
        raise DivergedError(
            "every grid point diverged ("
            + "; ".join(f"learning rate {p.learning_rate:g} at step {p.diverged_at}" for p in grid)
            + "): give smaller finetune.learning_rates or a finetune.warmup"
        )
    # Stable: ties go to the point that comes first in the settings.
    return [p for _, p in sorted(scored, key=lambda pair: -pair[0])]


class _Run(NamedTuple):
    """One training run, of the grid or of a seed; its name is its key in the journal."""

    name: str
    learning_rate: float
    steps: int
    seed: int


class _Fitted(NamedTuple):
    state: State | None  # None: diverged
    losses: list[float]
    hits: list[float]
    diverged_at: int | None


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """The protocol for one model on one task; see `evaluate` for the fields."""

    trainer: Trainer
    classes: int
    journal: Journal
    meter: Meter
    keep: Callable[[int, State], None] | None
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def train_grid(self, train: Examples, val: Examples) -> list[GridPoint]:
        """Every grid point, trained on `train` and evaluated on `val`."""
        data = functools.cache(lambda: self.trainer.data(*train))
        return [self.grid_point(data, val, rate, steps) for rate, steps in _grid(self.trainer.settings)]

    def grid_point(
        self, data: Callable[[], TrainingSet], val: Examples, learning_rate: float, steps: int
    ) -> GridPoint:
        """One point of the grid."""
        name = f"grid learning_rate={float(learning_rate)!r} steps={steps}"
        run = _Run(name, learning_rate, steps, self.trainer.settings.seeds[0])

        def val_accuracy(state: State) -> float:
            return float(np.mean(self.trainer.predict(state, val[0], self.classes) == val[1]))

        record = self._recorded(run, data, "val_accuracy", val_accuracy)
        return GridPoint(
            learning_rate, steps, record["val_accuracy"], record["diverged_at"], record["micro_batch"]
        )

    def retrain(
        self,
        ranked: Sequence[GridPoint],
        train: Examples,
        val: Examples,
        test: Examples | Callable[[], Examples],
    ) -> list[Final]:
        """The best grid point, trained on `train` and `val` and evaluated on `test`, once for every seed."""
        both = tuple(np.concatenate(pair) for pair in zip(train, val, strict=True))
        data = functools.cache(lambda: self.trainer.data(*both))
        test_data = functools.cache(test if callable(test) else lambda: test)
        return [self.final(data, test_data, ranked, seed) for seed in self.trainer.settings.seeds]

    def final(
        self,
        data: Callable[[], TrainingSet],
        test: Callable[[], Examples],
        ranked: Sequence[GridPoint],
        seed: int,
    ) -> Final:
        """The best grid point with one seed; the next best where that diverges."""
        for point in ranked:
            name = f"final learning_rate={float(point.learning_rate)!r} steps={point.steps} seed={seed}"

            def tested(state: State, name: str = name) -> dict[str, Any]:
                if self.keep is not None:
                    self.keep(seed, averaged(state))
                self.meter.say(f"{name}: testing")
                inputs, labels = test()
                predictions, confidence = self.trainer.classify(state, inputs, self.classes)
                correct = predictions == labels
                return {
                    "correct": results.pack(correct),
                    "confusion": results.pack_confusion(
                        measures.confusion_matrix(labels, predictions, self.classes)
                    ),
                    "calibration_error": measures.expected_calibration_error(confidence, correct),
                }

            run = _Run(name, point.learning_rate, point.steps, seed)
            record = self._recorded(run, data, "test", tested)
            if record["test"] is not None:
                correct = results.unpack(record["test"]["correct"])
                return Final(
                    seed=seed,
                    learning_rate=point.learning_rate,
                    steps=point.steps,
                    accuracy=float(correct.mean()),
                    correct=correct,
                    confusion=results.unpack_confusion(record["test"]["confusion"]),
                    calibration_error=record["test"]["calibration_error"],
                    micro_batch=record["micro_batch"],
                )
        raise DivergedError(
            f"retraining with seed {seed} diverged at every grid point: give smaller finetune.learning_rates"
        )

    def _recorded(
        self, run: _Run, data: Callable[[], TrainingSet], measure: str, measured: Callable[[State], Any]
    ) -> dict[str, Any]:
        """The journal's record of a run, which is trained and measured first where there is none.

        Args:
          run: the run.
          data: its training examples.
          measure: what the record calls the measurement; None where the run diverged.
          measured: trained state -> the measurement, JSON-able.
        """
        record = self.journal.finished(run.name)
        if record is None:
            fitted = self._fit(run, data())
            record = {
                measure: None if fitted.state is None else measured(fitted.state),
                "diverged_at": fitted.diverged_at,
                "micro_batch": self.trainer.micro_batch,
                "curve": _curve(run, fitted, self.trainer.settings, self._plan(run)),
            }
            self.journal.finish(run.name, record)
        else:
            self.meter.skip(run.steps)
        self.curves.extend(record["curve"])
        return record

    def _plan(self, run: _Run) -> Schedule:
        return plan(
            self.trainer.settings,
            learning_rate=run.learning_rate,
            steps=run.steps,
            classes=self.classes,
            seed=run.seed,
        )

    def _fit(self, run: _Run, data: TrainingSet) -> _Fitted:
        """Trains from the model as it came, or from where the journal says."""
        trainer, name = self.trainer, run.name
        run_plan = self._plan(run)
        n = 1  # the first call compiles
        while True:
            try:
                position = self.journal.restore(name, trainer)
                if position is None:
                    position = Progress(trainer.initial_state(), [], [])
                self.meter.run(name, len(position.losses))
                state, losses, hits = position
                del position  # the state is used up by the next call
                while len(losses) < run.steps:
                    since = time.monotonic()
                    n = min(n, run.steps - len(losses))
                    state, new_losses, new_hits = trainer.train_steps(state, data, run_plan, n)
                    losses += new_losses.tolist()
                    hits += new_hits.tolist()
                    self.meter.step(len(new_losses), losses[-1])
                    bad = np.flatnonzero(~np.isfinite(new_losses))
                    if len(bad):
                        first = len(losses) - len(new_losses) + int(bad[0])
                        self.meter.say(f"{name}: diverged at step {first}")
                        self.meter.skip(run.steps - len(losses))
                        return _Fitted(None, losses[:first], hits[:first], first)
                    if len(losses) < run.steps:
                        self.journal.checkpoint_if_due(name, Progress(state, losses, hits), trainer)
                    n = _pace(n, time.monotonic() - since)
                return _Fitted(state, losses, hits, None)
            except (jax.errors.JaxRuntimeError, MemoryError) as e:
                if not devices.out_of_memory(e):
                    raise
                before = trainer.micro_batch
                trainer.halve_micro_batch()
                self.meter.say(
                    f"out of memory with {before} examples at once: continuing with {trainer.micro_batch}; batch "
                    "statistics are then those of each micro-batch"
                )


def _pace(n: int, seconds: float) -> int:
    """How many steps the next call takes. All processes must agree: with several it does not depend on clocks."""
    if jax.process_count() > 1:
        return 10
    return int(min(STEPS_PER_CALL, 4 * n, max(1, n * _SECONDS_PER_CALL / max(seconds, 1e-3))))


def _curve(run: _Run, fitted: _Fitted, settings: Settings, run_plan: Schedule) -> list[dict[str, Any]]:
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
