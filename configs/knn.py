"""Leave-one-out nearest neighbours: a first ranking of hundreds of models in minutes.

    python main.py --config=configs/knn.py                    # embedded tasks, random weights, no download
    python main.py --config=configs/knn.py:vtab --config.models='timm/resnet*' --config.tasks=dtd,svhn
    python main.py --config=configs/knn.py:vtab --config.k=20 --config.metric=cosine

The first one ends, after a minute or two on a laptop, with (accuracy in percent)

    model                              digits  sprites_location  sprites_orientation  mean  mean (cosine)
    ---------------------------------  ------  ----------------  -------------------  ----  -------------
    baseline/pixels                      98.3              46.5                 12.1  52.3           52.6
    embedded/sprites_resnet              84.8              29.2                 26.4  46.8           47.2
    timm/mobilenetv3_small_100@random    94.8              28.6                  7.3  43.6           44.0
    timm/test_resnet@random              65.7              26.0                 14.2  35.3           39.3
    timm/resnet18@random                 72.6              14.3                  6.5  31.1           32.6
    timm/vit_tiny_patch16_224@random     51.3              20.5                 14.0  28.6           28.6
    (chance)                             10.0               6.2                  6.2   7.5            7.5
    (majority)                           12.8               7.2                  8.2   9.4            9.4
    (± 95 %)                              0.8               3.1                  2.7   1.4

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
