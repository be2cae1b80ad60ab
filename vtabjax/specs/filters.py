"""Which of the models are wanted: ``licence!=non-commercial, parameters<50M, gflops<5``, all of which have to hold.

A value that is not known fulfils no condition, ``!=`` neither: what is not known of a model is not in its favour.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vtabjax.specs import listed, nearest

TEXTS = ("licence", "method", "data", "source", "family")
NUMBERS = ("parameters", "gflops", "input_size")
FIELDS = (*TEXTS, *NUMBERS)
METHODS = ("supervised", "self-supervised", "semi-supervised", "image-text", "generative", "none")
_ALIASES = {"license": "licence", "pretraining_data": "data", "params": "parameters"}
_KEYS = {"licence": "license", "data": "pretraining_data"}  # of model.json, where it is not the field's name
_NOUNS = {
    "data": "pre-training data",
    "parameters": "number of parameters",
    "gflops": "number of operations",
    "input_size": "input size",
}
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
EXAMPLE = "licence!=non-commercial, parameters<50M, gflops<5, method=self-supervised"

NON_COMMERCIAL = "non-commercial"
# Licences that allow research or other non-commercial use only, by the names that timm and the hub give them.
_FORBIDS = (
    "cc-by-nc*",  # Creative Commons, with -nc-sa and -nc-nd
    "*non-commercial*",
    "*noncommercial*",  # fair-noncommercial-research-license
    "*research-only*",
    "apple-amlr",  # Apple's licence for models: research only
    "seer-license",  # Meta's for SEER: noncommercial research
    "nvidia-source-code-license*",  # NVIDIA's for research code and its weights
)
# Those that do not forbid commercial use as such. Conditions they may have (naming, size of the company, uses that are
# ruled out) are for a person to read. A licence on neither list is not known to be the one or the other.
_ALLOWS = (
    "apache-2.0", "mit", "bsd*", "isc", "unlicense", "cc0*", "cc-by-[1-4]*", "cc-by-sa*", "mpl-2.0", "gpl*", "lgpl*",
    "agpl*", "openrail*", "bigscience*", "creativeml-openrail-m", "gemma", "llama*", "dinov3-license",
    "apple-ascl", "nvidia-open-model-license",
)  # fmt: skip


class FilterError(ValueError):
    """A filter that cannot be read; the message has the part, what is wrong with it and what there is."""


class Condition(NamedTuple):
    """One condition on a model.

    Attributes:
      field: one of FIELDS.
      comparison: "=", "!=", and for numbers "<", "<=", ">", ">=".
      value: a text in lower case, which may be a glob pattern, or a number.
      text: as it was given.
    """

    field: str
    comparison: str
    value: str | float
    text: str

    def holds(self, known: Mapping[str, Any]) -> bool | None:
        """Whether a model fulfils it; None where what it asks about is not known.

        Args:
          known: what is known of the model, under the names that model.json has.
        """
        value = known.get(_KEYS.get(self.field, self.field))
        if self.field == "input_size" and isinstance(value, Sequence):
            value = value[1] if len(value) == 3 else None
        if self.field in ("licence", "data") and not value and known.get("method") == "none":
            value = "none"  # random weights, the pixels: nobody's work, no pictures
        if value is None or value in ("", []):
            return None
        if isinstance(self.value, float):
            return _COMPARISONS[self.comparison](float(value), self.value)
        fits = _fits(self.field, str(value).lower(), self.value)
        return fits if fits is None or self.comparison == "=" else not fits


def _fits(field: str, value: str, wanted: str) -> bool | None:
    if field == "licence" and wanted == NON_COMMERCIAL:
        return is_non_commercial(value)
    if field == "licence" and value in ("unknown", "other"):  # the hub's words for what has no name
        return None
    values = value.split(", ") if field == "data" else [value]
    return any(fnmatch.fnmatchcase(v, wanted) for v in values)


def is_non_commercial(licence: str) -> bool | None:
    """Whether a licence rules commercial use out; None where its name does not say."""
    licence = licence.lower()
    if any(fnmatch.fnmatchcase(licence, pattern) for pattern in _FORBIDS):
        return True
    return False if any(fnmatch.fnmatchcase(licence, pattern) for pattern in ("none", *_ALLOWS)) else None


def parse(text: str) -> tuple[Condition, ...]:
    """The conditions of a filter, () for an empty one.

    Raises:
      FilterError: a part of it is no condition, its field does not exist, or its value is none of that field.
    """
    return tuple(_condition(part.strip()) for part in text.split(",") if part.strip())


def as_text(conditions: Sequence[Condition]) -> str:
    """The filter that `parse` reads these conditions from."""
    return ", ".join(condition.text for condition in conditions)


def _condition(text: str) -> Condition:
    found = re.fullmatch(r"([^=!<>]*)(==|!=|<=|>=|=|<|>)([^=!<>]*)", text)
    if found is None or not found[1].strip() or not found[3].strip():
        raise FilterError(f"{text!r} is not field=value (or !=, <, <=, >, >=), such as {EXAMPLE}")
    name, comparison, value = found[1].strip(), found[2].replace("==", "="), found[3].strip()
    field = _ALIASES.get(name.lower(), name.lower())
    if field not in FIELDS:
        near = _nearest(name.lower(), FIELDS)
        raise FilterError(f"{text!r}: there is no field {name!r}{near}; fields: {', '.join(FIELDS)}")
    if field in NUMBERS:
        return Condition(field, comparison, _number(text, value), text)
    if comparison not in ("=", "!="):
        raise FilterError(
            f"{text!r}: {field} is a text, which = and != compare; {', '.join(NUMBERS)} are numbers"
        )
    value = value.lower()
    if field == "method" and not fnmatch.filter(METHODS, value):
        near = _nearest(value, METHODS)
        raise FilterError(f"{text!r}: there is no method {value!r}{near}; methods: {', '.join(METHODS)}")
    if field == "licence" and "commercial" in value and value != NON_COMMERCIAL and "*" not in value:
        # "commercial", "noncommercial": a licence of that name does not exist, so != would hold for all.
        raise FilterError(
            f"{text!r}: write licence!={NON_COMMERCIAL}, or the name of a licence, such as cc-by-nc-4.0"
        )
    return Condition(field, comparison, value, text)


def _number(text: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([KMG]?)", value, re.IGNORECASE)
    number = float(found[1]) * _SUFFIXES[found[2].upper()] if found else math.inf
    if not math.isfinite(number):
        raise FilterError(
            f"{text!r}: {value!r} is not a number, such as 5, 0.3, 50M or 1.2G (K, M, G: 1e3, 1e6, 1e9)"
        )
    return number


def _nearest(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    return f"; did you mean {' or '.join(near)}?" if near else ""


class Outcome(NamedTuple):
    """What a filter makes of some models.

    Attributes:
      passed: those that fulfil every condition, or of which that is left open.
      failed: condition's text -> those that it leaves out.
      unknown: field -> those that are left out because it is not known of them.
    """

    passed: list[str]
    failed: dict[str, list[str]]
    unknown: dict[str, list[str]]


def choose(conditions: Sequence[Condition], known: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """Sorts models by the first condition that each does not fulfil.

    Args:
      conditions: all have to hold.
      known: model -> what is known of it, under the names that model.json has.
    """
    outcome = Outcome([], {}, {})
    for model, of_model in known.items():
        verdicts = [(c, c.holds(of_model)) for c in conditions]
        # A condition that is known to fail tells more than one that cannot be answered.
        fails = next((c for c, verdict in verdicts if verdict is False), None)
        lacks = next((c for c, verdict in verdicts if verdict is None), None)
        if fails is not None:
            outcome.failed.setdefault(fails.text, []).append(model)
        elif lacks is not None:
            outcome.unknown.setdefault(lacks.field, []).append(model)
        else:
            outcome.passed.append(model)
    return outcome


def told(outcome: Outcome) -> list[str]:
    """What is said of an outcome: how many passed, how many each condition left out, who is not known well enough."""
    lost = [*outcome.failed.values(), *outcome.unknown.values()]
    total = len(outcome.passed) + sum(map(len, lost))
    lines = [f"{len(outcome.passed)} of {_models(total)} pass the filter"]
    lines += [f"{_models(len(m))} left out by {text}: {listed(m, 5)}" for text, m in outcome.failed.items()]
    lines += [
        f"{_models(len(m))} left out because {'its' if len(m) == 1 else 'their'} {_NOUNS.get(field, field)} is not "
        f"known: {listed(m, 5)}"
        for field, m in outcome.unknown.items()
    ]
    return lines


def _models(n: int) -> str:
    return f"{n} model" if n == 1 else f"{n} models"
