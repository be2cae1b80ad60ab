"""Short commands: ``knn:vtab --models=... --tasks=dtd`` for ``--config=configs/knn.py:vtab --config.models=...``."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vtabjax.cli import errors

HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort")


def named_in_full(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """A command line in which configs and fields have their full names.

    The first word may name a config, ``NAME[:SUITE]``. A flag that is none of the program's own is a field of the
    config where one field has that name, in whatever section; fields that are in no section come first.

    Args:
      argv: with the program's name.
      flags: the program's own flags.
    """
    argv = _with_config(argv)
    path, suite = errors.named_config(argv)
    if path is None:
        return argv
    known = errors.fields(errors.file_of(path), suite)
    return [argv[0], *(_with_field(word, known, flags) for word in argv[1:])]


def _with_config(argv: Sequence[str]) -> list[str]:
    if len(argv) < 2 or errors.named_config(argv)[0] is not None:
        return list(argv)
    name, colon, suite = argv[1].partition(":")
    path = f"configs/{name}.py"
    if path not in errors.configs():
        return list(argv)
    return [argv[0], f"--config={path}{colon}{suite}", *argv[2:]]


def _with_field(word: str, known: Sequence[str], flags: Collection[str]) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    for prefix in ("", "no"):
        bare = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if not bare or name in flags or bare in flags:
            continue
        named = [bare] if bare in known else [field for field in known if field.rpartition(".")[2] == bare]
        if len(named) == 1:
            return f"--{prefix}config.{named[0]}{equals}{value}"
    return word
