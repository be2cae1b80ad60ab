"""The columns of a table or data set (labels, splits, names of its pictures, row by row), made into a task's files."""

from __future__ import annotations

import collections
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.tasks import _names, _own
from vtabjax.tasks._task import PictureFile, Rows, TaskError

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_MOST_FRACTIONS = 20  # different fractional labels that may still be classes
# Columns that tell pictures from each other, in this order, where a data set has one.
NAME_COLUMNS = ("path", "file_path", "file_name", "filename", "image/filename", "image/file_name", "id")


class Columns(NamedTuple):
    """What a table or data set says of its pictures; all of the same length N.

    Attributes:
      numbers: what people call each row.
      labels: text, numbers, or None where there is none.
      classes: names that the numbers in `labels` stand for, where the data declare them.
      names: of the pictures, each another.
      stamps: see `PictureFile`.
      paths: files of the pictures; None where they lie in the rows.
      splits: what the data call the split of each; None where they have no splits.
      groups: what each shares with others; None where that is not known.
    """

    numbers: Sequence[int]
    labels: Sequence[Any]
    classes: Sequence[str] | None
    names: Sequence[str]
    stamps: Sequence[str]
    paths: Sequence[Path] | None = None
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None


def found(
    columns: Columns, *, what: str = "row", other_splits: bool = False
) -> tuple[dict[str, list[PictureFile]], list[str], dict[str, Any]]:
    """Pictures by split, names of the classes, and what was taken for what.

    Args:
      columns: the data's.
      what: a row's word in messages.
      other_splits: whether splits that are neither train, val nor test are left out, instead of refused.

    Raises:
      TaskError: the columns are no classification task; the message has the row.
    """
    notes: dict[str, Any] = {}
    splits = columns.splits or [""] * len(columns.labels)
    unlabelled = _unlabelled(splits, columns.labels) if other_splits else []
    if unlabelled:
        notes["splits_without_labels"] = unlabelled
    role_of = _roles(columns, unlabelled, what, other_splits, notes)
    used = [i for i, split in enumerate(splits) if split in role_of]
    if columns.classes is None:
        classes, labels = _text_classes(columns, used, what, notes)
    else:
        classes, labels = _declared(columns, used, what)
    files: dict[str, list[PictureFile]] = {}
    for i, label in zip(used, labels, strict=True):
        file = PictureFile(
            columns.names[i],
            label,
            columns.stamps[i],
            columns.paths[i] if columns.paths is not None else None,
            i if columns.paths is None else -1,
            columns.groups[i] if columns.groups is not None else "",
        )
        files.setdefault(role_of[splits[i]], []).append(file)
    _check_training(files, classes, columns.classes is not None, notes)
    return files, classes, notes


def _unlabelled(splits: Sequence[str], labels: Sequence[Any]) -> list[str]:
    """The splits of which no example has a label, as test splits of competitions have none."""
    labelled = {
        split for split, label in zip(splits, labels, strict=True) if label is not None and label != -1
    }
    if not labelled:
        raise TaskError("no example has a label")
    return sorted(set(splits) - labelled)


def _roles(
    columns: Columns, unlabelled: Sequence[str], what: str, other_splits: bool, notes: dict[str, Any]
) -> dict[str, str]:
    """Name of a split that is used -> "train", "val", "test" or `_own.ALL`."""
    if columns.splits is None:
        return {"": _own.ALL}
    first: dict[str, int] = {}
    for split, number in zip(columns.splits, columns.numbers, strict=True):
        first.setdefault(split, number)
    if "" in first:
        raise TaskError(f"{what} {first['']} names no split; fill the column, or leave it out of all rows")
    names = [split for split in first if split not in unlabelled]
    unknown = [split for split in names if _names.role(split) is None]
    where = f"{what} {first[unknown[0]]}: " if unknown and not other_splits else "splits: "
    role_of, taken, left_out = _own.roles(names, where, others=other_splits)
    if taken:
        notes["taken"] = taken
    if left_out:
        notes["splits_left_out"] = left_out
    return role_of


def text(value: Any) -> str:
    """A cell as text in Unicode's composed form, without blanks around it; "" for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return unicodedata.normalize("NFC", str(value)).strip()


def _text_classes(
    columns: Columns, used: Sequence[int], what: str, notes: dict[str, Any]
) -> tuple[list[str], list[int]]:
    """Classes from the labels themselves: whole numbers in their order, text in alphabetical order."""
    values = [text(columns.labels[i]) for i in used]
    if empty := [columns.numbers[i] for i, value in zip(used, values, strict=True) if not value]:
        raise TaskError(
            f"{what} {empty[0]} has no label ({_more(len(empty), what)}); fill it in, or remove it"
        )
    distinct = set(values)
    if all(map(_WHOLE.fullmatch, distinct)):
        values = [str(int(value.partition(".")[0])) for value in values]
        notes["labels"] = "whole numbers"
        if any("." in value for value in distinct):
            notes["labels"] += f", {min(v for v in distinct if '.' in v)} read as {min(set(values), key=int)}"
        classes = sorted(set(values), key=int)
    else:
        if len(distinct) > _MOST_FRACTIONS and _are_fractions(distinct):
            raise TaskError(
                f"the labels are {len(distinct):,} different numbers with fractions, such as {values[0]}: a quantity, "
                "not a class; only classification is measured, so bin them, or name another column"
            )
        classes = sorted(distinct)
    counts = collections.Counter(values)
    if len(classes) < 2:
        raise TaskError(f"all rows have the label {classes[0]!r}; a task needs at least two classes")
    once = [(columns.numbers[i], v) for i, v in zip(used, values, strict=True) if counts[v] == 1]
    if once:
        shown = ", ".join(f"{v!r} ({what} {number})" for number, v in once[:3])
        raise TaskError(
            f"{len(once):,} of {len(classes):,} labels occur{'s' * (len(once) == 1)} once: {shown}"
            + (", ..." if len(once) > 3 else "")
            + "; a class needs a picture to learn from and one to be tested on, so add some, join classes, or remove "
            "these rows"
        )
    number_of = {name: i for i, name in enumerate(classes)}
    return classes, [number_of[value] for value in values]


def _are_fractions(values: Iterable[str]) -> bool:
    """Whether all are numbers and some are not whole. (Codes such as 01 are whole.)"""
    try:
        return not all([float(value).is_integer() for value in values])
    except ValueError:
        return False


def _declared(columns: Columns, used: Sequence[int], what: str) -> tuple[list[str], list[int]]:
    classes = list(columns.classes or ())
    bad = [i for i in used if columns.labels[i] is None or not 0 <= columns.labels[i] < len(classes)]
    if bad:
        value = columns.labels[bad[0]]
        shown = "no label" if value is None or value == -1 else f"the label {value}"
        raise TaskError(
            f"{what} {columns.numbers[bad[0]]:,} has {shown} ({_more(len(bad), what)}); the data set declares "
            f"{len(classes):,} classes"
        )
    if len(classes) < 2:
        raise TaskError(f"the data set declares {len(classes)} class; a task needs at least two")
    return classes, [int(columns.labels[i]) for i in used]


def _more(n: int, what: str) -> str:
    return "and no other" if n == 1 else f"{n:,} {what}s in all"


def _check_training(
    files: dict[str, list[PictureFile]], classes: Sequence[str], declared: bool, notes: dict[str, Any]
) -> None:
    """What is tested has to be learnt: classes that the training split lacks."""
    if _own.ALL in files:
        return
    trained = {f.label for f in files["train"]}
    lacking = sorted({f.label for split, own in files.items() if split != "train" for f in own} - trained)
    if not lacking:
        return
    names = [classes[label] for label in lacking]
    if declared:
        notes["classes_not_in_train"] = names
        return
    inside = [classes[label] for label in sorted(trained)]
    near = [
        f"{n!r} (train has {other!r})" for n in names for other in _names.same_but_for_spelling(n, inside)[:1]
    ]
    raise TaskError(
        f"the training split has no picture of {specs.listed(names, 5)}, which other splits have"
        + (f"; nearly the same: {', '.join(near)}" if near else "")
    )


def renamed(**columns: str | None) -> dict[str, dict[str, str]]:
    """Notes on columns that are called otherwise: role -> name."""
    found = {role: name for role, name in columns.items() if name is not None and name.lower() != role}
    return {"columns": found} if found else {}


def unique(names: Iterable[str]) -> bool:
    """Whether all names are there and each is another."""
    seen = set()
    for name in names:
        if not name or name in seen:
            return False
        seen.add(name)
    return True


def content_name(picture: bytes) -> str:
    """The name of a picture that has none: a hash of its bytes."""
    return hashlib.sha256(picture).hexdigest()[:32]


def numbered(names: Iterable[str]) -> list[str]:
    """Names made unique: equal ones are numbered in their order."""
    seen: collections.Counter[str] = collections.Counter()
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return made


def hashed_names(rows: Rows, n: int, what: str) -> list[str]:
    """The `content_name` of each of `n` rows, made unique."""
    from vtabjax.runtime import bars

    return numbered(map(content_name, bars.bar(rows.read(range(n)), f"{what} read", n, unit="image")))
