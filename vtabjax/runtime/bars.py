"""Bars of what takes long: each by itself (tqdm), or on the one board of a sweep that is running.

Bars on a board draw nothing; whoever put it up reads them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vtabjax.runtime import terminal

if TYPE_CHECKING:
    from tqdm import tqdm


class Board(Protocol):
    """What bars are shown on."""

    def add(self, bar: tqdm) -> None:
        """A bar begins; `bar.n` of `bar.total` is how far it is."""

    def remove(self, bar: tqdm) -> None:
        """It is over."""

    def moved(self, bar: tqdm) -> None:
        """It went on; called a few times a second at most, and not before `bar.delay` seconds."""


_boards: list[Board] = []


@contextlib.contextmanager
def on_board(board: Board) -> Iterator[None]:
    """Bars that begin within are shown on `board`."""
    _boards.append(board)
    try:
        yield
    finally:
        _boards.remove(board)


def are_on_board() -> bool:
    """Whether bars that begin now are shown on a board."""
    return bool(_boards)


@functools.cache
def _on_board() -> Any:
    from tqdm import tqdm

    class OnBoard(tqdm):
        def __init__(self, board: Board, *args: Any, **kwargs: Any):
            self._board = board
            super().__init__(*args, gui=True, **kwargs)  # gui: it writes nothing by itself
            board.add(self)

        def display(self, *_: Any, **__: Any) -> bool:
            self._board.moved(self)
            return True

        def clear(self, *_: Any, **__: Any) -> None:
            """Nothing is there to clear when `tqdm.write` writes a line."""

        def close(self) -> None:
            self._board.remove(self)
            super().close()

    return OnBoard


def bar(
    iterable: Iterable[Any] | None = None,
    desc: str = "",
    total: int | None = None,
    *,
    unit: str = "it",
    delay: float = 1.0,
    disable: bool = False,
) -> tqdm:
    """A bar that vanishes when it is over.

    Args:
      iterable: what it counts; None: `update` says how far it is.
      desc: what takes long.
      total: how many there are; None: unknown.
      unit: what is counted.
      delay: seconds of work that are not worth a bar.
      disable: shows nothing, anywhere. In a log nothing is shown but what a board says.
    """
    from tqdm import tqdm

    options: dict[str, Any] = {"desc": desc or None, "total": total, "unit": unit, "delay": delay}
    if disable:
        return tqdm(iterable, disable=True, **options)
    if _boards:
        return _on_board()(_boards[-1], iterable, **options)
    return in_place()(iterable, leave=False, disable=not is_seen(), dynamic_ncols=True, **options)


def is_seen() -> bool:
    """Whether somebody looks at bars: on a terminal, in a notebook."""
    return terminal.is_live(sys.stderr) or terminal.is_notebook()


def in_place() -> type[tqdm]:
    """The bar for where this runs."""
    if not terminal.is_notebook():
        from tqdm import tqdm

        return tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets it writes text, which will do
        from tqdm.auto import tqdm as automatic
    return automatic
