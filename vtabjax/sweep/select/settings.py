"""The fields of configs/select.py that are its own, and the configs of its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from ml_collections import ConfigDict

from vtabjax import options, specs
from vtabjax.options import OneOf, Range, Text


@dataclasses.dataclass(frozen=True)
class SelectOptions:
    """The fields of configs/select.py that no other sweep has."""

    stages: Annotated[str, Text()]
    always: Annotated[str, Text()]
    keep_chance: Annotated[float, Range(0, 1)]
    keep_at_most: Annotated[float, Range(1, 1_000)]  # times the count
    add_chance: Annotated[float, Range(0, 1)]
    add_at_most: Annotated[float, Range(1, 1_000)]  # times the count
    stop_chance: Annotated[float, Range(0, 0.5)]
    audit: Annotated[int, Range(0, 10_000, "models")]
    hours: Annotated[float, Range(0.001, 100_000, "hours", 0, "as long as it takes")]
    winner_on: Annotated[str, OneOf(("train", "all"))]

    @property
    def never_dropped(self) -> list[str]:
        """The models of `always`, each in its one form. Raises UsageError."""
        return [_spec(model) for model in specs.split_list(self.always)]


def _spec(model: str) -> str:
    try:
        if specs.is_pattern(model):
            raise options.UsageError(f"config.always: {model!r} is a pattern; name the models themselves")
        return str(specs.parse(model))
    except specs.SpecError as e:
        raise options.UsageError(f"config.always: {e}") from e


def read(config: Any) -> SelectOptions:
    """The fields, checked.

    Raises:
      UsageError: one is missing, of another type or out of its range.
    """
    own = options.read(SelectOptions, config)
    own.never_dropped  # noqa: B018  (checked here)
    return own


def stage_config(
    config: Any,
    protocol: str,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> ConfigDict:
    """What the config of an ordinary sweep would be: that of a stage.

    Args:
      config: see configs/select.py.
      protocol: the stage's.
      models: those that are left; None: as the config says, with its patterns and its filter.
      tasks: some of them; None: all.
      seeds: of fine-tuning, some of them; None: all.
    """
    given = ConfigDict(config).copy_and_resolve_references()
    given.unlock()
    given.protocol = protocol
    if models is not None:
        given.models, given.filter = ",".join(models), ""
    if tasks is not None:
        given.tasks = ",".join(tasks)
    if seeds is not None:
        given.finetune.seeds = ",".join(map(str, seeds))
    return given
