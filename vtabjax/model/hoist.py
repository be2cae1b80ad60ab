"""What a compiled function computes from its weights alone, computed once instead of at every call.

Reordering the kernel of a convolution, scales and shifts of batch norm, standardised weights: XLA folds none of it, for
weights are arguments, and repeats it for every batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# The last one where it adds dimensions of size 1.
_VIEWS = frozenset({"slice", "squeeze", "reshape", "broadcast_in_dim"})


def split(
    function: Callable[..., Any], weights: Any, *args: Any
) -> tuple[Callable[[Any], list[jax.Array]], Callable[..., Any]]:
    """`function` in two: ``function(weights, *args) == rest(first(weights), *args)``.

    What would grow much is left in `rest`, broadcasts over a batch foremost: it would be read from memory instead of
    computed on the way. So what `first` returns is rarely much larger than the weights.

    Args:
      function: of arrays in trees; any that `jax.make_jaxpr` can trace.
      weights: its first argument, or `jax.ShapeDtypeStruct`s of the shapes and dtypes that it will have.
      *args: the others, likewise.

    Returns:
      (first, rest): both can be jitted and sharded; `first` returns a list of arrays.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(weights, *args)
    jaxpr = closed.jaxpr
    count = len(jax.tree.leaves(weights))
    given, constants = jaxpr.invars[:count], set(jaxpr.constvars)
    known = {*given, *constants}
    now, later = [], []
    for eqn in jaxpr.eqns:
        operands = [v for v in eqn.invars if not isinstance(v, core.Literal)]
        if operands and known.issuperset(operands) and not eqn.effects and _is_small(eqn.outvars, operands):
            now.append(eqn)
            known.update(eqn.outvars)
        else:
            later.append(eqn)
    now, views = _without_last_views(now)
    later = [*views, *later]
    known.difference_update(v for eqn in views for v in eqn.outvars)
    used = itertools.chain(*(eqn.invars for eqn in later), jaxpr.outvars)
    kept = list(
        dict.fromkeys(
            v for v in used if not isinstance(v, core.Literal) and v in known and v not in constants
        )
    )

    def part(invars: list, eqns: list, outvars: list) -> Callable[..., list]:
        piece = jaxpr.replace(invars=invars, eqns=eqns, outvars=outvars)
        return core.jaxpr_as_fun(core.ClosedJaxpr(piece, closed.consts))

    before = part(given, now, kept)
    after = part([*kept, *jaxpr.invars[count:]], later, jaxpr.outvars)

    def first(weights: Any) -> list[jax.Array]:
        return before(*jax.tree.leaves(weights))

    def rest(prepared: list[jax.Array], *args: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(shapes), after(*prepared, *jax.tree.leaves(args)))

    return first, rest


def _without_last_views(eqns: list) -> tuple[list, list]:
    """`eqns` without those at their end that only look at numbers in another way, and these.

    They cost nothing where they are used, and would make an array of its own of every piece.
    """
    kept: list = []
    views: list = []
    used: set = set()
    for eqn in reversed(eqns):
        grows = _size(eqn.outvars) > _size(eqn.invars)
        if eqn.primitive.name in _VIEWS and not grows and used.isdisjoint(eqn.outvars):
            views.append(eqn)
        else:
            kept.append(eqn)
            used.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    return kept[::-1], views[::-1]


def _is_small(results: list, operands: list) -> bool:
    size, before = _size(results), _size(operands)
    return size <= before or size <= min(64 * before, 1 << 19)


def _size(values: list) -> int:
    return sum(math.prod(v.aval.shape) for v in values)
