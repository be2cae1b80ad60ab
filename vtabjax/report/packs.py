"""Packs of results beside a workdir's own: which rows may stand on one board, and what is told about them.

A pack's results are taken like our own: same protocol, settings and versions of `DECISIVE` packages, or another board.
Beyond that, others' examples have to be shown to be ours: some fingerprint of theirs equals one of ours for that task.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtabjax import results, specs, tasks
from vtabjax.report import records as records_of
from vtabjax.report.boards import PROTOCOLS
from vtabjax.report.records import OF_THE_TASK, Record
from vtabjax.sweep import folds, placing


def records(packs: Sequence[results.Pack], own: Sequence[Record], notices: list[str]) -> list[Record]:
    """The results in packs, folds joined, with our names of tasks that are ours by their pictures.

    Args:
      packs: what others made.
      own: the workdir's results.
      notices: get who made which.
    """
    names = {(_alike(r.data), records_of.fingerprint(r.data)): r.data["task"] for r in own}
    versions = {r.data["versions"].get("tensorflow-datasets") for r in own}
    found = []
    for pack in packs:
        joined = folds.join((f"{pack.path.name}#{i}", record) for i, record in enumerate(pack.records))
        for _, data in joined.records:
            task = data["task"]
            if tasks.is_own(task):
                data = {**data, "task": names.get((_alike(data), records_of.fingerprint(data)), task)}
            if not _reads_tfds(task) and len(versions) == 1:
                data = {**data, "versions": _with_version(data["versions"], next(iter(versions)))}
            found.append(Record(pack.path.name, data, by=credit(pack)))
        notices.append(_described(pack))
    return found


def credit(pack: results.Pack) -> str:
    """Who made a pack's results and when, for rows."""
    return f"{pack.who or pack.path.stem}, {pack.when[:10]}"


def _reads_tfds(task: str) -> bool:
    return task not in tasks.EMBEDDED and (not tasks.is_own(task) or task.startswith("tfds:"))


def _with_version(versions: Mapping[str, str], ours: str | None) -> dict[str, str]:
    """Versions with our tensorflow-datasets, for tasks that do not depend on it."""
    others = {name: version for name, version in versions.items() if name != "tensorflow-datasets"}
    return others if ours is None else {**others, "tensorflow-datasets": ours}


def _alike(data: Mapping[str, Any]) -> str:
    settings = {k: v for k, v in data["settings"].items() if k not in OF_THE_TASK}
    return json.dumps(
        [data["protocol"], settings, (data.get("input") or {}).get("input_size")], sort_keys=True
    )


def _described(pack: results.Pack) -> str:
    models = {record["model"] for record in pack.records}
    of = collections.defaultdict(set)
    for record in pack.records:
        for package in ("vtabjax", "jax"):
            of[package].add(record["versions"].get(package) or "unknown")
    made = " and ".join(f"{package} {specs.listed(sorted(found))}" for package, found in of.items())
    return (
        f"{pack.path.name}: {len(pack.records)} results of {len(models)} models by {pack.who or 'someone unnamed'}, "
        f"{pack.when[:10]}, made with {made}; licence: {pack.licence or 'not stated'}."
    )


def apart(found: Sequence[Record], notices: list[str]) -> list[Record]:
    """Decides, once labels and variants are known, where others' results stand.

    Theirs on examples that are not shown to be ours get a board of their own. Of a model that is here under the same
    settings, ours are shown. A model of which both remain (under other settings) has a row for each.
    """
    ours = [r for r in found if r.by == found[0].by]  # the first pack's, where the workdir has none
    if len(ours) == len(found):
        return list(found)
    _separate_unknown_examples(found, ours, notices)
    by_place: dict[tuple[str, str], str] = {}
    for record in found:  # ours come first, then pack by pack
        by_place.setdefault((record.label, record.setup), record.by)
    kept = [r for r in found if by_place[r.label, r.setup] == r.by]
    _compare_repeated(found, kept, notices)
    kept = _on_our_tasks(kept, notices)
    makers = collections.defaultdict(set)
    for record in kept:
        makers[record.label].add(record.by)
    for record in kept:
        if record.by and len(makers[record.label]) > 1:
            record.label = f"{record.label} [{record.by}]"
    return kept


def _on_our_tasks(found: Sequence[Record], notices: list[str]) -> list[Record]:
    """Without what others have on tasks that nobody here was measured on: it would leave ours without a mean."""
    of_setup: dict[str, set[str]] = collections.defaultdict(set)
    for record in found:
        if not record.by:
            of_setup[record.setup].add(record.data["task"])
    kept = [r for r in found if r.setup not in of_setup or r.data["task"] in of_setup[r.setup]]
    others = {r.data["task"] for r in found} - {r.data["task"] for r in kept}
    if others:
        notices.append(
            f"Results of others on {specs.listed(sorted(others))} are not shown: nothing here was measured there."
        )
    return kept


def _separate_unknown_examples(found: Sequence[Record], ours: Sequence[Record], notices: list[str]) -> None:
    def about(record: Record) -> str:  # whatever size the images have
        settings = {
            k: v for k, v in record.data["settings"].items() if k in ("splits", "resize", "image_size")
        }
        return json.dumps([record.data["protocol"], record.data["task"], settings], sort_keys=True)

    here = {about(r) for r in ours}
    exact = {(records_of.data_key(r), records_of.fingerprint(r.data)) for r in ours}
    shown = {
        (about(r), r.by)
        for r in found
        if (records_of.data_key(r), records_of.fingerprint(r.data)) in exact and r.data.get("data")
    }
    known = set(map(id, ours))
    unknown = [
        r
        for r in found
        if id(r) not in known and about(r) in here and (about(r), r.by) not in shown and not r.variant
    ]
    for record in unknown:
        record.variant = f"those of {record.by}"
    if unknown:
        named = sorted({f"{r.data['task']} ({r.by})" for r in unknown})
        notices.append(
            f"Nothing shows that results of others on {specs.listed(named)} are about the same examples as those here; "
            "they have boards of their own."
        )


def _compare_repeated(found: Sequence[Record], kept: Sequence[Record], notices: list[str]) -> None:
    """How far results that were left out agree with those that are shown."""
    places = {(r.label, r.setup, r.data["task"]): r for r in kept}
    remaining = set(map(id, kept))
    left_out = [r for r in found if id(r) not in remaining]
    by_maker: dict[str, list[float]] = collections.defaultdict(list)
    for record in left_out:
        shown = places.get((record.label, record.setup, record.data["task"]))
        theirs, its = record.data.get("correct"), shown and shown.data.get("correct")
        if theirs and its and theirs["count"] == its["count"]:
            by_maker[record.by].append(float(np.mean(results.unpack(theirs) == results.unpack(its))))
    for by, n in collections.Counter(r.by for r in left_out).items():
        same = by_maker[by]
        agree = (
            f"; on {len(same)} of them both judge {100 * np.mean(same):.2f} % of the examples alike"
            if same
            else ""
        )
        notices.append(
            f"{n} results by {by} are of models that are here under the same settings: not shown{agree}."
        )


def places(own: Sequence[Record], notices: list[str]) -> None:
    """Says where models stand among the small ones that come with the project."""
    by_setup: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for record in own:
        by_setup[record.setup].append(record.data)
    for data in by_setup.values():
        if place := placing.among_small_models(data):
            protocol = data[0]["protocol"]
            notices.append(
                f"{PROTOCOLS.get(protocol, protocol)}, {place}. config.published=mini shows them all."
            )
