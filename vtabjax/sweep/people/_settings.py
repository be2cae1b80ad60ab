"""From keyword arguments to a config: the fields of configs/ by name."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vtabjax import installation, specs, tasks
from vtabjax.sweep import artefacts

Names = str | os.PathLike | Sequence[str | os.PathLike]


def config(name: str, models: Names, task_names: Names, given: Mapping[str, Any]) -> ConfigDict:
    """The config of that name with the settings that were given.

    Args:
      name: a file of configs/, such as "knn".
      models: specs or patterns; folders of converted models.
      task_names: tasks; a path is a folder of pictures.
      given: fields by name; one of a section as "finetune.steps", or the section as a dict. Where the field is a list
        in text (learning rates, metrics) a list or tuple will do. "suite": which defaults; by default those of "mini"
        where all tasks are embedded ones, otherwise those of "vtab".

    Raises:
      ValueError: a field that the config does not have, or a value of another type.
    """
    names = [_task(task) for task in _listed(task_names, "tasks")]
    fields = dict(_flat(given))
    suite = str(fields.pop("suite", "mini" if set(names) <= set(tasks.EMBEDDED) else "vtab"))
    made = _default(name, suite)
    made.models = ",".join(_model(model) for model in _listed(models, "models"))
    made.tasks = ",".join(names)
    known = [field for field, _ in _flat(made)]
    for field, value in fields.items():
        if field not in known or field in ("protocol", "models", "tasks"):
            near = specs.nearest(field, [k for k in known if k not in ("protocol", "models", "tasks")])
            same = [k for k in known if k.rpartition(".")[2] == field]
            hint = f"; did you mean {' or '.join(same or near)}?" if same or near else ""
            raise ValueError(f"{name} has no setting {field!r}{hint}")
        _assign(made, field, value)
    # What is remembered serves all workdirs, unless somebody wants it elsewhere.
    made.models_dir = made.models_dir or str(artefacts.local_cache() / "models")
    made.cache_dir = made.cache_dir or str(artefacts.local_cache() / "images")
    return made


def workdir(given: str | os.PathLike | None, name: str) -> Path:
    """Where results go: as given, or a folder of that name among what vtabjax remembers on this machine."""
    return Path(given) if given is not None else artefacts.local_cache() / "runs" / name


def _default(name: str, suite: str) -> ConfigDict:
    """What the config file gives, whatever package called configs the caller may have."""
    path = installation.CONFIGS / f"{name}.py"
    own = {k: sys.modules.pop(k) for k in list(sys.modules) if k.partition(".")[0] == "configs"}
    try:
        installation.provide_configs(str(path))
        return runpy.run_path(str(path))["get_config"](suite)
    finally:
        for k in [k for k in sys.modules if k.partition(".")[0] == "configs"]:
            del sys.modules[k]
        sys.modules.update(own)


def _flat(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in given:
        value = given[name]
        if isinstance(value, Mapping | ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _assign(made: ConfigDict, field: str, value: Any) -> None:
    section, _, name = field.rpartition(".")
    owner = made[section] if section else made
    if isinstance(owner[name], str) and not isinstance(value, str):
        # The field is text: several values are separated by commas.
        value = ",".join(str(v) for v in (value if isinstance(value, list | tuple) else [value]))
    if isinstance(owner[name], float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        owner[name] = value
    except (TypeError, ValueError) as e:
        kind = type(owner[name]).__name__
        raise ValueError(
            f"{field}={value!r} is of type {type(value).__name__}; it must be of type {kind}"
        ) from e


def _listed(given: Names, what: str) -> list[str | os.PathLike]:
    found = specs.split_list(given) if isinstance(given, str) else given
    if not isinstance(found, os.PathLike | Iterable) or isinstance(found, bytes):
        raise ValueError(f"{what}={given!r} is a {type(given).__name__}; give names, one or a list")
    items: list[str | os.PathLike] = [found] if isinstance(found, os.PathLike) else list(found)
    if not items:
        raise ValueError(f"{what} is empty; name one or more")
    for item in items:
        if not isinstance(item, str | os.PathLike):
            raise ValueError(f"{what}: {item!r} is a {type(item).__name__}; give names")
        if "," in os.fspath(item):
            raise ValueError(f"{what}: {os.fspath(item)!r} holds a comma, which separates names; rename it")
    return items


def own_name(item: str | os.PathLike, among: Sequence[str]) -> str | None:
    """A task as results name it, folders by their absolute path; None where it is not among these names."""
    name = _task(item)
    if name not in among and tasks.is_own(name):
        try:
            name = tasks.get(name).name
        except ValueError:
            return None
    return name if name in among else None


def _task(item: str | os.PathLike) -> str:
    return item if isinstance(item, str) else f"folder:{Path(item).absolute()}"


def _model(item: str | os.PathLike) -> str:
    return item if isinstance(item, str) else f"file/{Path(item).absolute()}"
