"""The grammar of `stages`: ``protocol[:N | :P%]``, separated by commas; the last one keeps all."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from vtabjax import specs
from vtabjax.options import UsageError
from vtabjax.sweep import adapters

_EXAMPLE = "knn:25%,linear:20,finetune"


class Stage(NamedTuple):
    """A protocol, and how many of the models it measures go on.

    Attributes:
      protocol: its name.
      number: how many are kept; None: a share, or all.
      percent: which share is kept, in percent; None: a count, or all.
    """

    protocol: str
    number: int | None = None
    percent: float | None = None

    def keeps(self, entering: int) -> int:
        """How many of so many models go on: at least one, a share rounded up.

        >>> Stage("knn", percent=25).keeps(10)
        3
        """
        if self.number is not None:
            return min(self.number, entering)
        if self.percent is not None:
            # 7 % of 100 models is 7.000000000000001 in floating point.
            return min(entering, max(1, math.ceil(round(entering * self.percent / 100, 9))))
        return entering

    def __str__(self) -> str:
        kept = f":{self.number}" if self.number is not None else ""
        return self.protocol + (f":{self.percent:g}%" if self.percent is not None else kept)


def parse(text: str) -> list[Stage]:
    """Reads the stages.

    Raises:
      UsageError: no stages, a protocol that is not known or that comes twice, a number that makes no sense.

    >>> [str(stage) for stage in parse("knn:50%, linear:20, finetune")]
    ['knn:50%', 'linear:20', 'finetune']
    """
    items = [item.strip() for item in text.split(",")]
    if not text.strip() or not all(items):
        raise _wrong(text, f"stages are separated by commas, such as {_EXAMPLE}")
    stages = [_stage(item, text) for item in items]
    names = [stage.protocol for stage in stages]
    twice = [name for name in adapters.PROTOCOLS if names.count(name) > 1]
    if twice:
        raise _wrong(text, f"{twice[0]} comes twice, and a model is measured once; leave one of them out")
    if str(stages[-1]) != stages[-1].protocol:
        raise _wrong(
            text, f"the last stage keeps all that reach it; write {stages[-1].protocol} without a number"
        )
    everything = [stage.protocol for stage in stages[:-1] if str(stage) == stage.protocol]
    if everything:
        raise _wrong(text, f"{everything[0]} has to say how many models go on, such as {everything[0]}:25%")
    return stages


def _stage(item: str, text: str) -> Stage:
    name, colon, number = (part.strip() for part in item.partition(":"))
    if name not in adapters.PROTOCOLS:
        near = specs.nearest(name, adapters.PROTOCOLS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(adapters.PROTOCOLS)}"
        raise _wrong(text, f"{name!r} is not a protocol; {hint}")
    if not colon:
        return Stage(name)
    if re.fullmatch(r"[0-9]+", number) and int(number) > 0:
        return Stage(name, number=int(number))
    share = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", number)
    if share and 0 < float(share[1]) <= 100:
        return Stage(name, percent=float(share[1]))
    raise _wrong(
        text,
        f"{item!r} has to keep a number of models, 1 or more, or a share above 0 % up to 100 %: {_EXAMPLE}",
    )


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"config.stages={text!r}: {why}")
