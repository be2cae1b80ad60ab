"""What models drawn at random among those that a selection left out say about the rest: exact bounds, no regression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Audit(NamedTuple):
    """What a random sample of the models that were left out says, without a model of them.

    Attributes:
      n_left: models that were left out, L; those drawn included.
      n_drawn: how many of them were drawn, m.
      n_better: how many of these beat the winner, k.
      share_low: lower end of Clopper and Pearson's interval of the share of models of this kind that beat the winner.
      share_high: its upper end.
      number_low: the smallest number among the L that beat the winner that the draw does not contradict
        (hypergeometric, equal tails).
      number_high: the largest.
      overlooked_at_most: bound on the probability that a model that was not drawn beats the winner and all drawn:
        the draw contains the best of the L with probability m / L, whatever the accuracies are.
      level: of the intervals.
    """

    n_left: int
    n_drawn: int
    n_better: int
    share_low: float
    share_high: float
    number_low: int
    number_high: int
    overlooked_at_most: float
    level: float


def audit(n_left: int, n_drawn: int, n_better: int, *, level: float = 0.9) -> Audit:
    """Exact bounds from models drawn without replacement from those that were left out.

    The number K among L that beat the winner is bounded by P(k or more | K) >= (1 - level) / 2 and
    P(k or fewer | K) >= (1 - level) / 2, k hypergeometric.

    Raises:
      ValueError: not 0 <= n_better <= n_drawn <= n_left, nobody was drawn, or a level outside (0, 1).

    >>> found = audit(280, 10, 0)
    >>> found.number_high, round(found.share_high, 2), round(found.overlooked_at_most, 3)
    (71, 0.26, 0.964)
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    if not 0 <= n_better <= n_drawn <= n_left or n_drawn == 0:
        raise ValueError(
            f"n_better={n_better}, n_drawn={n_drawn}, n_left={n_left}: each must be within the next"
        )
    from scipy import stats

    tail = (1 - level) / 2 - 1e-12  # 91 / 1820 is 0.05, whatever rounding makes of either
    numbers = np.arange(n_better, n_left - n_drawn + n_better + 1)
    hyper = stats.hypergeom(n_left, numbers, n_drawn)
    possible = numbers[(hyper.sf(n_better - 1) > tail) & (hyper.cdf(n_better) > tail)]
    share = stats.binomtest(n_better, n_drawn).proportion_ci(level, method="exact")
    return Audit(
        n_left=n_left,
        n_drawn=n_drawn,
        n_better=n_better,
        share_low=float(share.low),
        share_high=float(share.high),
        number_low=int(possible.min()),
        number_high=int(possible.max()),
        overlooked_at_most=1 - n_drawn / n_left,
        level=level,
    )
