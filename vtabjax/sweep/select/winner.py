"""The fine-tuned winner: trained once more as its result was, and written for JAX and for PyTorch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import results
from vtabjax.results import Cell
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


def is_there(workdir: Path, about: Mapping[str, Any]) -> bool:
    """Whether the winner's folder is complete, and of this winner as it was measured."""
    try:
        return json.loads((folder(workdir) / FILE).read_text(encoding="utf-8"))["about"] == about
    except (OSError, ValueError, KeyError, TypeError):
        return False


def about(model: str, winner_on: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a winner's folder depends on: the model, its examples, and the results that chose how it is trained."""
    chosen = {
        task: [r["config_hash"], r["weight_hash"], r["metrics"]["accuracy"]] for task, r in records.items()
    }
    return {"model": model, "winner_on": winner_on, "results": chosen}


def train(config: Any, workdir: Path, model: str, record: Mapping[str, Any]) -> Trained:
    """The model that a result of fine-tuning is about, on one task.

    Training is repeated with the learning rate, steps and seed that were chosen, unless the result's models were kept
    (config.finetune.save). It is a cell in a workdir of its own, ``select/training``, so that the experiment's results
    stay what they are.

    Args:
      config: see configs/select.py.
      workdir: the experiment's folder.
      model: its spec.
      record: the result.

    Raises:
      RuntimeError: training has failed.
    """
    task = record["task"]
    final = next(f for f in record["chosen"]["seeds"] if f["accuracy"] == record["metrics"]["accuracy"])
    kept = [Path(p) for p in record["chosen"].get("models", ()) if Path(p).name == f"seed{final['seed']}"]
    if kept and (workdir / kept[0] / "model.json").exists():
        return _kept(workdir, workdir / kept[0], record, final, record["metrics"]["accuracy"])
    place = workdir / _TRAINING
    _share_cache(workdir, place)
    again = settings.stage_config(config, "finetune", [model])
    again.tasks, again.retry_failed = task, True
    again.models_dir = str(worker.models_dir(_options(again), workdir).absolute())
    again.cache_dir = str(Path(worker.image_cache(_options(again), workdir)).absolute())
    f = again.finetune
    f.learning_rates, f.steps, f.seeds = repr(final["learning_rate"]), str(final["steps"]), str(final["seed"])
    f.save = True
    state = runner.work(plan.read(again), place, None)
    cell: Cell = state.cells[0]
    found = results.find(cell, place)
    if found is None:
        failure = results.read(cell.error_path(place)) or {"message": "it was interrupted"}
        raise RuntimeError(f"{model} could not be trained again on {task}: {failure['message']}")
    made = place / found["chosen"]["models"][0]
    return _kept(workdir, made, record, final, found["metrics"]["accuracy"])


def _options(config: Any) -> Any:
    return plan.read(config).run


def _share_cache(workdir: Path, place: Path) -> None:
    """Lets the workdir within the workdir use the programs that are compiled already."""
    if processes.is_first() and not files.is_remote(workdir) and not os.path.lexists(place / "cache"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "cache").symlink_to(os.path.relpath(workdir / "cache", place), target_is_directory=True)


def _kept(
    workdir: Path, made: Path, record: Mapping[str, Any], final: Mapping[str, Any], accuracy: float
) -> Trained:
    """Puts a fine-tuned model into the winner's folder, as an artefact and as safetensors."""
    from vtabjax import model

    parts = model.load_parts(made)
    name = results.file_name(record["task"])
    target = folder(workdir)
    if processes.is_first():
        with files.replacing_folder(target / name) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
        _export(parts, target / f"{name}.safetensors")
    return Trained(
        record["task"],
        record,
        final,
        accuracy,
        f"{name}.safetensors",
        name,
        parts.info,
        (*parts.graph.variables,),
    )


def _export(parts: Any, path: Path) -> None:
    """Writes the state_dict for PyTorch."""
    from safetensors.numpy import save_file

    from vtabjax import model

    with files.replacing(path) as temporary:
        save_file(model.to_state_dict(parts), temporary, metadata={"format": "pt"})


def finish(workdir: Path, on: Mapping[str, Any], card: str) -> None:
    """Writes the card and, last, what says that the folder is complete; removes what other winners left."""
    target = folder(workdir)
    files.write_text(target / "README.md", card)
    names = {results.file_name(task) for task in on["results"]}
    keep = {"README.md", FILE, *names, *(f"{name}.safetensors" for name in names)}
    for path in target.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = json.dumps({"about": dict(on), "files": sorted(keep)}, indent=1) + "\n"
    files.write_text(target / FILE, text)
    shutil.rmtree(workdir / _TRAINING, ignore_errors=True)
