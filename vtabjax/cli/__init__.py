"""Runs a config: python main.py --config=configs/knn.py[:SUITE] [--workdir=DIR] [--config.FIELD=VALUE ...]

Installed (`pip install .`) it is the command `vtabjax`; configs missing from the current folder are taken from the
installed package. `vtabjax convert | list | check | verify | export | audit` are the converters' commands.

Exit status: 0 if every cell is done, 1 if some failed (a table says which and why), 2 if something has to be
changed before anything can run (one line says what), 130 if it was interrupted. The same command resumes where it
stopped.
"""

# Kept short on purpose: vtabjax/sweep/runner.py does the work. Nothing heavy is imported before it is needed.

import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vtabjax import __version__, installation, specs
from vtabjax.cli import errors, help, shorthand

_CONFIG = config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:SUITE]", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where results, features and converted models go [runs/SUITE]"
)
_CELLS = flags.DEFINE_string("cells", "", "i/n: only the i-th of n shares of the cells, counted from 0")
_EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm"], "where the cells run")
# Errors of a disk that is full, read-only or somebody else's.
_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip


def run() -> None:
    """The program, from its start to its exit status."""
    if sys.argv[1:2] and sys.argv[1] in installation.CONVERTERS_COMMANDS and sys.argv[1:] != ["list"]:
        sys.path.append(str(installation.PATH))
        sys.exit(importlib.import_module(f"{installation.CONVERTERS_MODULE}.__main__").main())
    _use_huge_pages()
    app.run(main, flags_parser=parse_flags)


def _use_huge_pages() -> None:
    """Starts this program once more, so that large blocks of memory come in huge pages (Linux with glibc).

    XLA's CPU backend allocates a model's intermediate results anew for every batch; with pages of 4 KiB the kernel
    takes a fifth of the time to hand them out. glibc reads the setting when a process starts and never again; a second
    start costs a tenth of a second. Not done where GLIBC_TUNABLES is set already.
    """
    if sys.platform == "linux" and sys.executable and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: list[str]) -> int:
    """What the flags ask for; returns the exit status (2: the command makes no sense, 130: interrupted)."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries are chatty at absl's default
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are not text
    if len(argv) > 1:
        return _usage(_not_a_flag(argv[1]))
    from vtabjax.options import UsageError

    try:
        return _run(_CONFIG.value)
    except (UsageError, installation.MissingExtraError) as e:
        return _usage(str(e))
    except OSError as e:
        if e.errno not in _DISK:
            raise
        where = f"{e.filename}: " if e.filename else ""
        return _usage(
            f"{where}{e.strerror}; make room there or name another folder, and run the same command again"
        )
    except KeyboardInterrupt:
        print("interrupted; the same command resumes where it stopped", file=sys.stderr)
        return 130


def _run(config: Any) -> int:
    from vtabjax.options import UsageError

    if config is None:
        raise UsageError("no config given; start with --config=configs/knn.py")
    protocol = config.get("protocol") if isinstance(config, ConfigDict) else None
    if protocol is None:
        raise UsageError(
            f"--config={_named()}: it has no field `protocol`, so there is nothing to run; choose from "
            f"{', '.join(errors.configs())}"
        )
    slurm = _EXECUTOR.value == "slurm"
    if protocol in _WHOLE:
        if slurm or _CELLS.value:
            flag = "--executor=slurm" if slurm else f"--cells={_CELLS.value}"
            raise UsageError(
                f"{flag} is for sweeps; {_named()} always runs here and as a whole, so leave the flag out"
            )
        return _WHOLE[protocol](config)
    if slurm and _CELLS.value:
        raise UsageError("--executor=slurm gives each job its share; leave --cells out")
    workdir = _WORKDIR.value or f"runs/{config.get('suite', 'mini')}"
    if slurm:
        installation.require("slurm", "--executor=slurm")
        from vtabjax.sweep import slurm as cluster

        return cluster.submit(config, workdir)
    from vtabjax.runtime import processes

    if protocol == "select":
        from vtabjax.sweep.select import run as selection

        status = selection.run(config, workdir, _CELLS.value)
    else:
        from vtabjax.sweep import runner

        status = runner.run(config, workdir, _CELLS.value)
    if not config.get("dry_run") and processes.is_first():
        print(f"next: {installation.command()} report --workdir={workdir}", file=sys.stderr)
    return status


def _report(config: ConfigDict) -> int:
    workdir = _WORKDIR.value or "runs/mini"
    if config.get("suite") == "status":
        from vtabjax.sweep import status

        return status.main(config, workdir)
    installation.require("report", "the report")
    from vtabjax.sweep.progress import working

    with working("making the report"):
        from vtabjax import report

        return report.run(config, workdir)


def _prepare(config: ConfigDict) -> int:
    from vtabjax.data import prepare

    return prepare.main(config, "")


def _data(config: ConfigDict) -> int:
    installation.require("report", "the page about the data", "jinja2")
    from vtabjax.report import data_page

    return data_page.run(config, _WORKDIR.value or f"runs/{config.get('suite', 'mini')}")


# What is no sweep: it runs here and as a whole.
_WHOLE = {"report": _report, "prepare": _prepare, "data": _data}


def _named() -> str:
    return errors.named_config(sys.argv)[0] or ""


def _not_a_flag(word: str) -> str:
    name = word.partition(":")[0]
    configs = [Path(path).stem for path in errors.configs()]
    if name in configs:
        return f"{word!r}: a config comes first, and there is one; leave this out"
    near = specs.nearest(name, configs)
    hint = f"did you mean {near[0]}?" if near else f"configs: {', '.join(configs)}."
    return f"{word!r} is neither a config nor a flag; {hint} Settings are written --FIELD=VALUE"


def _show(text: str) -> NoReturn:
    """Prints what was asked for, and ends."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _usage(message: str) -> int:
    print("error: " + "\n  ".join(message.splitlines()), file=sys.stderr)
    return 2


def parse_flags(argv: list[str]) -> list[str]:
    """Flags; whoever mistypes one gets one line instead of a traceback."""
    if "--version" in argv:
        _show(f"vtabjax {__version__}")
    if argv[1:] == ["list"]:
        _show(help.everything())
    argv = shorthand.named_in_full(argv, list(flags.FLAGS))
    sys.argv[:] = argv  # ml_collections looks there for the fields that a command sets
    path, suite = errors.named_config(argv)
    if path is not None and errors.file_of(path) != path:
        argv = [a.replace(path, errors.file_of(path), 1) if path in a else a for a in argv]
        path = errors.file_of(path)
    if path is not None and not os.path.isfile(path):
        there = ", ".join(errors.configs())
        sys.exit(
            _usage(f"--config={path}: there is no such file" + (f"; choose from {there}" if there else ""))
        )
    installation.provide_configs(path or "")
    try:
        if any(word in shorthand.HELP for word in argv[1:]):
            _show(help.of_config(path, suite) if path else help.overview())
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as e:
        known = errors.fields(path or "configs/knn.py", suite)
        sys.exit(_usage(errors.unknown_flag(e.flagname, known)))
    except Exception as e:
        known = errors.fields(path, suite) if path else []
        message = errors.unknown_field(argv, path or "", known) if known else None
        if message is None and isinstance(e, flags.Error):
            # An error within a config file comes with its traceback: the last line is the message.
            line = [line for line in str(e).splitlines() if line.strip()][-1].strip()
            message = line.removeprefix("ValueError: ").removeprefix("TypeError: ")
        sys.exit(_usage(message or errors.broken_config(e, path or "")))
