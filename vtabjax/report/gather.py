"""From a workdir's files to boards: models x tasks of numbers that were made alike.

Two numbers are on one board only if every setting that can change them is the same, the code and the data sets too.
What is not goes to another board, and `Gathered.notices` says so.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import artefacts, results, specs, tasks
from vtabjax.report.published import Published

PROTOCOLS = {
    "finetune": "Fine-tuning",
    "linear": "Linear evaluation",
    "knn": "Nearest neighbours",
    "transferability": "Transferability scores",
}
# Settings that belong to a task, not to how it is measured.
_OF_THE_TASK = ("task", "pictures", "skip_broken")
# Packages whose version decides what is computed, not only how it is rounded.
_DECISIVE = ("vtabjax", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known about a model.

    Attributes:
      label: its name in the report: the spec, with its weights' hash where one spec had several weights.
      spec: the spec.
      method: how it was trained: "supervised", "self-supervised", ...; "from scratch" for random weights, "none" for
        the pixels themselves, "unknown".
      family: the module that defines its architecture.
      architecture: its name in its library.
      parameters: how many; None where unknown.
      num_features: width of the features; None where unknown.
      imagenet_top1: percent; None where unknown.
      pretraining_data: what it was trained on; "" where unknown.
      images_per_second: the fastest of its passes over images, on `device`; None where none was timed.
      device: on which devices.
      source: of a published row; "" for ours.
    """

    label: str
    spec: str
    method: str = "unknown"
    family: str = "unknown"
    architecture: str = ""
    parameters: int | None = None
    num_features: int | None = None
    imagenet_top1: float | None = None
    pretraining_data: str = ""
    images_per_second: float | None = None
    device: str = ""
    source: str = ""

    @property
    def published(self) -> bool:
        """Whether others made its numbers."""
        return bool(self.source)


@dataclasses.dataclass(frozen=True)
class Board:
    """Numbers that were made alike.

    Attributes:
      key: unique, fit for file names.
      title: for people.
      protocol: "finetune", ...; "published".
      metric: "accuracy", "accuracy_cosine", "logme", ...
      settings: what all of its numbers share; {} for published ones.
      models: the rows, [M].
      tasks: the columns, [T].
      values: [M, T]; NaN where there is none.
      n: examples behind each value, [M, T]; 0 where unknown.
      files: the result's file, relative to the workdir, [M][T]; "" where there is none.
      correct: (row, column) -> bool [n].
      examples: (row, column) -> a fingerprint of the examples behind `correct`.
      seconds: stage -> [M, T].
      chosen: (row, column) -> what the protocol chose there.
    """

    key: str
    title: str
    protocol: str
    metric: str
    settings: Mapping[str, Any]
    models: Sequence[Model]
    tasks: Sequence[str]
    values: np.ndarray
    n: np.ndarray
    files: Sequence[Sequence[str]]
    correct: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)
    examples: Mapping[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    chosen: Mapping[tuple[int, int], Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether all of it was made by others."""
        return self.protocol == "published"

    @property
    def accuracy(self) -> bool:
        """Whether the values are accuracies that rank models (others only predict them)."""
        return self.metric == "accuracy" or self.metric.startswith("accuracy_")


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Everything the report is made of.

    Attributes:
      boards: of accuracies, the most telling first: fine-tuning, linear, kNN, published.
      proxies: boards whose values may predict fine-tuned accuracy.
      errors: (path relative to the workdir, record) of failed cells.
      notices: what has to be known about all of it.
      records: how many results there are.
      versions: package -> versions -> how many results.
      devices: device -> how many results.
    """

    boards: list[Board]
    proxies: list[Board]
    errors: list[tuple[str, Mapping[str, Any]]]
    notices: list[str]
    records: int
    versions: Mapping[str, collections.Counter]
    devices: collections.Counter


@dataclasses.dataclass
class _Record:
    path: str
    data: Mapping[str, Any]
    label: str = ""
    variant: str = ""

    @functools.cached_property
    def setup(self) -> str:
        """Everything that makes numbers comparable, as text."""
        settings = {k: v for k, v in self.data["settings"].items() if k not in _OF_THE_TASK}
        versions = {k: self.data["versions"].get(k) for k in _DECISIVE}
        return json.dumps([self.data["protocol"], settings, versions, self.variant], sort_keys=True)


def gather(
    workdir: Path,
    models_dir: Path,
    published: Iterable[Published] = (),
    imagenet: Mapping[str, float] | None = None,
) -> Gathered:
    """Reads a workdir.

    Args:
      workdir: the sweep's folder.
      models_dir: where converted models lie, for results of versions that did not say what their model is.
      published: others' results.
      imagenet: spec, or name without its source -> top-1 in percent.
    """
    notices: list[str] = []
    records = _records(workdir, notices)
    _label(records, notices)
    _variants(records, notices)
    models = _models(records, models_dir, imagenet or {})
    boards = _boards(records, models, notices)
    others = [board for given in published for board in _published_boards(given)]
    own = [b for b in boards if b.accuracy]
    accuracies = own + [b for b in (_beside(own, other) for other in others) if b is not None] + others
    versions = collections.defaultdict(collections.Counter)
    for record in records:
        for package, version in record.data["versions"].items():
            versions[package][version] += 1
    for package, found in versions.items():
        if len(found) > 1 and package not in _DECISIVE:
            notices.append(
                f"Results were made with several versions of {package} ({_counted(found)}); their numbers differ by "
                "rounding and are shown together."
            )
    devices = collections.Counter(_device(r.data) for r in records)
    if len(devices) > 1:
        notices.append(
            f"Results were made on several kinds of devices ({_counted(devices)}); accuracies are shown together, "
            "speed only of the most used one."
        )
    return Gathered(accuracies, boards, _errors(workdir, notices), notices, len(records), versions, devices)


def _records(workdir: Path, notices: list[str]) -> list[_Record]:
    out = []
    for path in results.paths(workdir):
        try:
            data = results.read(path)
        except ValueError as e:
            notices.append(f"A file was left out: {e}.")
            continue
        if data is not None:
            out.append(_Record(str(path.relative_to(workdir)), data))
    return out


def _errors(workdir: Path, notices: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        return [(str(path.relative_to(workdir)), record) for path, record in results.errors(workdir)]
    except ValueError as e:
        notices.append(f"Failures are not listed: {e}.")
        return []


def _label(records: Sequence[_Record], notices: list[str]) -> None:
    """One row per set of weights: a spec whose weights changed between runs is two models."""
    weights = collections.defaultdict(dict)
    for record in records:
        weights[record.data["model"]].setdefault(record.data.get("weight_hash"), None)
    for record in records:
        model, own = record.data["model"], record.data.get("weight_hash")
        record.label = model if len(weights[model]) == 1 else f"{model} [weights {str(own)[:8]}]"
    changed = [model for model, found in weights.items() if len(found) > 1]
    if changed:
        notices.append(
            f"The weights behind {_listed(changed)} changed between runs; each set of weights has its own row."
        )


def _variants(records: Sequence[_Record], notices: list[str]) -> None:
    """Results on other examples of a task (a data set prepared anew) go to a board of their own."""
    found = collections.defaultdict(collections.Counter)
    for record in records:
        found[_data_key(record)][_fingerprint(record.data)] += 1
    mixed = set()
    for record in records:
        counted = found[_data_key(record)]
        rank = [name for name, _ in counted.most_common()].index(_fingerprint(record.data))
        if rank:
            record.variant = f"data {rank + 1}"
            mixed.add(record.data["task"])
    if mixed:
        notices.append(
            f"Results on {_listed(sorted(mixed))} were computed on different examples (the data set was prepared "
            "anew or by other code). They are on boards of their own and never averaged with the others."
        )


def _data_key(record: _Record) -> tuple:
    # Fingerprints are of images as the model sees them, so those of another input size differ by right.
    data = record.data
    size = tuple((data.get("input") or {}).get("input_size") or ())
    settings = {k: v for k, v in data["settings"].items() if k in ("splits", "resize", "image_size")}
    return data["task"], size, json.dumps(settings, sort_keys=True), data["protocol"]


def _fingerprint(data: Mapping[str, Any]) -> str:
    return json.dumps(data.get("data") or {}, sort_keys=True)


def _device(data: Mapping[str, Any]) -> str:
    device = data.get("device") or {}
    count = device.get("count")
    return f"{count} x {device.get('kind') or device.get('platform')}" if count else "unknown device"


# Models.


def _models(records: Sequence[_Record], models_dir: Path, imagenet: Mapping[str, float]) -> dict[str, Model]:
    by_label = collections.defaultdict(list)
    for record in records:
        by_label[record.label].append(record)
    known = None
    devices = collections.Counter()
    passes = collections.defaultdict(lambda: collections.defaultdict(float))
    for record in records:
        for one in (record.data.get("passes") or {}).values():
            if one["seconds"] > 0:
                device = _device(record.data)
                speed = one["images"] / one["seconds"]
                passes[record.label][device] = max(passes[record.label][device], speed)
    for found in passes.values():
        devices.update(found.keys())
    device = devices.most_common(1)[0][0] if devices else ""
    out = {}
    for label, found in by_label.items():
        spec = found[0].data["model"]
        info = next((r.data["source"] for r in found if r.data.get("source")), None)
        if info is None:  # an older version's: its converted model may still be there
            known = _artefacts(models_dir) if known is None else known
            hashes = {r.data.get("weight_hash") for r in found}
            info = next((known[h] for h in hashes if h in known), {})
        top1 = info.get("imagenet_top1")
        for name in (spec, spec.partition("/")[2]):
            top1 = imagenet.get(name, top1)
        out[label] = Model(
            label,
            spec,
            method=_method(spec, info),
            family=info.get("family") or family(info.get("architecture") or spec),
            architecture=info.get("architecture") or "",
            parameters=info.get("parameters"),
            num_features=info.get("num_features"),
            imagenet_top1=top1,
            pretraining_data=info.get("pretraining_data") or "",
            images_per_second=passes[label].get(device) if device else None,
            device=device,
        )
    return out


def _artefacts(models_dir: Path) -> dict[str, dict[str, Any]]:
    """weight_hash -> model.json of every converted model in a folder."""
    found = {}
    for path in sorted(models_dir.glob("*/model.json")):
        try:
            info = artefacts.read_info(path.parent)
        except (OSError, ValueError):
            continue
        found[info.get("weight_hash")] = info
    return found


def _method(spec: str, info: Mapping[str, Any]) -> str:
    try:
        random = specs.parse(spec).random
    except specs.SpecError:
        random = False
    if random or (info.get("method") == "none" and info.get("parameters")):
        return "from scratch"
    return info.get("method") or "unknown"


def family(architecture: str) -> str:
    """A family from an architecture's name alone, for results that do not say: ``resnet50.a1_in1k`` -> resnet."""
    name = architecture.rpartition("/")[2].lower().removeprefix("test_").removeprefix("tf_")
    match = re.match(r"(?:wide_)?[a-z]+?(?:v\d)?(?=\d|_|$)", re.sub(r"[.@].*", "", name))
    return match[0].removeprefix("wide_") if match else "unknown"


# Boards.


def _boards(records: Sequence[_Record], models: Mapping[str, Model], notices: list[str]) -> list[Board]:
    groups: dict[str, list[_Record]] = collections.defaultdict(list)
    for record in records:
        groups[record.setup].append(record)
    by_protocol: dict[str, list[list[_Record]]] = collections.defaultdict(list)
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
                f"{_listed(sorted(differing))}). Each has its own board; nothing is averaged over them."
            )
        for i, group in enumerate(setups):
            for metric in _metrics(group):
                boards.append(_board(group, metric, i, differing, models))
    return boards


def _settings(record: _Record) -> dict[str, Any]:
    """What a board's numbers share."""
    data = record.data
    shared = {k: v for k, v in data["settings"].items() if k not in _OF_THE_TASK}
    shared |= {f"{k} version": data["versions"][k] for k in _DECISIVE if k in data["versions"]}
    return shared | ({"examples": record.variant} if record.variant else {})


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    names = {name for s in settings for name in s}
    return {n for n in names if len({json.dumps(s.get(n), sort_keys=True) for s in settings}) > 1}


def _metrics(group: Sequence[_Record]) -> list[str]:
    names = dict.fromkeys(name for r in group for name, v in r.data["metrics"].items() if v is not None)
    return [name for name in names if not name.startswith("n_tied")]


def _title(protocol: str, metric: str, settings: Mapping[str, Any], differing: Iterable[str]) -> str:
    title = PROTOCOLS.get(protocol, protocol)
    if protocol == "transferability":
        title = metric
    elif metric == "val_accuracy":
        title += " (validation)"
    elif protocol == "knn":
        first = (settings.get("metric") or ["euclidean"])[0]
        distance = metric.removeprefix("accuracy_") if metric != "accuracy" else first
        title += f" ({distance})"
    elif protocol == "finetune" and settings.get("scope") == "head":
        title += " (head only)"
    elif metric != "accuracy":
        title += f" ({metric})"
    said = {"metric", "scope"} if protocol in ("knn", "finetune") else set()
    parts = [f"{name} {value_text(settings.get(name))}" for name in sorted(set(differing) - said)]
    return title + (f" · {', '.join(parts)}" if parts else "")


def value_text(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, (list, tuple)):
        return "+".join(value_text(v) for v in value)
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _board(
    group: Sequence[_Record], metric: str, number: int, differing: set[str], models: Mapping[str, Model]
) -> Board:
    found = {(r.label, r.data["task"]): r for r in group if r.data["metrics"].get(metric) is not None}
    rows = list(dict.fromkeys(label for label, _ in found))
    columns = order_tasks(task for _, task in found)
    shape = (len(rows), len(columns))
    values, n = np.full(shape, np.nan), np.zeros(shape, int)
    files = [[""] * shape[1] for _ in rows]
    correct, examples, chosen = {}, {}, {}
    seconds: dict[str, np.ndarray] = collections.defaultdict(lambda: np.full(shape, np.nan))
    for (label, task), record in found.items():
        i, j = rows.index(label), columns.index(task)
        data = record.data
        values[i, j] = data["metrics"][metric]
        files[i][j] = record.path
        n[i, j] = data["n_examples"] or 0
        chosen[i, j] = data.get("chosen") or {}
        for stage, taken in data["seconds"].items():
            seconds[stage][i, j] = taken
        if metric == "accuracy" and data.get("correct"):
            correct[i, j] = results.unpack(data["correct"])
            examples[i, j] = _examples(data)
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
        key,
        _title(data["protocol"], metric, settings, differing),
        data["protocol"],
        metric,
        settings,
        [models[label] for label in rows],
        columns,
        values,
        n,
        files,
        correct,
        examples,
        dict(seconds),
        chosen,
    )


def _examples(data: Mapping[str, Any]) -> str:
    """Which examples `correct` is about: those of the last split, except that nearest neighbours use all."""
    # Not the fingerprint itself, which is another one for another input size; `_variants` has separated the rest.
    return f"{data['task']} {data['settings'].get('splits')} {data['n_examples']}"


def order_tasks(names: Iterable[str]) -> list[str]:
    """Tasks in the benchmark's order, unknown ones (folders) last."""
    known = list(tasks.TASKS)
    return sorted(set(names), key=lambda t: (known.index(t) if t in known else len(known), t))


# Published results.


def _published_boards(given: Published) -> list[Board]:
    groups = collections.defaultdict(list)
    for row in given.rows:
        groups[row.fields.get("examples", "")].append(row)
    boards = []
    for examples, rows in groups.items():
        labels = list(dict.fromkeys(row.model for row in rows))
        columns = order_tasks(row.task for row in rows)
        values = np.full((len(labels), len(columns)), np.nan)
        n = np.zeros(values.shape, int)
        for row in rows:
            i, j = labels.index(row.model), columns.index(row.task)
            values[i, j], n[i, j] = row.accuracy, row.n or 0
        fields = {row.model: row.fields for row in reversed(rows)}
        models = [_published_model(label, fields[label], given) for label in labels]
        said = {"1000": "1,000 examples", "full": "full training sets"}.get(examples, examples)
        key = "published-" + re.sub(r"\W+", "-", given.name.lower()).strip("-")
        boards.append(
            Board(
                key + (f"-{examples}" if examples else ""),
                f"Published: {given.name}" + (f", {said}" if said else ""),
                "published",
                "accuracy",
                {"source": given.source} | ({"training examples": said} if said else {}),
                models,
                columns,
                values,
                n,
                [[""] * len(columns) for _ in labels],
            )
        )
    return boards


def _published_model(label: str, fields: Mapping[str, str], given: Published) -> Model:
    number = fields.get("parameters", "")
    method = fields.get("method") or "unknown"
    return Model(
        label,
        label,
        method="from scratch" if method == "none" else method,
        family=fields.get("family")
        or (family(fields["architecture"]) if "architecture" in fields else "unknown"),
        architecture=fields.get("architecture", ""),
        parameters=int(float(number)) if re.fullmatch(r"[\d.]+(?:e\d+)?", number) else None,
        pretraining_data=fields.get("pretraining_data", ""),
        source=fields.get("source") or given.name,
    )


def _beside(own: Sequence[Board], other: Board) -> Board | None:
    """Our fine-tuning with the published rows of as many training examples, on our tasks; None where there is none."""
    for board in own:
        said = "full" if "trainval" in (board.settings.get("splits") or []) else "1,000"
        if board.protocol != "finetune" or board.settings.get("scope") == "head":
            continue
        if said not in other.settings.get("training examples", said):
            continue
        columns = [t for t in board.tasks if t in other.tasks]
        if not columns:
            continue
        ours = [board.tasks.index(t) for t in columns]
        theirs = [other.tasks.index(t) for t in columns]
        keep = [i for i in range(len(board.models)) if not np.isnan(board.values[i, ours]).all()]
        return Board(
            f"{board.key}-beside-{other.key}",
            f"{board.title}, beside {other.title[0].lower()}{other.title[1:]}",
            board.protocol,
            "accuracy",
            {**board.settings, "published rows": other.settings["source"]},
            [board.models[i] for i in keep] + list(other.models),
            columns,
            np.concatenate([board.values[np.ix_(keep, ours)], other.values[:, theirs]]),
            np.concatenate([board.n[np.ix_(keep, ours)], other.n[:, theirs]]),
            [[board.files[i][j] for j in ours] for i in keep] + [[""] * len(columns) for _ in other.models],
            seconds={k: np.concatenate([v[np.ix_(keep, ours)], np.full((len(other.models), len(ours)), np.nan)])
                     for k, v in board.seconds.items()},
        )  # fmt: skip
    return None


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(found.items(), key=lambda item: -item[1]))


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
