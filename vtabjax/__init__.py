"""vtabjax: which pre-trained vision model transfers best to a small data set, measured in JAX.

What most people need:

    vtabjax.rank(models, tasks)      measures models on tasks, best first, as a data frame
    vtabjax.select(models, tasks)    the whole experiment: cheap scores for many, fine-tuning for few, a winner
    vtabjax.load(spec)               a converted model, `model(images)` -> features
    vtabjax.embed(spec, pictures)    features of pictures, with labels and names
    vtabjax.collect(workdir)         the results of a sweep as a data frame; vtabjax.results.pivot: models x tasks

Below them are the packages `data`, `features`, `model`, `protocols`, `ranking`, `results` and `tasks`. Everything is
imported when it is used, so that importing vtabjax costs nothing. docs/python.md shows how they go together.
"""

__version__ = "0.1.0"

_FOR_PEOPLE = {
    **dict.fromkeys(("Embedding", "Selection", "embed", "load", "rank", "select"), "vtabjax.sweep.people"),
    "collect": "vtabjax.results",
}
_PACKAGES = ("data", "features", "model", "protocols", "ranking", "results", "tasks")
__all__ = ["Embedding", "Selection", "collect", "embed", "load", "rank", "select"]


def __getattr__(name: str) -> object:
    import importlib

    if name in _PACKAGES:
        return importlib.import_module(f"vtabjax.{name}")
    if name not in _FOR_PEOPLE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FOR_PEOPLE[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])
