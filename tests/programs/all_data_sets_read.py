"""Reads some of each of VTAB's data sets: `all_data_sets_read.py DATA_DIR` prints which heavy libraries that loaded."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vtabjax import data, tasks

(folder,) = sys.argv[1:]
for name in tasks.VTAB:
    assert len(data.load(name, "val200", image_size=8, data_dir=folder).labels)
    next(data.stream(name, "test", image_size=8, batch_size=2, data_dir=folder, seed=0))
print([m for m in ("tensorflow", "torch", "jax") if m in sys.modules])
