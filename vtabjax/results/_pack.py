"""Packs: results that travel, many of them in one Parquet file, with a bit for each test example.

A row is a result. What people filter by has columns of its own; what has an inner structure is JSON in a text column;
bits are binary. The file's own metadata (`META`) says who made the results, when, and their licence.
docs/packs.md describes every column. A file may come from anywhere, so that reading one checks everything in it.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtabjax import __version__, installation, results, specs
from vtabjax.results import _record
from vtabjax.runtime import files

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
META = b"vtabjax.pack"
_KEYS = ("protocol", "model", "task", "config_hash", "finished")
_TEXTS = ("weight_hash", "graph_hash")
_JSON = ("metrics", "settings", "versions", "seconds", "data", "source", "input", "notes", "chosen", "passes", "device",
         "copies")  # fmt: skip
# Bits and matrices: column -> what its JSON form holds beside them (see `_record`).
_BINARY: Mapping[str, tuple[str, ...]] = {
    "correct": ("count",),
    "confusion": ("classes",),
    "groups": ("count", "examples"),
}
# What a result says of files on the machine that made it.
_LOCAL = {"chosen": ("curves", "models")}
_MAX_BYTES = 1 << 30  # of a file, and of what is in it
_MAX_ROWS = 1_000_000
_MAX_TEXT = 1 << 20  # characters of a cell
_MAX_NAME = 1_000  # of a model's or task's name


class PackError(ValueError):
    """A file that is no pack, or one whose content contradicts itself; the message says what and where."""


class Pack(NamedTuple):
    """Results that were packed.

    Attributes:
      path: the file.
      who: made them; "" where that is not said.
      when: the file was written, such as 2026-01-31T12:00:00Z.
      licence: under which the results may be used; "" where that is not said.
      records: the results, as `vtabjax.results.read` gives them.
    """

    path: Path
    who: str
    when: str
    licence: str
    records: list[dict[str, Any]]

    @property
    def local_names(self) -> list[str]:
        """Models and tasks whose names hold a path of the machine that made the results, which everyone can read."""
        named = {record[kind] for record in self.records for kind in ("model", "task")}
        return sorted(name for name in named if re.search(r"[:@/]/|:~", name))


def pack(workdir: str | os.PathLike, path: str | os.PathLike, *, who: str = "", licence: str = "") -> Pack:
    """Writes all results of a workdir into one file that others can compare with (``published=`` of the report).

    Args:
      workdir: the sweep's folder.
      path: the file, such as "mine.parquet"; one that is there is replaced.
      who: made the results, in one line: a name, a group, an address.
      licence: under which they may be used, in one line, such as "CC-BY-4.0".

    Returns:
      What was written; its `local_names` are paths that readers of the file will see.

    Raises:
      ValueError: there are no results, one of them is damaged, or who or licence is not one line.
      vtabjax.installation.MissingExtraError: pyarrow is not installed.
    """
    installation.require("report", "a pack", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    workdir, path = files.as_path(workdir), files.as_path(path)
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: a pack is a Parquet file; give it a name that ends in .parquet")
    for name, value in {"who": who, "licence": licence}.items():
        if not _is_line(value):
            raise ValueError(f"{name}={value!r} has to be one line of at most 200 characters")
    records = [record for _, record in results.records(workdir)]
    if not records:
        raise ValueError(f"{workdir} has no results to pack")
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"format": FORMAT, "who": who, "when": when, "licence": licence, "vtabjax": __version__}
    schema = _schema().with_metadata({META: json.dumps(about).encode()})
    table = pyarrow.Table.from_pylist([_row(record) for record in records], schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        pyarrow.parquet.write_table(
            table, temporary, compression="zstd", compression_level=19, write_page_checksum=True
        )
    return Pack(path, who, when, licence, records)


def read_pack(path: str | os.PathLike) -> Pack:
    """Reads a pack and checks it: schema, sizes, types, and that each result's parts agree with one another.

    Raises:
      PackError: it cannot be read, or something in it is wrong.
      vtabjax.installation.MissingExtraError: pyarrow is not installed.
    """
    installation.require("report", f"reading {path}", "pyarrow")
    import pyarrow

    path = files.as_path(path)
    try:
        about, table = _opened(path)
    except (OSError, pyarrow.ArrowException) as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else " ".join(str(e).split())[:200]
        raise PackError(f"{path} cannot be read as a Parquet file ({why})") from e
    records, seen = [], set()
    for number, row in enumerate(table.to_pylist(), 1):
        try:
            record = _checked(row)
            key = json.dumps(
                [record[name] for name in ("protocol", "model", "weight_hash", "task", "config_hash")]
            )
            if key in seen:
                raise ValueError(
                    f"a second result of {record['model']} on {record['task']} with the same settings"
                )
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            why = f"it lacks {e}" if isinstance(e, KeyError) else str(e)[:300]
            raise PackError(f"{path}, row {number}: {why}") from e
        seen.add(key)
        records.append(record)
    return Pack(path, about["who"], about["when"], about["licence"], records)


# Writing.


def _schema() -> pyarrow.Schema:
    import pyarrow

    columns = {name: pyarrow.string() for name in (*_KEYS, *_TEXTS, *_JSON)}
    columns |= {"accuracy": pyarrow.float64(), "n_examples": pyarrow.int64()}
    for name, numbers in _BINARY.items():
        columns |= {name: pyarrow.binary()} | {f"{name}_{number}": pyarrow.int64() for number in numbers}
    return pyarrow.schema(list(columns.items()))


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: record.get(name) for name in (*_KEYS, *_TEXTS, "n_examples")}
    row["accuracy"] = record["metrics"].get("accuracy")
    for name in _JSON:
        value = record.get(name)
        if value is not None and name in _LOCAL:
            value = {k: v for k, v in value.items() if k not in _LOCAL[name]}
        row[name] = None if value is None else json.dumps(value, sort_keys=True, allow_nan=False)
    for name, numbers in _BINARY.items():
        held = record.get(name)
        row[name] = None if held is None else base64.b64decode(held["packed"])
        row |= {f"{name}_{number}": held[number] for number in numbers} if held is not None else {}
    return row


# Reading.


def _opened(path: Path) -> tuple[dict[str, str], pyarrow.Table]:
    """(what the file says of itself, its table) after a look at schema and sizes, before any content is read."""
    import pyarrow.parquet

    if (size := path.stat().st_size) > _MAX_BYTES:
        raise PackError(f"{path} has {size:,} bytes; a pack has at most {_MAX_BYTES:,}")
    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        about = _about(path, (file.schema_arrow.metadata or {}).get(META))
        wanted = _schema()
        if not file.schema_arrow.remove_metadata().equals(wanted):
            found = {field.name: str(field.type) for field in file.schema_arrow}
            wrong = [f.name for f in wanted if found.pop(f.name, None) != str(f.type)]
            raise PackError(
                f"{path} does not have the columns of a pack: {specs.listed([*wrong, *found])} "
                "lacking, unknown, out of order or of another type (docs/packs.md)"
            )
        held = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if file.metadata.num_rows > _MAX_ROWS or held > _MAX_BYTES:
            raise PackError(
                f"{path} holds {file.metadata.num_rows:,} rows and {held:,} bytes; "
                f"at most {_MAX_ROWS:,} and {_MAX_BYTES:,} are read"
            )
        return about, file.read()


def _about(path: Path, text: bytes | None) -> dict[str, str]:
    if text is None:
        raise PackError(
            f"{path} is a Parquet file but no pack of results; `vtabjax.results.pack` writes one (docs/packs.md)"
        )
    try:
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise PackError(f"{path} is a pack of format {about['format']!r}; this version reads {FORMAT}")
        if not (_is_line(about["who"]) and _is_line(about["licence"]) and _is_time(about["when"])):
            raise ValueError("who, when or licence is not one line")
    except PackError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise PackError(f"{path} does not say what it is ({type(e).__name__}: {e})"[:500]) from e
    return about


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The result that a row holds, if all of its parts agree."""
    for name in _KEYS:
        if not row[name] or len(row[name]) > _MAX_NAME:
            raise ValueError(f"{name} is {str(row[name])[:80]!r}")
    record = {name: row[name] for name in (*_KEYS, *_TEXTS, "n_examples")} | {"format": results.FORMAT}
    for name in _JSON:
        if (text := row[name]) is None:
            continue
        if len(text) > _MAX_TEXT:
            raise ValueError(f"{name} has {len(text):,} characters, more than {_MAX_TEXT:,}")
        record[name] = json.loads(text, parse_constant=_no_number)
    for name, numbers in _BINARY.items():
        held = row[name]
        extra = {number: row[f"{name}_{number}"] for number in numbers}
        record[name] = None if held is None else {**extra, "packed": base64.b64encode(held).decode()}
    if record["groups"] is None:
        del record["groups"]
    _record.check(record, failure=False)
    if not re.fullmatch(r"[a-z_]+", record["protocol"]) or not _is_time(record["finished"]):
        raise ValueError(f"protocol is {record['protocol']!r}, finished {record['finished']!r}"[:200])
    if results.config_hash(record["settings"]) != record["config_hash"]:
        raise ValueError("config_hash is not that of its settings")
    _check_numbers(record, row["accuracy"])
    return record


def _check_numbers(record: Mapping[str, Any], accuracy: float | None) -> None:
    """The accuracy has to be what the bits and the confusion matrix say."""
    stated = record["metrics"].get("accuracy")
    if stated != accuracy:
        raise ValueError(f"accuracy is {accuracy!r}, but metrics say {stated!r}")
    if stated is None or record["correct"] is None:
        return
    correct = _record.unpack(record["correct"])
    if not len(correct) or not math.isclose(correct.mean(), stated, abs_tol=1e-6):
        raise ValueError(f"accuracy is {stated!r}, but {correct.sum():,} of {len(correct):,} bits are set")
    if record["confusion"] is not None:
        right = int(np.trace(_record.unpack_confusion(record["confusion"])))
        if right != correct.sum():
            raise ValueError(
                f"the confusion matrix has {right:,} correct examples, the bits {correct.sum():,}"
            )


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number that a result holds")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and (not value or value.isprintable())


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value) is not None
