"""The page's content in numbers and texts: what its template needs."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vtabjax.data import copies
from vtabjax.report.data_page import _alike, _sprites
from vtabjax.report.data_page._look import Look

_PICTURES = 6_000  # small pictures on all sheets together: some 20 MB
_GROUPS = 24  # groups of copies and pairs of near copies that are shown
_LABELS = 60  # doubtful labels that are shown
_MEMBERS = 6  # pictures that are named of a group
_EDGES = (32, 64, 128, 256, 512, 1024, 2048)
_ASPECTS = (1 / 2, 2 / 3, 4 / 5, 1 / 1.05, 1.05, 5 / 4, 3 / 2, 2)


class Bar(NamedTuple):
    """A line of a small bar chart.

    Attributes:
      name: what is counted.
      pictures: how many there are.
      share: of all, from 0 to 1.
      width: of the bar, from 0 to 1: the largest has 1.
    """

    name: str
    pictures: int
    share: float
    width: float


def bars(counts: Sequence[tuple[str, int]], total: int) -> list[Bar]:
    """Lines of a bar chart, in the order given; shares are of `total`."""
    most = max((n for _, n in counts), default=0) or 1
    return [Bar(name, n, n / (total or 1), n / most) for name, n in counts]


def _trimmed(counts: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Without the empty lines at both ends."""
    used = [i for i, (_, n) in enumerate(counts) if n]
    return list(counts[used[0] : used[-1] + 1]) if used else []


def classes(look: Look) -> list[dict[str, Any]]:
    """The classes, the largest first: counts by split, brightness, share of grey pictures."""
    counts = look.counts()
    totals = counts.sum(1)
    rows = []
    for c in np.argsort(-totals, kind="stable").tolist():
        own = look.labels == c
        marks = ["largest"] * bool(totals[c] == totals.max()) + ["smallest"] * bool(totals[c] == totals.min())
        rows.append(
            {
                "number": c,
                "name": look.class_names[c],
                "counts": counts[c].tolist(),
                "total": int(totals[c]),
                "share": totals[c] / totals.sum(),
                "width": totals[c] / totals.max(),
                "mark": marks[0] if len(marks) == 1 else "",  # none where all are equally large
                "brightness": float(look.brightness[own].mean()) if own.any() else None,
                "grey": float(look.grey[own].mean()) if own.any() else None,
            }
        )
    return rows


def shown_per_class(look: Look, wanted: int) -> int:
    """How many pictures of each class are shown: what was asked for, or as many as a page can hold."""
    return min(wanted, max(1, _PICTURES // look.task.num_classes))


def sheet(look: Look, number: int, most: int, seed: int) -> dict[str, Any]:
    """A class's contact sheet: `most` of its pictures, drawn at random, in the order of their positions."""
    own = np.flatnonzero(look.labels == number)
    if len(own) > most:
        own = np.sort(np.random.default_rng((seed, number)).choice(own, most, replace=False))
    return _figures(look, own.tolist())


def equal(look: Look) -> dict[str, Any]:
    """Copies: counts as in the results, and the first groups; those in several splits come first."""
    groups = sorted(look.alike.groups, key=lambda g: -len({look.split[i] for i in g}))
    return {
        "within": look.copies["within"],
        "between": {tuple(k.split("+")): n for k, n in look.copies["between"].items()},
        "said": copies.said(look.copies),
        "groups": len(groups),
        "pictures": sum(map(len, groups)),
        "shown": [_group(look, g) for g in groups[:_GROUPS]],
        "sheet": _figures(look, [g[0] for g in groups[:_GROUPS]]),
    }


def nearly_equal(look: Look) -> dict[str, Any]:
    """Near copies: how many pairs lie within a split and between two; the first of them, between splits first."""
    names = list(look.splits)
    pairs = look.alike.near
    counted = collections.Counter((look.split[p.first], look.split[p.second]) for p in pairs)
    alike = sorted(pairs, key=lambda p: look.split[p.first] == look.split[p.second])[:_GROUPS]
    between = [(a, b) for a, b in itertools.combinations_with_replacement(range(len(names)), 2)]
    return {
        "pairs": len(pairs),
        "counts": [(names[a], names[b], counted[a, b]) for a, b in between],
        "shown": [_pair(look, p.first, p.second, p.distance) for p in alike],
        "sheet": _figures(look, [i for p in alike for i in (p.first, p.second)]),
    }


def doubtful(look: Look) -> dict[str, Any]:
    """Labels that contradict each other: equal or nearly equal pictures of different classes, the nearest first."""
    pairs = []
    for group in look.alike.groups:
        other = next((i for i in group if look.labels[i] != look.labels[group[0]]), None)
        if other is not None:
            pairs.append((group[0], other, 0.0))
    equal_groups = len(pairs)
    pairs += [(a, b, d) for a, b, d in look.alike.near if look.labels[a] != look.labels[b]]
    shown = pairs[:_LABELS]
    return {
        "equal": equal_groups,
        "near": len(pairs) - equal_groups,
        "count": len(pairs),
        "shown": [_pair(look, a, b, d) for a, b, d in shown],
        "sheet": _figures(look, [i for a, b, _ in shown for i in (a, b)]),
    }


def rule(look: Look) -> str:
    """What counts as nearly equal here, as part of a sentence."""
    a = look.alike
    usual = f" (here {a.usual:.3g})" if np.isfinite(a.usual) else ""
    text = (
        f"the means of {_alike.CELLS} × {_alike.CELLS} cells differ by at most {a.threshold:.2g} grey levels of 255 "
        f"(root mean square), the smaller of {_alike.NEAR:g} and a quarter of the median distance between a picture "
        f"and its nearest neighbour, where that is of the same class{usual}"
    )
    if a.compared < a.different:
        text += f"; {a.compared:,} of {a.different:,} different pictures, drawn at random, were compared"
    return text


def stored(look: Look) -> dict[str, Any]:
    """The pictures as they are stored: kinds of files, edges, aspect ratios."""
    found = look.originals
    kinds = collections.Counter(o.kind for o in found)
    sizes = collections.Counter((o.width, o.height) for o in found)
    edges = np.array([(o.width, o.height) for o in found]).reshape(-1, 2)
    used = np.searchsorted(_EDGES, edges, side="right")
    table = np.zeros((len(_EDGES) + 1, len(_EDGES) + 1), int)
    np.add.at(table, (used[:, 1], used[:, 0]), 1)
    rows, columns = (np.flatnonzero(table.any(axis)) for axis in (1, 0))
    aspects = np.bincount(
        np.searchsorted(_ASPECTS, edges[:, 0] / edges[:, 1].clip(1), side="right"),
        minlength=len(_ASPECTS) + 1,
    )
    return {
        "count": len(found),
        "kinds": bars(kinds.most_common(), len(found)),
        "sizes": bars([(f"{w:,} × {h:,}", n) for (w, h), n in sizes.most_common(8)], len(found)),
        "different_sizes": len(sizes),
        "width_names": [_range_names()[j] for j in columns],
        "heights": [(_range_names()[i], table[i, columns].tolist()) for i in rows],
        "most": int(table.max(initial=1)),
        "aspects": bars(_trimmed(list(zip(_aspect_names(), aspects.tolist(), strict=True))), len(found)),
        "median": np.median(edges, axis=0).astype(int).tolist() if len(found) else None,
        "enlarged": int((edges < look.image_size).any(1).sum()),
    }


def _range_names() -> list[str]:
    return [
        f"below {_EDGES[0]}",
        *(f"{a}–{b - 1}" for a, b in itertools.pairwise(_EDGES)),
        f"{_EDGES[-1]} or more",
    ]


def _aspect_names() -> list[str]:
    return [
        "taller than 1:2", "1:2 to 2:3", "2:3 to 4:5", "4:5 to square", "square (within 5 %)",
        "square to 5:4", "5:4 to 3:2", "3:2 to 2:1", "2:1 or wider",
    ]  # fmt: skip


def brightness(look: Look) -> list[Bar]:
    """How bright the pictures are, in tenths."""
    counts, _ = np.histogram(look.brightness, bins=10, range=(0, 1))
    tenths = [(f"{i / 10:.1f}–{(i + 1) / 10:.1f}", int(n)) for i, n in enumerate(counts)]
    return bars(_trimmed(tenths), len(look.ids))


def _figures(look: Look, positions: Sequence[int]) -> dict[str, Any]:
    """Small pictures and what is written below them."""
    return {
        "sprite": _sprites.make([look.image(i) for i in positions]),
        "pictures": [_named(look, i) for i in positions],
    }


def _named(look: Look, i: int) -> dict[str, str]:
    name = look.ids[i]
    return {
        "id": name,
        "short": name.rpartition("/")[2],
        "class": look.class_names[look.labels[i]],
        "split": list(look.splits)[look.split[i]],
    }


def _group(look: Look, members: Sequence[int]) -> dict[str, Any]:
    return {
        "count": len(members),
        "members": [_named(look, i) for i in members[:_MEMBERS]],
        "classes": len({int(look.labels[i]) for i in members}),
        "splits": len({int(look.split[i]) for i in members}),
    }


def _pair(look: Look, first: int, second: int, distance: float) -> dict[str, Any]:
    return {
        "members": [_named(look, first), _named(look, second)],
        "distance": distance,
        "between": bool(look.split[first] != look.split[second]),
        "contradicts": bool(look.labels[first] != look.labels[second]),
    }
