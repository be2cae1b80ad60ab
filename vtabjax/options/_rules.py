"""Rules: what the value of a field may be. Each takes the field's name (for messages), the value and its type."""

from __future__ import annotations

import numbers
import re
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.specs import filters


class UsageError(ValueError):
    """Something to change before anything can run; the message has the field, the value, the way out."""


class Range(NamedTuple):
    """A number from `low` to `high`, both included, in some `unit`; or `special`, which means `meaning`."""

    low: float
    high: float
    unit: str = ""
    special: float | None = None
    meaning: str = ""

    def __str__(self) -> str:
        text = f"{self.low:.12g} to {self.high:.12g}" + (f" {self.unit}" if self.unit else "")
        return text + (f", or {self.special:g} for {self.meaning}" if self.special is not None else "")

    def allows(self, value: float) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high or value == self.special

    def take(self, field: str, value: Any, kind: type) -> Any:
        """The number. Raises UsageError."""
        wanted = numbers.Integral if kind is int else numbers.Real
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if fits and self.allows(value):
            return kind(value)
        if fits and self.special is None and value < self.low:
            raise UsageError(f"{field}={_short(value)} is too small: it must be at least {self.low:.12g}")
        if fits and self.special is None and value > self.high:
            raise UsageError(f"{field}={_short(value)} is too large: it must be at most {self.high:.12g}")
        what = "a whole number, " if kind is int and not fits else ""
        raise UsageError(f"{field}={_short(value)}: it must be {what}{self}")  # nan, for one


class Each(NamedTuple):
    """Numbers in a range, separated by commas; `distinct`: none of them twice."""

    each: Range
    distinct: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"numbers separated by commas, each {self.each}" + (", none twice" if self.distinct else "")

    def take(self, field: str, value: Any, kind: type) -> tuple:
        """The numbers. Raises UsageError."""
        items = _text(field, value).split(",")
        try:
            found = tuple(kind(item) for item in items if item.strip())
        except ValueError as e:
            raise UsageError(f"{field}={_short(value)}: {e}; give {self}") from e
        fits = all(self.each.allows(n) for n in found) and (
            len(set(found)) == len(found) or not self.distinct
        )
        if not fits or not (found or self.empty):
            raise UsageError(f"{field}={_short(value)}: give {self}")
        return found


class OneOf(NamedTuple):
    """One of some names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def take(self, field: str, value: Any, kind: type) -> str:
        """The name. Raises UsageError."""
        if not isinstance(value, str) or value not in self.names:
            raise UsageError(f"{field}={_short(value)} is not known; choose {_either(self.names)}")
        return value


class Some(NamedTuple):
    """Some of some names, separated by commas."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"some of {', '.join(self.names)}, separated by commas"

    def take(self, field: str, value: Any, kind: type) -> tuple[str, ...]:
        """The names, each once. Raises UsageError."""
        chosen = tuple(specs.split_list(_text(field, value)))
        for name in chosen:
            if name not in self.names:
                raise UsageError(
                    f"{field}={_short(value)}: {_short(name)} is not known; choose from {', '.join(self.names)}"
                )
        if not chosen:
            raise UsageError(f"{field} is empty; choose from {', '.join(self.names)}")
        return chosen


class Text(NamedTuple):
    """A single line of text, which may be empty."""

    def __str__(self) -> str:
        return "a single line of text"

    def take(self, field: str, value: Any, kind: type) -> str:
        """The text. Raises UsageError."""
        return _text(field, value)


class Pattern(NamedTuple):
    """A regular expression, or nothing."""

    def __str__(self) -> str:
        return r"a regular expression, such as '(patient\d+)_'"

    def take(self, field: str, value: Any, kind: type) -> str:
        """The expression. Raises UsageError."""
        try:
            re.compile(_text(field, value))
        except re.error as e:
            raise UsageError(f"{field}={_short(value)} is not a regular expression: {e}; give {self}") from e
        return value


class Conditions(NamedTuple):
    """Conditions on models, separated by commas; see `vtabjax.specs.filters`."""

    def __str__(self) -> str:
        return f"conditions separated by commas, such as {filters.EXAMPLE}"

    def take(self, field: str, value: Any, kind: type) -> tuple[filters.Condition, ...]:
        """The conditions. Raises UsageError."""
        try:
            return filters.parse(_text(field, value))
        except filters.FilterError as e:
            raise UsageError(f"{field}={_short(value)}: {e}") from e


class Switch(NamedTuple):
    """True or False."""

    def __str__(self) -> str:
        return "true or false"

    def take(self, field: str, value: Any, kind: type) -> bool:
        """The value. Raises UsageError."""
        if not isinstance(value, bool):
            raise UsageError(f"{field}={_short(value)}: it must be true or false")
        return value


Rule = Range | Each | OneOf | Some | Text | Pattern | Conditions | Switch


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise UsageError(f"{field}={_short(value)}: it must be a single line of text")
    return value


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
