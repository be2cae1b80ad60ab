"""What a sweep says while it runs: one live region on a terminal, a bar in a notebook, lines in a log."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from vtabjax.results import Cell
from vtabjax.runtime import bars, processes, terminal

if TYPE_CHECKING:
    from tqdm import tqdm

_QUIET = 60.0  # seconds of one cell after which a log says how far it is


class Progress:
    """Counts cells, and says what runs, for how long, and how much time is left.

    Args:
      cells: those there are to do.
      stream: where to write.
      enabled: False on all processes but the first, which say nothing.
    """

    def __init__(self, cells: Sequence[Cell], *, stream: TextIO | None = None, enabled: bool = True):
        self.cells, self.done, self.failed = cells, 0, 0
        self.models, self.models_done = len({cell.model for cell in cells}), 0
        self.activity = ""
        self._start = self._since = self._last_step = time.monotonic()
        self._stack = contextlib.ExitStack()
        stream = sys.stderr if stream is None else stream
        self._view: View | None = None
        if enabled and terminal.is_live(stream):
            from vtabjax.sweep.live import Region  # loads rich

            self._view = Region(self, stream)
        elif enabled and terminal.is_notebook():
            self._view = _Notebook(self)
            return  # bars of their own
        elif enabled:
            self._view = _Log(self, stream)
        self._stack.enter_context(bars.on_board(self._view or _Nobody()))

    def say(self, text: str) -> None:
        """Writes a line, above the region where there is one."""
        if self._view is not None:
            self._view.line(text)

    def doing(self, text: str) -> None:
        """What runs from now on."""
        self.activity, self._since = text, time.monotonic()
        if self._view is not None:
            self._view.changed()

    def step(
        self,
        cell: Cell,
        outcome: str,
        *,
        seconds: float | None = None,
        converting: float = 0.0,
        failed: bool = False,
    ) -> None:
        """One more cell is done, or failed.

        Args:
          cell: which one.
          outcome: its numbers, separated by two blanks, or why there are none.
          seconds: how long it took.
          converting: how long its model's conversion took, which went on beside other cells.
          failed: whether it did.
        """
        self.done += 1
        self.failed += failed
        self._last_step = time.monotonic()
        if self._view is not None:
            took = "" if seconds is None else f"{seconds:.1f} s"
            self._view.cell(cell, outcome, took, converting, failed)

    def model(self, text: str, count: int = 1) -> None:
        """All cells of one more model are finished, or of several that differ only in their choice of features."""
        self.models_done += count
        if self._view is not None:
            self._view.model(text)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def active(self) -> float:
        """Seconds for which the present activity has gone on."""
        return time.monotonic() - self._since

    @property
    def left(self) -> float | None:
        """Seconds until everything is done, judging by the cells so far; None before the first of them."""
        if not self.done:
            return None
        per_cell = (self._last_step - self._start) / self.done
        since = time.monotonic() - self._last_step
        return per_cell * (len(self.cells) - self.done) - min(per_cell, since) * (self.done < len(self.cells))

    def close(self) -> None:
        """Ends the region or bar; what was said stays."""
        self._stack.close()
        if self._view is not None:
            self._view.close()


class View:
    """How progress is shown. A board for the bars of what is within a cell, too."""

    def line(self, text: str) -> None:
        """A line of its own."""

    def changed(self) -> None:
        """Something else runs."""

    def cell(self, cell: Cell, outcome: str, seconds: str, converting: float, failed: bool) -> None:
        """A cell has ended."""

    def model(self, text: str) -> None:
        """A model has ended."""

    def close(self) -> None:
        """Nothing more comes."""

    def add(self, bar: tqdm) -> None:
        """See `bars.Board`."""

    def remove(self, bar: tqdm) -> None:
        """See `bars.Board`."""

    def moved(self, bar: tqdm) -> None:
        """See `bars.Board`."""


class _Nobody(View):
    """Of a process that says nothing."""


class _Log(View):
    """Lines: one for a cell, one for a model, and now and then one of a cell that takes long."""

    def __init__(self, progress: Progress, stream: TextIO):
        self._progress, self._stream = progress, stream
        self._said = time.monotonic()

    def line(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=self._stream, flush=True)

    def cell(self, cell: Cell, outcome: str, seconds: str, converting: float, failed: bool) -> None:
        after = f" after {converting:.1f} s of converting" if converting else ""
        took = f"  {seconds}{after}" if seconds else ""
        self.line(f"{self._count()} {cell}: {outcome}{took}{self._left()}")

    def model(self, text: str) -> None:
        state = self._progress
        self.line(
            f"{text}  ({time.strftime('%H:%M:%S')}: {state.models_done} of {state.models} models, {state.done} of "
            f"{len(state.cells)} cells)"
        )

    def moved(self, bar: tqdm) -> None:
        if time.monotonic() - self._said < _QUIET:
            return
        far = f"{100 * bar.n / bar.total:.0f} %" if bar.total else f"{bar.n:,} {bar.unit}"
        what = f"{bar.desc.rstrip(': ')} " if bar.desc else ""
        state = self._progress
        self.line(f"{self._count()} {state.activity}: {what}{far} after {duration(state.active)}")

    def _count(self) -> str:
        return f"[{self._progress.done}/{len(self._progress.cells)}]"

    def _left(self) -> str:
        left = self._progress.left
        return "" if left is None else f"  (left: {duration(left)})"


class _Notebook(View):
    """A bar, and lines of what failed; the table comes afterwards."""

    def __init__(self, progress: Progress):
        self._bar = bars.in_place()(total=len(progress.cells), unit="cell", disable=not progress.cells)
        self._progress = progress

    def line(self, text: str) -> None:
        self._bar.write(text)

    def changed(self) -> None:
        self._bar.set_postfix_str(self._progress.activity)

    def cell(self, cell: Cell, outcome: str, seconds: str, converting: float, failed: bool) -> None:
        self._bar.update()
        if failed:
            self.line(f"{cell}: {outcome}")

    def close(self) -> None:
        self._bar.set_postfix_str("")
        self._bar.close()


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Shows on a terminal that something goes on, and for how long; within a sweep's region, and elsewhere, nothing."""
    if not (processes.is_first() and terminal.is_live(sys.stderr)) or bars.are_on_board():
        yield
        return
    progress = Progress([])
    progress.doing(text)
    try:
        yield
    finally:
        progress.close()


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def first_line(text: str, width: int = 160) -> str:
    """The first line of a message, cut where it is longer than `width`."""
    return textwrap.shorten(text.strip().splitlines()[0] if text.strip() else "", width, placeholder=" ...")
