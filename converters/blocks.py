"""A module's blocks, tokens and final norm: what features can be taken from besides its own, and those features.

`converters.block_search` finds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class Block(NamedTuple):
    """A block of the network.

    Attributes:
      path: its name in the module.
      layout: of its output: "tokens" [B, N, D], "NCHW" or "NHWC".
      width: D or C.
    """

    path: str
    layout: str
    width: int


class Structure(NamedTuple):
    """Where features can be taken from.

    Attributes:
      blocks: in the order of execution.
      prefix_tokens: class token, registers and the like before the tokens of the patches.
      pools: which of "token", "avg" and "both" the last block's output has.
      norm: path of the final norm, which the last block's output passes through; "" without one.
      pooled_norm: path of the norm that the pooled vector passes through; "" without one.
      pooled_shape: the shape that it takes, without the batch.
      native: the pool that the module's own features are equal to; None where they are something else.
      layer_pool: the pool of features after a block unless another is asked for.
    """

    blocks: tuple[Block, ...] = ()
    prefix_tokens: int = 0
    pools: tuple[str, ...] = ()
    norm: str = ""
    pooled_norm: str = ""
    pooled_shape: tuple[int, ...] = ()
    native: str | None = None
    layer_pool: str = "avg"

    def describe(self) -> dict[str, Any]:
        """As model.json has it under "feature_choices"."""
        return {
            "native": self.native,
            "positions": "tokens" if self.blocks and self.blocks[-1].layout == "tokens" else "maps",
            "pools": list(self.pools),
            "blocks": len(self.blocks),
            "layer_pool": self.layer_pool,
            "prefix_tokens": self.prefix_tokens,
            "norm": self.norm or self.pooled_norm or None,
            "widths": [block.width for block in self.blocks],
        }


# Features of blocks.


def capturing(
    module: nn.Module, structure: Structure, found: dict[str, torch.Tensor]
) -> contextlib.ExitStack:
    """While the context lasts, the outputs of the structure's blocks go into `found`, by path."""
    stack = contextlib.ExitStack()
    for block in structure.blocks:

        def keep(_: nn.Module, args: Any, output: Any, path: str = block.path) -> None:
            # A copy: what follows may write into the output.
            found[path] = first(output).clone()

        stack.callback(module.get_submodule(block.path).register_forward_hook(keep).remove)
    return stack


def choices(
    module: nn.Module, structure: Structure, found: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """All features [B, D] but the module's own: "features:pool=avg", "features:layer=9+pool=token" and so on."""
    made: dict[str, torch.Tensor] = {}
    for number, block in enumerate(structure.blocks, 1):
        pools = structure.pools if block.layout == "tokens" else ("avg",)
        vectors = pooled(module, structure, block, found[block.path])
        made |= {f"features:layer={number}+pool={pool}": vectors[pool] for pool in pools}
    if structure.blocks:  # without a layer: after the last one
        last = len(structure.blocks)
        made |= {f"features:pool={p}": made[f"features:layer={last}+pool={p}"] for p in structure.pools}
    return made


def pooled(
    module: nn.Module, structure: Structure, block: Block, output: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The output of a block by each way of pooling, with the final norms where their width is the block's."""
    fits = block.width == structure.blocks[-1].width
    if structure.norm and fits:
        output = module.get_submodule(structure.norm)(output)
    pools = pools_of(block.layout, structure.prefix_tokens, output)
    if structure.pooled_norm and fits:
        norm = module.get_submodule(structure.pooled_norm)
        pools = {k: norm(v.reshape(-1, *structure.pooled_shape)).flatten(1) for k, v in pools.items()}
    if "token" in pools:
        pools["both"] = torch.cat([pools["token"], pools["avg"]], 1)
    return pools


def pools_of(layout: str, prefix_tokens: int, output: torch.Tensor) -> dict[str, torch.Tensor]:
    if layout == "tokens":
        pools = {"avg": output[:, prefix_tokens:].mean(1)}
        return {"token": output[:, 0], **pools} if prefix_tokens else pools
    return {"avg": output.mean((2, 3) if layout == "NCHW" else (1, 2))}


def first(value: Any) -> Any:
    """The first tensor of what a module takes or returns."""
    if isinstance(value, torch.Tensor):
        return value
    items = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    )
    return next((found for found in map(first, items) if found is not None), None)
