"""Leave-one-out nearest neighbours: a first ranking of hundreds of models in minutes.

    python main.py --config=configs/knn.py                    # embedded tasks, random weights, no download
    python main.py --config=configs/knn.py:vtab --config.models='timm/resnet*' --config.tasks=dtd,svhn
    python main.py --config=configs/knn.py:vtab --config.k=20 --config.metric=cosine

The first one ends, after a minute or two on a laptop, with (accuracy in percent)

    model                                digits    sprites_location    sprites_orientation    mean    mean (cosine)
    ---------------------------------  --------  ------------------  ---------------------  ------  ---------------
    baseline/pixels                       98.30               46.50                  12.10   52.30            52.63
    embedded/sprites_resnet               84.80               29.20                  26.40   46.80            47.17
    timm/mobilenetv3_small_100@random     94.80               28.60                   7.30   43.57            43.97
    timm/test_resnet@random               65.70               26.00                  14.20   35.30            39.30
    timm/resnet18@random                  72.60               14.30                   6.50   31.13            32.60
    timm/vit_tiny_patch16_224@random      51.30               20.50                  14.00   28.60            28.60
    (chance)                              10.00                6.25                   6.25    7.50             7.50
    (majority)                            12.80                7.25                   8.20    9.42             9.42

and does nothing when it is run again. On average, random weights do worse than the pixels they see; the bundled
model, pre-trained on sprites, beats its own architecture with random weights (timm/test_resnet@random)
everywhere, and every other model on the orientation of sprites, where pixels carry no signal.

The score is how often the nearest other training example has the right label (Expert Models, arXiv 2009.13239):
Euclidean distance of the features before the classifier, on train800val200 (vtab_full: trainval). A second column
has the cosine distance.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(suite: str = "mini") -> ConfigDict:
    """Fields of `common.base`, and of this protocol."""
    c = common.base("knn", suite)
    c.k = 1  # neighbours that vote
    c.metric = "euclidean,cosine"  # the first one gives the score, others further columns
    return c
