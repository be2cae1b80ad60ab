"""Nearest neighbours by one device and by four are the same, and go to a file: `neighbours_on_four_devices.py FILE`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from vtabjax.protocols import knn
from vtabjax.runtime.devices import data_mesh

assert len(jax.devices()) == 4
rng = np.random.default_rng(0)
out = {}
for name, x in {"normal": rng.normal(size=(203, 9)), "pixels": rng.integers(0, 3, size=(203, 9))}.items():
    y = rng.integers(0, 4, 203)
    for metric in ("euclidean", "cosine"):
        for k in (1, 7):
            one = knn.leave_one_out(x, y, k=k, metric=metric, block=50, mesh=data_mesh(jax.devices()[:1]))
            four = knn.leave_one_out(x, y, k=k, metric=metric, block=50)
            assert (one.neighbours == four.neighbours).all() and one[0] == four[0] and one[3] == four[3]
            out[f"{name} {metric} {k}"] = four.neighbours
    a = knn.classify(x, y, x[::2] + 0.25, k=3, block=20, mesh=data_mesh(jax.devices()[:1]))
    b = knn.classify(x, y, x[::2] + 0.25, k=3, block=20)
    assert (a.neighbours == b.neighbours).all()
np.savez(sys.argv[1], **out)
