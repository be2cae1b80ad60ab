"""What a stream can show: how many columns, bold type, a region that is drawn again."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

_FALLBACK_WIDTH = 80


def is_live(stream: TextIO) -> bool:
    """Whether what was written can be written over: a terminal, and not one that says it is dumb."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def is_styled(stream: TextIO) -> bool:
    """Whether bold and coloured type is welcome: as `is_live`, unless NO_COLOR is set (https://no-color.org)."""
    return is_live(stream) and not os.environ.get("NO_COLOR")


def width(stream: TextIO) -> int | None:
    """Columns there are: what COLUMNS says, or the terminal; None for a file, which has no end of the line."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or _FALLBACK_WIDTH
    except (OSError, ValueError):  # no file behind it
        return _FALLBACK_WIDTH


def folded(text: str, stream: TextIO) -> str:
    """A sentence in lines that end between words where the stream has an end of the line."""
    columns = width(stream)
    return (
        text
        if columns is None
        else textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    )


def is_notebook() -> bool:
    """Whether this is a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def bold(text: str) -> str:
    """The text in bold type."""
    return f"\x1b[1m{text}\x1b[0m"


def dim(text: str) -> str:
    """The text in faint type."""
    return f"\x1b[2m{text}\x1b[0m"
