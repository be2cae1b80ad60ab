"""Linear evaluation: an L2-regularised softmax regression on frozen features.

    python main.py --config=configs/linear.py
    python main.py --config=configs/linear.py:vtab --config.models=timm/resnet50.a1_in1k

C is chosen on val200 after fitting on train800; the model is then fitted again on all 1,000 examples and scored on
the whole test set (vtab_full: train, val, test). Run after configs/knn.py in the same workdir, it reuses the
features of the training images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(suite: str = "mini") -> ConfigDict:
    """Fields of `common.base`, and of this protocol."""
    c = common.base("linear", suite)

    # Candidates for C, the inverse of the regularisation strength.
    c.c_min = 1e-6  # the smallest
    c.c_max = 1e5  # the largest
    c.c_count = 12 if suite == "mini" else 45  # how many, logarithmically spaced
    return c
