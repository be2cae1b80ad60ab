"""The converters, in a process of their own: how they are started, what they say, why they ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from vtabjax import installation

# The converters, wherever main.py was started from. -P: what lies beside the program is not what they import.
COMMAND: Sequence[str] = (
    sys.executable,
    "-P",
    str(Path(__file__).with_name("converters_process.py")),
    str(installation.PATH),
    installation.CONVERTERS_MODULE,
)


class ConversionError(RuntimeError):
    """A model that could not be converted, or converters that could not run."""


def ask(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """What the converters answer to a command: a line for each model.

    Raises:
      ConversionError: they do not run. installation.MissingExtraError: what they need is not installed.
    """
    more = f" (and {len(arguments) - 2} more)" if len(arguments) > 2 else ""
    installation.require("convert", f"config.models: {arguments[1]}{more}")
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--json_lines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Not communicate(): it closes standard input at once, which is the sign to stop.
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin and stdout and stderr  # as asked for above
    errors: list[str] = []
    reader = threading.Thread(target=errors.extend, args=(stderr,), daemon=True)
    reader.start()
    lines = list(json_lines(stdout))
    status = process.wait()
    reader.join()
    for pipe in (stdin, stdout, stderr):
        pipe.close()
    if not lines and status != 0:
        raise ConversionError(
            f"{installation.converters_command()} {arguments[0]}: {reason(status, ''.join(errors))}"
        )
    return lines


def start(out: Path, image_size: int, log: IO[bytes]) -> subprocess.Popen[str]:
    """Converters that wait for specs, a line each, and write artefacts of that size (0: each model's own) to `out`."""
    size = [f"--input_size={image_size}"] if image_size else []
    command = [*COMMAND, "convert", "-", f"--out={out}", *size, "--json_lines"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)


def check(process: subprocess.Popen[str], models: Sequence[str]) -> list[dict[str, Any]]:
    """What started converters answer to the question whether there are such models; fewer lines if they end."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        print(f"check {json.dumps(list(models))}", file=process.stdin, flush=True)
    return list(itertools.islice(json_lines(process.stdout), len(models)))


def json_lines(stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What the converters say, and nothing else that is printed there."""
    for line in stream:
        try:
            data = json.loads(line)
        except ValueError:
            continue  # a library that prints on standard output
        if isinstance(data, dict) and "spec" in data:
            yield data


def reason(status: int, errors: str) -> str:
    """Why a process of the converters ended, from its status and what it wrote to standard error."""
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
        return f"the process was ended by {name}{hint}"
    return f"the process ended with status {status}" + (f": {last}" if last else "")
