"""Where the models of a first sweep stand among small ones that were measured before (`vtabjax.bundled.PACK`)."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from vtabjax import bundled, installation, results, specs, tasks

_NAMED = 3  # models whose places are told

Record = Mapping[str, Any]


def among_small_models(records: Iterable[Record]) -> str:
    """A sentence on the places of models by mean accuracy over the embedded tasks, "" where nothing can be compared.

    Compared are results of the same protocol, settings, examples and version of vtabjax. Named are up to three models
    that are not in the pack, or else the best one.

    Args:
      records: results, all of one protocol with one set of settings.
    """
    ours = [record for record in records if record["task"] in tasks.EMBEDDED]
    here = _means(ours)
    if not here or installation.absent("report", "pyarrow"):
        return ""
    alike = {_setup(record) for record in ours}
    there = _means(record for record in _bundled() if _setup(record) in alike)
    if not there:
        return ""
    best_first = sorted(here, key=lambda model: -here[model])
    named = [model for model in best_first if model not in there][:_NAMED] or best_first[:1]
    places = []
    for model in named:
        others = [mean for other, mean in there.items() if other != model]
        place = 1 + sum(mean > here[model] for mean in others)
        places.append(f"{model} is place {place} of {len(others) + 1}")
    random = sum(specs.parse(model).random for model in there)
    return (
        f"beside {len(there)} small models that were measured before on the same examples ({random} of them with "
        f"random weights): {'; '.join(places)}"
    )


@functools.cache
def _bundled() -> list[dict[str, Any]]:
    return results.read_pack(bundled.PACK).records


def _setup(record: Record) -> str:
    """Equal for results that may be compared. Embedded tasks do not depend on tensorflow-datasets."""
    settings = sorted((k, str(v)) for k, v in record["settings"].items() if k != "task")
    size = (record.get("input") or {}).get("input_size")
    return repr(
        (record["protocol"], settings, size, record["task"], record["data"], record["versions"]["vtabjax"])
    )


def _means(records: Iterable[Record]) -> dict[str, float]:
    """Model -> mean accuracy, of those that have all embedded tasks."""
    by_model: dict[str, dict[str, float]] = {}
    for record in records:
        if (accuracy := record["metrics"].get("accuracy")) is not None:
            by_model.setdefault(record["model"], {})[record["task"]] = accuracy
    return {
        model: statistics.mean(found.values())
        for model, found in by_model.items()
        if len(found) == len(tasks.EMBEDDED)
    }
