"""Leave-one-out nearest neighbours: a first ranking of hundreds of models in minutes.

    python main.py --config=configs/knn.py                    # embedded tasks, random weights, no download
    python main.py --config=configs/knn.py:vtab --config.models='timm/resnet*' --config.tasks=dtd,svhn
    python main.py --config=configs/knn.py:vtab --config.k=20 --config.metric=cosine

The score is the accuracy of the nearest other training example's label (Expert Models, arXiv 2009.13239):
Euclidean distance of the features before the classifier, on train800val200 (vtab_full: trainval). Cosine is a
second column.
"""

from configs import common


def get_config(suite: str = "mini"):
    """Fields of `common.base`, and of this protocol."""
    c = common.base("knn", suite)
    c.k = 1  # neighbours that vote
    c.metric = "euclidean,cosine"  # the first one is the score, others are further columns
    return c
