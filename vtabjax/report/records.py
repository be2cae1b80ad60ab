"""The results of a workdir as the report takes them: folds joined, each set of weights and of examples told apart."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import results, specs
from vtabjax.sweep import folds

# Settings that belong to a task, not to how it is measured.
OF_THE_TASK = ("task", "pictures", "skip_broken", "groups", "folds_of")
# Packages whose version decides what is computed, not only how it is rounded.
DECISIVE = ("vtabjax", "tensorflow-datasets")
_OURS = (
    1_000_000  # results of others that one of ours outweighs where it says which examples are the usual ones
)


@dataclasses.dataclass
class Record:
    """A result.

    Attributes:
      path: its file, relative to the workdir.
      data: what the file holds.
      label: the model's name in the report.
      variant: says which examples of the task it is about, where there are results on others.
      by: who made it and when, of a pack's; "" for the workdir's own.
    """

    path: str
    data: Mapping[str, Any]
    label: str = ""
    variant: str = ""
    by: str = ""

    @functools.cached_property
    def setup(self) -> str:
        """Everything that makes numbers comparable, as text."""
        settings = {k: v for k, v in self.data["settings"].items() if k not in OF_THE_TASK}
        versions = {k: self.data["versions"].get(k) for k in DECISIVE}
        return json.dumps([self.data["protocol"], settings, versions, self.variant], sort_keys=True)


def read(workdir: Path, notices: list[str]) -> list[Record]:
    """All results of a workdir; what is damaged or incomplete is noticed."""
    damaged: list[str] = []
    found = ((str(path.relative_to(workdir)), data) for path, data in results.records(workdir, None, damaged))
    joined = folds.join(found)
    notices += [f"A file was left out: {message}." for message in damaged]
    notices += [
        f"{model} on {task}: {there} of {n} folds are there; it has no value until all are."
        for model, task, there, n in joined.incomplete
    ]
    return [Record(path, data) for path, data in joined.records]


def errors(workdir: Path, notices: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """All failures of a workdir: (path relative to it, record)."""
    damaged: list[str] = []
    failures: list[tuple[str, Mapping[str, Any]]] = [
        (str(path.relative_to(workdir)), data) for path, data in results.errors(workdir, None, damaged)
    ]
    notices += [f"A failure is not listed: {message}." for message in damaged]
    return failures


def label(records: Sequence[Record], notices: list[str]) -> None:
    """One row per set of weights: a spec whose weights changed between runs is two models."""
    hashes: dict[str, set[str | None]] = collections.defaultdict(set)
    for record in records:
        hashes[record.data["model"]].add(record.data.get("weight_hash"))
    for record in records:
        model, weight_hash = record.data["model"], record.data.get("weight_hash")
        record.label = model if len(hashes[model]) == 1 else f"{model} [weights {str(weight_hash)[:8]}]"
    changed = [model for model, of_model in hashes.items() if len(of_model) > 1]
    if changed:
        notices.append(
            f"The weights behind {specs.listed(changed)} changed between runs; each set of weights has its own row."
        )


def variants(records: Sequence[Record], notices: list[str]) -> None:
    """Results on other examples of a task (a data set prepared anew) go to a board of their own."""
    fingerprints: dict[tuple, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in records:
        fingerprints[data_key(record)][fingerprint(record.data)] += 1 if record.by else _OURS
    mixed = set()
    for record in records:
        most_common = [name for name, _ in fingerprints[data_key(record)].most_common()]
        rank = most_common.index(fingerprint(record.data))
        if rank:
            record.variant = f"data {rank + 1}"
            mixed.add(record.data["task"])
    if mixed:
        notices.append(
            f"Results on {specs.listed(sorted(mixed))} were computed on different examples (the data set was prepared "
            "again, or by other code). They have boards of their own and are never averaged with the others."
        )


def data_key(record: Record) -> tuple:
    """Results with equal keys have equal fingerprints where they are about the same examples."""
    # Fingerprints are of images as the model sees them, so those of another input size differ by right.
    data = record.data
    size = tuple((data.get("input") or {}).get("input_size") or ())
    settings = {k: v for k, v in data["settings"].items() if k in ("splits", "resize", "image_size")}
    return data["task"], size, json.dumps(settings, sort_keys=True), data["protocol"]


def fingerprint(data: Mapping[str, Any]) -> str:
    """Of the examples behind a result, and of their groups."""
    found = [data.get("data") or {}, *([data["groups"]] if data.get("groups") else [])]
    return json.dumps(found, sort_keys=True)
