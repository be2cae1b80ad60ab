"""Checkpoint files: ``source/architecture@/path/to/file[#weights=which]``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from vtabjax.specs import Spec, SpecError, weight_files

from . import fitting, foreign, layouts, reading, search
from .reading import CheckpointError
from .search import Architecture, Place
from .sobel import put_sobel_first

_LISTED = 20  # names in model.json, of any number


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec's file can be read."""
    if spec.tag:
        raise SpecError(f"model {str(spec)!r} has both a weight tag and a file; leave one out")
    try:
        weight_files.parts(spec.file or "")
    except weight_files.WeightFileError as e:
        raise SpecError(f"model {str(spec)!r}: {e}") from e


class Found(NamedTuple):
    """A set of weights in a file.

    Attributes:
      state: its tensors under the architecture's names, perhaps among others.
      place: where they lie.
      layout: how the file is laid out, where that is known.
      dropped: names in the same dict that were left behind before.
      resampled: {name: [shape before, shape after]} of positions made for another image size.
      others: names of the other places that are complete.
      incomplete: what the file has of an average of the weights that could not be taken.
    """

    state: dict[str, torch.Tensor]
    place: Place
    layout: layouts.Layout | None = None
    dropped: tuple[str, ...] = ()
    resampled: Mapping[str, list[Any]] = {}
    others: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()


def build(
    spec: Spec,
    make: Callable[..., nn.Module],
    classifiers: tuple[str, ...],
    unused: tuple[str, ...] = (),
    rename: fitting.Rename | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture filled from the spec's file.

    Args:
      spec: with a file.
      make: takes num_classes (0: without a classifier) and, for some layouts, num_heads; gives the module.
      classifiers: names of the architecture's classifier layers. It is built with as many classes as the file has.
      unused: prefixes of the architecture's tensors that only training uses (auxiliary classifiers).
      rename: the library's own function from a release's tensors to its names, which also resamples positions; its
        attribute `method` says how.

    Returns:
      The module, and what the file says for `Source.info`.

    Raises:
      CheckpointError: the file cannot be read, does not hold all the architecture's tensors with equal shapes, or
        holds several sets of them whose names do not tell which is meant.
    """
    path = str(spec.file)
    try:
        tree = reading.read(path)
        blank = _blank(make)
        architecture = Architecture(
            f"{spec.source}/{spec.name}", _shapes(blank), classifiers, unused=tuple(unused)
        )
        if isinstance(tree, reading.Arrays) and not search.places(tree, architecture):
            return _from_arrays(spec, tree, make, architecture)
        found = _find(tree, spec, architecture, blank, rename)
        if found.place.kind != "average":
            found = found._replace(incomplete=tuple(search.incomplete(tree, architecture)))
        options: dict[str, Any] = {"num_classes": search.head(found.state, architecture)}
        width = _width(found.state)
        if found.layout is not None and width is not None and width in found.layout.heads:
            options["num_heads"] = found.layout.heads[width]
        module = make(**options)
        if _is_sobel(found.state):
            put_sobel_first(module)
        fitting.fill(module, found.state, path, architecture.name)
    except CheckpointError as e:
        raise CheckpointError(f"model {str(spec)!r}: {e}") from e
    return module, _info(spec, found, module, architecture, options, rename)


def _blank(make: Callable[..., nn.Module]) -> nn.Module:
    """The architecture with its usual classifier, for its names and shapes."""
    with contextlib.suppress(RuntimeError, NotImplementedError), torch.device("meta"):
        return make()
    return make()  # some look at numbers while they are built


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in module.state_dict().items()}


def _find(
    tree: Any, spec: Spec, architecture: Architecture, blank: nn.Module, rename: fitting.Rename | None
) -> Found:
    path = str(spec.file)
    if not search.containers(tree):
        raise foreign.no_tensors(tree, path)
    laid_out = None
    with contextlib.suppress(CheckpointError) if spec.weights else contextlib.nullcontext():
        laid_out = layouts.backbone(tree, path)
    if laid_out is not None and laid_out.sobel or _is_sobel_anywhere(tree, architecture):
        architecture = architecture._replace(shapes=_sobel_shapes(architecture.shapes))
    places = search.places(tree, architecture)
    if laid_out is not None:
        found = _by_layout(laid_out, tree, spec, architecture, blank, rename, places)
        if found is not None:
            return found
    if not places and rename is not None:
        candidates = _renamed_places(tree, architecture, blank, rename)
        if candidates:
            place = search.choose([c.place for c in candidates], spec.weights, path)
            return next(c for c in candidates if c.place is place)
    if places and not (laid_out and not spec.weights and all(p.kind == "momentum" for p in places)):
        place = search.choose(places, spec.weights, path)
        return Found(place.own, place, others=tuple(p.name for p in places if p is not place))
    if laid_out is not None:
        state = laid_out.state
    else:
        near = search.nearest(tree, architecture)
        assert near is not None
        state = near.own
        what = foreign.describe(near.state)
        if what is not None:
            raise CheckpointError(f"{path} {what}")
    raise fitting.explain(state, search.judge(state, architecture), architecture, path)


def _by_layout(
    laid_out: layouts.Backbone,
    tree: Any,
    spec: Spec,
    architecture: Architecture,
    blank: nn.Module,
    rename: fitting.Rename | None,
    places: list[Place],
) -> Found | None:
    """The weights that a known layout points to, unless they do not fit or the file has better or other ones."""
    layout = laid_out.layout
    place = Place(layout.container, layout.prefix, layouts.descend(tree, layout.container) or {})
    state = laid_out.state
    resampled: dict[str, Any] = {}
    if not search.judge(state, architecture).fits:
        again = rename and fitting.renamed(state, blank, architecture, rename)
        if not again:
            return None
        state, resampled = again
    if spec.weights is not None:
        if not places or search.choose(places, spec.weights, str(spec.file)).name != place.name:
            return None
    elif any(_rivals(p, place, laid_out) for p in places):
        return None  # the search says which, or asks
    others = tuple(p.name for p in places if p.name != place.name)
    return Found(state, place, layout, tuple(laid_out.dropped), resampled, others)


def _rivals(other: Place, place: Place, laid_out: layouts.Backbone) -> bool:
    """Whether another complete place might be meant as well as the one that a layout names."""
    if other.name == place.name or other.kind == "momentum":
        return False
    if place.kind == "average" and other.kind != "average":
        return False
    dropped = set(laid_out.dropped)
    keys = [k for k in other.own if other.prefix + k in other.state and place.prefix + k in place.state]
    if other.container == place.container and all(other.prefix + k in dropped for k in keys):
        return False  # the method's own second copy
    return any(not torch.equal(other.state[other.prefix + k], place.state[place.prefix + k]) for k in keys)


def _renamed_places(
    tree: Any, architecture: Architecture, blank: nn.Module, rename: fitting.Rename
) -> list[Found]:
    """Places that are complete once the library has renamed their tensors or resampled their positions."""
    found: list[Found] = []
    for container, tensors in search.containers(tree):
        taken: list[str] = []
        for prefix in _worth_trying(tensors, architecture):
            if any(prefix.startswith(t) or t.startswith(prefix) for t in taken):
                continue
            place = Place(container, prefix, tensors)
            again = fitting.renamed(place.own, blank, architecture, rename)
            if again is None:
                continue
            taken.append(prefix)
            state, resampled = again
            # What a release has instead of a classifier (CLIP's projection) is not one, whatever it is renamed to.
            state = {k: v for k, v in state.items() if k in place.own or not architecture.in_head(k)}
            found.append(Found(state, place, resampled=resampled))
    return [f._replace(others=tuple(g.place.name for g in found if g is not f)) for f in found]


def _worth_trying(tensors: search.State, architecture: Architecture) -> list[str]:
    counts = search.prefixes(tensors, architecture.backbone)
    enough = len(architecture.backbone) // 4
    likely = [prefix for prefix, count in counts.most_common(8) if count >= enough]
    towers = dict.fromkeys(k[: k.index("visual.")] for k in tensors if "visual." in k)
    shared = os.path.commonprefix(list(tensors))
    return list(dict.fromkeys([*likely, *towers, shared[: shared.rfind(".") + 1], ""]))


def _from_arrays(
    spec: Spec, arrays: reading.Arrays, make: Callable[..., nn.Module], architecture: Architecture
) -> tuple[nn.Module, dict[str, Any]]:
    """A JAX release, read by the architecture's own loader in timm."""
    path = str(spec.file)
    heads = [v.shape[-1] for k, v in arrays.items() if k.endswith(("head/bias", "head/conv2d/bias"))]
    for classes in [*heads[:1], 0]:
        module = make(num_classes=classes)
        if not hasattr(module, "load_pretrained"):
            break
        if not _load_arrays(module, path):
            continue
        _check_amount(module, arrays, architecture, path)
        info = {
            "weights": f"file {os.path.basename(path)}, a JAX release",
            "layout": "npz",
            "num_classes": classes or None,
            "dropped_keys": [] if classes or not heads else [k for k in arrays if "head/" in k],
            "place": "the whole file",
            "checkpoint": {"container": "", "prefix": "", "kind": "plain", "share": 1.0, "others": []},
        }
        own = getattr(module, "pos_embed", None)
        given = next((v for k, v in arrays.items() if k.endswith("pos_embedding")), None)
        if own is not None and given is not None and own.shape != given.shape:
            shapes = {"from": list(given.shape), "to": list(own.shape)}
            info["positions"] = {"resampled": {"pos_embed": shapes}, "method": "bilinear"}
        return module, info
    raise CheckpointError(
        f"{path} holds NumPy arrays whose names are not those of {architecture.name}, and timm does not read them "
        "into this architecture; use a release for PyTorch"
    )


def _load_arrays(module: Any, path: str) -> bool:
    """Whether the module's own loader filled it from the file completely."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))
        try:
            module.load_pretrained(path)
        except Exception:  # made for one layout; others fail somewhere
            return False
    return all(torch.isfinite(p).all() for p in module.parameters())


def _check_amount(module: nn.Module, arrays: reading.Arrays, architecture: Architecture, path: str) -> None:
    """Refuses a file with more in it than was taken: a deeper architecture's first blocks fit, too."""
    prefix = next(
        (p for p in ("opt/target/", "params/img/", "params/") if any(k.startswith(p) for k in arrays)), ""
    )
    theirs = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    there = sum(
        v.numel()
        for k, v in theirs.items()
        if "head/" not in k and "pre_logits" not in k and "pos_embed" not in k
    )
    taken = sum(
        p.numel()
        for k, p in module.named_parameters()
        if not architecture.in_head(k) and "pos_embed" not in k
    )
    if there != taken:
        raise CheckpointError(
            f"{path} is of another architecture than {architecture.name}: it holds {there:,} numbers without "
            f"classifier and positions, the architecture {taken:,}; name the architecture it was made with"
        )


def _info(
    spec: Spec,
    found: Found,
    module: nn.Module,
    architecture: Architecture,
    options: dict[str, Any],
    rename: fitting.Rename | None,
) -> dict[str, Any]:
    layout, place = found.layout, found.place
    name = os.path.basename(os.path.normpath(str(spec.file)))
    dropped = _dropped(found, module)
    kind = "average of the weights (EMA or teacher)" if place.kind == "average" else place.kind
    others = ", ".join(found.others[:3]) + (", ..." if len(found.others) > 3 else "")
    whole = "the whole file" if place.name == "." else place.name
    told = [kind] * (kind != "plain" or bool(found.others)) + [f"also there: {others}"] * bool(others)
    told += [f"left out: {text}" for text in found.incomplete[:1]]
    info: dict[str, Any] = {
        "weights": f"file {name}",
        "layout": layout.name if layout else "state_dict",
        "dropped_keys": dropped,
        "num_classes": options["num_classes"] or None,
        "place": whole + f" ({'; '.join(told)})" * bool(told),
        "checkpoint": {
            "container": ".".join(place.container),
            "prefix": place.prefix,
            "kind": place.kind,
            "others": list(found.others[:_LISTED]),
            "share": 1.0,  # anything less is refused
            "tensors": len(module.state_dict()),
            "dropped": {"count": len(dropped), "names": dropped[:_LISTED]},
            "head": _head_text(found.state, architecture, options["num_classes"]),
        },
    }
    if found.resampled:
        info["positions"] = {
            "resampled": {k: {"from": old, "to": new} for k, (old, new) in found.resampled.items()},
            "method": getattr(rename, "method", None),
        }
    if layout is not None:
        mean, std = layout.normalisation
        info |= {
            "weights": f"file {name}, layout of {layout.family}",
            "mean": list(mean),
            "std": list(std),
            "interpolation": layout.interpolation,
            "crop_pct": layouts.CROP_PCT,
            "license": layout.license,
            "method": layout.method,
        }
    if _is_sobel(found.state):
        info["stem"] = "Sobel filter on the normalised image (DeepCluster)"
    if "num_heads" in options:
        info["num_heads"] = options["num_heads"]
    return info


def _dropped(found: Found, module: nn.Module) -> list[str]:
    """Names in the dict whose tensors are not in the module."""
    own = set(module.state_dict())
    if found.layout is not None:
        return [*found.dropped, *(found.place.prefix + k for k in found.state if k not in own)]
    place = found.place
    used = {v.data_ptr() for k, v in found.state.items() if k in own}
    return [
        k
        for k, v in place.state.items()
        if not (k.startswith(place.prefix) and k[len(place.prefix) :] in own)
        and not (k.startswith(place.prefix) and v.numel() and v.data_ptr() in used)
    ]


def _head_text(state: search.State, architecture: Architecture, classes: int) -> str:
    if classes:
        return "loaded"
    there = [k for k in state if architecture.in_head(k)]
    return f"left out, not part of the architecture: {', '.join(there[:4])}" if there else "absent"


def _width(state: search.State) -> int | None:
    """A ViT's width."""
    token = state.get("cls_token")
    return None if token is None else token.shape[-1]


def _is_sobel(state: search.State) -> bool:
    """Whether the first layer wants the two channels of a Sobel filter (DeepCluster)."""
    stem = state.get("conv1.weight")
    return stem is not None and stem.ndim == 4 and stem.shape[1] == 2


def _sobel_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    conv = shapes.get("conv1.weight")
    if conv is None or len(conv) != 4:
        return dict(shapes)
    return {**shapes, "conv1.weight": torch.Size([conv[0], 2, *conv[2:]])}


def _is_sobel_anywhere(tree: Any, architecture: Architecture) -> bool:
    near = search.nearest(tree, architecture)
    return near is not None and "layer4.0.conv1.weight" in architecture.shapes and _is_sobel(near.own)
