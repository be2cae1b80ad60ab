"""Progress of a sweep: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import textwrap
import time
from typing import TextIO


class Progress:
    """Counts cells, with the time that is left.

    Args:
      total: cells there are to do.
      models: models they belong to.
      stream: where to write.
      enabled: False on all processes but the first.
    """

    def __init__(self, total: int, *, models: int = 1, stream: TextIO | None = None, enabled: bool = True):
        self._total, self._done, self._enabled = total, 0, enabled
        self._models, self._models_done = models, 0
        self._stream = sys.stderr if stream is None else stream
        self._start = time.monotonic()
        self._bar = None
        if enabled and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="cell", file=self._stream, dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Writes a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def doing(self, text: str) -> None:
        """Shows the current activity beside the bar; a log gets it when it is over."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def step(self, text: str) -> None:
        """One more cell is done (or failed)."""
        self._done += 1
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            self._bar.update()
        else:
            self.say(f"[{self._done}/{self._total}] {text}  (left: {self._left()})")

    def model(self, text: str, count: int = 1) -> None:
        """All cells of one more model are finished, or of several that differ only in their choice of features."""
        self._models_done += count
        self.say(
            f"{text}  ({_clock()}: {self._models_done} of {self._models} models, {self._done} of {self._total} "
            f"cells, left: {self._left()})"
        )

    def _left(self) -> str:
        return duration((time.monotonic() - self._start) / max(1, self._done) * (self._total - self._done))

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def first_line(text: str, width: int = 160) -> str:
    """The first line of a message, cut where it is longer than `width`."""
    return textwrap.shorten(text.strip().splitlines()[0] if text.strip() else "", width, placeholder=" ...")
