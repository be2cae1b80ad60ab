"""Fine-tuning on 1,000 examples: VTAB-1k's protocol (Zhai et al., arXiv 1910.04867).

A small grid is trained on train800, the point that is best on val200 is retrained on train800val200 and evaluated
once on the whole test split. By default SGD with momentum 0.9, no weight decay, no augmentation; a head of zeros on
the features; batch norm in training mode. docs/finetune.md has the whole story.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vtabjax import results
from vtabjax.protocols import measures
from vtabjax.protocols.finetune.journal import Journal, Progress, any_process
from vtabjax.protocols.finetune.meter import Meter
from vtabjax.protocols.finetune.result import DivergedError, Final, GridPoint, Result
from vtabjax.protocols.finetune.runs import Fitted, Run, curve, fit
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.protocols.finetune.training import State, Trainer, TrainingSet, averaged

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
    settings, sizes = trainer.settings, (len(train[1]), len(train[1]) + len(val[1]))
    longest = max(p.steps for p in _points(settings, sizes[1]))
    meter = Meter(
        sum(p.steps for p in _points(settings, sizes[0])) + len(settings.seeds) * longest,
        settings.batch_size,
        label,
    )
    journal = Journal() if journal is None else journal
    protocol = _Protocol(trainer, classes, sizes, journal, meter, keep)
    with meter:
        grid = protocol.train_grid(train, val)
        ranked = _ranked(grid)
        meter.expect(len(settings.seeds) * (protocol.final_steps(ranked[0]) - longest))
        finals = protocol.retrain(ranked, train, val, test)
    middle = statistics.median_low([f.accuracy for f in finals])
    return Result(
        accuracy=middle,
        val_accuracy=max(p.val_accuracy for p in grid if p.val_accuracy is not None),
        learning_rate=ranked[0].learning_rate,
        weight_decay=ranked[0].weight_decay,
        steps=ranked[0].steps,
        epochs=ranked[0].epochs,
        correct=next(f.correct for f in finals if f.accuracy == middle),
        grid=tuple(grid),
        finals=tuple(finals),
        curves=protocol.curves,
        trainable_parameters=trainer.trainable_parameters(classes),
    )


def _points(settings: Settings, examples: int) -> list[GridPoint]:
    """The grid for so many training examples, nothing of it trained yet."""
    lengths: list[tuple[int, float | None]] = [(n, None) for n in settings.steps]
    lengths = [(settings.steps_in(e, examples), e) for e in settings.epochs] or lengths
    return [
        GridPoint(learning_rate, steps, None, None, None, epochs, weight_decay=weight_decay)
        for learning_rate, weight_decay, (steps, epochs) in itertools.product(
            settings.learning_rates, settings.weight_decay, lengths
        )
    ]


def _ranked(grid: Sequence[GridPoint]) -> list[GridPoint]:
    """The points at which training did not diverge, the best on the validation examples first."""
    scored = [(p.val_accuracy, p) for p in grid if p.val_accuracy is not None]
    if not scored:
        raise DivergedError(
            "every grid point diverged ("
            + "; ".join(
                f"learning rate {p.learning_rate:g} at step {p.diverged_at}"
                for p in grid
                if p.diverged_at is not None
            )
            + "): give smaller finetune.learning_rates or a finetune.warmup"
        )
    # Stable: ties go to the point that comes first in the settings.
    return [p for _, p in sorted(scored, key=lambda pair: -pair[0])]


def _name(point: GridPoint, steps: int | None = None, stage: str = "grid") -> str:
    """The key of a grid point's run in the journal."""
    decay = f" weight_decay={float(point.weight_decay)!r}" if point.weight_decay else ""
    return f"{stage} learning_rate={float(point.learning_rate)!r}{decay} steps={steps or point.steps}"


def _early_rank(point: GridPoint) -> float:
    return math.inf if point.early_val_accuracy is None else -point.early_val_accuracy


@dataclasses.dataclass
class _Spent:
    """Steps taken and the seconds that they took, as the journal has them."""

    steps: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """The protocol for one model on one task; see `evaluate` for the other fields.

    Attributes:
      examples: numbers of training examples, in the grid and in the retraining.
      curves: of all runs so far.
      spent: of all runs so far.
      early: name of a run of the grid -> where it stood after its first part, on the host; of the best so far.
    """

    trainer: Trainer
    classes: int
    examples: tuple[int, int]
    journal: Journal
    meter: Meter
    keep: Callable[[int, State], None] | None
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    spent: _Spent = dataclasses.field(default_factory=_Spent)
    early: dict[str, Progress] = dataclasses.field(default_factory=dict)

    def train_grid(self, train: Examples, val: Examples) -> list[GridPoint]:
        """Every grid point, trained on `train` and evaluated on `val`.

        With ``halving`` only the best after their first part are trained to their end, the best of them first; with
        ``hours`` only as many as there is time for. At least one is trained to its end unless all diverge.
        """
        settings = self.trainer.settings
        data = functools.cache(lambda: self.trainer.data(*train))
        points = order = _points(settings, self.examples[0])
        wanted = len(points)
        if settings.halving and len(points) > 1:
            wanted = max(1, len(points) // settings.halving)
            points = self._first_parts(points, data, val, wanted)
            # Stable: ties go to the point that comes first in the settings.
            order = sorted(points, key=_early_rank)
        found: dict[GridPoint, GridPoint] = {}
        for point in order:
            ended = [p for p in found.values() if not p.left_out]
            scored = any(p.val_accuracy is not None for p in ended)
            if point.left_out:
                found[point] = point
            elif point.diverged_at is not None:
                found[point] = point
                self.meter.expect(-point.steps)
            elif scored and len(ended) >= wanted:
                found[point] = point._replace(left_out="halving")
                self.meter.expect(-point.steps)
            elif scored and not self._in_time(point.steps):
                found[point] = self._too_late(point)
            else:
                found[point] = self.grid_point(data, val, point)
        self.early.clear()
        return [found[point] for point in points]

    def _first_parts(
        self, points: Sequence[GridPoint], data: Callable[[], TrainingSet], val: Examples, wanted: int
    ) -> list[GridPoint]:
        """The grid points after 1/halving of their steps; states of the best `wanted` stay in memory."""
        found: list[GridPoint] = []
        for point in points:
            until = math.ceil(point.steps / self.trainer.settings.halving)
            if any(p.early_val_accuracy is not None for p in found) and not self._in_time(until):
                found.append(self._too_late(point))
                continue
            self.meter.expect(until)

            def val_accuracy(fitted: Fitted, name: str = _name(point)) -> float:
                assert fitted.state is not None
                self.early[name] = Progress(jax.device_get(fitted.state), fitted.losses, fitted.hits)
                return self._accuracy(fitted, val)

            run = self._run(point, f"{_name(point)} until={until}", until)
            record = self._recorded(run, data, "val_accuracy", val_accuracy)
            found.append(
                point._replace(
                    early_val_accuracy=record["val_accuracy"],
                    diverged_at=record["diverged_at"],
                    micro_batch=record["micro_batch"],
                )
            )
            best = {_name(p) for p in sorted(found, key=_early_rank)[:wanted]}
            for name in self.early.keys() - best:
                del self.early[name]
        return found

    def grid_point(self, data: Callable[[], TrainingSet], val: Examples, point: GridPoint) -> GridPoint:
        """One point of the grid, trained to its end."""
        run = self._run(point, _name(point), point.steps)
        record = self._recorded(
            run, data, "val_accuracy", lambda fitted: self._accuracy(fitted, val), self.early.get(run.name)
        )
        return point._replace(
            val_accuracy=record["val_accuracy"],
            diverged_at=record["diverged_at"],
            micro_batch=record["micro_batch"],
        )

    def _run(self, point: GridPoint, name: str, until: int) -> Run:
        settings = self.trainer.settings
        warmup = settings.warmup_steps(self.examples[0])
        return Run(
            name,
            point.learning_rate,
            point.weight_decay,
            point.steps,
            settings.seeds[0],
            self.classes,
            warmup,
            until,
        )

    def _accuracy(self, fitted: Fitted, examples: Examples) -> float:
        assert fitted.state is not None
        return float(np.mean(self.trainer.predict(fitted.state, examples[0], self.classes) == examples[1]))

    def _too_late(self, point: GridPoint) -> GridPoint:
        hours = self.trainer.settings.hours
        self.meter.say(f"{_name(point)}: left out, finetune.hours={hours:g} would not suffice")
        self.meter.expect(-point.steps)
        return point._replace(left_out="hours")

    def _in_time(self, steps: int) -> bool:
        """Whether there is time for so many steps and the retraining, by the speed so far."""
        settings, spent = self.trainer.settings, self.spent
        if not settings.hours or not spent.steps:
            return True
        steps += len(settings.seeds) * max(p.steps for p in _points(settings, self.examples[1]))
        fits = spent.seconds * (1 + steps / spent.steps) <= 3600 * settings.hours
        return not any_process(not fits, False)[0]

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

    def final_steps(self, point: GridPoint) -> int:
        """How many steps the retraining at a grid point takes."""
        if point.epochs is None:
            return point.steps
        return self.trainer.settings.steps_in(point.epochs, self.examples[1])

    def final(
        self,
        data: Callable[[], TrainingSet],
        test: Callable[[], Examples],
        ranked: Sequence[GridPoint],
        seed: int,
    ) -> Final:
        """The best grid point with one seed; the next best where that diverges."""
        for point in ranked:
            steps = self.final_steps(point)
            name = f"{_name(point, steps, 'final')} seed={seed}"

            def tested(fitted: Fitted, name: str = name) -> dict[str, Any]:
                state = fitted.state
                assert state is not None
                if self.keep is not None:
                    self.keep(seed, averaged(state))
                self.meter.doing(f"{name}: testing")
                inputs, labels = test()
                predictions, confidence = self.trainer.classify(state, inputs, self.classes)
                correct = predictions == labels
                return {
                    "correct": results.pack_correct(correct),
                    "confusion": results.pack_confusion(
                        measures.confusion_matrix(labels, predictions, self.classes)
                    ),
                    "calibration_error": measures.expected_calibration_error(confidence, correct),
                }

            warmup = self.trainer.settings.warmup_steps(self.examples[1])
            run = Run(name, point.learning_rate, point.weight_decay, steps, seed, self.classes, warmup, steps)
            record = self._recorded(run, data, "test", tested)
            if record["test"] is not None:
                correct = results.unpack(record["test"]["correct"])
                return Final(
                    seed=seed,
                    learning_rate=point.learning_rate,
                    weight_decay=point.weight_decay,
                    steps=steps,
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
        self,
        run: Run,
        data: Callable[[], TrainingSet],
        measure: str,
        measured: Callable[[Fitted], Any],
        start: Progress | None = None,
    ) -> dict[str, Any]:
        """The journal's record of a run, which is trained and measured first where there is none.

        Args:
          run: the run.
          data: its training examples.
          measure: what the record calls the measurement; None where the run diverged.
          measured: a run that has ended -> the measurement, JSON-able.
          start: where it begins, on the host; None for the model as it came.
        """
        record = self.journal.finished(run.name)
        if record is None:
            fitted = fit(run, data(), self.trainer, self.journal, self.meter, start)
            since = time.monotonic()
            record = {
                measure: None if fitted.state is None else measured(fitted),
                "diverged_at": fitted.diverged_at,
                "micro_batch": self.trainer.micro_batch,
                "steps": len(fitted.losses) - (len(start.losses) if start else 0),
                "curve": curve(run, fitted, self.trainer.settings),
            }
            record["seconds"] = fitted.seconds + time.monotonic() - since
            self.journal.finish(run.name, record)
        else:
            self.meter.skip(run.until)
        self.curves.extend(record["curve"])
        self.spent.steps += record["steps"]
        self.spent.seconds += record["seconds"]
        return record
