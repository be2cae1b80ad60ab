"""A whole model: ``file//path/model.pt2``, saved by torch.export.save, or ``file//path/to/converted_model``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vtabjax import integrity
from vtabjax.specs import Spec, SpecError
from vtabjax.sweep import artefacts

from .. import programs
from . import Source, stated

_FORM = "write file//path/model.pt2 (saved by torch.export.save) or file//path/to/a/converted/model"


def names(spec: Spec) -> list[str]:
    """Nothing: files are named one by one."""
    return []


def check(spec: Spec) -> None:
    """Raises SpecError unless there is a file, or a folder with a converted model that is what was written."""
    path = Path(spec.name)
    if artefacts.is_converted(path):
        try:
            integrity.read(path)
        except (OSError, integrity.DamagedModelError) as e:
            raise SpecError(f"model {str(spec)!r}: {e}") from e
    elif path.is_dir():
        raise SpecError(
            f"model {str(spec)!r}: {path} is a folder without a converted model (graph.json and model.json); {_FORM}"
        )
    elif not path.is_file():
        what = "is not a regular file" if path.exists() else "is not there"
        raise SpecError(f"model {str(spec)!r}: {path} {what}; {_FORM}")


def describe(spec: Spec) -> dict[str, Any]:
    """Of a converted model its own description; of a program what its file states."""
    path = Path(spec.name)
    if artefacts.is_converted(path):
        return dict(artefacts.read_info(path))
    return _describe(spec, *_program(spec))


def build(spec: Spec, input_size: int | None) -> Source:
    """The program as a module."""
    if artefacts.is_converted(Path(spec.name)):
        raise SpecError(
            f"model {str(spec)!r} is converted already: name it in config.models; `verify` compares it with its source"
        )
    program, settings = _program(spec)
    info = _describe(spec, program, settings)
    own = program.input_size[1:]
    size = [3, input_size, input_size] if input_size else info["input_size"]
    if any(n is not None and n != wanted for n, wanted in zip(own, size[1:], strict=True)):
        raise SpecError(
            f"model {str(spec)!r} was exported for images of {own[0]} x {own[1]} pixels and takes no others: give "
            f"{own[0]} as the input size, or export it again for {size[1]}"
        )
    return Source(program.module, {**info, "input_size": size})


def parameters(spec: Spec) -> int:
    """How many the model has."""
    path = Path(spec.name)
    if artefacts.is_converted(path):
        return artefacts.read_info(path)["parameters"]
    return sum(p.numel() for p in _program(spec)[0].module.parameters())


def _program(spec: Spec) -> tuple[programs.ProgramModule, dict[str, Any]]:
    try:
        program, settings = programs.read(spec.name)
        output = settings.get("features") == "output"
        return programs.as_module(program, spec.name, output=output), settings
    except programs.ProgramError as e:
        raise SpecError(f"model {str(spec)!r}: {e}") from e


def _describe(spec: Spec, program: programs.ProgramModule, settings: dict[str, Any]) -> dict[str, Any]:
    height, width = program.input_size[1:]
    fixed = {"input_size": [3, height, width]} if height and width else {}
    info, notes = stated.read(spec, [fixed, settings])
    name = os.path.basename(spec.name)
    if "its output" in program.features:
        override = (
            f'; with "features": "output" in the extra file {programs.SETTINGS} the output is the features'
        )
        notes.append(f"features are the {program.features}{override}")
    return {
        "architecture": "exported program",
        "family": "exported program",
        "weights": f"file {name}",
        "num_classes": None,
        **info,
        "pooling": program.features,
        "notes": notes,
    }
