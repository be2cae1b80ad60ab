"""Which of several ways to write an operator is the fastest on this machine's processor: found by trial.

What is fast on one processor is slow on another, so inside `measured` operators that have several ways run each on
their shapes and take the fastest. The choice is remembered in this process and, where JAX keeps compiled programs in a
folder (`devices.use_compilation_cache`), beside them: by processor, cores, jaxlib and class of shapes, so that all
workers and a resumed sweep take the same way. The ways differ by rounding only. With VTABJAX_AUTOTUNE=0 in the
environment nothing is tried or looked up: the first way is taken, as everywhere outside of `measured`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import dataclasses
import functools
import importlib.metadata
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtabjax.runtime import devices, files

ENVIRONMENT = "VTABJAX_AUTOTUNE"

_SECONDS = 2.0  # that trials of one `measured` may take: then first ways are taken, and tried at another time
_CLEARLY = 0.9  # of the first way's time: what is hardly faster is not worth another rounding
_ROUNDS = 3
_BATCH = 8  # images of a trial
_WORK = 3e7  # additions and multiplications; operators with fewer are not worth a trial

_log = logging.getLogger(__name__)
_chosen: dict[str, str] = {}


@dataclasses.dataclass
class _Trials:
    options: Mapping[str, str]
    seconds: float = 0.0  # that trials took


_current: contextvars.ContextVar[_Trials | None] = contextvars.ContextVar("trials", default=None)


@contextlib.contextmanager
def measured(compiler_options: Mapping[str, str]) -> Iterator[None]:
    """Inside, `fastest` chooses by trial, on CPUs; ways are compiled with these options, as the program will be.

    Several processes that run one program have to run the same one, so they try nothing.
    """
    usable = jax.default_backend() == "cpu" and jax.process_count() == 1
    if not usable or os.environ.get(ENVIRONMENT, "1") == "0":
        yield
        return
    token = _current.set(_Trials(compiler_options))
    try:
        yield
    finally:
        _current.reset(token)


def _as_it_is(weight: jax.Array) -> jax.Array:
    return weight


class Way(NamedTuple):
    """A way to write an operator of an input and a weight: ``run(x, prepare(weight))``."""

    run: Callable[[jax.Array, jax.Array], jax.Array]
    prepare: Callable[[jax.Array], jax.Array] = _as_it_is  # once for a model, see `vtabjax.model.hoist`

    def __call__(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        return self.run(x, self.prepare(weight))


def fastest(kind: str, ways: Mapping[str, Way], x: jax.Array, weight: jax.Array, work: float) -> Way:
    """That one of `ways` which is the fastest here; outside of `measured` the first.

    Args:
      kind: the operator's class: with all that matters to which way is faster. `rounded` makes classes of sizes.
      ways: by name.
      x, weight: arrays or tracers; only shapes and dtypes are used.
      work: multiplications and additions.
    """
    active, first = _current.get(), next(iter(ways))
    if active is None or work < _WORK:
        return ways[first]
    settings = "-".join(f"{option}={value}" for option, value in sorted(active.options.items()))
    name = re.sub(r"[^\w=.-]+", "_", f"{kind}-{x.dtype}-{settings}")
    if name not in _chosen:
        found = _remembered(name)
        if found is None:
            if active.seconds >= _SECONDS:
                return ways[first]
            begun = time.perf_counter()
            # In a thread of its own: what is being traced here, with its mesh and precision, is none of its concern.
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                seconds = pool.submit(_seconds, ways, x, weight, active.options).result()
            active.seconds += time.perf_counter() - begun
            found = _remember(name, choice(seconds))
            _log.debug("%s: %s of %s", name, found, seconds)
        _chosen[name] = found
    return ways.get(_chosen[name], ways[first])


def rounded(n: int) -> int:
    """`n` as the nearest power of two."""
    return 2 ** round(math.log2(n))


def choice(seconds: Mapping[str, float]) -> str:
    """The way with the least seconds; the first one unless another is clearly faster."""
    first, best = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < _CLEARLY * seconds[first] else first


def _seconds(ways: Mapping[str, Way], x: Any, weight: Any, options: Mapping[str, str]) -> dict[str, float]:
    """What one run of each way takes: the shortest of rounds in which they take turns."""
    rng = np.random.default_rng(0)
    shape = (min(x.shape[0], _BATCH), *x.shape[1:])
    inputs, weights = (jnp.asarray(rng.random(s, np.float32), x.dtype) for s in (shape, weight.shape))
    runs, taken = {}, dict.fromkeys(ways, math.inf)
    for name, way in ways.items():
        prepared = jax.jit(way.prepare)(weights)
        step = jax.jit(way.run, compiler_options=dict(options)).lower(inputs, prepared).compile()
        runs[name] = functools.partial(step, inputs, prepared)
    for _ in range(1 + _ROUNDS):  # a slow first run is none of the shortest
        for name, run in runs.items():
            begun = time.perf_counter()
            run().block_until_ready()
            taken[name] = min(taken[name], time.perf_counter() - begun)
    return taken


def _file(name: str) -> str | None:
    """Where a choice is kept, if this process keeps compiled programs in a local folder."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or files.is_remote(folder):
        return None
    machine = f"{devices.processor()}-{devices.cores()}-jaxlib{importlib.metadata.version('jaxlib')}"
    return f"{folder}/fastest/{re.sub(r'[^A-Za-z0-9.]+', '_', machine)}/{name}.txt"


def _remembered(name: str) -> str | None:
    path = _file(name)
    if path is None:
        return None
    with contextlib.suppress(OSError):
        return files.as_path(path).read_text(encoding="utf-8").strip() or None
    return None


def _remember(name: str, found: str) -> str:
    """Keeps a choice; of several workers the first one's is that of all."""
    path = _file(name)
    if path is not None:
        with contextlib.suppress(OSError):  # a folder that cannot be written to: the next process tries anew
            if not files.create_text(path, found + "\n"):
                return _remembered(name) or found
    return found
