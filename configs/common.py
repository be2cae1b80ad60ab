"""What all sweeps share: suites, models, images, devices, folders."""

from ml_collections import ConfigDict

from vtabjax import tasks

SUITES = ("mini", "vtab", "vtab_full")

# Models that are compared unless others are named.
MODELS = {
    # Needs no download: the images themselves, the pre-trained model in the box beside its own architecture with
    # random weights, and random weights of three more families.
    "mini": (
        "baseline/pixels",
        "embedded/sprites_resnet",
        "timm/test_resnet@random",
        "timm/resnet18@random",
        "timm/vit_tiny_patch16_224@random",
        "timm/mobilenetv3_small_100@random",
    ),
    "vtab": (
        "baseline/pixels",
        "timm/resnet50@random",
        "torchvision/resnet50.IMAGENET1K_V2",
        "timm/resnet50.a1_in1k",
        "timm/convnext_tiny.fb_in1k",
        "timm/vit_small_patch16_224.augreg_in21k",
        "timm/vit_small_patch14_dinov2.lvd142m",
    ),
}


def base(protocol: str, suite: str) -> ConfigDict:
    """The fields of every sweep.

    Args:
      protocol: "knn", "linear" or "transferability".
      suite: what comes after the colon in ``--config=configs/knn.py:vtab``.

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; there are {', '.join(SUITES)} (configs/{protocol}.py:vtab)"
        )
    mini = suite == "mini"
    c = ConfigDict()
    c.protocol = protocol
    c.suite = (
        suite  # "mini": embedded tasks; "vtab": 19 tasks, 1,000 examples; "vtab_full": full training sets
    )

    # What is compared on what. Comma-separated; models may be patterns: 'timm/resnet*'.
    c.models = ",".join(MODELS["mini" if mini else "vtab"])
    c.tasks = ",".join(tasks.EMBEDDED if mini else tasks.VTAB)  # also folder:/path/to/pictures

    # Images. These change the numbers.
    c.image_size = 64 if mini else 224  # edge in pixels that models see; 0: each model's own
    c.resize = "vtab"  # "vtab": as the benchmark's code (TF1 bilinear, both edges); "bilinear", "bicubic"
    c.dtype = "float32"  # what models compute in; "bfloat16" is faster and changes the third digit
    c.skip_broken = False  # leave out pictures of a folder that cannot be read, instead of stopping
    c.seed = 0  # of protocols that draw random numbers

    # How it runs. These do not change the numbers.
    c.batch_size = 128  # images per step over all devices; halved by itself when memory runs out
    c.retry_failed = False  # try cells again that failed in an earlier run
    c.dry_run = False  # print what would run, how much of it is done and how long it may take
    c.convert_timeout = 30.0  # minutes after which converting one model is given up

    # Folders; "" is the default in brackets.
    c.data_dir = ""  # prepared TensorFlow data sets [their own default, ~/tensorflow_datasets]
    c.cache_dir = ""  # decoded and resized images; may be shared by workdirs [WORKDIR/cache/images]
    c.models_dir = ""  # converted models; may be shared by workdirs [WORKDIR/models]
    return c
