"""Names for people: of models without what all of a board share, of tasks without paths and encoded patterns."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from vtabjax.report.boards import Model
from vtabjax.sweep.tables import short_names

# Sources of models that come with the program; their names stay whole.
_OWN = ("baseline/", "embedded/")


class Names(NamedTuple):
    """Names of a board's models.

    Attributes:
      names: one per model, unique where the models' own are.
      shared: what was left out, in words; "" where nothing was.
    """

    names: list[str]
    shared: str


def of_models(models: Sequence[Model]) -> Names:
    """The models' names without a source and an ending that all share, such as ``timm/`` and ``@random``.

    "(published)" marks the rows of others only where there are also rows of ours.
    """
    labels = [model.label for model in models]
    told = [label for label in labels if not label.startswith(_OWN)]
    prefix = _shared([label.partition("/")[0] + "/" if "/" in label else "" for label in told])
    suffix = _shared([label[label.rfind("@") :] if "@" in label else "" for label in told])
    short = [
        label if label.startswith(_OWN) else label.removeprefix(prefix).removesuffix(suffix)
        for label in labels
    ]
    if len(set(short)) < len(set(labels)):
        short, prefix, suffix = labels, "", ""
    if any(m.published for m in models) and not all(m.published for m in models):
        short = [name + " (published)" * m.published for name, m in zip(short, models, strict=True)]
    parts = " and ".join(part for part in (prefix, suffix) if part)
    apart = f" but {', '.join(label for label in labels if label.startswith(_OWN))}"
    return Names(short, parts and f"{parts}, which all{apart if len(told) < len(labels) else ''} share")


def _shared(parts: Sequence[str]) -> str:
    """What several names all have; "" where they differ."""
    return parts[0] if len(parts) > 1 and len(set(parts)) == 1 else ""


def of_tasks(tasks: Sequence[str]) -> list[str]:
    """Short names of tasks: ``folder:/data/birds#group=~%28site%5Cd%2B%29`` is "birds".

    One folder with groups and without is two tasks, which say so: "birds (group (site\\\\d+))", "birds (no groups)".
    """
    bases = [task.partition("#")[0] if ":" in task else task for task in tasks]
    short = short_names(list(dict.fromkeys(base for base in bases if ":" in base)))
    names = []
    for task, base in zip(tasks, bases, strict=True):
        name = short.get(base, base)
        if bases.count(base) > 1:
            chosen = [pair.replace("=~", "=").replace("=", " ") for pair in task.partition("#")[2].split("+")]
            name += f" ({urllib.parse.unquote(', '.join(chosen)) or 'no groups'})"
        names.append(name)
    return names if len(set(names)) == len(names) else list(tasks)
