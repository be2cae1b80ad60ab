"""Extracts a tiny model's features: `features_of_images.py IMAGES.npy FEATURES.npy` prints how many devices it had."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import conftest
import jax
import numpy as np

from vtabjax import features

images, target = sys.argv[1:]
print(len(jax.devices()))
np.save(target, features.extract(conftest.tiny_parts(), np.load(images), batch_size=6)["features"])
