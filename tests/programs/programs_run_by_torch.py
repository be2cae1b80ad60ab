"""Opens exported programs with torch itself and runs them, each whatever became of the one before."""

import contextlib
import sys

import torch

for path in sys.argv[1:]:
    with contextlib.suppress(Exception):
        torch.export.load(path).module()(torch.zeros(2, 3, 16, 16))
