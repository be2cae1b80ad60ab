"""Compiles a program and counts: `compiled_programs.py FOLDER KIND_OF_CPU` prints "MISSES HITS"."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax

from vtabjax.runtime import devices

folder, kind = sys.argv[1:]
devices._cpu_kind = lambda: kind
devices.use_compilation_cache(folder)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
jax.block_until_ready(jax.jit(lambda x: jax.numpy.tanh(x @ x).sum())(jax.numpy.ones((64, 64))))
print(events.count("cache_misses"), events.count("cache_hits"))
