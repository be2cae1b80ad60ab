"""From a workdir's files to boards: models x tasks of numbers that were made alike.

Two numbers are on one board only if every setting that can change them is the same, the code and the data sets too.
What is not goes to another board, and `ReportData.notices` says so.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import results, specs
from vtabjax.data import copies
from vtabjax.report import filtered
from vtabjax.report import packs as of_packs
from vtabjax.report import records as records_of
from vtabjax.report.boards import (
    BALANCED,
    NO_NETWORK,
    PROTOCOLS,
    RANDOM,
    SCOPES,
    SCORE_NAMES,
    Board,
    Model,
    ReportData,
    family,
    order_tasks,
    value_text,
)
from vtabjax.report.published import Published, beside, published_boards
from vtabjax.report.records import DECISIVE, OF_THE_TASK, Record
from vtabjax.specs import filters
from vtabjax.sweep import artefacts


def gather(
    workdir: Path,
    models_dir: Path,
    published: Iterable[Published] = (),
    imagenet: Mapping[str, float] | None = None,
    conditions: Sequence[filters.Condition] = (),
    score: str = "accuracy",
    packs: Sequence[results.Pack] = (),
) -> ReportData:
    """Reads a workdir.

    Args:
      workdir: the sweep's folder.
      models_dir: where converted models lie, for results of versions that did not say what their model is.
      published: others' results.
      imagenet: spec, or name without its source -> top-1 in percent.
      conditions: those on the models of the workdir that are shown.
      score: "accuracy", or "balanced_accuracy" to rank by the mean of the accuracies on each class.
      packs: others' results with their bits, which stand on our boards where they were made in the same way.

    Raises:
      UsageError: no model fulfils the conditions.
    """
    notices: list[str] = []
    records: Sequence[Record] = records_of.read(workdir, notices)
    records = [*records, *of_packs.records(packs, records, notices)]
    records_of.label(records, notices)
    records_of.variants(records, notices)
    if not packs:
        of_packs.places(records, notices)
    records = of_packs.apart(records, notices)
    _copies(records, notices)
    _groups(records, notices)
    models = _models(records, models_dir, imagenet or {})
    shown = filtered.passing({r.label: r.data for r in records}, models, conditions, notices)
    records = [record for record in records if record.label in shown]
    boards = _boards(records, models, notices, score)
    if score == BALANCED:
        notices.append(_balanced(boards))
    others = [board for given in published for board in published_boards(given)]
    own = [b for b in boards if b.accuracy]
    # What others publish are accuracies, whatever ours are.
    both = [] if score == BALANCED else [beside(own, other) for other in others]
    accuracies = own + [board for board in both if board is not None] + others
    versions: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in records:
        for package, version in record.data["versions"].items():
            versions[package][version] += 1
    for package, counts in versions.items():
        if len(counts) > 1 and package not in DECISIVE:
            notices.append(
                f"Results were made with several versions of {package} ({_counted(counts)}); their numbers differ only "
                "by rounding and are shown together."
            )
    finished = [record.data["finished"] for record in records if record.data.get("finished")]
    devices = collections.Counter(_device(r.data) for r in records)
    if len(devices) > 1:
        notices.append(
            f"Results were made on several kinds of devices ({_counted(devices)}); accuracies are shown together, "
            "speed only for the most common one."
        )
    return ReportData(
        boards=accuracies,
        proxies=boards,
        errors=records_of.errors(workdir, notices),
        notices=notices,
        records=len(records),
        versions=versions,
        devices=devices,
        finished=(min(finished), max(finished)) if finished else None,
    )


def _balanced(boards: Sequence[Board]) -> str:
    if not any(board.metric == BALANCED for board in boards):
        return "No result has a balanced accuracy, so that config.score changes nothing."
    return (
        "Models are ranked by balanced accuracy, the mean of the accuracies on each class. Leads have no interval over "
        "test examples, because results do not hold the class of each."
    )


def _copies(records: Sequence[Record], notices: list[str]) -> None:
    """Equal pictures of a task, by what was trained on and tested; neighbours at distance zero."""
    protocols_of: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for record in records:
        data = record.data
        if text := copies.said(data.get("copies")):
            protocols_of[data["task"], text].add(data["protocol"])
    for (task, text), protocols in protocols_of.items():
        names = [PROTOCOLS.get(p, p) for p in [*PROTOCOLS, *protocols] if p in protocols]
        notices.append(f"{task}: {text} ({', '.join(dict.fromkeys(names))}).")
    models_of: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for record in records:
        if note := (record.data.get("notes") or {}).get("distance_zero"):
            models_of[record.data["task"], note].add(record.label)
    for (task, text), labels in models_of.items():
        notices.append(f"{task}, {PROTOCOLS['knn']}: {text} ({specs.listed(sorted(labels))}).")


def _groups(records: Sequence[Record], notices: list[str]) -> None:
    """Examples that belong together, and own tasks whose files are called as if they did."""
    said: dict[str, None] = {}
    for record in records:
        task, protocol = record.data["task"], record.data["protocol"]
        looks = (record.data.get("data_notes") or {}).get("looks_grouped")
        if groups := record.data.get("groups"):
            said[
                f"{task}, {PROTOCOLS.get(protocol, protocol)}: {record.data['n_examples']:,} examples in "
                f"{groups['count']:,} groups, which cuts do not divide; intervals and leads are those of whole groups."
            ] = None
        elif isinstance(looks, dict) and {"like", "pattern"} <= looks.keys():
            said[
                f"{task}: names such as {looks['like']} seem to say what pictures share; if they do, its numbers "
                f"are too high without --config.group='{looks['pattern']}'."
            ] = None
    notices += said


def _device(data: Mapping[str, Any]) -> str:
    device = data.get("device") or {}
    count = device.get("count")
    return f"{count} x {device.get('kind') or device.get('platform')}" if count else "unknown device"


# Models.


def _models(records: Sequence[Record], models_dir: Path, imagenet: Mapping[str, float]) -> dict[str, Model]:
    """label -> what the results say of the model, for those of older versions what its converted model says."""
    by_label: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        by_label[record.label].append(record)
    speeds = {label: _speeds(of_model) for label, of_model in by_label.items()}
    devices = collections.Counter(device for of_model in speeds.values() for device in of_model)
    device = devices.most_common(1)[0][0] if devices else ""
    artefact_info = functools.cache(lambda: _artefacts(models_dir))
    models = {}
    for label, of_model in by_label.items():
        spec = of_model[0].data["model"]
        info = next((r.data["source"] for r in of_model if r.data.get("source")), None)
        if info is None:
            hashes = {r.data.get("weight_hash") for r in of_model}
            info = next((artefact_info()[h] for h in hashes if h in artefact_info()), {})
        top1 = info.get("imagenet_top1")
        for name in (spec, spec.partition("/")[2]):
            top1 = imagenet.get(name, top1)
        models[label] = Model(
            label,
            spec,
            method=_method(spec, info),
            family=info.get("family") or family(info.get("architecture") or spec),
            architecture=info.get("architecture") or "",
            parameters=info.get("parameters"),
            num_features=info.get("num_features"),
            imagenet_top1=top1,
            pretraining_data=info.get("pretraining_data") or "",
            gflops=info.get("gflops"),
            license=info.get("license") or "",
            features=_features(of_model, info),
            images_per_second=speeds[label].get(device) if device else None,
            device=device,
            source=of_model[0].by,
        )
    return models


def _features(records: Sequence[Record], info: Mapping[str, Any]) -> str:
    """How a model's features were made, in words."""
    if any("features" in (record.data.get("chosen") or {}) for record in records):
        return "tokens pooled as is best on validation examples, for each task"
    return info.get("features") or ""


def _speeds(records: Sequence[Record]) -> dict[str, float]:
    """Device -> images per second of the fastest pass over images there."""
    speeds: dict[str, float] = {}
    for record in records:
        device = _device(record.data)
        for timed in (record.data.get("passes") or {}).values():
            if timed["seconds"] > 0:
                speeds[device] = max(speeds.get(device, 0.0), timed["images"] / timed["seconds"])
    return speeds


def _artefacts(models_dir: Path) -> dict[str | None, Mapping[str, Any]]:
    """weight_hash -> model.json of every converted model in a folder."""
    by_hash: dict[str | None, Mapping[str, Any]] = {}
    for path in sorted(models_dir.glob("*/model.json")):
        try:
            info = artefacts.read_info(path.parent)
        except (OSError, ValueError):
            continue
        by_hash[info.get("weight_hash")] = info
    return by_hash


def _method(spec: str, info: Mapping[str, Any]) -> str:
    try:
        random = specs.parse(spec).random
    except specs.SpecError:
        random = False
    if random or (info.get("method") == "none" and info.get("parameters")):
        return RANDOM
    return NO_NETWORK if info.get("method") == "none" else info.get("method") or "unknown"


# Boards.


def _boards(
    records: Sequence[Record], models: Mapping[str, Model], notices: list[str], score: str
) -> list[Board]:
    groups: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        groups[record.setup].append(record)
    by_protocol: dict[str, list[list[Record]]] = collections.defaultdict(list)
    for group in groups.values():
        by_protocol[group[0].data["protocol"]].append(group)
    boards = []
    order = [*PROTOCOLS, *sorted(set(by_protocol) - set(PROTOCOLS))]
    for protocol in order:
        setups = sorted(by_protocol.get(protocol, []), key=len, reverse=True)
        differing = _differing([_settings(group[0]) for group in setups])
        if len(setups) > 1:
            notices.append(
                f"{PROTOCOLS.get(protocol, protocol)} was run in {len(setups)} ways (different "
                f"{specs.listed(sorted(differing))}). Each has its own board; nothing is averaged over them."
            )
        for i, group in enumerate(setups):
            for metric in _metrics(group, score):
                boards.append(_board(group, metric, i, differing, models))
    return boards


def _settings(record: Record) -> dict[str, Any]:
    """What a board's numbers share."""
    data = record.data
    shared = {k: v for k, v in data["settings"].items() if k not in OF_THE_TASK}
    shared |= {f"{k} version": data["versions"][k] for k in DECISIVE if k in data["versions"]}
    return shared | ({"examples": record.variant} if record.variant else {})


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    names = {name for s in settings for name in s}
    return {n for n in names if len({json.dumps(s.get(n), sort_keys=True) for s in settings}) > 1}


# What a result says of its accuracy, which has no board of its own.
_ABOUT_ACCURACY = ("interval", "balanced_accuracy", "calibration_error")


def _metrics(group: Sequence[Record], score: str) -> list[str]:
    names = dict.fromkeys(name for r in group for name, v in r.data["metrics"].items() if v is not None)
    shown = [name for name in names if not name.startswith("n_tied") and name not in _ABOUT_ACCURACY]
    if score == BALANCED and BALANCED in names:
        return [BALANCED, *(name for name in shown if not name.startswith("accuracy"))]
    return shown


def _title(protocol: str, metric: str, settings: Mapping[str, Any], differing: Iterable[str]) -> str:
    title = PROTOCOLS.get(protocol, protocol)
    if protocol == "transferability":
        title = SCORE_NAMES.get(metric, metric)
    elif metric == "val_accuracy":
        title += " (validation)"
    elif protocol == "knn":
        first = (settings.get("metric") or ["euclidean"])[0]
        distance = metric.removeprefix("accuracy_") if metric not in ("accuracy", BALANCED) else first
        title += f" ({distance})"
    elif protocol == "finetune" and (scope := SCOPES.get(str(settings.get("scope")))):
        title += f" ({scope})"
    elif metric not in ("accuracy", BALANCED):
        title += f" ({metric})"
    title += ", balanced accuracy" if metric == BALANCED else ""
    in_title = {"metric", "scope"} if protocol in ("knn", "finetune") else set()
    parts = [f"{name} {value_text(settings.get(name))}" for name in sorted(set(differing) - in_title)]
    return title + (f" · {', '.join(parts)}" if parts else "")


def _board(
    group: Sequence[Record], metric: str, number: int, differing: set[str], models: Mapping[str, Model]
) -> Board:
    by_cell = {(r.label, r.data["task"]): r for r in group if r.data["metrics"].get(metric) is not None}
    rows = list(dict.fromkeys(label for label, _ in by_cell))
    columns = order_tasks(task for _, task in by_cell)
    shape = (len(rows), len(columns))
    values, n_examples = np.full(shape, np.nan), np.zeros(shape, int)
    files = [[""] * shape[1] for _ in rows]
    correct, examples, groups, chosen = {}, {}, {}, {}
    effective = np.full(shape, np.nan) if metric == BALANCED else None
    seconds: dict[str, np.ndarray] = collections.defaultdict(lambda: np.full(shape, np.nan))
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    for (label, task), record in by_cell.items():
        i, j = row_of[label], column_of[task]
        data = record.data
        values[i, j] = data["metrics"][metric]
        files[i][j] = record.path
        n_examples[i, j] = data["n_examples"] or 0
        chosen[i, j] = data.get("chosen") or {}
        for stage, taken in data["seconds"].items():
            seconds[stage][i, j] = taken
        if metric == "accuracy" and data.get("correct"):
            correct[i, j] = results.unpack(data["correct"])
            examples[i, j] = _examples(data)
        if effective is not None and data.get("confusion"):
            of_class = results.unpack_confusion(data["confusion"]).sum(1)
            effective[i, j] = (of_class > 0).sum() ** 2 / (1 / of_class[of_class > 0]).sum()
        if data.get("groups"):
            groups[i, j] = results.unpack_groups(data["groups"])
    data = group[0].data
    settings = _settings(group[0])
    key = "-".join(
        [
            data["protocol"],
            *([metric] if metric != "accuracy" else []),
            *([str(number + 1)] if number else []),
        ]
    )
    return Board(
        key=key,
        title=_title(data["protocol"], metric, settings, differing),
        protocol=data["protocol"],
        metric=metric,
        settings=settings,
        models=[models[label] for label in rows],
        tasks=columns,
        values=values,
        n_examples=n_examples,
        files=files,
        correct=correct,
        examples=examples,
        groups=groups,
        seconds=dict(seconds),
        chosen=chosen,
        n_effective=effective,
    )


def _examples(data: Mapping[str, Any]) -> str:
    """Which examples `correct` is about: those of the last split, except that nearest neighbours use all."""
    # Not the fingerprint itself, which is another one for another input size; the rest are variants.
    groups = f" {data['groups']['packed']}" if data.get("groups") else ""
    return f"{data['task']} {data['settings'].get('splits')} {data['n_examples']}{groups}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))
