"""From labels and predictions to what a result says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtabjax.protocols import Outcome, measures


def outcome(
    metrics: Mapping[str, Any],
    labels: np.ndarray,
    predictions: np.ndarray,
    n_classes: int,
    *,
    confidence: np.ndarray | None = None,
    chosen: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Outcome:
    """An outcome with what follows from labels int [N] and predictions int [N].

    It adds the metrics "balanced_accuracy", "interval" (of the accuracy, 95 %, Wilson) and, with the predicted classes'
    probabilities `confidence` [N], "calibration_error".
    """
    confusion = measures.confusion_matrix(labels, predictions, n_classes)
    correct = np.asarray(predictions) == labels
    error = None if confidence is None else measures.expected_calibration_error(confidence, correct)
    return assembled(metrics, correct, confusion, error, chosen=chosen, notes=notes)


def with_groups(outcome: Outcome, groups: np.ndarray | None) -> Outcome:
    """The outcome with an interval that draws groups int [N], where there are some: examples of one belong together."""
    from vtabjax.ranking import resampling

    if groups is None or outcome.correct is None:
        return outcome
    interval = resampling.group_interval(outcome.correct, groups)
    return dataclasses.replace(outcome, metrics={**outcome.metrics, "interval": list(interval)})


def assembled(
    metrics: Mapping[str, Any],
    correct: np.ndarray,
    confusion: np.ndarray,
    calibration_error: float | None,
    *,
    chosen: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Outcome:
    """`outcome` where the predictions themselves were not kept."""
    from vtabjax.ranking import resampling

    accuracy = correct.mean()
    low, high = resampling.wilson(accuracy, np.asarray(len(correct)))
    further: dict[str, Any] = {
        "balanced_accuracy": measures.balanced_accuracy(confusion),
        "interval": [
            float(max(0, min(low, accuracy))),
            float(min(1, max(high, accuracy))),
        ],  # rounding at 0 and 1
    }
    if calibration_error is not None:
        further["calibration_error"] = calibration_error
    return Outcome({**metrics, **further}, correct, chosen or {}, notes or {}, confusion)
