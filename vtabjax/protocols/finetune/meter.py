"""Progress of fine-tuning."""

from __future__ import annotations

import sys
import time

from vtabjax.runtime import bars, processes


class Meter:
    """Progress: steps, steps/s and the time left in a bar, grid point, loss and images/s beside it."""

    def __init__(self, total: int, batch: int, label: str):
        self._batch, self._since, self._steps = batch, time.monotonic(), 0
        self._bar = bars.bar(desc=label, total=total, unit="step", delay=5, disable=not processes.is_first())

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def run(self, name: str, done: int) -> None:
        self._name, self._since, self._steps = name, time.monotonic(), 0
        self.skip(done)

    def step(self, n: int, loss: float) -> None:
        self._steps += n
        rate = self._steps * self._batch / max(time.monotonic() - self._since, 1e-3)
        self._bar.set_postfix_str(f"{self._name} loss={loss:.4f} {rate:.0f} images/s", refresh=False)
        self._bar.update(n)

    def doing(self, text: str) -> None:
        """What goes on beside the steps."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text)

    def skip(self, n: int) -> None:
        """Steps that were taken before or need not be taken; they do not count for the rate."""
        if not self._bar.disable:
            self._bar.initial += n
            self._bar.n += n

    def expect(self, more: int) -> None:
        if not self._bar.disable:
            self._bar.total += more

    def say(self, text: str) -> None:
        if processes.is_first():
            self._bar.write(text, file=sys.stderr)
