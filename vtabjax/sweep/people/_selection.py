"""`select`: the whole experiment, and its outcome as an object."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtabjax.sweep.people import _settings

if TYPE_CHECKING:
    import pandas as pd

    from vtabjax.model import Model


_NOTHING = "no verdict: it has not run to its end"


@dataclasses.dataclass(frozen=True)
class Selection:
    """What an experiment found.

    Attributes:
      record: what WORKDIR/select/selection.json holds.
      workdir: where everything is.
    """

    record: Mapping[str, Any]
    workdir: Path

    @property
    def best(self) -> str | None:
        """The winner; where there is no clear one, the model that leads (see `contenders`); None without any score."""
        return self.record.get("leader")

    @property
    def contenders(self) -> list[str]:
        """The models that cannot be told apart from the best one, which is the first; one alone is the winner."""
        return list(self.record.get("contenders", ()))

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        return self.record.get("verdict", "")

    @property
    def chance_missed(self) -> Mapping[str, Any] | None:
        """The chance that a model that was left out would have won: "value", "interval", "method", "assumptions"."""
        return self.record.get("chance_missed")

    @property
    def expected_regret(self) -> Mapping[str, Any] | None:
        """How much better the best model that was left out would be on average, as a fraction; keys as above."""
        return self.record.get("expected_regret")

    @property
    def frame(self) -> pd.DataFrame:
        """One row per model, who came furthest first: its place, its score in each stage, how far it came and why."""
        import pandas as pd

        rows: dict[str, dict[str, Any]] = {model: {} for model in self.record["settings"]["models"]}
        audit = self.record.get("audit", {}).get("stage")
        stages = [*self.record["stages"], *([audit] if audit else [])]
        for stage in stages:
            for row in stage["models"]:
                own = rows[row["model"]]
                own[stage["protocol"]] = row["score"]
                own["reached"], own["why"] = stage["protocol"], row["why"]
        for row in self.record.get("ranking", ()):
            rows[row["model"]] |= {"place": row["place"], "contends": row["contends"]}
        protocols = [stage["protocol"] for stage in self.record["stages"]]
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "model"
        columns = [c for c in ("place", *protocols, "reached", "contends", "why") if c in frame]
        order = [c for c in ("place", *reversed(protocols)) if c in frame]
        ascending = [c == "place" for c in order]
        frame = frame[columns].sort_values(order, ascending=ascending, kind="stable", na_position="last")
        if "place" in frame:
            frame["place"] = frame["place"].astype("Int64")
        if "contends" in frame:
            frame["contends"] = frame["contends"].eq(True)
        return frame

    def winner(self, task: str | os.PathLike | None = None) -> Model:
        """The fine-tuned model that leads: `model.outputs(images)["logits"]`, with images in [0, 1].

        Args:
          task: on which task it was fine-tuned; may be left out where there is only one.

        Raises:
          ValueError: there is none (nothing was fine-tuned), another experiment in the same workdir has put its own in
            its place, or there are several tasks and none was named.
        """
        from vtabjax import model, results
        from vtabjax.sweep.select import winner

        if self.best is None or self.record["judged_by"] != "finetune":
            why = (
                "nothing has been measured" if self.best is None else f"judged by {self.record['judged_by']}"
            )
            raise ValueError(
                f"no model was fine-tuned ({why}): the last stage has to be finetune, and to have run"
            )
        names = self.record.get("judged_on") or self.record["stages"][-1]["tasks"]
        if task is None and len(names) > 1:
            raise ValueError(f"there is a fine-tuned model for each of {', '.join(names)}: name the task")
        name = names[0] if task is None else _settings.own_name(task, names)
        if name is None:
            raise ValueError(f"task {os.fspath(task)!r} is not among {', '.join(names)}")  # type: ignore[arg-type]
        folder = winner.folder(self.workdir) / results.file_name(name)
        accuracy = {row["model"]: row["scores"] for row in self.record["ranking"]}[self.best]
        there = winner.about_there(self.workdir)
        if there is None or not (folder / "model.json").exists():
            raise ValueError(f"{folder} is not there; the same call makes it again")
        found = {t: r[-1] for t, r in there["results"].items()}
        if there["model"] != self.best or found != {t: accuracy[t] for t in names}:
            raise ValueError(
                f"{winner.folder(self.workdir)} holds {there['model']}, the winner of another experiment in the same "
                "workdir; call select again, or give each experiment a workdir of its own"
            )
        return model.load(folder)

    def _repr_html_(self) -> str:
        from vtabjax.sweep.select import shown

        lines = [f"<b>{html.escape(self.verdict or _NOTHING)}</b>"]
        if self.best is not None:
            lines += [html.escape(line) for line in shown.missed(self.record).splitlines()]
        return "<br>".join(lines) + self.frame.to_html(float_format="{:.4f}".format, na_rep="")

    def __repr__(self) -> str:
        return f"Selection({self.verdict or _NOTHING}; {self.workdir})"


def select(
    models: _settings.Names,
    tasks: _settings.Names,
    *,
    stages: str | None = None,
    hours: float | None = None,
    workdir: str | os.PathLike | None = None,
    **settings: Any,
) -> Selection:
    """From many candidates to a ranked few, in stages of ordinary protocols; see configs/select.py and docs/select.md.

    Args:
      models: specs or patterns, in a list or separated by commas; paths of converted models.
      tasks: names of tasks; a `pathlib.Path` is a folder of pictures.
      stages: such as "knn:25%,linear:20,finetune"; None: as the suite has them.
      hours: it ends in that time, measuring fewer models where it has to; None: as long as it takes.
      workdir: where results go; None: a folder that vtabjax remembers, one for each question.
      **settings: fields of configs/select.py: audit=5, always="timm/resnet50", finetune={"steps": 100}.

    Raises:
      ValueError: a setting that does not exist or makes no sense, a model or a task that cannot be had.
    """
    from vtabjax.sweep.select import record, run

    given = {k: v for k, v in {"stages": stages, "hours": hours}.items() if v is not None}
    config = _settings.config("select", models, tasks, {**settings, **given})
    question = record.digest(config.to_dict())
    place = _settings.workdir(workdir, f"select-{question}")
    return Selection(run.conduct(config, place)[0], place)
