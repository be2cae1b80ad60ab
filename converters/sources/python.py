"""A module of one's own: ``python/package.module:function`` or ``python/package.module:function@/path/to/file``.

The function (or class) takes no argument and returns an nn.Module. It is the user's own code and runs as such, with
the current folder importable, as under ``python -m``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vtabjax import specs
from vtabjax.specs import Spec, SpecError

from ..checkpoints import building
from ..outputs import LAST_LINEAR, OUTPUT, choose_features, is_known_kind
from . import Source, stated
from .size import refuse_size

FEATURES = "features"  # the attribute of function or module that says where features come from
_FORM = "write python/package.module:function, of a function that takes no argument and returns an nn.Module"


def names(spec: Spec) -> list[str]:
    """Nothing: functions are named one by one."""
    return []


def check(spec: Spec) -> None:
    """Imports the function and makes sure that it can be called; raises SpecError otherwise. Calls nothing."""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", spec.name) or ".py:" in spec.name:
        is_file = re.search(r"\.py\b|/", spec.name)
        near = "; name the module as for import, with dots and without .py" if is_file else ""
        raise SpecError(f"model {str(spec)!r} names no function: {_FORM}{near}")
    if spec.random:
        raise SpecError(
            f"model {str(spec)!r}: what the function returns has the weights that it gives it; for random ones name a "
            "function that loads none, without @random"
        )
    if spec.file is not None:
        building.check(spec)
    _arguments(spec, _function(spec))


def describe(spec: Spec) -> dict[str, Any]:
    """What function and module state; the function is called for it, once for each spec in a process."""
    return dict(_described(spec))


def build(spec: Spec, input_size: int | None) -> Source:
    """What the function returns, filled from the spec's file where it has one."""
    if spec.file is None:
        module, found = _call(spec), dict[str, Any]()
    else:
        module, found = building.build(spec, lambda **_: _call(spec), classifiers=())
    info = {**_describe(spec, module), **found}
    if input_size:
        info["input_size"] = [3, input_size, input_size]
        info["notes"] = [note for note in info["notes"] if not note.startswith("input_size")]
    features_from, text, note = _features(spec, module.eval(), info["input_size"])
    if features_from:
        choose_features(module, features_from)
    info["pooling"] = text
    info["notes"] = [*info["notes"], *([note] if note else [])]
    return Source(module, info)


def parameters(spec: Spec) -> int:
    """Of the module that the function returns."""
    return sum(p.numel() for p in _call(spec).parameters())


@functools.lru_cache(maxsize=256)
def _described(spec: Spec) -> dict[str, Any]:
    return _describe(spec, _call(spec))


def _describe(spec: Spec, module: nn.Module) -> dict[str, Any]:
    info, notes = stated.read(spec, [_function(spec), module])
    return {
        "architecture": type(module).__name__,
        "family": type(module).__module__,
        "weights": f"as {spec.name} returns it",
        "num_classes": None,
        **info,
        "notes": notes,
    }


# From a name to a module.


def _function(spec: Spec) -> Callable[..., Any]:
    module_name, _, path = spec.name.partition(":")
    found: Any = _imported(spec, module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            own = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
            near = specs.nearest(part, own) or own[:5]
            hint = f"; it has {specs.listed(near)}" if near else ""
            raise SpecError(f"model {str(spec)!r}: {module_name} has no {path!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise SpecError(
            f"model {str(spec)!r}: {path} is a module and not a function that returns one; {_FORM}"
        )
    if not callable(found):
        raise SpecError(f"model {str(spec)!r}: {path} is {_a(found)} and cannot be called; {_FORM}")
    return found


def _imported(spec: Spec, name: str) -> types.ModuleType:
    if not {"", "."} & set(sys.path):
        sys.path.append("")  # an installed command does not have it
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(f"{e.name}.")):
            raise SpecError(
                f"model {str(spec)!r}: there is no Python module {e.name!r} in the current folder or among what is "
                f"installed; start in the folder that holds it, or install it"
            ) from e
        raise SpecError(
            f"model {str(spec)!r}: importing {name} needs the module {e.name!r}, which is not installed"
        ) from e
    except (Exception, SystemExit) as e:
        raise SpecError(f"model {str(spec)!r}: importing {name} failed: {_line(e)}") from e


def _arguments(spec: Spec, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needed:
        raise SpecError(
            f"model {str(spec)!r}: the function needs arguments ({', '.join(needed)}); write one without, such as "
            f"def model(): return {spec.name.partition(':')[2]}(...)"
        )


def _call(spec: Spec) -> nn.Module:
    """The function's module, on the CPU, with the same random numbers at every call."""
    function = _function(spec)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        try:
            module = function()
        except (Exception, SystemExit) as e:
            raise SpecError(f"model {str(spec)!r}: the function failed: {_line(e)}") from e
    if not isinstance(module, nn.Module):
        raise SpecError(f"model {str(spec)!r}: the function returned {_a(module)}, not an nn.Module")
    return module


def _a(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# From a module to its features.


def _features(spec: Spec, module: nn.Module, size: list[int]) -> tuple[str, str, str]:
    """Where features come from: for `outputs`, in words for model.json, and a line for whoever has to know.

    Raises:
      SpecError: images of that size do not pass, or what comes out is not understood.
    """
    asked = next(
        (v for owner in (_function(spec), module) if isinstance(v := getattr(owner, FEATURES, None), str)),
        None,
    )
    if asked not in (None, OUTPUT, LAST_LINEAR):
        raise SpecError(
            f"model {str(spec)!r}: its attribute {FEATURES} is {asked!r}; give {OUTPUT!r} or {LAST_LINEAR!r}"
        )
    out, last = _run(spec, module, size)
    if is_known_kind(module) and asked is None:
        return "", "what its library's classifier reads", ""
    straight = last is not None and out is last[1] and out.ndim == 2
    if asked == LAST_LINEAR and not straight:
        raise SpecError(
            f"model {str(spec)!r}: its attribute {FEATURES} is {asked!r}, but its output does not come straight from "
            "an nn.Linear"
        )
    if isinstance(out, dict):
        return "", "the module's own 'features'", ""
    if straight and asked != OUTPUT:
        width, classes = last[0].shape[-1], out.shape[1]
        text = f"input of the last linear layer ({width}); its output ({classes}) is the logits"
        override = "" if asked else f'; with the attribute {FEATURES} = "{OUTPUT}" the output is the features'
        return LAST_LINEAR, text, f"features are the {text}{override}"
    shape = {2: "the module's output", 3: "mean over the tokens of the module's output"}
    return OUTPUT, shape.get(out.ndim, "mean over the positions of the module's output"), ""


def _run(spec: Spec, module: nn.Module, size: list[int]) -> tuple[Any, Any]:
    """What the module makes of an image, and input and output of the linear layer that ran last."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_hook(lambda _, args, out: seen.append((args[0], out))) for m in layers]
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        with torch.no_grad():
            out = module(torch.zeros(1, *size, dtype=dtype))
    except Exception as e:
        own = stated.read(spec, [_function(spec), module])[0]["input_size"]
        if own != size:
            raise refuse_size(spec, size[1], (own[1], own[2]), lambda s: _passes(module, s)) from e
        raise SpecError(
            f"model {str(spec)!r}: an image of {size[1]} x {size[2]} pixels does not pass ({_line(e)}); where it is "
            "made for another size, give function or module an attribute input_size"
        ) from e
    finally:
        for hook in hooks:
            hook.remove()
    tensor = out.get("features") if isinstance(out, dict) else out
    if not isinstance(tensor, torch.Tensor) or not 2 <= tensor.ndim <= 4 or tensor.shape[0] != 1:
        kind = f"a dict with {specs.listed(map(str, out))}" if isinstance(out, dict) else _a(out)
        if isinstance(tensor, torch.Tensor):
            kind = f"a tensor of shape {list(tensor.shape)} for one image"
        raise SpecError(
            f"model {str(spec)!r}: the module returns {kind}; it has to return features or scores [B, D] (also tokens "
            '[B, N, D] or a map [B, D, H, W]), or a dict with "features" and perhaps "logits"'
        )
    return out, seen[-1] if seen else None


def _passes(module: nn.Module, size: int) -> bool:
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, size, size))
    except Exception:
        return False
    return True
