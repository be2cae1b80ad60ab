"""Lists of pictures as files: .csv, .tsv, .jsonl, .parquet; the columns that are asked for, in memory."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vtabjax import installation
from vtabjax.tasks._task import Rows, TaskError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_AT_ONCE = 64  # pictures of a .parquet file that are in memory together


class TableFile(NamedTuple):
    """A list's form.

    Attributes:
      header: names of its columns.
      read: some of the names -> (what people call each row, one list of values per name).
      holds_bytes: columns that hold encoded pictures.
      nested: those of them that hold paths beside the bytes, which is what `read` gives of them.
      pictures: a column that holds encoded pictures -> these.
      classes: a column of numbers -> the names that the file itself gives them, or None.
      notes: how it was read, where that is not a matter of course.
    """

    header: list[str]
    read: Callable[[Sequence[str]], tuple[list[int], list[list[Any]]]]
    holds_bytes: list[str]
    nested: list[str]
    pictures: Callable[[str], Rows]
    classes: Callable[[str], list[str] | None]
    notes: dict[str, Any]


def open_table(path: Path) -> TableFile:
    """A list of pictures.

    Raises:
      TaskError: the file is not one.
      MissingExtraError: what reads it is not installed.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path)
    return _jsonl(path) if kind == ".jsonl" else _separated(path, kind)


def _no_pictures(column: str) -> Rows:
    raise AssertionError(f"{column} holds text")


def _of_text(header: list[str], rows: Callable[[], Iterator[tuple[int, dict]]], notes: dict) -> TableFile:
    def read(names: Sequence[str]) -> tuple[list[int], list[list[Any]]]:
        numbers: list[int] = []
        values: list[list[Any]] = [[] for _ in names]
        for number, cells in rows():
            numbers.append(number)
            for column, name in zip(values, names, strict=True):
                column.append(cells.get(name))
        return numbers, values

    return TableFile(header, read, [], [], _no_pictures, lambda column: None, notes)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with their ends."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as e:
        with open(path, "rb") as raw:
            row = next((n for n, line in enumerate(raw, 1) if not _is_utf8(line)), 1)
        raise TaskError(f"row {row} is not UTF-8; save the file as UTF-8") from e


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _separated(path: Path, kind: str) -> TableFile:
    first = next(_lines(path), "")
    separator = "\t" if kind == ".tsv" else next((c for c in ",;\t" if c in first), ",")
    notes = (
        {"separator": {";": "semicolon", "\t": "tab"}[separator]}
        if kind == ".csv" and separator != ","
        else {}
    )

    def cells() -> Iterator[tuple[int, list[str]]]:
        number = 0
        try:
            for number, row in enumerate(csv.reader(_lines(path), delimiter=separator), 1):
                if row and any(row):
                    yield number, row
        except csv.Error as e:
            raise TaskError(f"row {number + 1}: {e}") from e

    _, header = next(cells(), (1, []))
    header = [name.strip() for name in header]

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for number, row in itertools.islice(cells(), 1, None):
            if len(row) > len(header):
                raise TaskError(
                    f"row {number} has {len(row)} cells, and the header has {len(header)}; put cells that hold a "
                    "separator into quotes"
                )
            yield number, dict(zip(header, row, strict=False))

    return _of_text(header, rows, notes)


def _jsonl(path: Path) -> TableFile:
    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as e:
                raise TaskError(f"row {number} is not JSON ({e}); each line is an object") from e
            if not isinstance(row, dict):
                raise TaskError(f"row {number} is not a JSON object such as {{'path': ..., 'label': ...}}")
            yield number, row

    _, first = next(rows(), (1, {}))
    return _of_text(list(first), rows, {})


def _parquet(path: Path) -> TableFile:
    installation.require("hub", f"reading {path}", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as e:
        raise TaskError(f"it is not a Parquet file ({str(e).splitlines()[0]})") from e

    holds_bytes = [field.name for field in schema if _holds_bytes(field.type)]
    nested = [name for name in holds_bytes if pyarrow.types.is_struct(schema.field(name).type)]

    def read(names: Sequence[str]) -> tuple[list[int], list[list[Any]]]:
        leaves = [f"{name}.path" if name in nested else name for name in names]
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                found = file.read(columns=list(dict.fromkeys(leaves)))
        except (pyarrow.ArrowException, OSError) as e:
            raise TaskError(f"it is damaged ({str(e).splitlines()[0]})") from e
        return list(range(1, found.num_rows + 1)), [_values(found.column(name)) for name in names]

    features = _features(schema.metadata)
    pictures = {name: _pictures(path, name, schema.field(name).type) for name in holds_bytes}
    return TableFile(schema.names, read, holds_bytes, nested, pictures.__getitem__, features.get, {})


def _values(column: pyarrow.ChunkedArray) -> list[Any]:
    """A column as Python's values; of structs with a path, that."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_struct(column.type):
        return pyarrow.compute.struct_field(column, "path").to_pylist()
    return column.to_pylist()


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as of

    if of.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return of.is_binary(kind) or of.is_large_binary(kind)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of classes that the datasets library wrote into a file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: list(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _pictures(path: Path, column: str, kind: pyarrow.DataType) -> Rows:
    import pyarrow
    import pyarrow.parquet

    leaf = f"{column}.bytes" if pyarrow.types.is_struct(kind) else column

    def read(rows: Sequence[int]) -> Iterator[bytes]:
        wanted = iter(rows)
        row = next(wanted, None)
        # Page by page: writers put a million rows into a group if they are not told otherwise.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if row is not None and row < stop:
                    batches = file.iter_batches(
                        _AT_ONCE, row_groups=[group], columns=[leaf], use_threads=False
                    )
                    at = start
                    for batch in batches:
                        values = batch.column(0)
                        if pyarrow.types.is_struct(kind):
                            values = values.field("bytes")
                        while row is not None and row < at + len(values):
                            yield values[row - at].as_py() or b""
                            row = next(wanted, None)
                        at += len(values)
                        if row is None:
                            return
                start = stop

    return Rows(read, random_access=False)
