"""The live region of a sweep on a terminal: what runs now and for how long, how far it is, one time that is left.

Above it each cell leaves a line.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vtabjax.results import Cell
from vtabjax.runtime import terminal
from vtabjax.sweep import progress, tables

if TYPE_CHECKING:
    from tqdm import tqdm

    from vtabjax.sweep.progress import Progress

_BARS = 3  # of what is within a cell
_PER_SECOND = 4  # times that it is drawn
_NAME, _NUMBER = 12, 17  # columns that a model's name and the first of its numbers keep
_PERCENT = re.compile(r"\d+\.\d %")


class Region(progress.View):
    """Draws the progress on a terminal."""

    def __init__(self, state: Progress, stream: TextIO):
        self._state = state
        self._bars: list[tqdm] = []
        styled = terminal.is_styled(stream)
        self._console = Console(
            file=stream,
            force_terminal=True,
            color_system="auto" if styled else None,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )
        self._names = tables.short_task_names([cell.task for cell in state.cells])
        self._model_width = max((len(cell.model) for cell in state.cells), default=0)
        self._task_width = max(map(len, self._names.values()), default=0)
        utf8 = self._console.encoding.startswith("utf")
        self._marks, self._dots = (("✓", "✗"), "…") if utf8 else (("+", "x"), "...")
        self._live = Live(
            get_renderable=self._drawn,
            console=self._console,
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=stream is sys.stderr,
        )
        self._live.start()

    def line(self, text: str) -> None:
        self._console.print(Text(text))

    def cell(self, cell: Cell, outcome: str, seconds: str, converting: float, failed: bool) -> None:
        self._console.print(self._cell_line(cell, outcome, seconds, failed))

    def add(self, bar: tqdm) -> None:
        self._bars.append(bar)

    def remove(self, bar: tqdm) -> None:
        if bar in self._bars:
            self._bars.remove(bar)

    def close(self) -> None:
        self._bars.clear()
        self._live.stop()

    def _cell_line(self, cell: Cell, outcome: str, seconds: str, failed: bool) -> Text:
        """✓ model  task  numbers ... seconds, in columns; of the numbers those there is room for."""
        width = self._console.width
        task = self._names[cell.task]
        if failed:
            mark, style = self._marks[1], "red"
            return Text(f"{mark} {cell.model}  {task}: {outcome}", style)
        names = min(self._model_width, max(_NAME, width - self._task_width - _NUMBER - len(seconds) - 8))
        line = Text.assemble(
            (self._marks[0], "green"),
            f" {self._cut(cell.model, names):{names}}  {task:{self._task_width}}  ",
        )
        room = width - line.cell_len - 2 - len(seconds)
        numbers = [_PERCENT.sub(lambda found: found[0].rjust(7), part) for part in outcome.split("  ")]
        while len(numbers) > 1 and len("  ".join(numbers)) > room:
            numbers.pop()
        shown = "  ".join(numbers)[: max(0, room)]
        line.append(shown, "bold")
        line.append(f"{'':{max(0, room - len(shown))}}  ")
        line.append(seconds, "dim")
        return line

    def _cut(self, name: str, width: int) -> str:
        """The name with its middle left out: what distinguishes models is at either end."""
        if len(name) <= width:
            return name
        room = width - len(self._dots)
        return name[: room - room // 3] + self._dots + name[len(name) - room // 3 :]

    def _drawn(self) -> RenderableType:
        return Group(*self._rows())

    def _rows(self) -> Iterator[RenderableType]:
        state = self._state
        if state.activity:
            row = _row()
            model, colon, what = state.activity.rpartition(": ")  # the paths of folders are long
            row.add_row(
                Text(
                    f"{model}{colon}{self._names.get(what, what)}", "bold", overflow="ellipsis", no_wrap=True
                ),
                Text(progress.duration(state.active), no_wrap=True),
            )
            yield row
        now = time.time()
        shown = [bar for bar in self._bars if not bar.disable and now - bar.start_t > bar.delay]
        for bar in shown[:_BARS]:
            yield self._bar(bar)
        if state.cells:
            row = _row()
            bar = ProgressBar(len(state.cells), state.done, complete_style="green", finished_style="green")
            row.add_row(bar, self._counts())
            yield row

    def _bar(self, bar: tqdm) -> RenderableType:
        row = _row()
        desc = (bar.desc or "").rstrip(": ")
        if desc == self._state.activity.replace(": ", " "):  # stands above it
            desc = ""
        what = Text(f"  {desc}", overflow="ellipsis", no_wrap=True)
        far = f"{100 * bar.n / bar.total:3.0f} %" if bar.total else f"{bar.n:,} {bar.unit}"
        row.add_row(what, Text(f"{bar.postfix}  {far}" if bar.postfix else far, "dim", no_wrap=True))
        return row

    def _counts(self) -> Text:
        state = self._state
        parts = [f"{state.done}/{len(state.cells)} cells"]
        if state.models > 1:
            parts.append(f"{state.models_done}/{state.models} models")
        if state.failed:
            parts.append(f"{state.failed} failed")
        parts.append(progress.duration(state.elapsed))
        left = state.left
        if left is not None and state.done < len(state.cells):
            parts.append(f"{progress.duration(left)} left")
        return Text(", ".join(parts), no_wrap=True)


def _row() -> Table:
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    return row
