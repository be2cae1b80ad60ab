"""Results as data frames: one row per result, and models x tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtabjax.runtime import files

if TYPE_CHECKING:
    import pandas as pd

# What `collect` knows of a model, from what a result carries of it, and the columns' types.
_OF_MODEL = {
    "parameters": "Int64",
    "gflops": "float64",
    "license": "string",
    "method": "string",
    "pretraining_data": "string",
    "family": "string",
    "architecture": "string",
    "num_features": "Int64",
}
_OF_CELL = {"protocol": "string", "model": "string", "task": "string", "config_hash": "string"}
_TYPES = _OF_MODEL | _OF_CELL | {"n_examples": "Int64", "weight_hash": "string", "path": "string"}
# The nullable types of what settings hold.
_NULLABLE = {frozenset({bool}): "boolean", frozenset({int}): "Int64", frozenset({str}): "string"}


def collect(workdir: str | Path, protocol: str | None = None) -> pd.DataFrame:
    """Every result under a workdir as a table, one row per cell. `pivot` makes models x tasks of it.

    Columns: protocol, model, task, config_hash, n_examples; each metric by its name (NaN where it does not
      apply), "interval" as [low, high]; settings, chosen hyperparameters and seconds as ``settings.k``, ``chosen.c``,
      ``seconds.features``; what is known of the model: parameters, gflops (of one image),
      license, method, pretraining_data, family, architecture and num_features, missing where it is not known;
      weight_hash, finished (a time in UTC) and path. Whole numbers, booleans and texts have pandas' nullable types.
      ``unpack(read(path)["correct"])`` gives the per-example correctness, ``unpack_confusion(read(path)["confusion"])``
      how many of class i were taken for class j.

    Args:
      workdir: the sweep's folder.
      protocol: only its results, with only its columns; None: those of all protocols, one below the other.

    Raises:
      ValueError: there is no such folder; a damaged file, as `read`; a protocol that is not known, or of which there
        are no results, though there are others.
    """
    import pandas as pd

    from vtabjax import results

    rows = []
    for path, record in results.records(workdir, protocol):
        rows.append(
            {name: record[name] for name in (*_OF_CELL, "n_examples")}
            | {name: math.nan if value is None else value for name, value in record["metrics"].items()}
            | {
                f"{group}.{name}": value
                for group in ("settings", "chosen", "seconds")
                for name, value in (record.get(group) or {}).items()
            }
            | {name: (record.get("source") or {}).get(name) for name in _OF_MODEL}
            | {"weight_hash": record.get("weight_hash"), "finished": record["finished"], "path": str(path)}
        )
    if not rows:
        if not files.as_path(workdir).exists():
            raise ValueError(f"workdir={str(workdir)!r}: there is no such folder")
        there = sorted({path.parent.parent.name for path in results.paths(workdir)})
        if protocol is not None and there:
            raise ValueError(f"protocol={protocol!r}: {workdir} has results of {', '.join(there)} only")
        return pd.DataFrame(columns=list(_OF_CELL))
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if name == "finished":
            frame[name] = pd.to_datetime(frame[name], utc=True)
        elif name in _TYPES:
            frame[name] = frame[name].astype(_TYPES[name])
        elif name.startswith(("settings.", "chosen.")):
            values: list[Any] = [row.get(name) for row in rows]
            kind = _NULLABLE.get(frozenset(type(v) for v in values if v is not None))
            if kind is not None:
                frame[name] = pd.array(values, dtype=kind)
    return frame


def pivot(frame: pd.DataFrame, score: str = "accuracy") -> pd.DataFrame:
    """Models x tasks of one protocol, the best model first.

    Args:
      frame: of `collect`.
      score: the column to show.

    Returns:
      A row per model. Columns: the tasks; the mean of each of VTAB's groups that is there as a whole; "mean", over all
      tasks; with all three groups "mean of groups". NaN where a result is missing, and then there is no mean.

    Raises:
      ValueError: no such column; results of several protocols, or of several settings for one model and task, which
        must not be mixed.
    """
    import pandas as pd

    from vtabjax import tables

    if score not in frame:
        known = [name for name in frame.columns if frame[name].dtype == "float64" and "." not in name]
        raise ValueError(f"score={score!r} is not a column of results; there are {', '.join(known)}")
    protocols = list(frame["protocol"].unique())
    if len(protocols) > 1:
        raise ValueError(
            f"results of {', '.join(protocols)} are different things; take one: collect(workdir, protocol="
            f"{protocols[0]!r})"
        )
    twice = frame.duplicated(["model", "task"], keep=False)
    if twice.any():
        ours = frame[twice]
        names = [c for c in frame.columns if c.startswith("settings.")]
        differing = {c: sorted(set(map(str, ours[c]))) for c in names if len(set(map(str, ours[c]))) > 1}
        shown = "; ".join(f"{c}: {', '.join(values)}" for c, values in differing.items())
        raise ValueError(
            f"{ours['model'].iloc[0]} on {ours['task'].iloc[0]} has {len(ours.groupby('config_hash'))} results with "
            f"different settings ({shown}); choose rows first"
        )
    wide = frame.pivot(index="model", columns="task", values=score)
    names = list(dict.fromkeys(frame["task"]))
    wide = wide[names].astype("float64")
    wide.columns = pd.Index(names, name="task")
    groups = tables.whole_groups(names)
    means = {group: wide.iloc[:, members].mean(axis=1, skipna=False) for group, members in groups.items()}
    means["mean"] = wide.mean(axis=1, skipna=False)
    if len(groups) == 3:
        means["mean of groups"] = pd.DataFrame({g: means[g] for g in groups}).mean(axis=1, skipna=False)
    return wide.assign(**means).sort_values("mean", ascending=False, kind="stable", na_position="last")
