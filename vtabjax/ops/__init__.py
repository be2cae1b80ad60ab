"""ATen operators in jax.numpy and jax.lax.

Every function has the name and the arguments of the ATen operator it stands for (without device, layout and
memory format) and its semantics, NCHW dimension order included. `TABLE` maps operator names to functions; an
overload with semantics of its own has an entry with its full name (``max.dim``).

To add an operator: write the function in the file of its kind, named as ATen names it; files list what they
define in ``__all__``, overloads that need a function of their own in ``OVERLOADS``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

FILES = (
    "activation", "attention", "conv", "create", "elementwise", "index", "linear_algebra", "norm", "pool", "recurrent",
    "reduce", "resize", "shape", "symbolic",
)  # fmt: skip

TABLE: dict[str, Callable] = {}
for _name in FILES:
    _file = importlib.import_module(f"vtabjax.ops.{_name}")
    TABLE.update({name: getattr(_file, name) for name in _file.__all__})
    TABLE.update(getattr(_file, "OVERLOADS", {}))

# Run by vtabjax.model.apply itself, because they need to know about training.
STATEFUL = frozenset({"batch_norm", "dropout", "feature_dropout", "stochastic_depth"})


class UnknownOperatorError(NotImplementedError):
    """An operator that vtabjax.ops does not have."""


def split_name(op: str) -> tuple[str, str]:
    """``aten.max.dim`` -> ("max", "dim"); ``operator.mul`` -> ("operator.mul", "")."""
    if op.startswith("operator."):
        return op, ""
    _, name, overload = op.split(".")
    return name, overload


def entry(op: str) -> str:
    """Where an operator stands in `TABLE`: its full name, where the overload has a function of its own, or its name."""
    name, overload = split_name(op)
    full = f"{name}.{overload}"
    return full if full in TABLE else name


def lookup(op: str, module: str = "") -> Callable:
    """The function for an operator such as ``aten.max.dim``.

    Raises:
      UnknownOperatorError: it is not there; the message tells its name, the module it comes from and how to add it.
    """
    function = TABLE.get(entry(op))
    if function is None:
        name = split_name(op)[0]
        near = difflib.get_close_matches(name, TABLE, n=3)
        raise UnknownOperatorError(
            f"operator {op} is not known (used in module {module or '<top level>'!r}). Add a function `{name}` with "
            f"ATen's arguments to the file of its kind in vtabjax/ops/ and list it in that file's __all__"
            + (f" (nearest there: {', '.join(near)})" if near else "")
        )
    return function


def is_known(op: str) -> bool:
    """Whether `apply` can run the operator."""
    return entry(op) in TABLE or split_name(op)[0] in STATEFUL
