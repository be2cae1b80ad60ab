"""`rank`: one protocol over models and tasks, as a table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax import specs
from vtabjax.sweep.people import _settings

if TYPE_CHECKING:
    import pandas as pd


def rank(
    models: _settings.Names,
    tasks: _settings.Names,
    *,
    protocol: str = "knn",
    workdir: str | os.PathLike | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Measures models on tasks and ranks them. What was measured before is not measured again.

    Args:
      models: specs or patterns, in a list or separated by commas; paths of converted models.
      tasks: names of tasks, such as "digits", "folder:/pictures"; a `pathlib.Path` is a folder of pictures.
      protocol: "knn", "linear", "transferability" or "finetune".
      workdir: where results go, as with the command line; None: a folder that vtabjax remembers.
      **settings: fields of configs/PROTOCOL.py: k=5, image_size=96, finetune={"steps": 100}. "suite" chooses the
        defaults: "mini" where all tasks are embedded ones, otherwise "vtab".

    Returns:
      One row per model, the best first: a column for each task, "mean", "mean_rank" and, of accuracies, "low" and
      "high" (95 % interval of the mean by a bootstrap of the examples). Models without a score are last, and
      "why" says the reason. Of transferability's scores it shows LogME, or the first that was asked for.

    Raises:
      ValueError: a setting that does not exist or makes no sense, a model or a task that cannot be had.
    """
    from vtabjax.sweep import adapters

    if protocol not in adapters.PROTOCOLS:
        near = specs.nearest(protocol, adapters.PROTOCOLS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(adapters.PROTOCOLS)}"
        raise ValueError(f"protocol={protocol!r} is not known; {hint}")
    config = _settings.config(protocol, models, tasks, settings)
    return ranked(config, _settings.workdir(workdir, "rank"))


def ranked(config: Any, workdir: os.PathLike) -> pd.DataFrame:
    """Runs the sweep of a config; see `rank`."""
    import pandas as pd

    from vtabjax.ranking import resampling
    from vtabjax.runtime import files
    from vtabjax.sweep import plan, runner
    from vtabjax.sweep.select import keep, scores

    place = files.as_path(workdir)
    runner.connect(config.distributed)
    state = runner.work(plan.read(config), place, None)
    found = scores.read(state.cells, place)
    frame = pd.DataFrame(found.scores, pd.Index(found.models, name="model"), found.tasks)
    there = found.scored
    for name in ("mean", "mean_rank"):
        frame[name] = np.nan
    frame.loc[there, "mean"] = found.scores[there].mean(1)
    if there.any():
        frame.loc[there, "mean_rank"] = keep.mean_ranks(found.scores[there])
    if found.correct is not None:
        low, high = resampling.interval(resampling.paired_means(found.correct))
        frame["low"], frame["high"] = (np.where(there, end, np.nan) for end in (low, high))
    if not there.all():
        frame["why"] = [found.why.get(model, "") for model in found.models]
    return frame.sort_values(["mean_rank", "mean"], ascending=[True, False], kind="stable")
