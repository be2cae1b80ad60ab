"""Any image classification of tensorflow-datasets as a task: ``tfds:name[/config][:version]``.

The data set has to be prepared already, as array_record or tfrecord files. Its image and its label are found by their
types; where several may be meant: ``tfds:cifar100#label=coarse_label``.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vtabjax import installation, specs
from vtabjax.runtime import tfds_records
from vtabjax.tasks import _columns, _own, _own_names
from vtabjax.tasks._columns import Columns
from vtabjax.tasks._own_names import OwnName
from vtabjax.tasks._task import Rows, Task, TaskError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

T = TypeVar("T")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_known: dict[str, Task] = {}


def find(name: str, data_dir: str | os.PathLike | None = None) -> Task:
    """The task of a prepared data set. Its examples are gone through once per process.

    Args:
      name: the task's name.
      data_dir: where data sets are prepared. If None, what was found under that name before, or tfds's default.

    Raises:
      TaskError: it is not prepared, is damaged, or is no image classification.
      MissingExtraError: tensorflow-datasets is not installed.
    """
    parsed = _own_names.parse(name, ("image", "label", "path", "group"))
    if data_dir is None and str(parsed) in _known:
        return _known[str(parsed)]
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    installation.require("data", f"task {name}", "tensorflow_datasets", "array_record")
    try:
        folder = _locate(parsed, root)
        _known[str(parsed)] = _from_folder(str(parsed), folder)
        return _known[str(parsed)]
    except TaskError as e:
        raise TaskError(f"task {name!r}: {str(e).removeprefix(f'task {name!r}: ')}") from e


def forget() -> None:
    """Lets the next look-up go through the data set again."""
    _known.clear()
    _from_folder.cache_clear()


def _locate(name: OwnName, root: Path) -> Path:
    """The folder root/name[/config]/version."""
    target, _, version = name.target.partition(":")
    folder = root / target
    if not re.fullmatch(r"\w+(/[\w.-]+)?", target) or version and not _VERSION.fullmatch(version):
        raise TaskError(
            "a data set of tensorflow-datasets is tfds:name, tfds:name/config or tfds:name/config:1.0.0"
        )
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    versions = sorted(
        (n for n in inside if _VERSION.fullmatch(n)), key=lambda v: [int(x) for x in v.split(".")]
    )
    if version in versions or versions and not version:
        return folder / (version or versions[-1])
    configs = [n for n in inside if any(map(_VERSION.fullmatch, os.listdir(folder / n)))]
    if not versions and configs and "/" not in target:
        choices = [f"tfds:{target}/{config}" for config in configs]
        raise TaskError(f"{folder} holds {len(configs)} config(s); write {specs.listed(choices, 5)}")
    why = f"it is not prepared in {root}"
    if versions:
        why = f"{folder} holds version {', '.join(versions)}, not {version}"
    raise TaskError(
        f"{why}; prepare it with: tfds build {target} --data_dir={root}, or name its folder with data_dir"
    )


@functools.lru_cache(maxsize=8)
def _from_folder(text: str, folder: Path) -> Task:
    import tensorflow_datasets as tfds

    name = _own_names.parse(text)
    builder, sizes = _open(folder)
    typed = builder.info.features
    if not isinstance(typed, tfds.features.FeaturesDict):
        raise TaskError(f"its examples have no named fields but are {type(typed).__name__}")
    features = dict(sorted(typed.items()))  # they come in any order
    image = _one(name, "image", features, lambda f: type(f) is tfds.features.Image)
    label = _one(name, "label", features, lambda f: isinstance(f, tfds.features.ClassLabel))
    group, path = (_own_names.chosen(name, what, features) for what in ("group", "path"))
    fields = [path] if path else [f for f in _columns.NAME_COLUMNS if f in features and f != image]

    def read(example: Mapping[str, Any]) -> tuple[Any, str, str, tuple[str, ...]]:
        texts = tuple(_columns.text(_plain(example[field])) for field in fields)
        grouped = _columns.text(_plain(example[group])) if group else ""
        return _plain(example[label]), grouped, _columns.content_name(example[image]), texts

    splits = [split for split, n in sizes.items() if n]
    examples = _with_progress(map(read, _all(builder, splits)), sum(sizes.values()), str(name), folder)
    labels, groups, hashed, texts = zip(*examples, strict=True)
    named = {field: names for field, *names in zip(fields, *texts, strict=True) if _columns.unique(names)}
    if path and not named:
        raise TaskError(f"its field {path!r} does not tell pictures from each other")
    cut_by, names = next(iter(named.items()), ("content", _columns.numbered(hashed)))
    stamp = f"{builder.info.full_name} {builder.info.file_format.value} {_shards(builder)}"
    columns = Columns(
        [i for split in splits for i in range(sizes[split])],
        labels,
        getattr(features[label], "names", None),
        names,
        [stamp] * len(labels),
        splits=[split for split in splits for _ in range(sizes[split])],
        groups=groups if group else None,
    )
    files, classes, notes = _columns.found(columns, what="example", other_splits=True)
    about: dict[str, Any] = {"read_from": str(folder), "cut_by": cut_by}
    about |= _columns.renamed(image=image, label=label, group=group)
    rows = Rows(_reader(builder, splits, sizes, image), builder.info.file_format.value == "array_record")
    return _own.task(str(name), "TFDS", files, classes, about | notes, rows=rows)


def _open(folder: Path) -> tuple[tfds.core.DatasetBuilder, dict[str, int]]:
    """tfds's reader of a folder, and how many examples each split has."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    except Exception as e:  # a different type for each file that is missing or cut off
        raise TaskError(f"{folder} is not a complete data set ({_first_line(e)}); prepare it anew") from e
    if not sum(sizes.values()):
        raise TaskError(f"{folder} holds no examples; prepare it anew")
    return builder, sizes


def _one(name: OwnName, what: str, features: Mapping[str, Any], fits: Any) -> str:
    if field := _own_names.chosen(name, what, list(features)):
        return field
    fitting = sorted(field for field, feature in features.items() if fits(feature))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choice = _own_names.choice(name, what, fitting)
        raise TaskError(
            f"it has {len(fitting)} fields that may be the {what}, {', '.join(fitting)}; write {choice}"
        )
    shown = specs.listed((f"{field} ({type(f).__name__})" for field, f in features.items()), 12)
    raise TaskError(f"none of its fields is {'an image' if what == 'image' else 'a class label'}: {shown}")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _shards(builder: tfds.core.DatasetBuilder) -> str:
    splits = builder.info.splits
    return str({s: [splits[s].shard_lengths, int(splits[s].num_bytes)] for s in sorted(splits)})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _with_progress(examples: Iterator[T], n: int, what: str, folder: Path) -> Iterator[T]:
    from vtabjax.runtime import bars

    seen = 0
    try:
        for example in bars.bar(examples, f"{what} read", n, unit="image"):
            yield example
            seen += 1
    except TaskError:
        raise
    except Exception as e:  # the readers of the file formats have no error type in common
        raise TaskError(
            f"example {seen} in {folder} cannot be read ({_first_line(e)}); prepare it anew"
        ) from e
    if seen != n:
        raise TaskError(f"{folder} ends after {seen:,} of {n:,} examples; prepare it anew")


def _all(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All examples, split by split, in the order of the files, images encoded."""
    for split in splits:
        if builder.info.file_format.value == "array_record":
            examples = builder.as_data_source(split=split, decoders=tfds_records.encoded(builder))
            yield from (examples[i] for i in range(len(examples)))
        else:
            yield from tfds_records.in_order(builder, split)


def _reader(
    builder: tfds.core.DatasetBuilder, splits: Sequence[str], sizes: Mapping[str, int], image: str
) -> Any:
    starts = dict(zip(splits, itertools.accumulate((sizes[s] for s in splits), initial=0), strict=False))

    def any_order(rows: Sequence[int]) -> Iterator[bytes]:
        sources = {s: builder.as_data_source(split=s, decoders=tfds_records.encoded(builder)) for s in splits}
        for row in map(int, rows):
            split = next(s for s in reversed(splits) if starts[s] <= row)
            yield sources[split][row - starts[split]][image]

    def ascending(rows: Sequence[int]) -> Iterator[bytes]:
        wanted = iter(rows)
        row = next(wanted, None)
        for at, example in enumerate(_all(builder, splits)):
            while row == at:
                yield example[image]
                row = next(wanted, None)
            if row is None:
                return

    return any_order if builder.info.file_format.value == "array_record" else ascending
