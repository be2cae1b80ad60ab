"""What an experiment is expected to take, said before it begins: how many models each stage has, and when it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from vtabjax.ranking import left_out
from vtabjax.sweep.progress import duration
from vtabjax.sweep.select import adding, hours, shown
from vtabjax.sweep.select.hours import Measured
from vtabjax.sweep.select.settings import SelectOptions
from vtabjax.sweep.select.stages import Stage


def most(own: SelectOptions, entering: int, planned: Sequence[int]) -> tuple[list[int], int]:
    """How many models each stage has at most, and how many are added in the last one.

    Those that cannot be told apart from the ones that go on are kept (`keep_at_most`), and the last stage may measure
    more (`add_at_most`) if it has enough finalists to say what was missed.

    Args:
      own: the fields of the selection.
      entering: how many models there are.
      planned: how many each stage keeps (see `hours.Forecast`).
    """
    found = [entering]
    for n in planned[:-1]:
        close = n if own.keep_chance >= 1 else max(n, math.floor(round(n * own.keep_at_most, 9)))
        found.append(min(found[-1], close))
    earlier = len(planned) - 1
    if not earlier or own.add_chance >= 1 or found[-1] < earlier + 1 + left_out.FEWEST_DEGREES:
        return found, 0
    more = min(entering, int(adding.most(planned[-2], own.add_at_most))) - found[-1]
    return found, max(0, more)


def tell(
    chain: Sequence[Stage],
    own: SelectOptions,
    entering: int,
    known: Measured,
    seconds: float,
    workers: int,
    stops: bool,
) -> None:
    """Says how many models each stage will have and, where costs are known, when it ends: from, and to where more are
    kept for being close or added in the last stage.

    Args:
      chain: the stages.
      own: the fields of the selection.
      entering: how many models there are.
      known: what they cost.
      seconds: that are left to each worker.
      workers: how many there are.
      stops: whether the last stage has rounds after which finalists may be stopped.
    """
    found, halved = hours.with_grid(chain, entering, known, seconds, workers, known.convert)
    numbers = [entering, *found.keeps[:-1]]
    winner = known.winner * (known.per_model[-1] or 0.0)
    upper, added = most(own, entering, found.keeps)
    # What is left over goes to those that are added, as far as it goes.
    cost = found.seconds[-1] / numbers[-1]
    if own.hours and cost:
        left = workers * (seconds - winner) - sum(found.seconds)
        added = min(added, max(0, int(left / cost) - (upper[-1] - numbers[-1])))
    with_added = [*upper[:-1], upper[-1] + added]
    longer = [s * u / n for s, n, u in zip(found.seconds, numbers, with_added, strict=True)]
    for i, (stage, rate) in enumerate(zip(chain, known.per_model, strict=True)):
        last = stage is chain[-1]
        grid = f", halving={hours.HALVING}" if halved and last else ""
        models = f"{_range(f'{numbers[i]}', f'{with_added[i]}')} models"
        going_on = "" if last else f", of which {_range(f'{numbers[i + 1]}', f'{upper[i + 1]}')} go on"
        about = "" if rate is None else f"; about {_time(found.seconds[i] / workers, longer[i] / workers)}"
        shown.say(f"{stage}{grid}: {models}{going_on}{about}")
    if close := upper[-1] - numbers[-1]:
        shown.say(f"  up to {close} more go on if they cannot be told apart (config.keep_at_most)")
    if added:
        shown.say(
            f"  up to {added} more are added in the last stage if one left out may be better (config.add_at_most)"
        )
    if stops:
        shown.say("  less where finalists are not trained to the end (config.stop_chance)")
    if None not in known.per_model:
        ends = [sum(taken) / workers + winner for taken in (found.seconds, longer)]
        if own.hours:  # nothing starts that would end later
            ends[1] = max(ends[0], min(ends[1], seconds))
        until = _range(*(time.strftime("%H:%M", time.localtime(time.time() + end)) for end in ends))
        limit = f"; config.hours={own.hours:g}" if own.hours else ""
        shown.say(f"expected: {_time(*ends)}, until {until}{limit}")


def _time(low: float, high: float) -> str:
    return _range(duration(low), duration(high))


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
