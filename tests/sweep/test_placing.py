"""A model's place among the small ones whose results come along."""

import statistics

import pytest

from vtabjax import __version__, bundled, installation, results, specs, tasks
from vtabjax.sweep import placing

SMALL = results.read_pack(bundled.PACK)


def of(model, renamed="", **changes):
    """The pack's nearest neighbours of a model, as a sweep here would have them."""
    return [
        r | {"model": renamed or model} | changes
        for r in SMALL.records
        if (r["protocol"], r["model"]) == ("knn", model)
    ]


def test_the_pack():
    by_model = {}
    for record in SMALL.records:
        assert record["versions"]["vtabjax"] == __version__, "python benchmarks/small_models.py makes it anew"
        by_model.setdefault((record["protocol"], record["model"]), set()).add(record["task"])
    models = {model for protocol, model in by_model if protocol == "knn"}
    assert len(models) == 64 and sum(specs.parse(m).random for m in models) == 62
    assert set(map(frozenset, by_model.values())) == {frozenset(tasks.EMBEDDED)}
    assert bundled.PACK.stat().st_size < 1_000_000 and SMALL.local_names == []


def test_a_place():
    means = [
        statistics.mean(r["metrics"]["accuracy"] for r in of(m)) for m in {r["model"] for r in SMALL.records}
    ]
    mine = of("timm/resnet18@random", "python/mine:model")
    mean = statistics.mean(r["metrics"]["accuracy"] for r in mine)
    place = 1 + sum(other > mean for other in means)
    said = placing.among_small_models([*mine, *of("baseline/pixels")])
    assert said.startswith("beside 64 small models") and "(62 of them with random weights)" in said
    assert said.endswith(f": python/mine:model is place {place} of 65")


def test_models_of_the_pack_are_not_counted_twice():
    said = placing.among_small_models([*of("timm/resnet18@random"), *of("baseline/pixels")])
    assert said.endswith(": baseline/pixels is place 1 of 64")


@pytest.mark.parametrize(
    "records",
    [
        [],
        of("baseline/pixels")[:2],  # not all tasks
        of("baseline/pixels", data={"train800": "other"}),
        of("baseline/pixels", versions={"vtabjax": "0.0.1"}),
        [r | {"settings": {**r["settings"], "k": 5}} for r in of("baseline/pixels")],
        [r | {"task": "dtd"} for r in of("baseline/pixels")],
    ],
)
def test_nothing_is_said_of_what_cannot_be_compared(records):
    assert placing.among_small_models(records) == ""


def test_without_pyarrow(monkeypatch):
    monkeypatch.setattr(installation, "absent", lambda *names: ["pyarrow"])
    assert placing.among_small_models(of("baseline/pixels")) == ""
