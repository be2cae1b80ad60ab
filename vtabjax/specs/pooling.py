"""Which features of a model are measured: a spec's ``#pool=`` and ``#layer=`` as the name of an output, and in words.

A graph's own features are its output "features"; its other choices are called "features:pool=avg" or
"features:layer=9+pool=token". What a model has to choose from is in its model.json under "feature_choices": "native"
(what its own features are equal to: "token", "avg", "both", or null), "positions" ("tokens" or "maps"), "pools",
"blocks" (how many), "layer_pool" (the pool after a block unless another is named), "prefix_tokens", "norm" (the final
one's name) and "widths" (of the blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtabjax import specs
from vtabjax.specs import Spec, SpecError

NATIVE = "features"
NONE: dict[str, Any] = {
    "native": None,
    "positions": "maps",
    "pools": [],
    "blocks": 0,
    "layer_pool": "avg",
    "prefix_tokens": 0,
    "norm": None,
    "widths": [],
}
_WORDS = {
    "token": "class token",
    "avg": "mean over patch tokens",
    "both": "class token and mean over patch tokens",
}


def output(spec: str | Spec, info: Mapping[str, Any]) -> str:
    """The name of the output that a spec asks for.

    Args:
      spec: a model spec.
      info: the model's model.json.

    Raises:
      SpecError: the model does not have these features; the message says what it has.
    """
    spec = specs.parse(spec) if isinstance(spec, str) else spec
    if spec.has_own_features:
        return NATIVE
    choices = info.get("feature_choices")
    if choices is None:
        raise SpecError(
            f"model {spec}: it was converted by a version that kept its own features only; remove the converted "
            f"model {spec.base} and convert it again"
        )
    layer, blocks = spec.layer, choices["blocks"]
    if layer is None:
        if spec.pool not in choices["pools"]:
            raise SpecError(f"model {spec}: it has no pool={spec.pool}; {available(choices)}")
        return f"{NATIVE}:pool={spec.pool}"
    if not 1 <= abs(layer) <= blocks:
        raise SpecError(f"model {spec}: it has no block {layer}; {available(choices)}")
    number = layer if layer > 0 else blocks + 1 + layer
    pool = choices["layer_pool"] if spec.pool == "native" else spec.pool
    if pool not in layer_pools(choices):
        raise SpecError(f"model {spec}: its blocks have no pool={pool}; {available(choices)}")
    return f"{NATIVE}:layer={number}+pool={pool}"


def named(text: str, info: Mapping[str, Any]) -> str:
    """The name of the output that options such as "pool=avg" or "layer=9" ask for. Raises SpecError as `output`."""
    model = specs.parse(info["spec"]).base
    return output(f"{model}{'+' if model.options else '#'}{text}", info)


def layer_pools(choices: Mapping[str, Any]) -> list[str]:
    """How the output of a block can be pooled."""
    return list(choices["pools"]) or ["avg"]


def available(choices: Mapping[str, Any]) -> str:
    """What a model has to choose from, for messages."""
    pools = ", ".join(f"#pool={pool}" for pool in choices["pools"])
    if not choices["blocks"]:
        return "only its own features are known (no single chain of blocks was found in it)"
    what = "feature maps"
    if choices["positions"] == "tokens":
        what = "tokens" if "token" in choices["pools"] else "tokens, but no class token"
    return (
        f"it has {what}: its own features"
        + (f", {pools}" if pools else "")
        + f", and #layer=1 to #layer={choices['blocks']}"
    )


def words(name: str, info: Mapping[str, Any]) -> str | None:
    """How the features of an output were made, in words; None where that is not known.

    >>> tokens = {**NONE, "positions": "tokens", "pools": ["token"], "blocks": 12}
    >>> words("features:layer=9+pool=token", {"feature_choices": tokens})
    'class token after block 9 of 12, no final norm'
    """
    choices = info.get("feature_choices")
    if not choices or not choices["blocks"]:
        return None
    layer, pool = _parts(name)
    if pool is None:
        pool = choices["native"]
    blocks, layer = choices["blocks"], layer or choices["blocks"]
    if pool is None:
        return f"{choices['positions']} after block {blocks} of {blocks}, pooled in its library's own way"
    fits = choices["norm"] and choices["widths"][layer - 1] == choices["widths"][-1]
    norm = "final norm" if fits else "no final norm"
    pooled = "mean over positions" if choices["positions"] == "maps" else _WORDS[pool]
    return f"{pooled} after block {layer} of {blocks}, {norm}"


def width(name: str, info: Mapping[str, Any]) -> int:
    """How many features an output has."""
    if name == NATIVE:
        return info["num_features"]
    choices = info["feature_choices"]
    layer, pool = _parts(name)
    own = choices["widths"][(layer or choices["blocks"]) - 1]
    return 2 * own if pool == "both" else own


def _parts(name: str) -> tuple[int | None, str | None]:
    given = dict(item.split("=") for item in name.partition(":")[2].split("+") if item)
    return (int(given["layer"]) if "layer" in given else None), given.get("pool")


def alternatives(info: Mapping[str, Any]) -> list[str]:
    """The outputs that differ in how the last block is pooled: the model's own features first, none of them twice."""
    choices = info.get("feature_choices") or NONE
    return [NATIVE, *(f"{NATIVE}:pool={pool}" for pool in choices["pools"] if pool != choices["native"])]


def remarks(found: Mapping[str, str | None]) -> list[str]:
    """Lines below a table that say how features were made, where a reader could not know.

    Args:
      found: model -> words; what is nothing but the mean of the last feature maps is left out.
    """
    models: dict[str, list[str]] = {}
    for model, text in found.items():
        if text and ("token" in text or "#" in model):
            models.setdefault(text, []).append(model)
    return [f"features: {text} ({specs.listed(names)})" for text, names in models.items()]
