"""The bundled model: pre-trains embedded/sprites_resnet on rendered sprites.

    python -m vtabjax.bundled.pretrain            # writes vtabjax/bundled/sprites_resnet, minutes on two cores

The source task is shape x size x coarse place x coarse orientation: 3 shapes x 2 sizes x 2 x 2 places x 4 quarter
turns = 96 classes. The embedded tasks ask for 16 positions and 16 orientations; none of their pictures is among
those it is trained on. (Without the quarter turns, 144 classes of shape x size x place made the model blind to
orientation: its nearest neighbours found it less often, 8.5 %, than those of random weights, 14.2 %.)
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields of the pre-training."""
    c = ConfigDict()
    c.architecture = "test_resnet"  # of timm
    c.seed = 0  # of its initial weights and of the pictures
    c.image_size = 64  # pixels, the sprites' own size
    c.mean, c.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    c.learning_rate = 0.1
    c.decay_at = (0.6, 0.85)  # fractions of the steps after which the learning rate falls to a tenth
    c.warmup = 50  # steps
    c.batch_size = 64
    c.steps = 1024  # 65,536 pictures, each seen once
    c.round = 4096  # pictures rendered at a time
    c.test = 2048  # pictures, from the end of the stream, for the accuracy in source.json
    return c
