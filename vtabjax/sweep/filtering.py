"""Which models of a sweep its filter leaves, decided before anything is converted.

The converters say what is known of a model without its weights. What takes them time (counting parameters, operations)
is asked last, only where a condition needs it, and of those models only that the other conditions leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import bundled, specs
from vtabjax.runtime import files
from vtabjax.specs import filters
from vtabjax.sweep import artefacts, converters_client

# Fields in the order in which they are asked about; the converters' flag for those that have to be counted.
_COUNTED = {"parameters": "--parameters", "gflops": "--gflops"}
_MANY = 20  # models whose counting takes long enough to be announced

Known = dict[str, dict[str, Any]]


class NothingLeftError(ValueError):
    """No model passes a filter; the message says which condition left out which."""


def choose(
    models: Sequence[str],
    conditions: Sequence[filters.Condition],
    image_size: int,
    cache: Path,
    say: Callable[[str], None],
) -> list[str]:
    """The models that fulfil all conditions, in their order; the others are named with the reason.

    Args:
      models: specs without patterns.
      conditions: those of config.filter.
      image_size: of the images that models will see, in pixels; 0: each model's own.
      cache: the file that remembers what is known of models.
      say: where it is told.

    Raises:
      NothingLeftError: none does.
      specs.SpecError: a model does not exist.
      converters_client.ConversionError: the converters do not run.
    """
    if not conditions:
        return list(models)
    installed = artefacts.installed_sources()
    known: Known = artefacts.remembered(cache, installed, "models")
    before = {key: dict(facts) for key, facts in known.items()}
    outcome = filters.Outcome(list(models), {}, {})
    for counted in ("", *_COUNTED):
        own = [c for c in conditions if (c.field if c.field in _COUNTED else "") == counted]
        if own and outcome.passed:
            _learn(outcome.passed, counted, image_size, known, say)
            facts = {model: known[_key(model, image_size)] for model in outcome.passed}
            outcome = _both(outcome, filters.choose(own, facts))
    if known != before:
        lasting = {key: facts for key, facts in known.items() if _lasts(key)}
        files.write_text(cache, files.seal({"installed": installed, "models": lasting}))
    told = filters.told(outcome)
    if not outcome.passed:
        raise NothingLeftError("; ".join(told))
    for line in told:
        say(f"config.filter: {line}")
    return outcome.passed


def _both(first: filters.Outcome, second: filters.Outcome) -> filters.Outcome:
    unknown = {
        field: first.unknown.get(field, []) + second.unknown.get(field, [])
        for field in dict.fromkeys([*first.unknown, *second.unknown])
    }
    return filters.Outcome(second.passed, {**first.failed, **second.failed}, unknown)


def _key(model: str, image_size: int) -> str:
    return f"{model} {image_size}"


def _lasts(key: str) -> bool:
    """Whether what is known of a model holds until another version is installed: not for files, which change."""
    spec = specs.parse(key.rpartition(" ")[0])
    return spec.path is None and spec.source not in ("python", "file")


def _learn(
    models: Sequence[str], counted: str, image_size: int, known: Known, say: Callable[[str], None]
) -> None:
    """Puts into `known` what is known of the models, with the number that is `counted`."""
    needed = counted or "method"
    lacking = [m for m in models if needed not in known.get(_key(m, image_size), {})]
    ours = [m for m in lacking if bundled.is_bundled(m)]
    for model in ours:
        _add(known, model, image_size, bundled.known(model, image_size, gflops=counted == "gflops"))
    others = [m for m in lacking if m not in ours]
    if not others:
        return
    if counted and len(others) >= _MANY:
        say(f"config.filter: counting {counted} of {len(others)} models; what was counted is remembered")
    flags = [_COUNTED[counted]] if counted else []
    flags += [f"--input_size={image_size}"] if image_size and counted == "gflops" else []
    answers = {line["spec"]: line for line in converters_client.ask(["list", *others, *flags])}
    for model in others:
        line: Mapping[str, Any] = answers.get(model, {"message": f"the converters say nothing of {model}"})
        if line.get("message"):
            raise specs.SpecError(f"config.models: {line['message']}")
        _add(known, model, image_size, {k: v for k, v in line.items() if k not in ("spec", "status")})


def _add(known: Known, model: str, image_size: int, facts: Mapping[str, Any]) -> None:
    known.setdefault(_key(model, image_size), {}).update(facts)
