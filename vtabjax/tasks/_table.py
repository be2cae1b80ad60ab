"""A list of pictures as a task: ``table:/path/list.csv`` (.tsv, .jsonl, .parquet).

Columns: `path` (absolute, or beside the list) or `image` (encoded pictures), `label`, and where you like `split` and
`group`. Other names are given after a '#': ``table:/path/list.csv#path=file+label=species``.
"""

from __future__ import annotations

import functools
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.tasks import _columns, _own, _own_names, _table_files
from vtabjax.tasks._columns import Columns, text
from vtabjax.tasks._own_names import OwnName
from vtabjax.tasks._table_files import TableFile
from vtabjax.tasks._task import Task, TaskError
from vtabjax.tasks._tree import PICTURES

_LISTED = 3


def find(name: str) -> Task:
    """The task of ``table:/path/list.csv``. A table is read once per process.

    Raises:
      TaskError: there is no such table, or a row of it cannot be used; the message has its number.
    """
    parsed = _own_names.parse(name)
    path = os.path.abspath(os.path.expanduser(parsed.target))
    return known(str(parsed._replace(target=path)))


@functools.lru_cache(maxsize=8)
def known(name: str) -> Task:
    """The task of a table by its absolute path."""
    parsed = _own_names.parse(name)
    path = Path(parsed.target)
    if path.is_dir():
        raise TaskError(f"task {name!r}: it is a folder; did you mean folder:{path}?")
    if not path.exists():
        raise TaskError(f"task {name!r}: there is no file {path}")
    if path.suffix.lower() not in _table_files.KINDS:
        raise TaskError(f"task {name!r}: tables are {', '.join(_table_files.KINDS)}; save it as one of these")
    try:
        return _task(parsed, path)
    except TaskError as e:
        raise TaskError(f"task {name!r}: {str(e).removeprefix(f'task {name!r}: ')}") from e
    except OSError as e:
        raise TaskError(f"task {name!r}: it cannot be read ({e.strerror})") from e


class _Chosen(NamedTuple):
    """Which column is which; `pictures`: the one with encoded pictures; None for what there is not."""

    label: str
    pictures: str | None
    path: str | None
    split: str | None
    group: str | None


def _task(name: OwnName, path: Path) -> Task:
    table = _table_files.open_table(path)
    chosen = _choose(name, table)
    wanted = [c for c in (chosen.label, chosen.split, chosen.group, chosen.path) if c]
    numbers, values = table.read(wanted)
    column = dict(zip(wanted, values, strict=True))
    if not numbers:
        raise TaskError("it has a header and no rows")
    splits = [text(v) for v in column[chosen.split]] if chosen.split else None
    groups = [text(v) for v in column[chosen.group]] if chosen.group else None
    labels, classes = column[chosen.label], table.classes(chosen.label)
    notes: dict[str, Any] = dict(table.notes)
    notes |= _columns.renamed(
        image=chosen.pictures, path=chosen.path, label=chosen.label, split=chosen.split, group=chosen.group
    )
    if chosen.pictures is None:
        assert chosen.path is not None
        listed = _listed_files(path, numbers, column[chosen.path])
        keep = _once(listed, numbers, labels, splits)
        columns = Columns(
            [numbers[i] for i in keep],
            [labels[i] for i in keep],
            classes,
            _relative([listed[i].path for i in keep], path.parent),
            [listed[i].stamp for i in keep],
            [Path(listed[i].path) for i in keep],
            [splits[i] for i in keep] if splits else None,
            [groups[i] for i in keep] if groups else None,
        )
        notes |= {"cut_by": "path"} | (
            {"listed_twice": len(numbers) - len(keep)} if len(keep) < len(numbers) else {}
        )
        rows = None
    else:
        rows = table.pictures(chosen.pictures)
        given = (
            [text(v) for v in column[chosen.path]] if chosen.path else _inner_paths(table, chosen.pictures)
        )
        by_path = _columns.unique(given)
        notes["cut_by"] = "path" if by_path else "content"
        own_names = given if by_path else _columns.hashed_names(rows, len(numbers), str(name))
        status = path.stat()
        stamps = [f"{status.st_size} {status.st_mtime_ns}"] * len(numbers)
        columns = Columns(numbers, labels, classes, own_names, stamps, None, splits, groups)
    files, class_names, more = _columns.found(columns)
    return _own.task(str(name), "Table", files, class_names, notes | more, rows=rows)


def _inner_paths(table: TableFile, column: str) -> list[str]:
    """What the datasets library writes beside the bytes of a picture; nothing beside plain bytes."""
    if column not in table.nested:
        return [""]
    _, (values,) = table.read([column])
    return [text(value) for value in values]


def _choose(name: OwnName, table: TableFile) -> _Chosen:
    header = [column for column in table.header if column]
    if not header:
        raise TaskError("it is empty; its first row names the columns, such as path,label")
    if twice := sorted({c for c in header if header.count(c) > 1}):
        raise TaskError(f"its header has {specs.listed(map(repr, twice))} twice; rename one of them")
    by_role = {}
    for role in _own_names.COLUMNS:
        fitting = [c for c in header if c.lower() == role]
        by_role[role] = _own_names.chosen(name, role, header) or (fitting[0] if len(fitting) == 1 else None)
        if len(fitting) > 1 and by_role[role] is None:
            raise TaskError(f"its header has {' and '.join(map(repr, fitting))}; rename one of them")
    path, image, label = by_role["path"], by_role["image"], by_role["label"]
    pictures = next((c for c in (image, path) if c in table.holds_bytes), None)
    if pictures is None:
        path = path or image
    elif path == pictures:
        path = None
    if pictures is None and path is None or label is None:
        _refuse_header(name, header, pictures or path, label)
    assert label is not None
    if len({c for c in (pictures, path, label) if c}) < sum(c is not None for c in (pictures, path, label)):
        raise TaskError(f"one column cannot be both picture and label: {label!r}")
    return _Chosen(label, pictures, path, by_role["split"], by_role["group"])


def _refuse_header(name: OwnName, header: Sequence[str], picture: str | None, label: str | None) -> None:
    if any(os.path.splitext(cell)[1].lower() in PICTURES for cell in header):
        raise TaskError(
            f"row 1 is a picture, not a header: {specs.listed(header)}; write a row above it that names the columns: "
            "path,label"
        )
    lacking = [role for role, there in (("path (or image)", picture), ("label", label)) if there is None]
    roles = [role for role, there in (("path", picture), ("label", label)) if there is None]
    example = str(name._replace(columns={**name.columns, **dict.fromkeys(roles, "NAME")}))
    raise TaskError(
        f"it has no column {' and no column '.join(lacking)}; row 1 names {specs.listed(header, 12)}. Rename them, or "
        f"say which is which: {example}"
    )


class _File(NamedTuple):
    path: str
    stamp: str


def _listed_files(table: Path, numbers: Sequence[int], values: Sequence[Any]) -> list[_File]:
    """The files that rows name, all of which have to be there."""
    found: list[_File] = []
    missing: list[tuple[int, str, str]] = []
    for number, value in zip(numbers, values, strict=True):
        given = str(value) if value is not None else ""
        if not given.strip():
            raise TaskError(f"row {number} names no picture; fill in its path, or remove the row")
        path = os.path.normpath(os.path.join(table.parent, given.strip()))
        try:
            status = os.stat(path)
        except (OSError, ValueError) as e:
            missing.append((number, given, getattr(e, "strerror", None) or str(e)))
            continue
        if not stat.S_ISREG(status.st_mode):
            raise TaskError(f"row {number}: {given} is not a file")
        found.append(_File(path, f"{status.st_size} {status.st_mtime_ns}"))
    if missing:
        shown = "".join(f"\n  row {number}: {given} ({why})" for number, given, why in missing[:_LISTED])
        raise TaskError(
            f"{len(missing):,} of {len(numbers):,} files cannot be found; paths are absolute, or relative to "
            f"{table.parent}:{shown}" + ("\n  ..." if len(missing) > _LISTED else "")
        )
    return found


def _once(
    listed: Sequence[_File], numbers: Sequence[int], labels: Sequence[Any], splits: Sequence[str] | None
) -> list[int]:
    """The rows that name a file first; those that name it again have to agree."""
    first: dict[str, int] = {}
    for i, file in enumerate(listed):
        j = first.setdefault(file.path, i)
        if i == j:
            continue
        for what, values in (("label", labels), ("split", splits)):
            if values is not None and text(values[i]) != text(values[j]):
                raise TaskError(
                    f"rows {numbers[j]} and {numbers[i]} name the same file, {file.path}, with the {what}s "
                    f"{text(values[j])!r} and {text(values[i])!r}; each picture has one {what}"
                )
    return sorted(first.values())


def _relative(paths: Sequence[str], folder: Path) -> list[str]:
    """Paths as names: relative to the table's folder, or to what all have in common where some lie elsewhere."""
    base = os.path.join(folder, "")
    if not all(path.startswith(base) for path in paths):
        base = os.path.join(os.path.commonpath([os.path.dirname(path) for path in paths]), "")
    names = [unicodedata.normalize("NFC", path[len(base) :]) for path in paths]
    return names if _columns.unique(names) else [path[len(base) :] for path in paths]
