"""What fine-tuning has finished and where it stands, on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vtabjax import distributed, files
from vtabjax.protocols._finetune_train import State, Trainer

CHECKPOINT_SECONDS = 180.0
TERMINATED = 128 + signal.SIGTERM


class Position(NamedTuple):
    """Where a run stands: the state after so many steps, and what was measured in each."""

    state: State
    losses: list[float]
    hits: list[float]


class Journal:
    """A folder with progress.json and, in the middle of a run, a checkpoint of its state (orbax).

    progress.json is replaced after a new checkpoint is complete and before the old one goes, so that it always
    names one that is there. With several processes all of them save and restore; the first one writes.

    Args:
      folder: where; None keeps everything in memory only.
      identity: what the runs depend on. A journal of other runs is thrown away.
      stop: whether the process has been asked to end.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        identity: Mapping[str, Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._folder = None if folder is None else Path(folder).absolute()
        self._stop, self._saved = stop, time.monotonic()
        fresh = {"identity": json.loads(json.dumps(identity)), "finished": {}, "current": None}
        found = distributed.from_first(
            self._read
        )  # another process may not see the latest file, or no longer
        if found is None or found["identity"] != fresh["identity"]:
            found = fresh
            if self._folder is not None and _first():
                shutil.rmtree(self._folder, ignore_errors=True)
        self._content = found

    def _read(self) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        try:
            return json.loads((self._folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self) -> None:
        if self._folder is not None and _first():
            files.write_text(self._folder / "progress.json", json.dumps(self._content))

    def finished(self, run: str) -> dict[str, Any] | None:
        """What `finish` recorded, or None."""
        return self._content["finished"].get(run)

    def finish(self, run: str, record: Mapping[str, Any]) -> None:
        """Records a run's outcome (JSON-able); its checkpoint goes."""
        current = self._content["current"]
        self._content["finished"][run] = dict(record)
        self._content["current"] = None
        self._write()
        if current is not None:
            self._remove(current["state"])

    def restore(self, run: str, trainer: Trainer) -> Position | None:
        """Where the run was when it was last saved, or None. Sets the trainer's micro-batch to that of then."""
        current = self._content["current"]
        if current is None or current["run"] != run:
            return None
        import orbax.checkpoint as ocp

        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trainer.start()
        )
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(self._folder / current["state"], target)
        trainer.use_micro_batch(current["micro_batch"])
        return Position(state, list(current["losses"]), list(current["hits"]))

    def tick(self, run: str, position: Position, trainer: Trainer) -> None:
        """Between two calls of the device: saves when it is time to, or when the process has been asked to end.

        Raises:
          SystemExit: the latter, after saving.
        """
        due = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        due, stop = _agree(due, self._stop())
        if due or stop:
            self._save(run, position, trainer)
        if stop:
            raise SystemExit(TERMINATED)

    def _save(self, run: str, position: Position, trainer: Trainer) -> None:
        self._saved = time.monotonic()
        if self._folder is None:
            return
        import orbax.checkpoint as ocp

        name = f"state-{len(self._content['finished'])}-{len(position.losses)}"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._folder / name, position.state, force=True)
        before = self._content["current"]
        self._content["current"] = {
            "run": run,
            "state": name,
            "micro_batch": trainer.micro_batch,
            "losses": position.losses,
            "hits": position.hits,
        }
        self._write()
        if before is not None and before["state"] != name:
            self._remove(before["state"])

    def _remove(self, name: str) -> None:
        if self._folder is not None and _first():
            shutil.rmtree(self._folder / name, ignore_errors=True)


def _first() -> bool:
    return jax.process_index() == 0


def _agree(due: bool, stop: bool) -> tuple[bool, bool]:
    """The same decision on every process: clocks and signals differ, collective operations must not."""
    if jax.process_count() == 1:
        return due, stop
    from jax.experimental import multihost_utils

    return tuple(map(bool, multihost_utils.process_allgather(np.asarray([due, stop])).any(axis=0)))


@contextlib.contextmanager
def terminations() -> Iterator[Callable[[], bool]]:
    """Catches SIGTERM within the block; yields a function that tells whether it came.

    A block that ends well in spite of it is followed by SystemExit. SIGUSR2 is caught likewise where somebody waits
    for it (a scheduler's client that puts a job back into the queue when its time is up), and handed on afterwards.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    numbers = [signal.SIGTERM]
    if callable(signal.getsignal(signal.SIGUSR2)):
        numbers.append(signal.SIGUSR2)
    before = {n: signal.signal(n, lambda number, _: caught.append(number)) for n in numbers}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signal.SIGUSR2 in caught:
            signal.raise_signal(signal.SIGUSR2)
    if caught:
        raise SystemExit(TERMINATED)
