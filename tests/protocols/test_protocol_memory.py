"""Features that cannot fit into memory are refused before any work, by every protocol."""

import numpy as np
import pytest

from vtabjax.protocols import _arrays, knn, linear, transferability
from vtabjax.runtime import memory

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = np.arange(40) % 3
P = np.exp(X) / np.exp(X).sum(1, keepdims=True)
PARTS = ((X, Y), (X[:9], Y[:9]), (X[:9], Y[:9]))
ENTRIES = {
    "knn.leave_one_out": lambda: knn.leave_one_out(X, Y),
    "knn.classify": lambda: knn.classify(X, Y, X),
    "linear.fit": lambda: linear.fit(X, Y, c=1.0),
    "linear.evaluate": lambda: linear.evaluate(*PARTS, c_grid=[0.1, 1]),
    "linear.ridge": lambda: linear.ridge(*PARTS, c_grid=[0.1, 1]),
    "pca": lambda: transferability.pca(X, 2),
} | {
    score: lambda score=score: getattr(transferability, score)(P if score in ("leep", "nce") else X, Y)
    for score in (
        "leep", "nce", "nleep", "logme", "h_score", "regularized_h_score", "transrate", "gbc", "parc", "sfda"
    )
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_names_shape_bytes_and_the_way_out(entry, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 500.0)
    shape = (
        r"\[49, 6\] with 9 test examples" if entry in ("linear.evaluate", "linear.ridge") else r"\[40, 6\]"
    )
    wanted = shape + r" needs about \S+ GB beyond its input, and 5e-07 GB are free in memory; give it fewer"
    with pytest.raises(MemoryError, match=wanted):
        ENTRIES[entry]()


@pytest.mark.parametrize("entry", ["knn.leave_one_out", "linear.fit", "logme"])
def test_what_fits_runs(entry, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 50_000.0)
    ENTRIES[entry]()


def test_an_accelerators_own_memory_counts(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 400}

        def __str__(self):
            return "cuda:0"

    monkeypatch.setattr(memory, "available", lambda: 0.0)
    _arrays.check_memory(600, "work", "less", device=Device())
    with pytest.raises(MemoryError, match="6e-07 GB are free on cuda:0; less"):
        _arrays.check_memory(601, "work", "less", device=Device())
