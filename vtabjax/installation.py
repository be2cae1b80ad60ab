"""How this vtabjax lies on the disk, by which command it was started, and which of its extras are missing."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# A clone has configs/ and converters/ beside the package, an installation has them in it (setup.py).
INSTALLED = (_PACKAGE / "converters").is_dir()
PATH = _PACKAGE.parent  # what has to be in sys.path
CONFIGS = (_PACKAGE if INSTALLED else PATH) / "configs"
CONVERTERS = (_PACKAGE if INSTALLED else PATH) / "converters"
CONVERTERS_MODULE = "vtabjax.converters" if INSTALLED else "converters"
CONVERTERS_COMMANDS = ("convert", "list", "check", "verify", "export", "audit")

# What pyproject.toml's optional dependencies bring, by the names they are imported by.
_EXTRAS = {
    "convert": ("torch", "torchvision", "timm"),
    "hub": ("transformers", "open_clip", "datasets"),
    "data": ("tensorflow_datasets", "array_record", "tensorflow"),
    "report": ("plotly", "jinja2", "matplotlib", "pyarrow"),
    "slurm": ("submitit",),
}


class MissingExtraError(RuntimeError):
    """Something that was asked for needs packages which are not installed; the message has the command that helps."""


def absent(extra: str, *modules: str) -> list[str]:
    """The modules of an extra (or those of them that are named) that are not installed."""
    return [m for m in modules or _EXTRAS[extra] if importlib.util.find_spec(m) is None]


def require(extra: str, purpose: str, *modules: str) -> None:
    """Makes sure that an extra is installed, before long work.

    Args:
      extra: its name in pyproject.toml.
      purpose: what needs it, as the beginning of a sentence.
      modules: those of the extra that this purpose needs; all of them if none are named.

    Raises:
      MissingExtraError: it is not.
    """
    missing = absent(extra, *modules)
    if missing:
        install = f"'vtabjax[{extra}]'" if INSTALLED else "-r requirements.txt"
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{purpose} needs {', '.join(missing)}, which {verb} not installed: pip install {install}"
        )


def command() -> str:
    """How this program was started: the beginning of the commands that messages suggest."""
    program = Path(sys.argv[0])
    if program.stem == "vtabjax":
        return "vtabjax"
    if program == _PACKAGE / "__main__.py":
        return "python -m vtabjax"
    return "vtabjax" if INSTALLED else "python main.py"


def converters_command() -> str:
    """The beginning of the converters' commands, for messages."""
    started = command()
    return "python -m converters" if started == "python main.py" else started


def provide_configs(path: str) -> None:
    """Makes ``from configs import common`` work in a config file, wherever the program was started.

    Args:
      path: the config file. In a folder called ``configs`` its neighbours come first, then the configs that ship.
    """
    if "configs" not in sys.modules:
        beside = Path(path).resolve().parent
        package = types.ModuleType("configs")
        package.__path__ = [str(folder) for folder in (beside, CONFIGS) if folder.name == "configs"]
        sys.modules["configs"] = package
