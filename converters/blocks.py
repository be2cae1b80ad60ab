"""A module's blocks, tokens and final norm, found by running it once: what features can be taken from besides its own.

Names of layers say little across libraries, so a run decides. Blocks are modules of one kind that feed each other;
tokens that are the same for two different images (class token, registers) are prefix tokens; how a library pools is
what its features are equal to.
"""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

_BATCH = 2  # two different images
_CLASS_TOKEN = re.compile(r"cls|class_?(token|emb)", re.IGNORECASE)
_EQUAL = 1e-4  # of the largest value


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


class _Call(NamedTuple):
    """A module that ran: its first input and its first output."""

    number: int
    path: str
    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


# Features of blocks.


def capturing(
    module: nn.Module, structure: Structure, found: dict[str, torch.Tensor]
) -> contextlib.ExitStack:
    """While the context lasts, the outputs of the structure's blocks go into `found`, by path."""
    stack = contextlib.ExitStack()
    for block in structure.blocks:

        def keep(_: nn.Module, args: Any, output: Any, path: str = block.path) -> None:
            # A copy: what follows may write into the output.
            found[path] = _first(output).clone()

        stack.callback(module.get_submodule(block.path).register_forward_hook(keep).remove)
    return stack


def choices(
    module: nn.Module, structure: Structure, found: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """All features [B, D] but the module's own: "features:pool=avg", "features:layer=9+pool=token" and so on."""
    made: dict[str, torch.Tensor] = {}
    for number, block in enumerate(structure.blocks, 1):
        pools = structure.pools if block.layout == "tokens" else ("avg",)
        pooled = _pooled(module, structure, block, found[block.path])
        made |= {f"features:layer={number}+pool={pool}": pooled[pool] for pool in pools}
    if structure.blocks:  # without a layer: after the last one
        last = len(structure.blocks)
        made |= {f"features:pool={p}": made[f"features:layer={last}+pool={p}"] for p in structure.pools}
    return made


def _pooled(
    module: nn.Module, structure: Structure, block: Block, output: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The output of a block by each way of pooling, with the final norms where their width is the block's."""
    fits = block.width == structure.blocks[-1].width
    if structure.norm and fits:
        output = module.get_submodule(structure.norm)(output)
    pools = _pools(block.layout, structure.prefix_tokens, output)
    if structure.pooled_norm and fits:
        norm = module.get_submodule(structure.pooled_norm)
        pools = {k: norm(v.reshape(-1, *structure.pooled_shape)).flatten(1) for k, v in pools.items()}
    if "token" in pools:
        pools["both"] = torch.cat([pools["token"], pools["avg"]], 1)
    return pools


def _pools(layout: str, prefix_tokens: int, output: torch.Tensor) -> dict[str, torch.Tensor]:
    if layout == "tokens":
        pools = {"avg": output[:, prefix_tokens:].mean(1)}
        return {"token": output[:, 0], **pools} if prefix_tokens else pools
    return {"avg": output.mean((2, 3) if layout == "NCHW" else (1, 2))}


def _first(value: Any) -> Any:
    """The first tensor of what a module takes or returns."""
    if isinstance(value, torch.Tensor):
        return value
    items = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    )
    return next((found for found in map(_first, items) if found is not None), None)


# Finding them.


def find(
    module: nn.Module,
    input_size: tuple[int, int, int],
    features: Callable[[torch.Tensor], torch.Tensor | None],
) -> Structure:
    """The structure of a module in evaluation mode; without blocks where it has no single chain of them.

    Args:
      module: runs on the CPU.
      input_size: (channels, height, width) of the images.
      features: images -> the module's own features [B, D].
    """
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_BATCH, *input_size, generator=generator).to(dtype)
    with torch.no_grad():
        with _recording(module) as (calls, ran):
            native = features(images)
        chain = _chain(calls)
        if native is None or not _is_most(module, chain, ran):
            return Structure()
        return _structure(module, calls, chain, native, input_size)


@contextlib.contextmanager
def _recording(module: nn.Module) -> Iterator[tuple[list[_Call], dict[str, None]]]:
    """Collects the calls of everything that may be a block or a norm, and the paths of all that ran, in order."""
    calls: list[_Call] = []
    ran: dict[str, None] = {}
    inputs: dict[str, list[torch.Tensor]] = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        for path, sub in module.named_modules():
            stack.callback(sub.register_forward_hook(lambda *_, path=path: ran.setdefault(path)).remove)
            if not (_may_be_block(path, sub) or _is_norm(sub)):
                continue

            def before(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                inputs[path].append(_first((*args, *kwargs.values())))

            def after(sub: nn.Module, _: Any, output: Any, path: str = path) -> None:
                given, result = inputs[path].pop(), _first(output)
                if given is not None and result is not None and not _is_several_maps(output):
                    calls.append(_Call(len(calls), path, sub, given, result))

            stack.callback(sub.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(sub.register_forward_hook(after).remove)
        yield calls, ran


def _may_be_block(path: str, module: nn.Module) -> bool:
    own = not type(module).__module__.startswith("torch.nn.") or isinstance(module, nn.Sequential)
    trained = any(True for _ in module.parameters())
    return own and trained and not _is_norm(module) and any(c.isdigit() for c in path.rpartition(".")[2])


def _is_several_maps(output: Any) -> bool:
    """What parallel branches return."""
    tensors = [x for x in output if isinstance(x, torch.Tensor)] if isinstance(output, (tuple, list)) else []
    return len(tensors) > 1 and (isinstance(output, list) or sum(x.ndim == 4 for x in tensors) > 1)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))


def _structure(
    module: nn.Module,
    calls: list[_Call],
    chain: list[_Call],
    native: torch.Tensor,
    input_size: tuple[int, int, int],
) -> Structure:
    layouts = _layouts(chain, input_size)
    if layouts is None:
        return Structure()
    blocks = tuple(
        Block(c.path, layout, c.output.shape[1 if layout == "NCHW" else -1])
        for c, layout in zip(chain, layouts, strict=True)
    )
    prefix = _prefix_tokens(chain[0].input) if layouts[0] == "tokens" else 0
    if prefix is None or ("tokens" in layouts and set(layouts) != {"tokens"}):
        return Structure()
    later = [c for c in calls if c.number > chain[-1].number and _is_norm(c.module)]
    norm = next((c for c in later if _same(c.input, chain[-1].output)), None)
    last = chain[-1].output if norm is None else norm.output
    pools = _pools(layouts[-1], prefix, last)
    plain = Structure(blocks, prefix, norm="" if norm is None else norm.path)
    with_norm, by = _with_pooled_norm(plain, later, pools, blocks[-1].width)
    for found in dict.fromkeys((with_norm, plain)):
        made = _pooled(module, found, blocks[-1], chain[-1].output)
        equal = next((k for k in ("token", "avg", "both") if k in made and _equal(native, made[k])), None)
        if equal:
            break
    else:
        found, equal = with_norm, None
    named = any(_CLASS_TOKEN.search(n.rpartition(".")[2]) for n, _ in module.named_parameters())
    has_class_token = prefix > 0 and (named or equal in ("token", "both") or by == "token")
    if layouts[-1] == "tokens":
        if not (equal or norm or by or _equal(native, last.mean(1))):
            return Structure()  # nothing confirms that the last dimension is the width
        given: tuple[str, ...] = ("token", "avg", "both") if has_class_token else ("avg",)
    else:
        given = ("avg",) if equal == "avg" else ()
    by = by or _projected(module, native, pools)
    layer_pool = "token" if has_class_token and "token" in (equal, by) else "avg"
    return found._replace(pools=given, native=equal, layer_pool=layer_pool)


def _with_pooled_norm(
    found: Structure, later: list[_Call], pools: Mapping[str, torch.Tensor], width: int
) -> tuple[Structure, str | None]:
    """The structure with the norm that a pooled vector passes through, and how that vector was pooled."""
    for call in later:
        vector = call.input.flatten(1)
        if call.input.shape[0] != _BATCH or vector.shape[1] != width:
            continue
        by = next((name for name, value in pools.items() if _equal(vector, value)), None)
        if by is not None:
            return found._replace(pooled_norm=call.path, pooled_shape=tuple(call.input.shape[1:])), by
    return found, None


def _projected(module: nn.Module, native: torch.Tensor, pools: Mapping[str, torch.Tensor]) -> str | None:
    """The way of pooling of which the module's own features are a linear projection."""
    for name, vector in pools.items():
        shape = (vector.shape[1], native.shape[1])
        for p in module.parameters():
            for matrix in (p, p.T) if p.ndim == 2 else ():
                if matrix.shape == shape and _equal(native, vector @ matrix):
                    return name
    return None


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= _EQUAL * b.abs().max())


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr())


def _prefix_tokens(tokens: torch.Tensor) -> int | None:
    """How many tokens [B, N, D] come before those of the patches; None where that cannot be told."""
    differs = (tokens[0] - tokens[1]).abs().amax(-1) > 1e-6 * tokens.abs().max()
    prefix = int(differs.int().argmax())
    return prefix if bool(differs[prefix:].all()) else None


def _layouts(chain: list[_Call], input_size: tuple[int, int, int]) -> list[str] | None:
    """How the blocks' outputs are laid out; None where that cannot be told."""
    _, height, width = input_size
    found = []
    for call in chain:
        if call.output.ndim == 3:
            found.append({"tokens"})
            continue
        _, a, b, c = call.output.shape
        maps = {"NCHW": (b, c), "NHWC": (a, b)}
        found.append({name for name, (h, w) in maps.items() if h * width == w * height})
    # As many channels as pixels along an edge: then as the other blocks are.
    sure = {name for names in found if len(names) == 1 for name in names}
    result = [names if len(names) == 1 else names & sure for names in found]
    return [next(iter(names)) for names in result] if all(len(names) == 1 for names in result) else None


def _chain(calls: list[_Call]) -> list[_Call]:
    """The network's blocks: of all groups of modules whose names differ in numbers only, the outermost one that feeds
    on itself, the largest of those that lie equally deep.
    """
    times = collections.Counter(call.path for call in calls)
    groups: dict[str, list[_Call]] = collections.defaultdict(list)
    for call in calls:
        if not _is_norm(call.module):
            groups[re.sub(r"\d+", "*", call.path)].append(call)
    candidates = []
    for pattern, group in groups.items():
        members = _of_the_commonest_kind(group)
        if len(members) < 2 or any(times[c.path] > 1 for c in members) or not _is_chain(members):
            continue
        stages = _by_parent(members)
        even = all(len({c.output.shape for c in stage}) == 1 for stage in stages)
        # The first of a stage may change the size; sub-blocks of a block that widens and narrows all do.
        repeated = members if not even else [c for stage in stages for c in stage[1:]]
        if 2 * sum(c.input.shape == c.output.shape for c in repeated) >= len(repeated):
            candidates.append((not even, pattern.count("."), -len(members), members))
    return min(candidates, key=lambda c: c[:3])[3] if candidates else []


def _is_most(module: nn.Module, chain: list[_Call], ran: Mapping[str, None]) -> bool:
    """Whether the blocks hold most of the parameters that images pass through.

    The first layer, which may be wide in a small network, embeddings and linear heads are left out.
    """
    inside = {call.path: sum(p.numel() for p in call.module.parameters()) for call in chain}
    layers = [path for path in ran if any(True for _ in module.get_submodule(path).parameters(recurse=False))]
    layers = [path for path in layers if not any(True for _ in module.get_submodule(path).children())]
    order = {path: number for number, path in enumerate(ran)}
    last = order[chain[-1].path] if chain else 0
    beside = sum(
        p.numel()
        for path in layers[1:]
        if not any(path == block or path.startswith(f"{block}.") for block in inside)
        and not isinstance(module.get_submodule(path), nn.Embedding)
        and not (isinstance(module.get_submodule(path), nn.Linear) and order[path] > last)
        for p in module.get_submodule(path).parameters()
    )
    return bool(chain) and sum(inside.values()) >= beside


def _of_the_commonest_kind(group: list[_Call]) -> list[_Call]:
    kinds = {}
    for parent in dict.fromkeys(_parent(c) for c in group):
        counted = collections.Counter(type(c.module) for c in group if _parent(c) == parent)
        kinds[parent] = counted.most_common(1)[0][0]
    return [c for c in group if type(c.module) is kinds[_parent(c)]]


def _is_chain(members: list[_Call]) -> bool:
    """Whether each feeds the next within a parent, parents follow each other, and maps do not grow."""
    if any(
        c.output.ndim not in (3, 4) or c.output.shape[0] != _BATCH or not c.output.is_floating_point()
        for c in members
    ):
        return False
    parents = [_parent(c) for c in members]
    if len(set(parents)) != sum(a != b for a, b in zip([None, *parents], parents, strict=False)):
        return False
    fed = all(
        _same(b.input, a.output)
        for a, b in zip(members, members[1:], strict=False)
        if _parent(a) == _parent(b)
    )
    positions = [_positions(c.output) for c in members]
    return fed and positions == sorted(positions, reverse=True)


def _positions(output: torch.Tensor) -> int:
    shape = output.shape
    if len(shape) == 3:
        return shape[1]
    return shape[2] * shape[3] if shape[2] == shape[3] else shape[1] * shape[2]


def _by_parent(members: list[_Call]) -> list[list[_Call]]:
    found: dict[str, list[_Call]] = collections.defaultdict(list)
    for call in members:
        found[_parent(call)].append(call)
    return list(found.values())


def _parent(call: _Call) -> str:
    return call.path.rpartition(".")[0]
