"""Converted models on disk, and the conversions that make them in another process.

This is the one place where the sweep meets ``converters``, and it does so over a pipe: torch and JAX in one
process fight over the cores, and a model whose conversion crashes must not take the sweep with it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import files, specs

_ROOT = Path(__file__).resolve().parent.parent

# The converters, wherever main.py was started from. Their standard input is a pipe that nobody writes to: it
# ends when this process does, however it ends, and they with it.
_START = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("converters", run_name="__main__", alter_sys=True)
"""
COMMAND: Sequence[str] = (sys.executable, "-c", _START, str(_ROOT))


class ConversionError(RuntimeError):
    """A model that could not be converted, or converters that could not run."""


class Converted(NamedTuple):
    """A converted model.

    Attributes:
      path: its folder.
      seconds: what the conversion took; 0 where it was there already.
    """

    path: Path
    seconds: float


def folder(models_dir: str | os.PathLike, spec: str, image_size: int) -> Path:
    """Where a model converted at that image size lies."""
    return Path(models_dir) / f"{specs.slug(spec)}-{image_size}"


def find(models_dir: str | os.PathLike, spec: str, image_size: int) -> Path | None:
    """The folder of a converted model, or None. Size 0 (the model's own) is known only after converting."""
    path = folder(models_dir, spec, image_size)
    return path if image_size and (path / "model.json").is_file() else None


def read_info(path: str | os.PathLike) -> dict[str, Any]:
    """A converted model's model.json, with "graph_hash" added; reads no weights."""
    path = Path(path)
    info = json.loads((path / "model.json").read_text(encoding="utf-8"))
    return {**info, "graph_hash": hashlib.sha256((path / "graph.json").read_bytes()).hexdigest()[:16]}


def check(models: Sequence[str]) -> dict[str, str]:
    """Models that cannot be had, each with a line that says why; loads no weights.

    Raises:
      ConversionError: the converters do not run.
    """
    lines = _run(["check", *models]) if models else []
    return {line["spec"]: line.get("message") or "unknown" for line in lines if not _fine(line)}


def expand(models: Iterable[str], cache: str | os.PathLike) -> list[str]:
    """Models with glob patterns replaced by what they match, in order, each once.

    What a pattern stands for depends on nothing but the installed torchvision and timm, so it is remembered
    in the file `cache` and looking at a finished sweep starts no converter.

    Raises:
      specs.SpecError: a pattern matches nothing.
      ConversionError: the converters do not run.
    """
    models = list(models)
    patterns = [m for m in models if specs.is_pattern(m)]
    if not patterns:
        return models
    installed = json.dumps([_version(p) for p in ("torchvision", "timm")])
    known = {}
    try:
        data = json.loads(Path(cache).read_text(encoding="utf-8"))
        known = data["patterns"] if data["installed"] == installed else {}
    except (OSError, ValueError, KeyError):
        pass
    for pattern in patterns:
        if pattern not in known:
            found = [line["spec"] for line in _run(["list", pattern]) if _fine(line)]
            if not found:
                raise specs.SpecError(
                    f"config.models: {pattern!r} matches no published model; "
                    "`python -m converters list 'timm/*'` shows what there is"
                )
            known[pattern] = found
    files.write_text(cache, json.dumps({"installed": installed, "patterns": known}, indent=1))
    return list(dict.fromkeys(m for model in models for m in known.get(model, [model])))


def _fine(line: dict[str, Any]) -> bool:
    return line.get("ok", line.get("status") != "failed")


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _run(arguments: Sequence[str]) -> list[dict[str, Any]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--json_lines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Not communicate(): it closes standard input at once, which is the sign to stop.
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    lines = list(_json_lines(process.stdout))
    status = process.wait()
    reader.join()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    if not lines and status != 0:
        raise ConversionError(f"python -m converters {arguments[0]}: {_reason(status, ''.join(errors))}")
    return lines


def _json_lines(stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            data = json.loads(line)
        except ValueError:
            continue  # a library that prints on standard output
        if isinstance(data, dict) and "spec" in data:
            yield data


def _reason(status: int, errors: str) -> str:
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
        return f"the process was ended by {name}{hint}"
    return f"the process ended with status {status}" + (f": {last}" if last else "")


class Conversions:
    """Converts models, one after the other, in a process of its own while the caller works on those that are
    done.

    A model whose conversion crashes or hangs fails alone: the process is started again for the rest.
    """

    def __init__(self, models: Sequence[str], models_dir: str | os.PathLike, image_size: int, timeout: float):
        """Starts converting.

        Args:
          models: specs, in the order they will be asked for.
          models_dir: where the artefacts go.
          image_size: edge in pixels; 0: each model's own.
          timeout: seconds one model may take.
        """
        self._models, self._dir, self._size, self._timeout = (
            list(models),
            Path(models_dir),
            image_size,
            timeout,
        )
        self._futures = {model: concurrent.futures.Future() for model in models}
        self._process: subprocess.Popen | None = None
        self._closed = False
        self._lock = threading.Lock()
        self.log = self._dir / "convert.log"
        self._thread = threading.Thread(target=self._work, name="conversions", daemon=True)
        if models:
            self._dir.mkdir(parents=True, exist_ok=True)
            self._thread.start()

    def ready(self, model: str) -> bool:
        """Whether `result` would return (or raise) at once."""
        return self._futures[model].done()

    def result(self, model: str) -> Converted:
        """The converted model, waiting for it where needed.

        Raises:
          ConversionError: it could not be converted.
        """
        return self._futures[model].result()

    def close(self) -> None:
        """Stops converting."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Conversions:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _work(self) -> None:
        remaining = list(self._models)
        try:
            while remaining and not self._closed:
                self._start(remaining)
        except (
            Exception
        ) as e:  # a disk that is full, a process that cannot start: everybody who waits must hear it
            for model in remaining:
                self._futures[model].set_exception(ConversionError(f"the converters cannot run: {e}"))

    def _start(self, remaining: list[str]) -> None:
        size = [f"--input_size={self._size}"] if self._size else []
        command = [*COMMAND, "convert", *remaining, f"--out={self._dir}", *size, "--json_lines"]
        with open(self.log, "ab") as log:
            offset = log.tell()
            with self._lock:
                if self._closed:
                    return
                self._process = process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
        hung = False

        def stop() -> None:
            nonlocal hung
            hung = True
            process.kill()

        answered = False
        clock = _timer(self._timeout, stop)
        for line in _json_lines(process.stdout):
            model = next((m for m in remaining if line["spec"] in (m, str(specs.parse(m)))), None)
            if model is None:
                continue
            answered = True
            remaining.remove(model)
            self._answer(model, line)
            clock.cancel()
            clock = _timer(self._timeout, stop)
        status = process.wait()
        clock.cancel()
        process.stdin.close()
        process.stdout.close()
        if not remaining or self._closed:
            return
        with open(self.log, "rb") as log:
            log.seek(offset)
            reason = _reason(status, log.read().decode(errors="replace"))
        if hung:
            reason = f"stopped after {self._timeout:g} s (config.convert_timeout)"
        # It crashed in one model, unless it never got as far as models: then the rest would fail the same
        # way.
        lost = remaining[:1] if answered or hung or status < 0 else list(remaining)
        for model in lost:
            remaining.remove(model)
            self._futures[model].set_exception(ConversionError(f"{reason}; see {self.log}"))

    def _answer(self, model: str, line: dict[str, Any]) -> None:
        future = self._futures[model]
        if line.get("status") == "failed":
            future.set_exception(ConversionError(line.get("message") or "no reason given"))
        elif not line.get("path"):
            future.set_exception(ConversionError(f"the converters named no folder: {line}"))
        else:
            present = line["status"] == "present"
            future.set_result(
                Converted(Path(line["path"]), 0.0 if present else float(line.get("seconds") or 0))
            )


def _timer(seconds: float, action) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer
