"""Results that others published, as rows beside ours.

Three layouts of a CSV file are read; lines that start with ``#`` are comments, the first block of them is the source:

  - wide: ``model``, one column per task, optional columns of `FIELDS`;
  - long: ``model``, ``task``, ``accuracy``, optional columns of `FIELDS` and ``n`` (test examples);
  - official: docs/data/results.csv of github.com/google-research/task_adaptation, two rows of column names (training
    examples, data set) and a row per model.

``vtab`` is the table of the benchmark's own release, which comes with the project (vtab_2019.csv). Packs (.parquet; the
one called ``mini`` comes with the project) are read by `vtabjax.results.read_pack`.
"""

from __future__ import annotations

import collections
import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtabjax import bundled, specs, tasks
from vtabjax.report.boards import RANDOM, Board, Model, family, order_tasks

BUILT_IN = {"vtab": Path(__file__).parent / "assets" / "vtab_2019.csv", "mini": bundled.PACK}
# Optional columns: training examples ("1000", "full"), and what rows are grouped by.
FIELDS = ("examples", "method", "architecture", "family", "parameters", "pretraining_data", "source")

OFFICIAL = {
    "CIFAR-100": "cifar100", "Caltech101": "caltech101", "Camelyon": "patch_camelyon", "Clevr-Count": "clevr_count",
    "Clevr-Dist": "clevr_distance", "DMLab": "dmlab", "DTD": "dtd", "EuroSAT": "eurosat", "Flowers102": "flowers102",
    "KITTI-Dist": "kitti_distance", "Pets": "pets", "Resisc45": "resisc45", "Retinopathy": "retinopathy",
    "SVHN": "svhn", "Sun397": "sun397", "dSpr-Loc": "dsprites_location", "dSpr-Orient": "dsprites_orientation",
    "sNORB-Azim": "smallnorb_azimuth", "sNORB-Elev": "smallnorb_elevation",
}  # fmt: skip


class PublishedError(ValueError):
    """A file of published results that cannot be used; the message has the file, the line, the way out."""


class Row(NamedTuple):
    """One published number.

    Attributes:
      model: as the file calls it.
      task: one of ours.
      accuracy: a fraction.
      n: test examples, where stated.
      fields: those of `FIELDS` that the file states.
    """

    model: str
    task: str
    accuracy: float
    n: int | None
    fields: dict[str, str]


class Published(NamedTuple):
    """A file of published results.

    Attributes:
      name: for headings.
      source: its comment, in one line.
      rows: the numbers.
    """

    name: str
    source: str
    rows: list[Row]


def pack_path(name: str) -> Path | None:
    """The file, if a name in config.published stands for a pack of results; None for a table of published numbers."""
    path = BUILT_IN.get(name, Path(name))
    return path if path.suffix == ".parquet" else None


def read(name: str) -> Published:
    """Reads "vtab" or a file.

    Raises:
      PublishedError: it cannot be read.
    """
    path = BUILT_IN.get(name, Path(name))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise PublishedError(
            f"config.published={name!r} cannot be read ({e}); give a CSV file, a pack (.parquet), or vtab for the "
            "benchmark's own table"
        ) from e
    comment = " ".join(line.lstrip("# ").strip() for line in lines if line.startswith("#"))
    table = [row for row in csv.reader(line for line in lines if line.strip() and not line.startswith("#"))]
    if not table:
        raise PublishedError(f"{path} has no rows")
    header = [cell.strip() for cell in table[0]]
    if len(table) > 1 and table[1][0].strip() == "dataset":
        rows = _official(table, path)
    elif {"model", "task", "accuracy"} <= set(header):
        rows = _long(header, table[1:], path)
    elif "model" in header:
        rows = _wide(header, table[1:], path)
    else:
        raise PublishedError(
            f"{path}: the first line has the columns {', '.join(header)}; one named model is needed, and either task "
            "and accuracy or one column per task (docs/report.md)"
        )
    if not rows:
        raise PublishedError(f"{path} has no numbers")
    title = "VTAB (2019)" if name in BUILT_IN else path.stem
    return Published(title, comment or str(name), _as_fractions(rows))


def _task(name: str, path: Path) -> str:
    name = OFFICIAL.get(name, name)
    if name not in tasks.TASKS:
        near = specs.nearest(name, tasks.TASKS)
        raise PublishedError(
            f"{path}: no task is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    return name


def _number(text: str, where: str) -> float | None:
    text = text.strip().rstrip("%")
    if text.lower() in ("", "nan", "-", "none"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise PublishedError(f"{where}: accuracy {text!r} is not a number from 0 to 100")
    return value


def _fields(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name].strip() for name in FIELDS if row.get(name, "").strip()}


def _named(header: list[str], rows: list[list[str]], path: Path) -> list[tuple[str, dict[str, str]]]:
    named = []
    for i, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise PublishedError(
                f"{path}, row {i}: {len(row)} columns, the header has {len(header)}: {','.join(row)[:80]}"
            )
        named.append((f"{path}, row {i}", dict(zip(header, row, strict=True))))
    return named


def _long(header: list[str], rows: list[list[str]], path: Path) -> list[Row]:
    out, seen = [], set()
    for where, row in _named(header, rows, path):
        value = _number(row["accuracy"], where)
        if value is None:
            continue
        n = row.get("n", "").strip()
        if n and not (n.isdecimal() and int(n)):
            raise PublishedError(f"{where}: n={n!r} is not a number of test examples")
        made = Row(
            row["model"].strip(), _task(row["task"].strip(), path), value, int(n) if n else None, _fields(row)
        )
        key = (made.model, made.task, made.fields.get("examples"), made.fields.get("source"))
        if key in seen:
            raise PublishedError(f"{where}: a second number for {made.model} on {made.task}")
        seen.add(key)
        out.append(made)
    return out


def _wide(header: list[str], rows: list[list[str]], path: Path) -> list[Row]:
    names = {column: _task(column, path) for column in header if column != "model" and column not in FIELDS}
    out = []
    for where, row in _named(header, rows, path):
        for column, task in names.items():
            value = _number(row[column], f"{where}, {column}")
            if value is not None:
                out.append(Row(row["model"].strip(), task, value, None, _fields(row)))
    return out


def _official(table: list[list[str]], path: Path) -> list[Row]:
    examples, names = table[0], table[1]
    own = {name: i for i, name in enumerate(names) if examples[i] == "metadata"}
    out = []
    for row in table[2:]:
        if row[0] == "method" or len(row) != len(names):
            continue  # the index's name
        fields: dict[str, Any] = {}
        if "architecture" in own and row[own["architecture"]]:
            fields["architecture"] = row[own["architecture"]].lower()
        for i, name in enumerate(names):
            if name in OFFICIAL and i not in own.values():
                value = _number(row[i], f"{path}, {row[0]}, {name}")
                if value is not None:
                    out.append(Row(row[0], OFFICIAL[name], value, None, {**fields, "examples": examples[i]}))
    return out


def _as_fractions(rows: list[Row]) -> list[Row]:
    """Percent or fractions? No published table has nothing above 1 %."""
    scale = 100.0 if max(row.accuracy for row in rows) > 1 else 1.0
    return [row._replace(accuracy=row.accuracy / scale) for row in rows]


def imagenet(path: str) -> dict[str, float]:
    """Model -> ImageNet top-1 in percent, from a CSV file with columns model and top1 (timm's results-imagenet.csv).

    Raises:
      PublishedError: it cannot be read.
    """
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            rows = list(csv.DictReader(f))
        return {row["model"]: float(row["top1"]) for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError) as e:
        raise PublishedError(
            f"config.imagenet={path!r} cannot be read ({type(e).__name__}: {e}); give a CSV file with the columns "
            "model and top1, such as timm's results-imagenet.csv"
        ) from e


# Their boards.


def published_boards(given: Published) -> list[Board]:
    """A board for each number of training examples."""
    groups = collections.defaultdict(list)
    for row in given.rows:
        groups[row.fields.get("examples", "")].append(row)
    boards = []
    for examples, rows in groups.items():
        labels = list(dict.fromkeys(row.model for row in rows))
        columns = order_tasks(row.task for row in rows)
        values = np.full((len(labels), len(columns)), np.nan)
        n_examples = np.zeros(values.shape, int)
        for row in rows:
            i, j = labels.index(row.model), columns.index(row.task)
            values[i, j], n_examples[i, j] = row.accuracy, row.n or 0
        fields = {row.model: row.fields for row in reversed(rows)}
        models = [_published_model(label, fields[label], given) for label in labels]
        said = {"1000": "1,000 examples", "full": "full training sets"}.get(examples, examples)
        key = "published-" + re.sub(r"\W+", "-", given.name.lower()).strip("-")
        boards.append(
            Board(
                key=key + (f"-{examples}" if examples else ""),
                title=f"Published: {given.name}" + (f", {said}" if said else ""),
                protocol="published",
                metric="accuracy",
                settings={"source": given.source} | ({"training examples": said} if said else {}),
                models=models,
                tasks=columns,
                values=values,
                n_examples=n_examples,
                files=[[""] * len(columns) for _ in labels],
            )
        )
    return boards


def _published_model(label: str, fields: Mapping[str, str], given: Published) -> Model:
    number = fields.get("parameters", "")
    method = fields.get("method") or "unknown"
    return Model(
        label,
        label,
        method=RANDOM if method == "none" else method,
        family=fields.get("family")
        or (family(fields["architecture"]) if "architecture" in fields else "unknown"),
        architecture=fields.get("architecture", ""),
        parameters=int(float(number)) if re.fullmatch(r"[\d.]+(?:e\d+)?", number) else None,
        pretraining_data=fields.get("pretraining_data", ""),
        source=fields.get("source") or given.name,
    )


def beside(own: Sequence[Board], other: Board) -> Board | None:
    """Our fine-tuning with the published rows of as many training examples, on our tasks; None where there is none."""
    for board in own:
        said = "full" if "trainval" in (board.settings.get("splits") or []) else "1,000"
        if board.protocol != "finetune" or board.settings.get("scope", "all") != "all":
            continue
        if said not in other.settings.get("training examples", said):
            continue
        columns = [t for t in board.tasks if t in other.tasks]
        if not columns:
            continue
        ours = [board.tasks.index(t) for t in columns]
        theirs = [other.tasks.index(t) for t in columns]
        keep = [i for i in range(len(board.models)) if not np.isnan(board.values[i, ours]).all()]
        nobody = np.full((len(other.models), len(ours)), np.nan)
        return Board(
            key=f"{board.key}-beside-{other.key}",
            title=f"{board.title}, beside {other.title[0].lower()}{other.title[1:]}",
            protocol=board.protocol,
            metric="accuracy",
            settings={**board.settings, "published rows": other.settings["source"]},
            models=[board.models[i] for i in keep] + list(other.models),
            tasks=columns,
            values=np.concatenate([board.values[np.ix_(keep, ours)], other.values[:, theirs]]),
            n_examples=np.concatenate([board.n_examples[np.ix_(keep, ours)], other.n_examples[:, theirs]]),
            files=[[board.files[i][j] for j in ours] for i in keep]
            + [[""] * len(columns)] * len(other.models),
            seconds={k: np.concatenate([v[np.ix_(keep, ours)], nobody]) for k, v in board.seconds.items()},
            beside_published=True,
        )
    return None
