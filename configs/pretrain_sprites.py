"""The model in the box: pre-trains embedded/sprites_resnet on rendered sprites.

    python -m vtabjax.embedded.pretrain            # writes vtabjax/embedded/sprites_resnet, minutes on two cores

The source task is shape x scale x coarse position: 3 shapes x 3 pairs of scales x 4 x 4 places = 144 classes. The
orientation is not among them, and sixteen positions in a row are finer than four, so that both embedded sprites
tasks are transfer. None of their pictures is among those it is trained on.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields of the pre-training."""
    c = ConfigDict()
    c.architecture = "test_resnet"  # of timm
    c.seed = 0  # of its initial weights and of the pictures
    c.image_size = 64  # pixels, the sprites' own size
    c.mean, c.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    c.learning_rate = 0.1  # falls to a tenth after 30, 60 and 90 % of the steps
    c.warmup = 50  # steps
    c.batch_size = 64
    c.steps = 2048  # 131,072 pictures, each seen once
    c.round = 4096  # pictures rendered at a time
    c.test = 2048  # pictures, from the end of the stream, for the accuracy in source.json
    return c
