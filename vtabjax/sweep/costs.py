"""What cells cost, judged by what such cells took in this workdir."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vtabjax import tasks
from vtabjax.results import Cell


def images(task: str, splits: Iterable[str]) -> int:
    """Examples in a task's splits; 1,000 where nobody knows (a folder that is gone)."""
    try:
        found = tasks.get(task)
        return sum(r.stop - r.start for split in splits for r in tasks.ranges(found, split))
    except (ValueError, TypeError, OSError):
        return 1000


def _source(model: str) -> str:
    return model.partition("/")[0]


class Costs:
    """Expected seconds of cells.

    A model's cells of one protocol are taken to cost in proportion to their images. Where a model has run, its own
    rate counts; where it has not, that of its source in this workdir (the median over its models, `baseline/pixels`
    says little about networks), or of all models.

    Args:
      records: results (see `vtabjax.results.records`); those of other protocols and image sizes are not used.
      protocol: the cells'.
      settings: the cells', for image size and dtype.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], protocol: str, settings: Mapping[str, Any]):
        alike = ("image_size", "dtype")
        seconds: dict[str, float] = {}
        seen: dict[str, int] = {}
        self._images: dict[tuple[str, str], int] = {}
        self.known = 0
        for record in records:
            own = record["settings"]
            if record["protocol"] != protocol or any(own.get(k) != settings.get(k) for k in alike):
                continue
            model = record["model"]
            # Converting goes on beside the computing of other models.
            taken = sum(s for stage, s in record["seconds"].items() if stage != "convert")
            seconds[model] = seconds.get(model, 0.0) + taken
            seen[model] = seen.get(model, 0) + self._count(record["task"], own)
            self.known += 1
        self._rates = {model: seconds[model] / max(1, seen[model]) for model in seconds}
        by_source: dict[str, list[float]] = {}
        for model, rate in self._rates.items():
            by_source.setdefault(_source(model), []).append(rate)
        self._sources = {source: statistics.median(rates) for source, rates in by_source.items()}
        self._middle = statistics.median(self._rates.values()) if self._rates else None

    def _count(self, task: str, settings: Mapping[str, Any]) -> int:
        """`images` of a cell; the same of many."""
        splits = settings.get("splits") or ()
        key = task, str(splits)
        if key not in self._images:
            self._images[key] = images(task, splits)
        return self._images[key]

    def has(self, model: str) -> bool:
        """Whether this very model has run."""
        return model in self._rates

    def seconds(self, cell: Cell) -> float | None:
        """Expected seconds, or None where no such cell has run here."""
        rate = self._rates.get(cell.model, self._sources.get(_source(cell.model)))
        if rate is None:
            rate = self._middle
        return None if rate is None else rate * self._count(cell.task, cell.settings)

    def total(self, cells: Sequence[Cell]) -> float | None:
        """Expected seconds of many cells, one after the other."""
        taken = [s for s in map(self.seconds, cells) if s is not None]
        return float(sum(taken)) if len(taken) == len(cells) else None
