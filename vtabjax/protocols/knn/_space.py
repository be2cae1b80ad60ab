"""What distances are taken in, and what is looked for; `_nearest.py` says how the neighbours are found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtabjax.protocols._arrays import extremes, mapped


class Space:
    """The coordinates distances are taken in: features times a power of two; cosine: over their norm."""

    def __init__(self, database: np.ndarray, queries: np.ndarray | None, metric: str):
        self.cosine = metric == "cosine"
        arrays = [database] if queries is None else [database, queries]
        largest = max(max(float(high), -float(low)) for low, high in map(extremes, arrays))
        # A power of two loses nothing, and squares neither overflow nor vanish.
        self.scale = 1.0 if largest == 0 else 2.0 ** -np.clip(np.frexp(largest)[1], -1000, 1000)
        self.mean = np.zeros(database.shape[1])
        self.mean32 = None
        if not self.cosine:
            single = all(a.dtype == np.float32 for a in arrays) and 1e-9 < largest < 1e9
            rows = [database[part] for part in slices(len(database), 256)]
            sums = mapped(lambda part: (part if single else self.exact(part)).sum(0), rows, database.size)
            for part_sum in sums:  # in their order: the same digits however many threads
                self.mean += part_sum
            self.mean /= len(database)
            if single:
                # What is subtracted need not be the mean to the last digit, only the same everywhere:
                # float32 rows less a float32 mean are rounded once, like float64 ones.
                self.mean *= self.scale
                self.mean32 = self.mean.astype(np.float32)

    def exact(self, x: np.ndarray) -> np.ndarray:
        """Coordinates [n, D] in float64."""
        x = x.astype(np.float64) * self.scale
        if not self.cosine:
            return x
        top = np.abs(x).max(1, keepdims=True)
        x /= np.where(top > 0, top, 1)
        norm = np.sqrt((x * x).sum(1, keepdims=True))
        return x / np.where(norm > 0, norm, 1)

    def centred(self, x: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates less their mean as `dtype` [n, D], and the squared norms of these rounded rows [n]."""
        if dtype == np.float32 and self.mean32 is not None:
            c = x * np.float32(self.scale) - self.mean32
        else:
            c = (self.exact(x) - self.mean).astype(dtype)
        # numpy sums rows pairwise, by 128 with 8 accumulators: off by at most (24 + log2 D) u |c|^2.
        norms = np.square(c).sum(1).astype(np.float64)
        if self.cosine:
            # |0 - b|^2 must be 2 = 2 (1 - 0): a zero row has similarity 0 to everything.
            norms[~c.any(1)] = 1.0
        return c, norms

    def squared(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Squared distances [n] between rows of exact coordinates; for cosine 2 (1 - similarity)."""
        difference = x - y
        d = (difference * difference).sum(1)
        return np.where((x * y).sum(1) == 0, 2.0, d) if self.cosine else d


class Search(NamedTuple):
    """A search for neighbours.

    Attributes:
      space: what distances are taken in.
      queries: rows that look for neighbours, [Q, D].
      database: rows that are looked for, [N, D]; the same array where every row of it is a query.
      query_groups: group numbers of the queries, [Q].
      groups: group numbers of the database, [N]: no row finds one of its own group.
      k: how many neighbours are wanted.
    """

    space: Space
    queries: np.ndarray
    database: np.ndarray
    query_groups: np.ndarray
    groups: np.ndarray
    k: int

    @property
    def within(self) -> bool:
        """Whether the queries are the database itself."""
        return self.queries is self.database


def slices(n: int, size: int) -> list[slice]:
    """0..n in parts of at most `size`."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
