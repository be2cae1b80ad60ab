"""Several processes as one worker (a TPU pod, GPUs on several machines): who starts them, and what they agree on.

All of them run the same program on the same cells; arrays are split over the devices of all. What is decided by
looking at files, clocks or memory may look different from another machine and has to be the same on all of them, or
one waits forever in a collective operation that the others never enter. So the first process looks and the others are
told (`broadcast_from_first`), or all look and hear of each other (`gather`, `all_or_none`).

This goes through the coordination service's key-value store, not through the devices: waiting for a conversion of
twenty minutes in it needs no device and knows no time-out, and it ends when another process dies.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_WEEK = 7 * 24 * 3600 * 1000  # milliseconds; a process that dies ends the wait of the others much earlier
_round = itertools.count()


class OtherProcessError(RuntimeError):
    """Something went wrong in another process of this worker."""


def initialize(wanted: bool, detect: bool = True) -> bool:
    """Connects the processes of a pod or a multi-process job. To be called before any device is used.

    Args:
      wanted: True to insist; the processes find each other as `jax.distributed.initialize` says (Cloud TPU, SLURM's
        srun, Open MPI, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID).
      detect: look for a cluster with more than one process where it is not insisted on.

    Returns:
      Whether there are several processes.

    Raises:
      ValueError: it was insisted on and there is nothing to connect to.
    """
    if count() > 1:
        return True
    own = _from_environment()
    if not (wanted or own or (detect and _signs() and _detected() > 1)):
        return False
    import jax

    try:
        jax.distributed.initialize(**own)
    except (ValueError, RuntimeError) as e:
        raise ValueError(
            f"config.distributed={wanted}: the processes cannot be connected ({e}). Start one per machine through "
            "srun, mpirun or on a TPU pod, or set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID for each"
        ) from e
    return jax.process_count() > 1


def _from_environment() -> dict[str, Any]:
    """The variables that JAX's documentation names; JAX itself reads only the first of them."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not all(name in os.environ for name in names):
        return {}
    address, count, number = (os.environ[name] for name in names)
    try:
        return {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}
    except ValueError as e:
        raise ValueError(
            f"JAX_NUM_PROCESSES={count!r}, JAX_PROCESS_ID={number!r}: both must be whole numbers"
        ) from e


def _signs() -> bool:
    """Whether this looks like a cluster at all; on other machines nothing heavy is loaded to find out."""
    known = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "PMIX_RANK", "KUBERNETES_SERVICE_HOST")
    return any(name in os.environ for name in known) or importlib.util.find_spec("libtpu") is not None


def _detected() -> int:
    """Processes of the cluster that JAX recognises here; 1 where it recognises none."""
    try:
        from jax._src import clusters

        kinds = clusters.ClusterEnv._cluster_types
        with warnings.catch_warnings(action="ignore"):  # such as: in a Kubernetes pod without its package
            found = next((k for k in kinds if not k.opt_in_only_method and k.is_env_present()), None)
        return 1 if found is None else int(found.get_process_count())
    except Exception:  # no public name of JAX tells; `wanted` remains
        return 1


def count() -> int:
    """Processes of this worker."""
    jax = sys.modules.get("jax")  # looking at a finished sweep does not import it
    return jax.process_count() if jax is not None and jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return _me() == 0


def _me() -> int:
    return 0 if count() == 1 else sys.modules["jax"].process_index()


def gather(value: T) -> list[T]:
    """What every process has (JSON), by number. All of them have to call it, in the same order."""
    n = count()
    if n == 1:
        return [value]
    # No public name of JAX either; orbax and JAX's own multihost_utils reach for the same one.
    from jax._src.distributed import global_state

    client: Any = global_state.client
    number, me = next(_round), _me()
    client.key_value_set(f"vtabjax/{number}/{me}", json.dumps(value))
    found = [json.loads(client.blocking_key_value_get(f"vtabjax/{number}/{p}", _WEEK)) for p in range(n)]
    if number:  # everyone who set this round's value has read the last round's
        client.key_value_delete(f"vtabjax/{number - 1}/{me}")
    return found


def broadcast_from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process (JSON), in every process. There it raises what `make` raised.

    Raises:
      OtherProcessError: in the others, where it raised in the first.
    """
    if count() == 1:
        return make()
    error: Exception | None = None
    answer: tuple[Any, str | None] = None, None
    if is_first():
        try:
            answer = make(), None
        except Exception as e:
            error, answer = e, (None, f"{type(e).__name__}: {e}")
    value, message = gather(answer)[0]
    if error is not None:
        raise error
    if message is not None:
        raise OtherProcessError(message)
    return value


def all_or_none(make: Callable[[], T]) -> T:
    """What `make` gives in each process; if it raises in one of them, all raise.

    Raises:
      OtherProcessError: it raised in another process.
    """
    if count() == 1:
        return make()
    error: Exception | None = None
    value: Any = None
    try:
        value = make()
    except Exception as e:
        error = e
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message is not None:
            raise OtherProcessError(f"process {process}: {message}")
    return value
