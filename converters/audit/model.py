"""One model of the audit: built with random weights, converted, compared with torch, all in a process of its own.

torch and JAX are imported by the functions: the process that starts all others does without them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import hub

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from torch import nn

# What one parameter costs in bytes at the worst moment: two copies, and room for activations and the program.
BYTES_PER_PARAMETER = {"float64": 24, "float32": 12}
REDUCED: tuple[dict[str, Any], ...] = (
    {"depth": 4},
    {"depth": 2},
    {"depths": (1, 1, 2, 1)},
    {"depths": (1, 1, 1)},
)
_TOKENS = ("vision_transformer", "eva", "beit", "deit", "naflexvit")  # all tokens attend to all others
AMPLIFICATION = 1e3  # of rounding errors, from which on random weights say nothing about a conversion
SIZES = (64, 96, 128, 160, 192, 224, 256)


class Limits(NamedTuple):
    """What one model may use: resident memory in bytes, and seconds."""

    memory: float
    seconds: float


def measure(source: str, name: str, limits: Limits, attempt: int, pipe: Connection) -> None:
    """Runs in a process of its own and sends the row as far as it is known; the last one has a status."""
    import torch

    from .. import sources
    from ..randomise import randomise

    # Threads of several models get into each other's way: torch's float64 convolutions by group take up to sixty
    # times as long with two threads on two busy cores as with one.
    torch.set_num_threads(1)
    row: dict[str, Any] = {}
    try:
        spec = f"{source}/{name}@random"
        row["parameters"] = sources.parameters(spec)
        size, options = _size(source, name)
        dtype, blocks, options = _choose_variant(
            source, name, options, row["parameters"], limits.memory, attempt
        )
        row |= {"input_size": size, "dtype": dtype, "blocks": blocks}
        pipe.send(row)
        torch.manual_seed(0)
        module = randomise(_make(source, name, size, options).eval())
        try:
            row |= _convert_and_compare(module, size, dtype, row, pipe)
        except RuntimeError as e:
            if dtype == "float32" or not re.search("same dtype|scalar type|dtypes", str(e)):
                raise
            row |= _convert_and_compare(module, size, "float32", row, pipe)
            row["message"] = row["message"] or "torch itself cannot run it in float64"
    except MemoryError:
        row["status"] = "memory"
    except Exception as e:
        row |= {"status": "failed", "message": _one_line(e)}
    pipe.send(row)


def _convert_and_compare(
    module: nn.Module, size: int, dtype: str, row: dict[str, Any], pipe: Connection
) -> dict[str, Any]:
    """Columns of a row: operators, and those of `_compare`; what is known before goes through the pipe."""
    from .. import blocks, export, outputs, verify
    from ..randomise import fit_statistics

    module = module.double() if dtype == "float64" else module.float()
    graph = export.from_torch(module, (3, size, size), structure=blocks.Structure())[0]
    # The copies that from_torch makes are gone: big models have no room for them.
    variables = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    found: dict[str, Any] = {"operators": " ".join(sorted({op.split(".")[1] for op in graph.operators()}))}
    pipe.send(row | found)
    mixed = dtype == "float64" and _has_casts(graph, "float32")
    found |= _compare(module, graph, variables, dtype, mixed)
    if found["status"] == "failed":
        images = verify.as_torch(verify.random_images(module, graph.input_size))
        amplified = _amplification(module, images)
        if amplified > AMPLIFICATION:
            fit_statistics(outputs.Outputs(module), images)  # in place: in the variables' own memory
            found |= _compare(module, graph, variables, dtype, mixed)
            reason = f"with random running statistics it amplifies rounding {amplified:.0e} times"
            found["message"] = "; ".join(t for t in (found["message"], f"{reason}; with fitted ones") if t)
    return found


def _compare(
    module: Any, graph: Any, variables: Mapping[str, Any], dtype: str, mixed: bool
) -> dict[str, Any]:
    """Columns of a row: errors, dtype, status, message. What is `mixed` may differ as much as float32 does."""

    from .. import verify

    errors = verify.compare(module, graph, variables)
    worst = max(errors.values())
    if mixed and not worst <= verify.TOLERANCE[dtype]:
        dtype = "mixed"
    passed = worst <= verify.TOLERANCE["float32" if dtype == "mixed" else dtype]
    return {f"{k}_error": f"{e:.3g}" for k, e in errors.items()} | {
        "dtype": dtype,
        "status": "passed" if passed else "failed",
        "message": "" if passed else f"differs by {worst:.1e} in {dtype}",
    }


def _has_casts(graph: Any, dtype: str) -> bool:
    """Whether the graph goes through that dtype where its own is another (timm's `x.float()`)."""
    from vtabjax.graph import DType

    def inside(item: Any) -> bool:
        if isinstance(item, DType):
            return item.name == dtype
        if isinstance(item, (list, tuple)):
            return any(map(inside, item))
        return isinstance(item, dict) and any(map(inside, item.values()))

    return any(inside(node.args) or inside(node.kwargs) for node in graph.nodes)


def _amplification(module: Any, images: Any) -> float:
    """Relative change of torch's own outputs over that of its inputs, for a change in the last digits."""
    from .. import verify

    change = 1e-12 if str(images.dtype) == "torch.float64" else 1e-6
    before, after = (verify.reference(module, x) for x in (images, images * (1 + change)))
    return max(verify.relative_error(after[k], before[k]) for k in before) / change


def _choose_variant(
    source: str, name: str, options: dict[str, Any], parameters: int, memory: float, attempt: int
) -> tuple[str, str, dict[str, Any]]:
    """(dtype, which blocks, options for the builder): the `attempt`-th of those that fit into memory.

    Raises:
      MemoryError: there are not so many.
    """
    import torch

    variants: list[tuple[str, str, dict[str, Any]]] = []
    for less in itertools.chain(({},), _reductions(source, name)):
        if less:
            try:
                with torch.device("meta"):
                    module = _make(source, name, None, {**options, **less})
            except Exception:
                continue  # it has no such option
            fewer = sum(p.numel() for p in module.parameters())
            if source in hub.SOURCES and fewer >= parameters:
                continue  # it has the field, but does not build by it
            parameters = fewer
        for dtype, cost in BYTES_PER_PARAMETER.items():
            if parameters * cost < memory:
                variants.append((dtype, _text(less) or "all", {**options, **less}))
        if less and source in hub.SOURCES:
            break
        if source not in hub.SOURCES and len(variants) > attempt:
            break
    if source in hub.SOURCES:  # two blocks in float64 tell as much as all of them, in a tenth of the time
        variants.sort(key=lambda variant: (variant[0] != "float64", variant[1] == "all"))
    if len(variants) <= attempt:
        raise MemoryError
    return variants[attempt]


def _reductions(source: str, name: str) -> Iterable[dict[str, Any]]:
    if source == "timm":
        return itertools.chain(REDUCED, _kinds_of_blocks(name))
    return hub.REDUCED.get(source, ())


def _kinds_of_blocks(name: str) -> Iterator[dict[str, Any]]:
    """Four blocks, each kind among them, where blocks differ in how many heads share keys and values."""
    import torch

    with torch.device("meta"):
        blocks = getattr(_make("timm", name, None, {}), "blocks", ())
    heads = [getattr(getattr(block, "attn", None), "num_kv_heads", None) for block in blocks]
    if len(set(heads)) > 1:
        middle = heads[len(heads) // 2]
        yield {"depth": 4, "num_kv_heads": (heads[0], middle, middle, heads[-1])}


def _text(options: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items())


def _make(source: str, name: str, size: int | None, options: dict[str, Any]) -> nn.Module:
    if source in hub.SOURCES:
        return hub.make(source, name, size, options)
    from ..sources import timm, torchvision

    if source == "timm":
        return timm.timm.create_model(name, **options)
    return torchvision.make(name, size or torchvision.own_size(name))


def _size(source: str, name: str) -> tuple[int, dict[str, Any]]:
    """The image size, and the options it needs: the model's own size where it is fixed, else the smallest."""
    if source in hub.SOURCES:
        return hub.image_size(source, name), {}
    from ..sources import timm, torchvision

    if source == "torchvision":
        own = torchvision.own_size(name)
        return next((s for s in SIZES if s < own and torchvision.works(name, s)), own), {}
    cfg = timm.config(name)
    own = cfg.input_size[1]
    # Windows shrink with small images and then hide what shifted windows do: those stay near their own size.
    least = 64 if not cfg.fixed_input_size else 96 if family(source, name) in _TOKENS else min(own, 224)
    for size in (s for s in SIZES if least <= s < own):
        options = timm.size_options(name, size)
        if options is not None:
            return size, options
    return own, {}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def family(source: str, name: str) -> str:
    """The module that defines an architecture, such as "vision_transformer"."""
    if source in hub.SOURCES:
        return hub.family(source, name)
    from ..sources import timm, torchvision

    return (timm if source == "timm" else torchvision).family(name)
