"""Every architecture of tests/models.py: the graph computes what PyTorch computes."""

import models
import numpy as np
import pytest
import torch

from converters.export import from_torch
from converters.randomise import randomise
from converters.verify import TOLERANCE, compare
from vtabjax.cpu import quick_compilation

pytestmark = pytest.mark.usefixtures("memory_back")
# In float64 these hold gigabytes: one after another.
_BIG = {"vit_l_16", "vit_l_32", "convnext_large", "wide_resnet101_2", *models.HUGE}


def _cases():
    for source, names in (("timm", models.TIMM), ("torchvision", models.TORCHVISION)):
        for name in names:
            marks = [pytest.mark.xdist_group("big")] if name in _BIG or name.startswith("vgg") else []
            yield pytest.param(source, name, False, id=f"{source}/{name}", marks=marks)
    for name in models.HUGE:
        yield pytest.param("torchvision", name, True, id=f"{name}-full", marks=[pytest.mark.audit])


@pytest.mark.parametrize("source, name, full", list(_cases()))
def test_features_and_logits_equal_torchs(source, name, full):
    """Random parameters and running statistics, batch 3 on a graph exported with batch 2."""
    torch.manual_seed(0)
    module, size = models.build(source, name, full=full)
    module = randomise(module.eval()).double()
    graph, variables = from_torch(module, (3, size, size))
    errors = compare(module, graph, variables, compiler_options=quick_compilation())
    assert set(errors) == {"features", "logits"}
    assert max(errors.values()) < TOLERANCE["float64"], errors
    variables = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in variables.items()}
    errors = compare(module.float(), graph, variables, compiler_options=quick_compilation())
    assert max(errors.values()) < TOLERANCE["float32"], errors
