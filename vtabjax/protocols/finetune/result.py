"""What fine-tuning found, and the error of a run that found nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class DivergedError(ValueError):
    """Training diverged wherever it was tried."""


class GridPoint(NamedTuple):
    """A grid point, trained on the training and evaluated on the validation examples.

    Attributes:
      learning_rate: initial learning rate.
      steps: number of steps.
      val_accuracy: None where it diverged.
      diverged_at: first step whose loss was not finite, or None.
      micro_batch: examples that passed through the model at once; None where it was not begun.
      epochs: its length in epochs, where that is what was asked for.
      early_val_accuracy: with ``halving``, the accuracy after the first part of the steps.
      weight_decay: see `Settings`.
      left_out: why it was not trained to its end: "halving" (others were better after the first part), "hours" (the
        time would not have sufficed), "" where it was.
    """

    learning_rate: float
    steps: int
    val_accuracy: float | None
    diverged_at: int | None
    micro_batch: int | None
    epochs: float | None = None
    early_val_accuracy: float | None = None
    weight_decay: float = 0.0
    left_out: str = ""


class Final(NamedTuple):
    """A retrained model on the test examples.

    Attributes:
      seed: of the order of the examples.
      learning_rate: initial learning rate.
      weight_decay: see `Settings`.
      steps: number of steps; with a length in epochs more than in the grid, as there are more examples.
      accuracy: on the test examples.
      correct: whether each was classified correctly, bool [N].
      confusion: how many of class i were taken for class j, int [K, K].
      calibration_error: by how much confidence and accuracy differ (`vtabjax.protocols.measures`).
      micro_batch: examples that passed through the model at once.
    """

    seed: int
    learning_rate: float
    weight_decay: float
    steps: int
    accuracy: float
    correct: np.ndarray
    confusion: np.ndarray
    calibration_error: float
    micro_batch: int


class Result(NamedTuple):
    """What the protocol found.

    Attributes:
      accuracy: test accuracy, the median over the seeds (of an even number of them the lower middle one, so that it
        is one run's).
      val_accuracy: the chosen grid point's.
      learning_rate: chosen.
      weight_decay: chosen.
      steps: chosen.
      correct: bool [N], of the median run.
      grid: every grid point.
      finals: every seed.
      trainable_parameters: number of weights that were trained, those of the task's head included.
      epochs: chosen, where the length was asked for in epochs.
      curves: a dict per point of the learning curves: run, step, learning_rate, loss and accuracy (means over the
        steps since the point before).
    """

    accuracy: float
    val_accuracy: float
    learning_rate: float
    weight_decay: float
    steps: int
    correct: np.ndarray
    grid: tuple[GridPoint, ...]
    finals: tuple[Final, ...]
    curves: list[dict[str, Any]]
    trainable_parameters: int
    epochs: float | None = None

    def __repr__(self) -> str:
        return (
            f"Result(accuracy={self.accuracy:.4g} of {len(self.correct):,} examples, "
            f"val_accuracy={self.val_accuracy:.4g}, learning_rate={self.learning_rate:g}, steps={self.steps}, "
            f"{len(self.grid)} grid points, {len(self.finals)} seeds)"
        )

    @property
    def median_run(self) -> Final:
        """The run whose accuracy is the result's."""
        return next(final for final in self.finals if final.accuracy == self.accuracy)
