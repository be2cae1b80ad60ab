"""Runs a config: python main.py --config=configs/knn.py[:SUITE] [--workdir=DIR] [--config.FIELD=VALUE ...]

Installed (`pip install .`) it is the command `vtabjax`; configs that are not in the folder it is called from come from
the installation.

Exit status: 0 if every cell is done, 1 if some failed (a table says which and why), 2 if something has to be
changed before anything can run (one line says what), 130 if it was interrupted. Run again, it goes on where
it was.
"""

# Kept short on purpose: vtabjax/sweep.py does the work. Nothing heavy is imported before it is needed.

import os
import pathlib
import runpy
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:SUITE]", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where results, features and converted models go [runs/SUITE]"
)
_CELLS = flags.DEFINE_string("cells", "", "i/n: only the i-th of n shares of the cells, counted from 0")
_EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm"], "where the cells run")


def run() -> None:
    """The program, from its start to its exit status."""
    _use_huge_pages()
    # --help shows what the main module says and has, which is not this one.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.flags_by_module_dict()[__name__]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
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
    if len(argv) > 1:
        return _usage(f"{argv[1]!r} is no flag; settings are written --config.FIELD=VALUE")
    config = _CONFIG.value
    if config is None:
        return _usage("no config; the first thing to try is --config=configs/knn.py")
    workdir = _WORKDIR.value or f"runs/{config.get('suite', 'mini')}"
    if _EXECUTOR.value == "slurm" and _CELLS.value:
        return _usage("--executor=slurm gives each job its share by itself; leave --cells out")

    from vtabjax import sweep

    try:
        if config.protocol == "report" and config.suite == "status":
            from vtabjax import status

            return status.main(config, _WORKDIR.value or "runs/mini")
        if config.protocol == "report":
            from vtabjax import report

            return report.run(config, _WORKDIR.value or "runs/mini")
        if config.protocol == "prepare":
            from vtabjax.data import prepare

            return prepare.main(config, workdir) or 0
        if _EXECUTOR.value == "slurm":
            from vtabjax import slurm

            return slurm.submit(config, workdir)
        return sweep.run(config, workdir, _CELLS.value)
    except sweep.UsageError as e:
        return _usage(str(e))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def _usage(message: str) -> int:
    print("error: " + "\n  ".join(message.splitlines()), file=sys.stderr)
    return 2


def parse_flags(argv: list[str]) -> list[str]:
    """Flags, with one line for the person who mistyped one instead of a traceback."""
    words = [word for arg in argv[1:] for word in arg.lstrip("-").split("=", 1)] + [""]
    path, _, suite = words[words.index("config") + 1].partition(":") if "config" in words else ("", "", "")
    if path and not os.path.isfile(path):
        installed = pathlib.Path(__file__).parent.parent / path
        if path.startswith("configs/") and installed.is_file():
            argv = [a.replace(path, str(installed), 1) if path in a else a for a in argv]
            path = str(installed)
    if path and not os.path.isfile(path):
        there = ", ".join(sorted(str(p) for p in pathlib.Path("configs").glob("[a-z]*.py")))
        sys.exit(
            _usage(f"--config={path}: there is no such file" + (f"; there are {there}" if there else ""))
        )
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        # An error within a config file comes with its traceback: the last line is the message.
        line = [line for line in str(e).splitlines() if line.strip()][-1].strip()
        sys.exit(_usage(line.removeprefix("ValueError: ").removeprefix("TypeError: ")))
    except AttributeError:
        from vtabjax import specs

        known = list(runpy.run_path(path)["get_config"](*[suite] * bool(suite)))
        for field in (word.removeprefix("config.") for word in words if word.startswith("config.")):
            if field not in known:
                near = specs.nearest(field, known)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                sys.exit(
                    _usage(f"--config.{field}: {path} has no such field; {hint}Fields: {', '.join(known)}")
                )
        raise
