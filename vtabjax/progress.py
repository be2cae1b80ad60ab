"""Progress of a sweep: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts cells, with the time that is left.

    Args:
      total: cells there are to do.
      stream: where to write.
      enabled: False on all processes but the first.
    """

    def __init__(self, total: int, *, stream: TextIO | None = None, enabled: bool = True):
        self._total, self._done, self._enabled = total, 0, enabled
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
        """What is going on now, beside the bar; a log has it afterwards."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def step(self, text: str) -> None:
        """One more cell is done (or failed)."""
        self._done += 1
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
            self._bar.update()
        else:
            left = (time.monotonic() - self._start) / self._done * (self._total - self._done)
            self.say(f"[{self._done}/{self._total}] {text}  (left: {duration(left)})")

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
