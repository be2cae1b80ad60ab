"""Runs a converted model as if PyTorch were missing: `model_without_torch.py MODEL IMAGES.npy` prints the output."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.modules.update(dict.fromkeys(("torch", "torchvision", "timm", "tensorflow")))  # not installed

import numpy as np  # noqa: E402

import vtabjax.model  # noqa: E402

path, images = sys.argv[1:]
print(json.dumps(np.asarray(vtabjax.model.load(path)(np.load(images))).tolist()))
