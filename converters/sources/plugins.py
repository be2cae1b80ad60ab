"""Sources that other packages add: entry points of the group ``vtabjax.sources``, each a module like its siblings here.

A package's pyproject.toml has::

    [project.entry-points."vtabjax.sources"]
    lab = "lab_models.vtabjax_source"
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
import types
from collections.abc import Callable, Collection
from typing import Any

from vtabjax import specs
from vtabjax.specs import SpecError

_log = logging.getLogger(__name__)
GROUP = "vtabjax.sources"
FUNCTIONS = ("names", "check", "describe", "parameters", "build")


@functools.cache
def found(built_in: tuple[str, ...]) -> tuple[dict[str, importlib.metadata.EntryPoint], tuple[str, ...]]:
    """The entry points by their names, and a line on each that is not taken.

    Args:
      built_in: names of sources that nobody may replace.
    """
    taken: dict[str, importlib.metadata.EntryPoint] = {}
    several: dict[str, list[str]] = {}
    problems = []
    for point in sorted(set(importlib.metadata.entry_points(group=GROUP)), key=lambda p: (p.name, p.value)):
        if point.name in built_in:
            problems.append(f"{_who(point)} is not taken: the name belongs to a source of vtabjax itself")
        elif not re.fullmatch(r"\w[\w-]*", point.name):
            problems.append(
                f"{_who(point)} is not taken: the name of a source has letters, digits, - and _ only"
            )
        else:
            several.setdefault(point.name, []).append(_package(point))
            taken[point.name] = point
    for name, packages in several.items():
        if len(packages) > 1:
            del taken[name]
            problems.append(
                f"the source {name!r} is added by {specs.listed(packages)}, and none is taken: uninstall all but one"
            )
    for problem in problems:
        _log.warning("%s", problem)
    return taken, tuple(problems)


def load(point: importlib.metadata.EntryPoint) -> types.SimpleNamespace:
    """The functions of an added source. Whatever they raise comes out as a SpecError of one line.

    Raises:
      SpecError: the package cannot be imported, or lacks functions.
    """
    try:
        module = point.load()
    except (Exception, SystemExit) as e:
        raise SpecError(f"{_who(point)} cannot be loaded: {_line(e)}") from e
    missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise SpecError(f"{_who(point)} lacks {specs.listed(missing, len(FUNCTIONS))} (docs/extending.md)")
    return types.SimpleNamespace(**{name: _guarded(getattr(module, name), point) for name in FUNCTIONS})


def complete(info: dict[str, Any], keys: Collection[str], source: str) -> dict[str, Any]:
    """A description with all keys; raises SpecError for one that lacks what a model cannot be run without."""
    needed = [k for k in ("input_size", "mean", "std") if k not in info]
    if needed:
        raise SpecError(f"the source {source!r} describes a model without {specs.listed(needed)}")
    return {**dict.fromkeys(keys), **info}


def _guarded(function: Callable[..., Any], point: importlib.metadata.EntryPoint) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except SpecError:
            raise
        except (Exception, SystemExit) as e:
            model = f"model {str(args[0])!r}: " if args else ""
            raise SpecError(f"{model}{_who(point)} failed in {function.__name__}: {_line(e)}") from e

    return call


def _who(point: importlib.metadata.EntryPoint) -> str:
    return f"the source {point.name!r} of the package {_package(point)}"


def _package(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
