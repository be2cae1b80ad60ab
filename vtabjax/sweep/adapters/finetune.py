"""Fine-tuning as a cell of a sweep: settings from a config, examples and weights in, an outcome and files out.

A cell's files are in its own folder (`CellContext.folder`): progress.json (and, in the middle of a run, a
checkpoint), curves.jsonl, and with ``finetune.save`` the fine-tuned models, ``seed0`` and so on. What a cell with the
first of its seeds has found is taken over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vtabjax import __version__, model, options, results, tasks
from vtabjax.protocols import Outcome, finetune
from vtabjax.protocols.finetune import head, layers
from vtabjax.runtime import files, processes
from vtabjax.specs import pooling
from vtabjax.sweep.adapters import _classified, _seeds

if TYPE_CHECKING:
    from vtabjax.sweep.inputs import CellContext

_Examples = tuple[np.ndarray, np.ndarray]  # inputs, labels

# The training examples of VTAB-1k: every task of a run shares a program that has room for so many.
_CAPACITY = 1000
_FIELDS = {f.name: f.default for f in dataclasses.fields(finetune.Settings)}


def settings(config: Any) -> dict[str, Any]:
    """The settings of a config that change a cell's numbers.

    Raises:
      ValueError: a field that makes no sense: its name, its value, the way out.
    """
    if config.suite == "vtab_full":
        raise ValueError(
            "configs/finetune.py:vtab_full: fine-tuning is for the 1,000 examples of VTAB-1k, which stay on the "
            "device; choose the suite vtab or mini"
        )
    given = options.read(options.FinetuneOptions, config, "finetune")
    values = {n: config.dtype if n == "dtype" else getattr(given, n) for n in _FIELDS}
    try:
        checked = finetune.Settings(**values)
    except ValueError as e:
        raise ValueError(f"config.{e}") from e
    return {
        **{k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(checked).items()},
        "splits": ["train800", "val200", "test"],
        "save": given.save,
    }


def run(inputs: CellContext, settings: Mapping[str, Any]) -> Outcome:
    """Runs the protocol on one (model, task).

    Raises:
      finetune.DivergedError: there was no grid point at which training did not diverge.
    """
    own, task, converted = _settings(settings), tasks.get(inputs.task), inputs.loaded
    folder = inputs.folder
    with finetune.catch_sigterm() as stop:
        train, val, test = _examples(inputs, own, settings["splits"])
        if settings.get("examples") == "all":  # a model to be used, not measured: see sweep/select/winner.py
            val = (np.concatenate([val[0], test()[0]]), np.concatenate([val[1], test()[1]]))
        with inputs.stages("load"):
            trainer = _trainer(inputs, own, task, capacity=max(_CAPACITY, len(train[1]) + len(val[1])))
        journal = finetune.Journal(folder, _identity(inputs, settings), stop, inputs.say)
        _seeds.take_over(inputs, journal, lambda other: _identity(inputs, other))
        inputs.seconds_before = journal.seconds_before

        def keep(seed: int, state: finetune.State) -> None:
            _save(inputs.parts, state, task, folder / f"seed{seed}", inputs, own)

        seen_before = trainer.seen
        result = finetune.evaluate(
            trainer,
            train,
            val,
            test,
            classes=task.num_classes,
            journal=journal,
            keep=keep if settings["save"] else None,
            label=f"{inputs.cell.model} {inputs.task}",
        )
        converted.seen += trainer.seen - seen_before
        # Everything was in the journal: the record names its examples still.
        if "test" not in inputs.fingerprints:
            test()
    if processes.is_first():
        files.write_text(folder / "curves.jsonl", "".join(json.dumps(p) + "\n" for p in result.curves))
    chosen = _chosen(
        result, trainer.micro_batch, folder.relative_to(converted.sweep.workdir), settings["save"]
    )
    metrics = {"accuracy": result.accuracy, "val_accuracy": result.val_accuracy}
    tested = result.median_run
    return _classified.assembled(
        metrics,
        tested.correct,
        tested.confusion,
        tested.calibration_error,
        chosen=chosen,
        notes=_notes(own, trainer, result),
    )


def _settings(settings: Mapping[str, Any]) -> finetune.Settings:
    """A cell's settings, as they come from JSON, for the protocol."""
    values: dict[str, Any] = {
        k: tuple(settings[k]) if isinstance(default, tuple) else settings[k] for k, default in _FIELDS.items()
    }
    return finetune.Settings(**values)


def _examples(
    inputs: CellContext, own: finetune.Settings, splits: Sequence[str]
) -> tuple[_Examples, _Examples, Callable[[], _Examples]]:
    """Training, validation and test examples (those when they are needed): images, or features for a head alone."""
    if own.scope != "head":
        train, val = (inputs.examples(name) for name in splits[:2])
        return (train.images, train.labels), (val.images, val.labels), _Ahead(inputs)

    def features(name: str) -> _Examples:
        split = inputs.split(name)
        return split.features, split.labels

    return features(splits[0]), features(splits[1]), lambda: features("test")


def _identity(inputs: CellContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's training runs depend on: a journal of other runs is not used."""
    return {
        "settings": dict(settings),
        "weights": inputs.loaded.info["weight_hash"],
        "graph": inputs.loaded.info["graph_hash"],
        "data": dict(inputs.fingerprints),
        "version": __version__,
        "record": 3,  # what the journal keeps of a run
        **({"features": inputs.output} if inputs.output != pooling.NATIVE else {}),
    }


def _chosen(result: finetune.Result, micro_batch: int, folder: Path, save: bool) -> dict[str, Any]:
    """What the record says about the choice; `folder` is the cell's, relative to the sweep's."""
    models = [str(folder / f"seed{final.seed}") for final in result.finals] if save else []
    return {
        "learning_rate": result.learning_rate,
        "weight_decay": result.weight_decay,
        "steps": result.steps,
        **({} if result.epochs is None else {"epochs": result.epochs}),
        "trainable_parameters": result.trainable_parameters,
        "grid": [point._asdict() for point in result.grid],
        "seeds": [_seed(final, len(result.finals) > 1) for final in result.finals],
        "micro_batch": micro_batch,
        "curves": str(folder / "curves.jsonl"),
        **({"models": models} if models else {}),
    }


def _seed(final: finetune.Final, one_of_several: bool) -> dict[str, Any]:
    """What the record says of a seed: which examples were right only where the record itself is about another one."""
    kept = {k: v for k, v in final._asdict().items() if k not in ("correct", "confusion")}
    return kept | ({"correct": results.pack_correct(final.correct)} if one_of_several else {})


def _notes(own: finetune.Settings, trainer: finetune.Trainer, result: finetune.Result) -> dict[str, str]:
    """What differs from what was asked for, and what had to be guessed."""
    notes, wanted = {}, own.micro_batch or own.batch_size
    if trainer.micro_batch != wanted:
        notes["micro_batch"] = (
            f"out of memory with {wanted} examples at once: continued with {trainer.micro_batch}, and batch "
            "statistics are those of each micro-batch"
        )
    if left := sum(point.left_out == "hours" for point in result.grid):
        notes["hours"] = f"{left} of {len(result.grid)} grid points left out: finetune.hours={own.hours:g}"
    if trainer.below:
        notes["frozen"] = (
            f"computed once for all steps: {trainer.below.share:.0%} of the operations of a pass"
        )
    if own.layer_decay != 1 and own.scope != "head":
        notes["layer_decay"] = layers.describe(trainer.backbone.layers_above)
    return notes


def _trainer(
    inputs: CellContext, own: finetune.Settings, task: tasks.Task, capacity: int
) -> finetune.Trainer:
    """The trainer of a model's features, compiled once for all of its tasks."""
    converted, width = inputs.loaded, _head_width(task)
    sweep = converted.sweep

    def make() -> finetune.Trainer:
        if own.scope != "head":
            backbone = finetune.trainable(inputs.parts, own, _layers_above(inputs, own))
        else:
            backbone = finetune.precomputed(pooling.width(inputs.output, converted.info), own)
        return finetune.Trainer(
            backbone,
            own,
            classes=width,
            capacity=capacity,
            mesh=sweep.mesh,
            eval_batch=sweep.options.batch_size,
        )

    return converted.memo(("finetune", inputs.output, own, width, capacity), make)


def _layers_above(inputs: CellContext, own: finetune.Settings) -> dict[str, int] | None:
    """By the graph as it was converted: that of other features (``#pool=avg``) no longer knows its blocks."""
    return layers.layers_above(inputs.loaded.parts.graph, inputs.output) if own.layer_decay != 1 else None


def _head_width(task: tasks.Task) -> int:
    """As wide as the widest task that may share a run, so that all of them share a program."""
    if task.name in tasks.EMBEDDED:
        return max(tasks.get(name).num_classes for name in tasks.EMBEDDED)
    return max(task.num_classes, *(tasks.get(name).num_classes for name in tasks.VTAB))


def _save(
    parts: model.SavedModel,
    state: finetune.State,
    task: tasks.Task,
    path: Path,
    inputs: CellContext,
    own: finetune.Settings,
) -> None:
    """Writes a fine-tuned model as an artefact, its head cut to the task's classes."""
    if not processes.is_first():
        return
    state = jax.device_get(state)
    trained, buffers = ({k: np.asarray(v) for k, v in of.items()} for of in (state.backbone, state.buffers))
    weight, bias = (np.asarray(state.head[k])[: task.num_classes] for k in ("weight", "bias"))
    info = {
        "finetuned": {"task": inputs.task, "settings": dataclasses.asdict(own)},
        "pretrained_weight_hash": parts.info["weight_hash"],
        "parity": None,
    }
    model.save(path, *head.with_head(finetune.finished(parts, own, trained), buffers, weight, bias, info))


class _Ahead:
    """The test examples, decoded by a thread while the grid is trained."""

    def __init__(self, inputs: CellContext):
        self._inputs = inputs
        self._thread = threading.Thread(target=self._read, name="test examples", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        given = self._inputs
        with contextlib.suppress(Exception):  # raised again where the examples are used, in all processes
            given.loaded.pictures(given.task, "test")

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        with self._inputs.stages("data"):
            self._thread.join()
        examples = self._inputs.examples("test")  # remembered by the run; this charges and records it
        return examples.images, examples.labels
