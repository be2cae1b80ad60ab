"""Finds the place in a checkpoint where an architecture's tensors lie: a container and a prefix, whatever their names.

A training script nests a model's state_dict as it likes: ``{"model": {"module.net.conv1.weight": ...}}``. For a given
architecture there is normally one place where all its tensors are, with equal shapes. It is searched for, not
looked up in a list of known names. Names only decide between several complete places: an average of the weights
(EMA, a teacher) is preferred to the weights themselves, as the methods' own evaluation does; a momentum copy
that only training uses is never taken unasked; anything else is refused with the names to choose from.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .reading import CheckpointError

State = Mapping[str, torch.Tensor]
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")  # of batch norms; of a profiler (thop)
_MAX_DEPTH = 16
_MAX_NODES = 200_000  # a file may refer to one dict many times, even from within it
_LISTED = 6
# What an architecture's other variants have beside its own tensors, on the top level. A file with one of them
# computes something else, even if everything that this architecture knows is there.
_ESSENTIAL = re.compile(
    r"((cls|class|dist|reg|register|storage)_?(token|embedding|embed)s?|pos\w*_embed\w*|rel_pos\w*|norm|norm\d|norm_pre|"
    r"fc_norm|ln_(pre|post)|bn\d*|conv\d+|stem\w*|patch_embed\w*|layer\d+|layers|blocks|stages|features|attn_pool)"
)
# Layers that wrap others in the middle of a name: torch.compile of a part, FSDP, activation checkpoints.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_MOMENTUM = {"encoder_k", "key_encoder", "encoder_key", "target_net", "target_network"}


class Architecture(NamedTuple):
    """What is searched for.

    Attributes:
      name: for messages, such as "timm/resnet18".
      shapes: of every tensor of its state_dict, with the classifier.
      classifiers: names of its classifier layers.
      unused: prefixes of tensors that only training uses (auxiliary classifiers); the file may have them.
    """

    name: str
    shapes: Mapping[str, torch.Size]
    classifiers: tuple[str, ...]
    unused: tuple[str, ...] = ()

    @property
    def backbone(self) -> dict[str, torch.Size]:
        """Shapes of what has to be in the file: all but the classifier and counters."""
        return {k: s for k, s in self.shapes.items() if not self.in_head(k) and not k.endswith(COUNTERS)}

    def in_head(self, key: str) -> bool:
        """Whether a tensor is the classifier's or lies where the classifier is."""
        return any(key.startswith(f"{c}.") for c in self.classifiers)


class Place(NamedTuple):
    """Where a set of tensors lies in a file.

    Attributes:
      container: keys that lead to the dict.
      prefix: what its tensors' names begin with; "" or with a dot at the end.
      state: all tensors of the dict, by their full names.
    """

    container: tuple[str, ...]
    prefix: str
    state: State

    @property
    def name(self) -> str:
        """As ``#weights=`` takes it; "." for a file that is nothing but the state_dict."""
        return ".".join([*self.container, *filter(None, [self.prefix.removesuffix(".")])]) or "."

    @property
    def own(self) -> dict[str, torch.Tensor]:
        """The tensors under the prefix, without it."""
        n = len(self.prefix)
        return {k[n:]: v for k, v in self.state.items() if k.startswith(self.prefix)}

    @property
    def kind(self) -> str:
        """What the names tell: "average" of the weights over training, "momentum" copy, "plain"."""
        parts = self.name.split(".")
        words = {w.lower() for part in parts for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)}
        if _MOMENTUM & {part.lower() for part in parts} or "momentum" in words:
            return "momentum"
        if {"ema", "averaged", "swa", "polyak", "teacher"} & words or "target_encoder" in parts:
            return "average"
        return "plain"


class Judgement(NamedTuple):
    """How well tensors fit an architecture.

    Attributes:
      missing: names of the architecture that are not there.
      wrong: names with another shape.
      strange: names that belong inside the architecture but are not its.
    """

    missing: list[str]
    wrong: list[str]
    strange: list[str]

    @property
    def fits(self) -> bool:
        """Whether everything is there and nothing too much."""
        return not (self.missing or self.wrong or self.strange)


def judge(state: State, architecture: Architecture) -> Judgement:
    """Compares tensors with an architecture's, which may lie among others but must be complete, with equal shapes."""
    shapes = architecture.backbone
    tops = {k.partition(".")[0] for k in shapes}
    strange = [k for k in state if k not in architecture.shapes and _belongs(k, architecture, tops)]
    return Judgement(
        [k for k in shapes if k not in state],
        [k for k, shape in shapes.items() if k in state and state[k].shape != shape],
        strange,
    )


def _belongs(key: str, architecture: Architecture, tops: set[str]) -> bool:
    if architecture.in_head(key) or key.startswith(architecture.unused) or key.endswith(COUNTERS):
        return False
    top = key.partition(".")[0]
    return top in tops or _ESSENTIAL.fullmatch(top) is not None


def containers(tree: Any) -> list[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Every dict in a file that holds tensors, with the keys that lead to it; the outermost first."""
    found = []
    queue: collections.deque[tuple[tuple[str, ...], Any]] = collections.deque([((), tree)])
    for _ in range(_MAX_NODES):
        if not queue:
            break
        path, node = queue.popleft()
        if isinstance(node, Mapping):
            tensors = {str(k): v for k, v in node.items() if isinstance(v, torch.Tensor)}
            if tensors:
                found.append((path, tensors))
        if len(path) < _MAX_DEPTH and isinstance(node, (Mapping, list, tuple)):
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            queue.extend(((*path, str(k)), v) for k, v in items if isinstance(v, (Mapping, list, tuple)))
    return found


def prefixes(state: State, shapes: Mapping[str, Any]) -> collections.Counter[str]:
    """How many of an architecture's names each prefix in a dict has behind it."""
    counts: collections.Counter[str] = collections.Counter()
    for key in state:
        start = 0
        while True:
            if key[start:] in shapes:
                counts[key[:start]] += 1
            start = key.find(".", start) + 1
            if not start:
                break
    return counts


def places(tree: Any, architecture: Architecture) -> list[Place]:
    """Every place in a file where the architecture is complete, each set of tensors once."""
    shapes = architecture.backbone
    complete: list[Place] = []
    for path, tensors in containers(tree):
        found = _complete(path, tensors, architecture)
        complete += found or _complete(path, _unwrapped(tensors), architecture)
    return _distinct(complete, shapes)


def _complete(path: tuple[str, ...], tensors: State, architecture: Architecture) -> list[Place]:
    shapes = architecture.backbone
    counts = prefixes(tensors, shapes)
    found = [Place(path, prefix, tensors) for prefix, count in counts.items() if count == len(shapes)]
    return [place for place in found if judge(place.own, architecture).fits]


def incomplete(tree: Any, architecture: Architecture) -> list[str]:
    """Places by whose names an average of the weights would be there, if it were complete, and what they lack."""
    shapes = architecture.backbone
    found = []
    for path, tensors in containers(tree):
        for prefix, count in prefixes(tensors, shapes).items():
            place = Place(path, prefix, tensors)
            if (
                place.kind == "average"
                and count > len(shapes) // 2
                and not judge(place.own, architecture).fits
            ):
                found.append(f"{place.name} has {count} of {len(shapes)} tensors")
    return found


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in tensors.items():
        for wrapper in _WRAPPERS:
            key = key.replace(wrapper, "")
        renamed[key] = value
    return renamed if len(renamed) == len(tensors) else tensors


def _distinct(found: list[Place], shapes: Mapping[str, Any]) -> list[Place]:
    """Places that hold the same numbers are one, by the name that tells most."""
    order = {"average": 0, "plain": 1, "momentum": 2}
    kept: list[Place] = []
    for place in sorted(found, key=lambda p: order[p.kind]):
        if not any(_same(place, other, shapes) for other in kept):
            kept.append(place)
    return kept


def _same(a: Place, b: Place, shapes: Mapping[str, Any]) -> bool:
    pairs = ((a.state[a.prefix + k], b.state[b.prefix + k]) for k in shapes)
    return all(x is y or (x.dtype == y.dtype and torch.equal(x, y)) for x, y in pairs)


def choose(found: list[Place], weights: str | None, path: str) -> Place:
    """The one place to take.

    Args:
      found: complete places, at least one.
      weights: what ``#weights=`` says, if it says anything: "ema", or a place's name or a part of it.
      path: the file, for messages.

    Raises:
      CheckpointError: the names do not tell which, or `weights` names none of them.
    """
    names = ", ".join(f"#weights={p.name}" for p in found[:_LISTED]) + (
        ", ..." if len(found) > _LISTED else ""
    )
    if weights is not None:
        matching = [p for p in found if p.name == weights] or [p for p in found if _matches(p, weights)]
        if not matching:
            raise CheckpointError(f"{path} has no weights called {weights!r} that fit; it has {names}")
        found = matching
    kinds = [p.kind for p in found]
    if any("online" in p.name for p in found):  # BYOL and its like: the target only follows
        kinds = [
            "momentum" if "target_encoder" in p.name.split(".") else k
            for p, k in zip(found, kinds, strict=True)
        ]
    for kind in ("average", "plain"):
        best = [p for p, k in zip(found, kinds, strict=True) if k == kind]
        if len(best) == 1:
            return best[0]
        if best:
            raise CheckpointError(
                f"{path} has {len(best)} complete sets of weights, and their names do not say which is meant: "
                f"write one of {', '.join(f'#weights={p.name}' for p in best[:_LISTED])} after the path"
            )
    if weights is not None and len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{path} has a momentum copy ({found[0].name}) but no trained encoder beside it; the momentum copy is not "
        f"the model and is not used unless you ask for it with {names}"
    )


def _matches(place: Place, weights: str) -> bool:
    if weights == "ema":
        return place.kind == "average"
    parts, wanted = place.name.split("."), weights.split(".")
    return any(parts[i : i + len(wanted)] == wanted for i in range(len(parts)))


def nearest(tree: Any, architecture: Architecture) -> Place | None:
    """The place with most of the architecture's names, for a message; None where no dict holds tensors."""
    best, most = None, -1
    for path, tensors in containers(tree):
        counts = prefixes(tensors, architecture.backbone)
        prefix, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if count > most or (count == most and best is not None and len(tensors) > len(best.state)):
            best, most = Place(path, prefix, tensors), count
    return best


def head(state: State, architecture: Architecture) -> int:
    """Number of classes of a classifier exactly as the architecture has it, but for their number; 0 without one."""
    shapes = {k: s for k, s in architecture.shapes.items() if architecture.in_head(k)}
    if not shapes or any(k not in state or state[k].shape[1:] != s[1:] for k, s in shapes.items()):
        return 0
    if any(state[k].ndim != len(s) for k, s in shapes.items()):
        return 0
    classes = {state[k].shape[0] for k, s in shapes.items() if len(s)}
    return classes.pop() if len(classes) == 1 else 0
