"""vtabjax from Python: `load`, `embed`, `rank` and `select`, which the package `vtabjax` offers under its own name."""

from vtabjax.sweep.people._embedding import Embedding, embed, load
from vtabjax.sweep.people._ranking import rank
from vtabjax.sweep.people._selection import Selection, select

__all__ = ["Embedding", "Selection", "embed", "load", "rank", "select"]
