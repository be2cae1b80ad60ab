"""Finds a module's blocks, tokens and final norm by running it once.

Names of layers say little across libraries, so a run decides. Blocks are modules of one kind that feed each other;
tokens that are the same for two different images (class token, registers) are prefix tokens; how a library pools is
what its features are equal to.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from .blocks import Block, Structure, first, pooled, pools_of

_BATCH = 2  # two different images
_KEPT = 16  # latest tensors: more than there are between a block and what reads its output
_CLASS_TOKEN = re.compile(r"cls|class_?(token|emb)", re.IGNORECASE)
_EQUAL = 1e-4  # of the largest value


class _Call(NamedTuple):
    """A module that ran, with its first input and first output.

    Attributes:
      fed_by: numbers of the calls whose output its input is.
      prefix: how many tokens of its input are the same for both images, see `_prefix_tokens`.
      floating: whether the output holds floating-point numbers.
    """

    number: int
    path: str
    module: nn.Module
    fed_by: frozenset[int]
    prefix: int | None
    input_shape: torch.Size
    output_shape: torch.Size
    floating: bool


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
    recorder = _Recorder()
    with torch.no_grad():
        with recorder.watching(module):
            native = features(images)
        chain = _chain(recorder.calls)
        if native is None or not _is_most(module, chain, recorder.ran):
            return Structure()
        return _structure(module, recorder, chain, native, input_size)


class _Recorder:
    """The calls of everything that may be a block or a norm, and the paths of all that ran, in order.

    Of tensors only the latest are kept: those of a whole network at once may not fit into memory.

    Attributes:
      calls: in the order in which they ended.
      ran: paths, likewise.
      outputs: number of a call -> its output as it was then; of the latest calls.
      norm_inputs: number of a norm's call -> its input; of the latest ones.
    """

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.ran: dict[str, None] = {}
        self.outputs: dict[int, torch.Tensor] = {}
        self.norm_inputs: dict[int, torch.Tensor] = {}
        self._latest: dict[int, torch.Tensor] = {}  # the outputs themselves, by which a later input is known
        self._began: dict[str, list[Any]] = collections.defaultdict(list)

    def watching(self, module: nn.Module) -> contextlib.ExitStack:
        """Records while the context lasts."""
        stack = contextlib.ExitStack()
        for path, sub in module.named_modules():
            stack.callback(sub.register_forward_hook(lambda *_, path=path: self.ran.setdefault(path)).remove)
            if _may_be_block(path, sub) or _is_norm(sub):
                before, after = functools.partial(self._before, path), functools.partial(self._after, path)
                stack.callback(sub.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(sub.register_forward_hook(after).remove)
        return stack

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = first((*args, *kwargs.values()))
        if given is None:
            self._began[path].append(None)
            return
        fed_by = frozenset(number for number, output in self._latest.items() if _same(given, output))
        prefix = _prefix_tokens(given) if given.ndim == 3 and given.shape[0] == _BATCH else None
        self._began[path].append((fed_by, prefix, given.shape, given.clone() if _is_norm(module) else None))

    def _after(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        began, result = self._began[path].pop(), first(output)
        if began is None or result is None or _is_several_maps(output):
            return
        fed_by, prefix, shape, given = began
        number = len(self.calls)
        floating = result.is_floating_point()
        self.calls.append(_Call(number, path, module, fed_by, prefix, shape, result.shape, floating))
        if _is_norm(module):
            _keep(self.norm_inputs, number, given)
        else:
            _keep(self._latest, number, result)
            _keep(self.outputs, number, result.clone())  # what follows may write into it


def _keep(latest: dict[int, torch.Tensor], number: int, value: torch.Tensor) -> None:
    latest[number] = value
    if len(latest) > _KEPT:
        del latest[next(iter(latest))]


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
    recorder: _Recorder,
    chain: list[_Call],
    native: torch.Tensor,
    input_size: tuple[int, int, int],
) -> Structure:
    layouts, end = _layouts(chain, input_size), chain[-1].number
    if layouts is None or end not in recorder.outputs:
        return Structure()
    blocks = tuple(
        Block(c.path, layout, c.output_shape[1 if layout == "NCHW" else -1])
        for c, layout in zip(chain, layouts, strict=True)
    )
    prefix = chain[0].prefix if layouts[0] == "tokens" else 0
    if prefix is None or ("tokens" in layouts and set(layouts) != {"tokens"}):
        return Structure()
    output = recorder.outputs[end]
    later = [c for c in recorder.calls if c.number > end and c.number in recorder.norm_inputs]
    norm = next((c for c in later if end in c.fed_by and c.input_shape == output.shape), None)
    last = output if norm is None else norm.module(output)
    pools = pools_of(layouts[-1], prefix, last)
    plain = Structure(blocks, prefix, norm="" if norm is None else norm.path)
    with_norm, by = _with_pooled_norm(plain, later, recorder, pools, blocks[-1].width)
    for found in dict.fromkeys((with_norm, plain)):
        made = pooled(module, found, blocks[-1], output)
        equal = next((k for k in ("token", "avg", "both") if k in made and _equal(native, made[k])), None)
        if equal:
            break
    else:
        found, equal = with_norm, None
    by = by or _projected(module, native, pools)
    named = any(_CLASS_TOKEN.search(n.rpartition(".")[2]) for n, _ in module.named_parameters())
    has_class_token = prefix > 0 and (named or equal in ("token", "both") or by == "token")
    if layouts[-1] == "tokens":
        if not (equal or norm or by or _equal(native, last.mean(1))):
            return Structure()  # nothing confirms that the last dimension is the width
        given: tuple[str, ...] = ("token", "avg", "both") if has_class_token else ("avg",)
    else:
        given = ("avg",) if equal == "avg" else ()
    layer_pool = "token" if has_class_token and "token" in (equal, by) else "avg"
    return found._replace(pools=given, native=equal, layer_pool=layer_pool)


def _with_pooled_norm(
    found: Structure,
    later: list[_Call],
    recorder: _Recorder,
    pools: Mapping[str, torch.Tensor],
    width: int,
) -> tuple[Structure, str | None]:
    """The structure with the norm that a pooled vector passes through, and how that vector was pooled."""
    for call in later:
        vector = recorder.norm_inputs[call.number].flatten(1)
        if call.input_shape[0] != _BATCH or vector.shape[1] != width:
            continue
        by = next((name for name, value in pools.items() if _equal(vector, value)), None)
        if by is not None:
            return found._replace(pooled_norm=call.path, pooled_shape=tuple(call.input_shape[1:])), by
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
        if len(call.output_shape) == 3:
            found.append({"tokens"})
            continue
        _, a, b, c = call.output_shape
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
        even = all(len({c.output_shape for c in stage}) == 1 for stage in stages)
        # The first of a stage may change the size; sub-blocks of a block that widens and narrows all do.
        repeated = members if not even else [c for stage in stages for c in stage[1:]]
        if 2 * sum(c.input_shape == c.output_shape for c in repeated) >= len(repeated):
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
        len(c.output_shape) not in (3, 4) or c.output_shape[0] != _BATCH or not c.floating for c in members
    ):
        return False
    parents = [_parent(c) for c in members]
    if len(set(parents)) != sum(a != b for a, b in zip([None, *parents], parents, strict=False)):
        return False
    fed = all(
        a.number in b.fed_by for a, b in zip(members, members[1:], strict=False) if _parent(a) == _parent(b)
    )
    positions = [_positions(c.output_shape) for c in members]
    return fed and positions == sorted(positions, reverse=True)


def _positions(shape: torch.Size) -> int:
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
