"""What a mistyped command gets: one line that names the flag, its value and what was probably meant."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import installation, specs

_OWN_FLAGS = ("config", "workdir", "cells", "executor")
_EXPERIMENT = "configs/select.py"
_NOT_RUN = ("common", "pretrain_sprites")  # files of configs/ that main.py does not run


def named_config(argv: Sequence[str]) -> tuple[str | None, str]:
    """The path and the suite of the last --config on a command line; None and "" without one."""
    value = None
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, given = arg.partition("=")
        if name in ("--config", "-config"):
            value = given if equals else following
    if value is None:
        return None, ""
    path, _, suite = value.partition(":")
    return path, suite


def configs() -> list[str]:
    """The configs in the current folder, or else those of the installed package."""
    found = [*Path("configs").glob("[a-z]*.py")] or installation.CONFIGS.glob("[a-z]*.py")
    return sorted(f"configs/{p.name}" for p in found if p.stem not in _NOT_RUN)


def file_of(path: str) -> str:
    """The file of a config: that of the current folder, or else of the installed package."""
    installed = installation.CONFIGS.parent / path
    missing = path.startswith("configs/") and not Path(path).is_file()
    return str(installed) if missing and installed.is_file() else path


def fields(path: str, suite: str) -> list[str]:
    """The fields of a config by their dotted names, such as ``slurm.jobs``; [] where it cannot be loaded."""
    try:
        installation.provide_configs(path)
        return [name for name, _ in leaves(runpy.run_path(path)["get_config"](*[suite] * bool(suite)), "")]
    except Exception:  # the user's own code; `broken_config` says what it raised
        return []


def leaves(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The fields of a config by their dotted names, and what they are set to."""
    for name in config:
        value = config[name]
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def unknown_flag(name: str, known: Sequence[str]) -> str:
    """What to say about a flag that does not exist.

    Args:
      name: without its dashes.
      known: the fields of the config that was named.
    """
    bare = name.removeprefix("no") if name not in known and name.removeprefix("no") in known else name
    meant = [f"--config.{field}" for field in _like(bare, known)]
    meant = meant or [f"--{flag}" for flag in specs.nearest(name, _OWN_FLAGS)]
    return f"Unknown command line flag '{name}'" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def unknown_field(argv: Sequence[str], path: str, known: Sequence[str]) -> str | None:
    """What to say about the first --config.FIELD of a command line that the config does not have; None: it has all."""
    for arg in argv[1:]:
        field = arg.lstrip("-").partition("=")[0]
        field = field.removeprefix("no") if field.startswith("noconfig.") else field
        if not arg.startswith("-") or not field.startswith("config."):
            continue
        field = field.removeprefix("config.")
        if field in known:
            continue
        within = [name for name in known if name.startswith(f"{field}.")]
        if within:
            return f"--config.{field}: give one of its fields: {', '.join(within)}"
        others = [other for other in configs() if other != path and field in fields(other, "")]
        # The whole experiment has every field of its stages' own configs.
        others = [other for other in others if other != _EXPERIMENT] or others
        near = _like(field, known)
        hint = f"did you mean {' or '.join(near)}? " if near and not others else ""
        hint += f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it. " if others else ""
        return f"--config.{field}: {path} has no such field; {hint}Fields: {', '.join(known)}"
    return None


def _like(name: str, known: Sequence[str]) -> list[str]:
    """The fields that were probably meant: the same name in whatever section, or similar ones."""
    if name in known:
        return [name]
    same = [field for field in known if field.rpartition(".")[2] == name]
    return same or specs.nearest(name, known)


def broken_config(error: BaseException, path: str) -> str:
    """What to say about a config file that raises: where, and what."""
    while isinstance(error.__cause__, Exception) and not isinstance(error, SyntaxError):
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return f"--config={path}, line {error.lineno}: {error.msg}"
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(path)]
    line = f", line {own[-1]}" if own else ""
    text = next((text for text in str(error).splitlines() if text.strip()), "")
    return f"--config={path}{line}: {type(error).__name__}: {text}"
