"""What fine-tuning has finished and where it stands, on disk, so that a killed run resumes where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
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

from vtabjax import model
from vtabjax.protocols.finetune.training import State, Trainer
from vtabjax.runtime import devices, files, processes

CHECKPOINT_SECONDS = 180.0
_DEAD_SECONDS = 24 * 3600.0  # without a sign of life: a worker of another machine is gone
TERMINATED = 128 + signal.SIGTERM


class Progress(NamedTuple):
    """Where a run stands: the state after so many steps, what was measured in each, how long they took."""

    state: State
    losses: list[float]
    hits: list[float]
    seconds: float = 0.0


class Journal:
    """A folder with progress.json and, in the middle of a run, a checkpoint of its state (orbax).

    progress.json is replaced after a new checkpoint is complete and before the old one goes, so that it always
    names one that is there. With several processes all of them save and restore; the first one writes.

    Several workers that take the same cell by mistake do not disturb each other: each goes by what it has in memory,
    and checkpoints carry their writer's name. Whoever comes later finds what was written last.

    Args:
      folder: where; None keeps everything in memory only.
      identity: what the runs depend on. A journal of other runs is not used.
      stop: whether the process has been asked to end.
      say: told what was damaged and is done again.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        identity: Mapping[str, Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ):
        self._folder = None if folder is None else Path(folder).absolute()
        self._stop, self._say, self._saved = stop, say, time.monotonic()
        self._owner = processes.broadcast_from_first(files.owner)
        fresh = {"identity": json.loads(json.dumps(identity)), "finished": {}, "current": None}
        # Another process may not see the latest file, or no longer.
        content = processes.broadcast_from_first(lambda: _read(self._folder, self._say))
        if content is None or content["identity"] != fresh["identity"]:
            if content is not None and content["current"] is not None:
                self._remove(content["current"]["state"])
            content = fresh
        self._content: dict[str, Any] = content
        if self._folder is not None and processes.is_first():
            self._remove_stale_checkpoints(self._folder)

    def _write(self) -> None:
        if self._folder is not None and processes.is_first():
            text = json.dumps({**self._content, "digest": _digest(self._content)})
            files.write_text(self._folder / "progress.json", text)

    def _remove_stale_checkpoints(self, folder: Path) -> None:
        """Removes checkpoints that dead processes left, complete or not."""
        current = self._content["current"]
        for path in folder.glob("state-*"):
            with contextlib.suppress(OSError):
                # A living process of another machine renews its own every few minutes.
                old = time.time() - path.stat().st_mtime > _DEAD_SECONDS
                if (old or files.is_abandoned(path.name)) and path.name != (current and current["state"]):
                    shutil.rmtree(path, ignore_errors=True)

    @property
    def has_begun(self) -> bool:
        """Whether anything has been recorded."""
        return bool(self._content["finished"]) or self._content["current"] is not None

    @property
    def seconds_before(self) -> dict[str, float]:
        """What the runs that were taken over had taken, as given to `take_over`."""
        return dict(self._content.get("before", {}))

    def take_over(
        self, folder: str | os.PathLike, identity: Mapping[str, Any], seconds: Mapping[str, float]
    ) -> bool:
        """Takes over the runs that another journal has finished, and writes that down.

        Args:
          folder: the other's.
          identity: what the other's runs depend on.
          seconds: that they took, by stage; remembered.

        Returns:
          Whether it did: not where the other one is missing, damaged, or about something else.
        """
        there = processes.broadcast_from_first(lambda: _read(Path(folder), lambda text: None))
        if there is None or there["identity"] != json.loads(json.dumps(identity)):
            return False
        self._content |= {"finished": there["finished"], "before": dict(seconds)}
        self._write()
        return True

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

    def restore(self, run: str, trainer: Trainer) -> Progress | None:
        """Where the run was when it was last saved, or None.

        The trainer goes on with no more examples at once than then; with fewer where it had to halve them since.
        """
        current = self._content["current"]
        if current is None or current["run"] != run:
            return None
        state = self._restored(current, trainer)
        intact = all(processes.gather(state is not None))
        if state is None or not intact:
            self._say(f"{self._folder / current['state']} is damaged: {run} starts from its beginning")
            self._content["current"] = None
            return None
        if current["micro_batch"] < trainer.micro_batch and trainer.can_use(current["micro_batch"]):
            trainer.use_micro_batch(current["micro_batch"])
        return Progress(state, list(current["losses"]), list(current["hits"]), current["seconds"])

    def _restored(self, current: Mapping[str, Any], trainer: Trainer) -> State | None:
        import orbax.checkpoint as ocp

        # On the devices of now, which may be others than those it was saved from.
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trainer.initial_state()
        )
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                state = checkpointer.restore(self._folder / current["state"], target)
        except Exception as e:  # orbax and the libraries below it have errors of many kinds
            if devices.out_of_memory(e):
                raise
            return None
        return state if _state_hash(state) == current["hash"] else None

    def checkpoint_if_due(self, run: str, position: Progress, trainer: Trainer) -> None:
        """Between two calls of the device: saves when it is time to, or when the process has been asked to end.

        Raises:
          SystemExit: the latter, after saving.
        """
        due = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        due, stop = any_process(due, self._stop())
        if due or stop:
            self._save(run, position, trainer)
        if stop:
            raise SystemExit(TERMINATED)

    def _save(self, run: str, position: Progress, trainer: Trainer) -> None:
        self._saved = time.monotonic()
        if self._folder is None:
            return
        import orbax.checkpoint as ocp

        name = f"state-{len(self._content['finished'])}-{len(position.losses)}{self._owner}"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._folder / name, position.state, force=True)
        before = self._content["current"]
        self._content["current"] = {
            "run": run,
            "state": name,
            "hash": _state_hash(position.state),
            "micro_batch": trainer.micro_batch,
            "losses": position.losses,
            "hits": position.hits,
            "seconds": position.seconds,
        }
        self._write()
        if before is not None and before["state"] != name:
            self._remove(before["state"])

    def _remove(self, name: str) -> None:
        if self._folder is not None and processes.is_first():
            shutil.rmtree(self._folder / name, ignore_errors=True)


def _read(folder: Path | None, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What a journal holds; None where there is none, and where it is damaged, which is said."""
    if folder is None:
        return None
    path = folder / "progress.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as e:
        say(f"{path} cannot be read ({type(e).__name__}: {e}): starting from the beginning")
        return None
    if digest != _digest(content):
        say(f"{path} is damaged: starting from the beginning")
        return None
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state_hash(state: State) -> str:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return model.weight_hash({jax.tree_util.keystr(path): np.asarray(value) for path, value in leaves})


def any_process(due: bool, stop: bool) -> tuple[bool, bool]:
    """The same decision on every process: clocks and signals differ, collective operations must not."""
    if jax.process_count() == 1:
        return due, stop
    from jax.experimental import multihost_utils

    due, stop = multihost_utils.process_allgather(np.asarray([due, stop])).any(axis=0).tolist()
    return due, stop


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
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
