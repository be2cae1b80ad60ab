"""Conversions in a process of their own, a few models ahead of the one that is computed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from vtabjax import installation, specs
from vtabjax.runtime import files, memory
from vtabjax.sweep import converters_client
from vtabjax.sweep.artefacts import ConversionError

AHEAD = 3  # converted models that wait for their turn, at most; they take disk, and the next run may not want them
_LAST = "model.json"  # the file that says that the others are there
_TO_END = 60.0  # seconds a process has that has nothing more to say
_POLL = 0.25  # seconds between two looks at a process's memory


class Conversion(NamedTuple):
    """A converted model.

    Attributes:
      path: its folder.
      seconds: what the conversion took; 0 where it was there already.
    """

    path: Path
    seconds: float


class Limits(NamedTuple):
    """What converting one model may take.

    Attributes:
      seconds: wall seconds.
      bytes: resident memory of the process; None: three quarters of what is free when it starts.
    """

    seconds: float
    bytes: float | None = None


class _Fed(NamedTuple):
    """How far a process got: whether it answered at all, and when the last model began."""

    answered: bool
    began: float


class Started:
    """Converters that were started before the sweep, to ask them which models there are; they convert afterwards.

    Importing what they need takes seconds, and is done once this way.

    Raises:
      OSError: the folder cannot be written. installation.MissingExtraError: what they need is not installed.
    """

    def __init__(self, models: Sequence[str], models_dir: Path, image_size: int):
        more = f" (and {len(models) - 1} more)" if len(models) > 1 else ""
        installation.require("convert", f"config.models: {models[0]}{more}")
        self.log = _log(models_dir)
        with open(self.log, "ab") as log:
            self.offset = log.tell()
            self.process = converters_client.start(models_dir, image_size, log)

    def check(self, models: Sequence[str]) -> list[dict[str, Any]]:
        """What they say of each model. ConversionError: they ended before they had said it."""
        lines = converters_client.check(self.process, models)
        if len(lines) < len(models):
            status = _reap(self.process)
            reason = converters_client.reason(status, _written(self.log, self.offset))
            raise ConversionError(f"{installation.converters_command()} check: {reason}")
        return lines

    def close(self) -> None:
        """Ends them, unless a sweep has ended them."""
        if self.process.returncode is None:
            self.process.kill()
            _reap(self.process)


class Conversions:
    """Converts models, one after the other, while the caller works on those that are done.

    A model whose conversion crashes, hangs or eats the memory fails alone: the process is started again for the
    rest.
    """

    def __init__(
        self,
        models: Sequence[str],
        models_dir: str | os.PathLike,
        image_size: int,
        limits: Limits,
        *,
        ahead: int = AHEAD,
        started: Started | None = None,
        on_converted: Callable[[str, float, float, bool], None] = lambda *_: None,
    ):
        """Starts converting.

        Args:
          models: specs, in the order they will be asked for.
          models_dir: where the artefacts go.
          image_size: edge in pixels; 0: each model's own.
          limits: for one model.
          ahead: converted models that nobody has asked for yet, at most; 0 converts each when it is asked for.
          started: converters to begin with; others are started where these end.
          on_converted: called from another thread with every model, when its conversion began and ended
            (time.time()), and whether it succeeded.

        Raises:
          ValueError: `ahead` is negative: then no model would ever have its turn.
          OSError: the folder cannot be written.
        """
        if ahead < 0:
            raise ValueError(f"ahead={ahead} must be at least 0")
        self._models, self._dir = list(models), files.as_path(models_dir)
        self._size, self._limits = image_size, limits
        self._ahead, self._on_converted = ahead, on_converted
        self._futures: dict[str, concurrent.futures.Future[Conversion]] = {
            model: concurrent.futures.Future() for model in models
        }
        self._number = {model: i for i, model in enumerate(models)}
        self._process: subprocess.Popen[str] | None = None
        self._started = started.process if started is not None else None
        self._closed = False
        self._requested = 0  # models that were asked for
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="conversions", daemon=True)
        self._staging: tempfile.TemporaryDirectory[str] | None = None
        if not models:
            return
        if files.is_remote(self._dir):  # converted here, then sent there
            self._staging = tempfile.TemporaryDirectory(prefix="vtabjax-models-")
        files.remove_stale_temporaries(self._dir)  # it may lie outside of the workdir
        self._out = Path(self._staging.name) if self._staging else self._dir
        self.log = _log(self._out)
        self._thread.start()

    def ready(self, model: str) -> bool:
        """Whether `result` would return (or raise) at once."""
        return self._futures[model].done()

    def result(self, model: str) -> Conversion:
        """The converted model, waiting for it where needed.

        Raises:
          ConversionError: it could not be converted.
        """
        with self._room:
            self._requested = max(self._requested, self._number[model] + 1)
            self._room.notify_all()
        return self._futures[model].result()

    def close(self) -> None:
        """Stops converting."""
        with self._room:
            self._closed = True
            self._room.notify_all()
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join()
        if self._staging is not None:
            self._staging.cleanup()

    def __enter__(self) -> Conversions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        remaining = list(self._models)
        try:
            while remaining and not self._closed:
                self._run(remaining)
        except Exception as e:  # a full disk, a process that cannot start: everybody who waits must hear it
            for model in remaining:
                self._futures[model].set_exception(ConversionError(f"the converters cannot run: {e}"))

    def _wait_for_turn(self, model: str) -> bool:
        """Waits until the model may be converted; False when it need not be any more."""
        with self._room:
            self._room.wait_for(lambda: self._closed or self._number[model] < self._requested + self._ahead)
        return not self._closed

    def _run(self, remaining: list[str]) -> None:
        """Converts models in one process, as far as it gets, and takes them out of `remaining`."""
        if not self._wait_for_turn(remaining[0]):
            return
        with open(self.log, "ab") as log:
            offset = log.tell()
            process = self._start(log)
        if process is None:
            return
        guard = _Guard(process, self._limits)
        try:
            fed = self._feed(process, guard, remaining)
        except BaseException:  # it would wait for its next line, and the wait below for its end
            process.kill()
            raise
        finally:
            guard.end()
            guard.stop()
            if self._closed or not remaining:
                process.kill()  # it waits for more
            status = _reap(process)
        if not remaining or self._closed:
            return
        reason = guard.reason or converters_client.reason(status, _written(self.log, offset))
        # It crashed in one model, unless it never got as far as models: then the rest would fail the same way.
        lost = remaining[:1] if fed.answered or guard.reason or status < 0 else list(remaining)
        where = "" if self._staging else f"; see {self.log}"
        for model in lost:
            remaining.remove(model)
            self._on_converted(model, fed.began, time.time(), False)
            self._futures[model].set_exception(ConversionError(f"{reason}{where}"))

    def _start(self, log: IO[bytes]) -> subprocess.Popen[str] | None:
        """A process of the converters that reads specs and writes to `log`; None when it need not be any more."""
        with self._room:
            if self._closed:
                return None
            started, self._started = self._started, None
            if started is None or started.poll() is not None:
                started = converters_client.start(self._out, self._size, log)
            self._process = started
            return started

    def _feed(self, process: subprocess.Popen[str], guard: _Guard, remaining: list[str]) -> _Fed:
        """Gives a process one model after the other until it ends; takes out of `remaining` what it answered."""
        assert process.stdout is not None
        lines = converters_client.json_lines(process.stdout)
        fed = _Fed(False, time.time())
        while remaining and self._wait_for_turn(remaining[0]):
            model = remaining[0]
            fed = fed._replace(began=time.time())
            guard.begin()
            try:
                print(model, file=process.stdin, flush=True)
            except BrokenPipeError:
                break
            line = next((a for a in lines if a["spec"] in (model, str(specs.parse(model)))), None)
            guard.end()
            if line is None:
                break
            fed = fed._replace(answered=True)
            self._resolve(model, line, fed.began)
            del remaining[0]
        return fed

    def _resolve(self, model: str, line: dict[str, Any], began: float) -> None:
        future = self._futures[model]
        problem, path = None, Path(line.get("path") or "")
        if line.get("status") == "failed":
            problem = line.get("message") or "no reason given"
        elif not line.get("path"):
            problem = f"the converters' answer does not name a folder: {line}"
        elif self._staging is not None:
            try:
                path = self._send(path)
            except Exception as e:  # of whatever kind the object store has; the next model may get through
                problem = f"it was converted, but could not be sent to {self._dir}: {type(e).__name__}: {e}"
        self._on_converted(model, began, time.time(), problem is None)
        if problem is not None:
            future.set_exception(ConversionError(problem))
        else:
            seconds = 0.0 if line["status"] == "present" else float(line.get("seconds") or 0)
            future.set_result(Conversion(path, seconds))

    def _send(self, here: Path) -> Path:
        """Moves a converted model into the object store; what fails is tried once more."""
        there = self._dir / here.name
        try:
            if not (there / _LAST).exists():
                try:
                    files.upload_tree(here, there, last=_LAST)
                except Exception:  # most are gone the next moment: a connection that was reset
                    files.upload_tree(here, there, last=_LAST)
        finally:
            shutil.rmtree(here, ignore_errors=True)
        return there


def _log(folder: Path) -> Path:
    """Where converters that write to `folder` write what else they say."""
    path = folder / "logs" / f"{files.host()}.{os.getpid()}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _written(log: Path, offset: int) -> str:
    with open(log, "rb") as f:
        f.seek(offset)
        return f.read().decode(errors="replace")


def _reap(process: subprocess.Popen[str]) -> int:
    """The exit status of a process that has nothing more to say."""
    try:
        status = process.wait(_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    return status


class _Guard:
    """Kills a process that takes too long or too much memory; `reason` says so."""

    def __init__(self, process: subprocess.Popen[str], limits: Limits):
        self.reason = ""
        self._process, self._seconds = process, limits.seconds
        self._bytes = 0.75 * memory.available() if limits.bytes is None else limits.bytes
        self._deadline = float("inf")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="conversion guard", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def end(self) -> None:
        self._deadline = float("inf")

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL):
            used = memory.rss(self._process.pid)
            if used > self._bytes:
                self.reason = (
                    f"stopped at {used / 1e9:.1f} GB of memory, {self._bytes / 1e9:.1f} GB are allowed "
                    "(config.convert_memory_gb)"
                )
            elif time.monotonic() > self._deadline:
                self.reason = f"stopped after {self._seconds:g} s (config.convert_timeout)"
            if self.reason:
                self._process.kill()
                return
