"""Every architecture of tests/support/models.py: the graph computes what PyTorch computes."""

import models
import numpy as np
import pytest
import torch

from converters.export import from_torch
from converters.randomise import randomise
from converters.verify import TOLERANCE, compare

pytestmark = pytest.mark.usefixtures("memory_back")
# In float64 these hold gigabytes: one after another.
_BIG = ("vit_l_16", "vit_l_32", "convnext_large", "wide_resnet101_2", "vgg", *models.HUGE)


def _cases():
    """Each kind with two of its blocks that repeat; under `audit` every one whole, the huge ones last."""
    for source, names in (("timm", models.TIMM), ("torchvision", models.TORCHVISION)):
        for name in names:
            big = [pytest.mark.xdist_group("big")] if name.startswith(_BIG) else []
            if source == "timm" or name in (*models.KINDS, *models.HUGE):
                marks = [*big, *[pytest.mark.audit] * (name in models.HUGE)]
                yield pytest.param(source, name, False, id=f"{source}/{name}", marks=marks)
            if name not in models.HUGE:
                marks = [*big, pytest.mark.audit]
                yield pytest.param(source, name, True, id=f"{source}/{name}-whole", marks=marks)
    for name in models.HUGE:
        yield pytest.param("torchvision", name, True, id=f"{name}-huge", marks=[pytest.mark.audit])


@pytest.mark.parametrize("source, name, full", list(_cases()))
def test_features_and_logits_equal_torchs(source, name, full):
    """Random parameters and running statistics, batch 3 on a graph exported with batch 2."""
    torch.manual_seed(0)
    module, size = models.build(source, name, full=full)
    module = randomise(module.eval()).double()
    graph, variables = from_torch(module, (3, size, size))
    errors = compare(module, graph, variables)
    assert set(errors) == {"features", "logits"}
    assert max(errors.values()) < TOLERANCE["float64"], errors
    variables = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in variables.items()}
    errors = compare(module.float(), graph, variables)
    assert max(errors.values()) < TOLERANCE["float32"], errors
