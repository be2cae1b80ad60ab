"""vtabjax: which pre-trained vision model transfers best to a small data set, measured in JAX.

`load`, `embed`, `rank`, `select` and `collect` are what most people need; they are imported when they are used, so that
importing the package costs nothing.
"""

__version__ = "0.1.0"

_FOR_PEOPLE = {
    **dict.fromkeys(("Embedding", "Selection", "embed", "load", "rank", "select"), "vtabjax.sweep.people"),
    "collect": "vtabjax.results",
}
__all__ = ["Embedding", "Selection", "collect", "embed", "load", "rank", "select"]


def __getattr__(name: str) -> object:
    if name not in _FOR_PEOPLE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_FOR_PEOPLE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
