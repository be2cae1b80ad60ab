"""The fine-tuned winner: trained once more as its result was, and written for JAX and for PyTorch."""

from __future__ import annotations

import collections
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import integrity, results
from vtabjax.options import UsageError
from vtabjax.runtime import files, processes
from vtabjax.sweep import plan, runner, worker
from vtabjax.sweep.select import settings

FILE = "winner.json"
_TRAINING = "select/training"  # a workdir within the workdir, until the winner is complete


class Trained(NamedTuple):
    """A fine-tuned model.

    Attributes:
      task: what for.
      record: its result: the cell of the last stage.
      final: the run that gave the result's accuracy: seed, learning_rate, steps, accuracy.
      accuracy: on the test examples, of the model that is kept; None where it was trained on these, too.
      weights: the safetensors file, relative to the winner's folder.
      artefact: the folder that `vtabjax.model.load` opens, relative to the winner's folder.
      info: the artefact's model.json.
      names: of the state_dict's tensors.
    """

    task: str
    record: Mapping[str, Any]
    final: Mapping[str, Any]
    accuracy: float | None
    weights: str
    artefact: str
    info: Mapping[str, Any]
    names: tuple[str, ...]


def folder(workdir: Path) -> Path:
    """Where the winner is."""
    return workdir / "select" / "winner"


def there(workdir: Path, on: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[Trained]:
    """The winner that is in its folder; [] where that is another one, or not complete.

    Args:
      workdir: the experiment's folder.
      on: see `about`.
      records: task -> the winner's result.
    """
    try:
        written = json.loads((folder(workdir) / FILE).read_text(encoding="utf-8"))
        if written["about"] != on:
            return []
        accuracies = written["accuracy"]
        return [_there(workdir, record, accuracies[task]) for task, record in records.items()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def about_there(workdir: Path) -> dict[str, Any] | None:
    """What the winner's folder says that it holds (see `about`); None where there is none, or it is not complete."""
    try:
        return dict(json.loads((folder(workdir) / FILE).read_text(encoding="utf-8"))["about"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _there(workdir: Path, record: Mapping[str, Any], accuracy: float | None) -> Trained:
    from vtabjax.graph import Graph

    name = results.file_name(record["task"])
    graph, info = integrity.read(folder(workdir) / name)
    names = (*Graph.from_json(graph.decode("utf-8")).variables,)
    return Trained(record["task"], record, final(record), accuracy, f"{name}.safetensors", name, info, names)


def final(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The training run that gave a result its accuracy: its seed, learning rate and steps."""
    return next(f for f in record["chosen"]["seeds"] if f["accuracy"] == record["metrics"]["accuracy"])


def about(model: str, winner_on: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a winner's folder depends on: the model, its examples, and the results that chose how it is trained."""
    chosen = {
        task: [r["config_hash"], r["weight_hash"], r["metrics"]["accuracy"]] for task, r in records.items()
    }
    return {"model": model, "winner_on": winner_on, "results": chosen}


def train(
    config: Any,
    workdir: Path,
    model: str,
    records: Mapping[str, Mapping[str, Any]],
    on_all: bool = False,
) -> list[Trained]:
    """The models that results of fine-tuning are about.

    Training is repeated with the learning rate, steps and seed that were chosen, unless the results' models were kept
    (config.finetune.save). These are cells in a workdir of its own, ``select/training``, so that the experiment's
    results stay what they are; tasks with the same choice share a compiled program.

    Args:
      config: see configs/select.py.
      workdir: the experiment's folder.
      model: its spec.
      records: task -> the result.
      on_all: train on the test examples, too; then nothing is left to measure it with.

    Raises:
      UsageError: training has failed.
    """
    made: dict[str, Trained] = {}
    alike: dict[tuple[float, float, int, int], list[str]] = collections.defaultdict(list)
    for task, record in records.items():
        chosen = final(record)
        kept = [p for p in record["chosen"].get("models", ()) if Path(p).name == f"seed{chosen['seed']}"]
        if kept and not on_all and (workdir / kept[0] / "model.json").exists():
            made[task] = _kept(workdir, workdir / kept[0], record, record["metrics"]["accuracy"])
        else:
            point = (chosen["learning_rate"], chosen["weight_decay"], chosen["steps"], chosen["seed"])
            alike[point].append(task)
    place = workdir / _TRAINING
    for (rate, decay, steps, seed), names in alike.items():
        _share_cache(workdir, place)
        again = settings.stage_config(config, "finetune", [model])
        again.tasks, again.retry_failed = ",".join(names), True
        again.models_dir = str(worker.models_dir(_options(again), workdir).absolute())
        again.cache_dir = str(Path(worker.image_cache(_options(again), workdir)).absolute())
        own = again.finetune
        own.learning_rates, own.weight_decay, own.steps = repr(rate), repr(decay), str(steps)
        if own.epochs:  # the same run in steps, whatever the number of examples
            epochs = records[names[0]]["chosen"]["epochs"]
            own.warmup, own.warmup_epochs, own.epochs = round(own.warmup_epochs / epochs * steps), 0.0, ""
        own.seeds, own.save = str(seed), True
        asked = plan.read(again)
        if on_all:
            asked = asked._replace(settings={**asked.settings, "examples": "all"})
        for cell in runner.work(asked, place, None).cells:
            found = results.find(cell, place)
            if found is None:
                failure = results.read(cell.error_path(place)) or {"message": "it was interrupted"}
                raise UsageError(f"{model} could not be trained again on {cell.task}: {failure['message']}")
            accuracy = None if on_all else found["metrics"]["accuracy"]
            made[cell.task] = _kept(
                workdir, place / found["chosen"]["models"][0], records[cell.task], accuracy
            )
    return [made[task] for task in records]


def _options(config: Any) -> Any:
    return plan.read(config).run


def _share_cache(workdir: Path, place: Path) -> None:
    """Lets the workdir within the workdir use the programs that are compiled already."""
    if processes.is_first() and not files.is_remote(workdir) and not os.path.lexists(place / "cache"):
        for needed in (place, workdir / "cache"):
            needed.mkdir(parents=True, exist_ok=True)
        (place / "cache").symlink_to(os.path.relpath(workdir / "cache", place), target_is_directory=True)


def _kept(workdir: Path, made: Path, record: Mapping[str, Any], accuracy: float | None) -> Trained:
    """Puts a fine-tuned model into the winner's folder, as an artefact and as safetensors."""
    from vtabjax import model

    if processes.is_first():
        name, target = results.file_name(record["task"]), folder(workdir)
        with files.replacing_folder(target / name) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
        _export(model.load_parts(made), target / f"{name}.safetensors")
    processes.gather(None)  # the others wait until it is there
    return _there(workdir, record, accuracy)


def _export(parts: Any, path: Path) -> None:
    """Writes the state_dict for PyTorch."""
    from safetensors.numpy import save_file

    from vtabjax import model

    with files.replacing(path) as temporary:
        save_file(model.to_state_dict(parts), temporary, metadata={"format": "pt"})


def finish(workdir: Path, on: Mapping[str, Any], models: Sequence[Trained], card: str) -> None:
    """Writes the card and, last, what says that the folder is complete; removes what other winners left."""
    target = folder(workdir)
    names = [m.artefact for m in models] + [m.weights for m in models]
    for path in target.iterdir():
        if path.name not in {"README.md", FILE, *names}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _write(target / "README.md", card)
    about = {"about": dict(on), "accuracy": {m.task: m.accuracy for m in models}, "files": sorted(names)}
    _write(target / FILE, json.dumps(about, indent=1) + "\n")
    shutil.rmtree(workdir / _TRAINING, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
