"""ATen operators as lines of JAX: what a reader would write, or a call of a function from `helpers.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vtabjax import ops
from vtabjax.graph import DType, Ref
from vtabjax.model.eject._structure import EjectError, Statement

# Literal arguments in which modules of one class may differ: they become arguments of its constructor.
VARYING: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("stride", "padding", "dilation", "groups"),
    "view": ("size",),
    "reshape": ("size",),
    "expand": ("size",),
    "max_pool2d": ("kernel_size", "stride", "padding"),
    "avg_pool2d": ("kernel_size", "stride", "padding"),
    "split_with_sizes": ("split_size",),
    "mul": ("other",),
    "div": ("other",),
    "roll": ("shifts",),
    "pad": ("pad",),
    "group_norm": ("num_groups",),
    "layer_norm": ("eps",),
    "batch_norm": ("eps",),
}
_SIGNATURES = {
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps",
                   "cudnn_enabled"),
    "dropout": ("input", "p", "train"),
    "feature_dropout": ("input", "p", "train"),
    "stochastic_depth": ("input", "p", "mode", "train"),
    "operator.getitem": ("self", "index"),
}  # fmt: skip
_PAIRS = ("stride", "padding", "dilation", "kernel_size")


def arguments(statement: Statement, op: str) -> dict[str, Any]:
    """An operator's arguments by ATen's names, defaults filled in."""
    name = ops.split_name(op)[0]
    if name in _SIGNATURES:
        bound = dict(zip(_SIGNATURES[name], statement.args, strict=False)) | dict(statement.kwargs)
    elif name in _FUNCTIONS or name in _OPERATORS:
        try:
            found = inspect.signature(ops.lookup(op)).bind(*statement.args, **statement.kwargs)
            found.apply_defaults()
            bound = dict(found.arguments)
        except (TypeError, ValueError):  # of jax.numpy's own functions
            names = ("self", "other")
            bound = dict(zip(names, statement.args, strict=False)) | dict(statement.kwargs)
        if bound.get("args") is not None:  # likewise
            bound = dict(zip(("self", "other"), bound["args"], strict=False))
        if "x" in bound:
            bound["self"] = bound.pop("x")
    else:
        raise EjectError(
            f"operator {op} cannot be written as source yet; add it to vtabjax/model/eject/_operators.py "
            "(the model itself runs: vtabjax.model.load)"
        )
    if "normalized_shape" in bound:  # the weight has it
        bound["normalized_shape"] = len(bound["normalized_shape"])
    bound.pop("momentum", None)
    for pair in _PAIRS:
        value = bound.get(pair)
        if isinstance(value, tuple) and len(set(value)) == 1 and not isinstance(value[0], Ref):
            bound[pair] = value[0]
    return bound


class Line:
    """The arguments of an operator as text.

    Attributes:
      raw: as the graph has them.
      outputs: how many values the statement gives.
    """

    def __init__(self, raw: Mapping[str, Any], render: Callable[[str, Any], str], outputs: int):
        self.raw = raw
        self._render = render
        self.outputs = outputs

    def __getitem__(self, name: str) -> str:
        return self._render(name, self.raw[name])

    def options(self, **defaults: Any) -> list[str]:
        """``name=value`` of the arguments that differ from their defaults."""
        texts = {name: self[name] for name in defaults if name in self.raw}
        return [f"{name}={text}" for name, text in texts.items() if text != repr(defaults[name])]

    def call(self, function: str, *names: str, **defaults: Any) -> str:
        """``function(arguments)``."""
        return f"{function}({', '.join([*(self[name] for name in names), *self.options(**defaults)])})"


def _binary(sign: str, of_alpha: bool = False) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        if (of_alpha and line.raw.get("alpha", 1) != 1) or line.raw.get("rounding_mode"):
            raise EjectError(f"{sign} with alpha or rounding_mode cannot be written as source yet")
        return f"{line['self']} {sign} {line['other']}"

    return text


def _conv2d(line: Line) -> str:
    if isinstance(line.raw["padding"], str):
        raise EjectError("a convolution with padding by name cannot be written as source yet")
    first = ("input", "weight") if line.raw["bias"] is None else ("input", "weight", "bias")
    return line.call("conv2d", *first, stride=1, padding=0, dilation=1, groups=1)


def _norm(function: str, *more: str) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        if line.raw["weight"] is None or line.raw["bias"] is None or line.raw.get("training"):
            raise EjectError(
                f"{function} without weight and bias, or of a batch, cannot be written as source yet"
            )
        return line.call(function, "input", "weight", "bias", *more, eps=1e-05)

    return text


def _batch_norm(line: Line) -> str:
    if line.raw["running_mean"] is None or line.raw["training"]:
        raise EjectError("batch_norm by the batch's own statistics cannot be written as source yet")
    names = ("running_mean", "running_var", "weight", "bias")
    return line.call("batch_norm", "input", *(n for n in names if line.raw[n] is not None), eps=1e-05)


def _reduced(function: str) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        dim = line.raw.get("dim")
        inside = [] if dim in (None, ()) else [f"axis={dim!r}"]
        inside += ["keepdims=True"] if line.raw.get("keepdim") else []
        return f"{line['self']}.{function}({', '.join(inside)})"

    return text


def _average(line: Line) -> str:
    if line.raw["output_size"] not in (1, (1, 1)):
        raise EjectError(f"adaptive pooling to {line.raw['output_size']} cannot be written as source yet")
    return f"{line['self']}.mean(axis=(2, 3), keepdims=True)"


def _pool(function: str, **defaults: Any) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        if line.raw.get("dilation", 1) != 1 or line.raw.get("divisor_override") is not None:
            raise EjectError(f"{function} with a dilation or a divisor cannot be written as source yet")
        stride = "stride" if line.raw["stride"] not in ((), None) else "kernel_size"
        return line.call(function, "self", "kernel_size", stride, padding=0, **defaults)

    return text


def _flatten(line: Line) -> str:
    start, end, x = line.raw["start_dim"], line.raw["end_dim"], line["self"]
    if end != -1 or start < 0:
        raise EjectError(f"flatten from {start} to {end} cannot be written as source yet")
    shape = ", ".join([*(f"{x}.shape[{i}]" for i in range(start)), "-1"])
    return f"{x}.reshape({shape})"


def _attention(line: Line) -> str:
    if line.raw["is_causal"] or line.raw["enable_gqa"]:
        raise EjectError("causal or grouped attention cannot be written as source yet")
    return line.call("attention", "query", "key", "value", attn_mask=None, scale=None).replace(
        "attn_mask=", "mask="
    )


def _indexed(line: Line, dim: int, index: str) -> str:
    before = [":"] * dim if dim >= 0 else ["..."]
    after = [] if dim >= 0 else [":"] * (-1 - dim)
    return f"{line['self']}[{', '.join([*before, index, *after])}]"


def _slice(line: Line) -> str:
    start, end, step = (line.raw[name] for name in ("start", "end", "step"))
    text = f"{start or ''}:{'' if end is None or end > 1 << 60 else end}" + (f":{step}" if step != 1 else "")
    return _indexed(line, line.raw["dim"], text)


def _unbind(line: Line) -> str:
    return ", ".join(_indexed(line, line.raw["dim"], str(i)) for i in range(line.outputs))


def _split(line: Line) -> str:
    sizes = line.raw["split_size"]
    sizes = [sizes] * line.outputs if isinstance(sizes, int) else list(sizes)
    parts = []
    for i in range(line.outputs):
        start, end = sum(sizes[:i]), sum(sizes[: i + 1])
        parts.append(_indexed(line, line.raw["dim"], f"{start or ''}:{end}"))
    return ", ".join(parts)


def _chunk(line: Line) -> str:
    if line.outputs != line.raw["chunks"]:
        raise EjectError("chunks of which some are not used cannot be written as source yet")
    return f"jnp.split({line['self']}, {line['chunks']}, axis={line['dim']})"


def _by_numbers(method: str, name: str) -> Callable[[Line], str]:
    """A method that takes numbers one by one, or together where they are an argument of the constructor."""
    return lambda line: (
        f"{line['self']}.{method}({line[name].removeprefix('(').removesuffix(')').rstrip(',')})"
    )


def _activation(function: str) -> Callable[[Line], str]:
    return lambda line: f"{function}({line['self']})"


def _clip(line: Line) -> str:
    low, high = (line.raw.get(a, line.raw.get(b)) for a, b in (("min", "min_val"), ("max", "max_val")))
    if isinstance(low, Ref) or isinstance(high, Ref):
        raise EjectError("clamp by a tensor cannot be written as source yet")
    return f"jnp.clip({line['self']}, {low!r}, {high!r})"


def _expand(line: Line) -> str:
    if -1 in line.raw["size"]:
        raise EjectError("expand to a size that depends on the input cannot be written as source yet")
    return f"jnp.broadcast_to({line['self']}, {line['size']})"


def _pad(line: Line) -> str:
    mode, value = line.raw["mode"], line.raw["value"]
    if mode != "constant" or value not in (None, 0):
        raise EjectError(f"padding by {mode} {value} cannot be written as source yet")
    return f"pad({line['self']}, {line['pad']})"


def _to_copy(line: Line) -> str:
    if not isinstance(line.raw["dtype"], DType):
        raise EjectError("a conversion to an unknown dtype cannot be written as source yet")
    return f"{line['self']}.astype({line['dtype']})"


def _getitem(line: Line) -> str:
    return f"{line['self']}[{line['index']}]"


def _index(line: Line) -> str:
    indices = ["slice(None)" if i is None else line._render("", i) for i in line.raw["indices"]]
    return f"{line['self']}[{', '.join(indices)}]"


def _linear(line: Line) -> str:
    bias = "" if line.raw["bias"] is None else f" + {line['bias']}"
    return f"{line['input']} @ {line['weight']}.T{bias}"


def _joined(function: str) -> Callable[[Line], str]:
    return lambda line: f"jnp.{function}([{line['tensors'][1:-1].rstrip(',')}], axis={line['dim']})"


def _gelu(line: Line) -> str:
    return f"jax.nn.gelu({line['self']}, approximate={line.raw['approximate'] == 'tanh'})"


def _same(name: str) -> Callable[[Line], str]:
    return lambda line: line[name]


def _vector_norm(line: Line) -> str:
    return f"jnp.linalg.vector_norm({line['self']}, ord={line['ord']}, axis={line['dim']}, keepdims={line['keepdim']})"


_OPERATORS: Mapping[str, Callable[[Line], str]] = {
    "add": _binary("+", True), "sub": _binary("-", True), "mul": _binary("*"), "div": _binary("/"),
    "matmul": _binary("@"), "bmm": lambda line: f"{line['self']} @ {line['mat2']}",
    "pow": lambda line: f"{line['self']} ** {line['exponent']}",
    "addcmul": lambda line: f"{line['self']} + {line['tensor1']} * {line['tensor2']}",
    "operator.getitem": _getitem,
}  # fmt: skip

_FUNCTIONS: Mapping[str, Callable[[Line], str]] = {
    "conv2d": _conv2d, "linear": _linear, "batch_norm": _batch_norm, "layer_norm": _norm("layer_norm"),
    "group_norm": _norm("group_norm", "num_groups"), "scaled_dot_product_attention": _attention,
    "relu": _activation("jax.nn.relu"), "silu": _activation("jax.nn.silu"), "gelu": _gelu,
    "sigmoid": _activation("jax.nn.sigmoid"), "tanh": _activation("jnp.tanh"), "relu6": _activation("jax.nn.relu6"),
    "hardsigmoid": _activation("jax.nn.hard_sigmoid"), "hardswish": _activation("jax.nn.hard_swish"),
    "mish": _activation("jax.nn.mish"), "exp": _activation("jnp.exp"), "sqrt": _activation("jnp.sqrt"),
    "rsqrt": _activation("jax.lax.rsqrt"), "neg": _activation("-"),
    "hardtanh": _clip, "clamp": _clip, "clamp_min": _clip, "clamp_max": _clip,
    "leaky_relu": lambda line: f"jax.nn.leaky_relu({line['self']}, {line['negative_slope']})",
    "softmax": lambda line: f"jax.nn.softmax({line['self']}, axis={line['dim']})",
    "mean": _reduced("mean"), "sum": _reduced("sum"), "amax": _reduced("max"), "adaptive_avg_pool2d": _average,
    "linalg_vector_norm": _vector_norm,
    "max_pool2d": _pool("max_pool2d", ceil_mode=False),
    "avg_pool2d": _pool("avg_pool2d", ceil_mode=False, count_include_pad=True),
    "flatten": _flatten, "view": _by_numbers("reshape", "size"), "reshape": _by_numbers("reshape", "size"),
    "permute": _by_numbers("transpose", "dims"),
    "transpose": lambda line: f"jnp.swapaxes({line['self']}, {line['dim0']}, {line['dim1']})",
    "unsqueeze": lambda line: f"jnp.expand_dims({line['self']}, {line['dim']})",
    "squeeze": lambda line: f"jnp.squeeze({line['self']}, {line['dim']})",
    "expand": _expand, "expand_as": lambda line: f"jnp.broadcast_to({line['self']}, {line['other']}.shape)",
    "reshape_as": lambda line: f"{line['self']}.reshape({line['other']}.shape)",
    "cat": _joined("concatenate"), "stack": _joined("stack"), "unbind": _unbind, "split": _split,
    "split_with_sizes": _split, "chunk": _chunk, "slice": _slice, "index": _index, "pad": _pad,
    "select": lambda line: _indexed(line, line.raw["dim"], str(line.raw["index"])),
    "roll": lambda line: f"jnp.roll({line['self']}, {line['shifts']}, {line['dims']})",
    "repeat": lambda line: f"jnp.tile({line['self']}, {line['repeats']})",
    "sym_size": lambda line: f"{line['self']}.shape[{line['dim']}]",
    "_to_copy": _to_copy, "dropout": _same("input"), "feature_dropout": _same("input"),
    "stochastic_depth": _same("input"),
}  # fmt: skip
# Those whose helper has another name than the operator.
HELPERS: Mapping[str, str] = {"scaled_dot_product_attention": "attention"}


def expression(op: str, line: Line) -> str:
    """The right-hand side of an operator's line."""
    name = ops.split_name(op)[0]
    return (_OPERATORS.get(name) or _FUNCTIONS[name])(line)
