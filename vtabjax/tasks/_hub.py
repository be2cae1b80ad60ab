"""Data sets of the datasets library as tasks: ``hf:OWNER/NAME[/config]`` from the hub, ``hf:/path`` from a disk.

On a disk they are what `save_to_disk` wrote, or a folder of files as the hub has them. The image and the label are
found by their types; where several may be meant: ``hf:OWNER/NAME#label=fine_label+image=photo``. Nothing that a
repository holds is executed, and pictures are not decoded by that library.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtabjax import installation, specs
from vtabjax.tasks import _columns, _own, _own_names
from vtabjax.tasks._columns import Columns
from vtabjax.tasks._own_names import OwnName
from vtabjax.tasks._task import Rows, Task, TaskError

if TYPE_CHECKING:
    import datasets

_LABELS = ("label", "labels", "class", "category", "target")  # what a column of text or numbers is called
_SECONDS = 10  # after which the hub is taken to be out of reach


def find(name: str) -> Task:
    """The task of a data set. It is opened (and downloaded, where it has to be) once per process.

    Raises:
      TaskError: there is none, it cannot be had, or it is no image classification.
      MissingExtraError: the datasets library is not installed.
    """
    parsed = _own_names.parse(name, ("image", "label", "path", "group"))
    if parsed.target.startswith(("/", "~", "./", "../")):
        parsed = parsed._replace(target=os.path.abspath(os.path.expanduser(parsed.target)))
    return known(str(parsed))


@functools.lru_cache(maxsize=8)
def known(name: str) -> Task:
    """The task of a data set by its full name."""
    installation.require("hub", f"task {name}", "datasets")
    parsed = _own_names.parse(name, ("image", "label", "path", "group"))
    try:
        return _task(parsed, _open(parsed.target))
    except TaskError as e:
        raise TaskError(f"task {name!r}: {str(e).removeprefix(f'task {name!r}: ')}") from e


def _open(target: str) -> dict[str, datasets.Dataset]:
    """The splits of a data set, by the names that it has for them; "" where it has none."""
    import datasets

    local = target.startswith("/")
    if local and not os.path.isdir(target):
        raise TaskError(f"there is no folder {target}")
    saved = next(
        (n for n in ("dataset_dict.json", "state.json") if os.path.exists(os.path.join(target, n))), None
    )
    owner, _, rest = target.partition("/")
    repository, _, config = rest.partition("/")
    if not local and (not owner or not repository or "/" in config):
        raise TaskError(
            "a data set of the hub is hf:OWNER/NAME or hf:OWNER/NAME/CONFIG, one on a disk hf:/path"
        )
    try:
        if saved:
            found = datasets.load_from_disk(target)
        elif local:
            found = datasets.load_dataset(target)
        else:
            _reach(f"{owner}/{repository}")
            found = datasets.load_dataset(f"{owner}/{repository}", config or None)
    except TaskError:
        raise
    except Exception as e:  # the library and those below it raise a dozen types
        raise TaskError(f"it cannot be loaded: {_first_lines(e)}") from e
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"": found}


def _reach(repository: str) -> None:
    """Makes sure that a repository is there, before the library tries for half a minute.

    Where the hub does not answer, it is not asked again: what was downloaded before is used.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub import errors

    if datasets.config.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(repository, timeout=_SECONDS)
    except errors.GatedRepoError as e:
        raise TaskError(
            f"its owner gives access on request: ask at https://huggingface.co/datasets/{repository}, then log in "
            "with: hf auth login"
        ) from e
    except errors.RepositoryNotFoundError as e:
        raise TaskError(
            f"the hub has no data set {repository}, or it is private (log in with: hf auth login)"
        ) from e
    except Exception:  # no network: each of its libraries has errors of its own
        datasets.config.HF_HUB_OFFLINE = True
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2])[:300]


def _task(name: OwnName, splits: Mapping[str, datasets.Dataset]) -> Task:
    if len({tuple(ds.features) for ds in splits.values()}) != 1:
        raise TaskError("its splits have different columns")
    features = next(iter(splits.values())).features
    image, label = _image(name, features), _label(name, features)
    group = _own_names.chosen(name, "group", features) or ("group" if "group" in features else None)
    labels = {split: _column(ds, label) for split, ds in splits.items()}
    classes = getattr(features[label], "names", None)
    used = {split: ds for split, ds in splits.items() if len(ds)}
    if not used:
        raise TaskError("it has no examples")
    rows = _rows(list(used.values()), image)
    n = sum(map(len, used.values()))
    names, cut_by = _names(name, used, features, image, rows, n)
    columns = Columns(
        list(itertools.chain.from_iterable(range(len(ds)) for ds in used.values())),
        list(itertools.chain.from_iterable(labels[split] for split in used)),
        classes,
        names,
        list(itertools.chain.from_iterable([ds._fingerprint] * len(ds) for ds in used.values())),
        splits=None if set(used) == {""} else [split for split, ds in used.items() for _ in range(len(ds))],
        groups=_texts(used, group) if group else None,
    )
    files, class_names, notes = _columns.found(columns, what="example", other_splits=True)
    notes = {"cut_by": cut_by, **_columns.renamed(image=image, label=label, group=group), **notes}
    return _own.task(str(name), "Hub", files, class_names, notes, rows=rows)


def _image(name: OwnName, features: Mapping[str, Any]) -> str:
    import datasets

    def holds_bytes(feature: Any) -> bool:
        if isinstance(feature, dict):
            return {"bytes", "path"} <= set(feature)
        return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in (
            "binary",
            "large_binary",
        )

    if column := _own_names.chosen(name, "image", features):
        if not holds_bytes(features[column]):
            raise TaskError(f"its column {column!r} holds no pictures ({features[column]})")
        return column
    typed = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    images = typed or [column for column, feature in features.items() if holds_bytes(feature)]
    if not images:
        raise TaskError(f"none of its columns is an image: {_shown(features)}")
    if len(images) > 1:
        choice = _own_names.choice(name, "image", images)
        raise TaskError(f"it has {len(images)} columns of images, {', '.join(images)}; write {choice}")
    return images[0]


def _label(name: OwnName, features: Mapping[str, Any]) -> str:
    import datasets

    if column := _own_names.chosen(name, "label", features):
        return column
    declared = [c for c, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = {c: f.dtype for c, f in features.items() if isinstance(f, datasets.Value)}
    called = [c for c in plain if c.lower() in _LABELS]
    words = [c for c, dtype in plain.items() if "string" in dtype and c.lower() not in _columns.NAME_COLUMNS]
    candidates = declared or called or words
    if not candidates:
        raise TaskError(
            f"none of its columns is a class label: {_shown(features)}; name one, as in "
            + _own_names.choice(name, "label", ["NAME"])
        )
    if len(candidates) > 1:
        choice = _own_names.choice(name, "label", candidates)
        raise TaskError(
            f"it has {len(candidates)} columns that may be the label, {', '.join(candidates)}; write {choice}"
        )
    return candidates[0]


def _shown(features: Mapping[str, Any]) -> str:
    import datasets

    def kind(feature: Any) -> str:
        return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__

    return specs.listed((f"{column} ({kind(feature)})" for column, feature in features.items()), 12)


def _column(ds: datasets.Dataset, column: str) -> list[Any]:
    """A column's values; of images the paths beside them."""
    import pyarrow
    import pyarrow.compute

    values = ds.select_columns([column]).with_format("arrow")[:].column(column)
    if pyarrow.types.is_struct(values.type):
        values = pyarrow.compute.struct_field(values, "path")
    elif pyarrow.types.is_nested(values.type):
        raise TaskError(f"its column {column!r} holds lists, and only one label per picture is measured")
    return [] if pyarrow.types.is_binary(values.type) else values.to_pylist()


def _texts(splits: Mapping[str, datasets.Dataset], column: str) -> list[str]:
    return [_columns.text(value) for ds in splits.values() for value in _column(ds, column)]


def _names(
    name: OwnName,
    splits: Mapping[str, datasets.Dataset],
    features: Mapping[str, Any],
    image: str,
    rows: Rows,
    n: int,
) -> tuple[list[str], str]:
    """Names of the pictures and what they are: a column, the paths beside the images, or hashes of their bytes."""
    wanted = _own_names.chosen(name, "path", features)
    for column in [wanted] if wanted else [*(c for c in _columns.NAME_COLUMNS if c in features), image]:
        names = _texts(splits, column)
        if column == image and names and all(map(os.path.isabs, names)):  # of a folder of pictures
            base = os.path.commonpath([os.path.dirname(name) for name in names])
            names = [os.path.relpath(name, base) for name in names]
        if len(names) == n and _columns.unique(names):
            return names, "path" if column == image else column
        if wanted:
            raise TaskError(f"its column {wanted!r} does not tell pictures from each other")
    return _columns.hashed_names(rows, n, str(name)), "content"


def _rows(splits: Sequence[datasets.Dataset], image: str) -> Rows:
    import datasets

    plain = []
    for ds in splits:
        ds = ds.select_columns([image])
        if isinstance(ds.features[image], datasets.Image):
            ds = ds.cast_column(image, datasets.Image(decode=False))
        plain.append(ds)
    starts = list(itertools.accumulate((len(ds) for ds in plain), initial=0))

    def read(rows: Sequence[int]) -> Iterator[bytes]:
        split = 0
        for row in map(int, rows):
            while not starts[split] <= row < starts[split + 1]:
                split = (split + 1) % len(plain)
            cell = plain[split][row - starts[split]][image]
            yield _bytes(cell)

    return Rows(read, random_access=True)


def _bytes(cell: Any) -> bytes:
    if not isinstance(cell, Mapping):
        return cell or b""
    if cell["bytes"] is None and cell["path"]:
        with contextlib.suppress(OSError):
            return Path(cell["path"]).read_bytes()
    return cell["bytes"] or b""
