"""Which models of a workdir its report shows, where config.filter has conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtabjax.options import UsageError
from vtabjax.report.boards import NO_NETWORK, RANDOM, Model
from vtabjax.specs import filters


def passing(
    results: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Model],
    conditions: Sequence[filters.Condition],
    notices: list[str],
) -> set[str]:
    """The labels of the models that fulfil all conditions; a notice says who does not, and why.

    Args:
      results: label -> one of the model's results.
      models: label -> what is known of it.
      conditions: those of config.filter.
      notices: get what has to be known.

    Raises:
      UsageError: there are models, and none passes.
    """
    if not conditions or not models:
        return set(models)
    known = {label: _known(model, results[label]) for label, model in models.items()}
    outcome = filters.choose(conditions, known)
    told = filters.told(outcome)
    if not outcome.passed:
        raise UsageError(f"config.filter={filters.as_text(conditions)!r} leaves no model: {'; '.join(told)}")
    notices += [f"Filter: {text}." for text in told]
    return set(outcome.passed)


def _known(model: Model, result: Mapping[str, Any]) -> dict[str, Any]:
    """Under the names that model.json has; None where it is not known."""
    return {
        "source": (result.get("source") or {}).get("source") or model.spec.partition("/")[0],
        "method": {RANDOM: "none", NO_NETWORK: "none", "unknown": None}.get(model.method, model.method),
        "family": None if model.family == "unknown" else model.family,
        "parameters": model.parameters,
        "gflops": model.gflops,
        "license": model.license,
        "pretraining_data": model.pretraining_data,
        "input_size": (result.get("input") or {}).get("input_size"),
    }
