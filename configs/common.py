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
      protocol: "knn", "linear", "transferability" or "finetune".
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
    # "mini": embedded tasks; "vtab": 19 tasks, 1,000 examples; "vtab_full": full training sets
    c.suite = suite

    # What is compared on what. Comma-separated; models may be patterns: 'timm/resnet*'.
    c.models = ",".join(MODELS["mini" if mini else "vtab"])
    c.tasks = ",".join(tasks.EMBEDDED if mini else tasks.VTAB)  # also folder:/path/to/pictures

    # Images. These change the numbers.
    c.image_size = 64 if mini else 224  # edge in pixels that models see; 0: each model's own
    c.resize = "vtab"  # "vtab": as the benchmark's code (TF1 bilinear, both edges); "bilinear", "bicubic"
    c.dtype = "float32"  # what models compute in; "bfloat16" is faster and changes the third digit
    c.features = "native"  # as specs say; "auto": the pooling that is best on the validation examples
    c.skip_broken = False  # leave out pictures of a folder that cannot be read, instead of stopping
    c.background = "white"  # under transparent parts of the pictures of a folder: a colour's name, '#rrggbb'
    c.seed = 0  # of protocols that draw random numbers

    # How it runs. These do not change the numbers.
    c.batch_size = 128  # images per step over all devices; halved by itself when memory runs out
    c.max_pixels = 178_956_970  # pictures of a folder with more are refused before they are decoded
    c.retry_failed = False  # try cells again that failed in an earlier run
    c.dry_run = False  # print what would run, how much of it is done and how long it may take
    c.distributed = False  # several processes are one worker (a pod); by itself where JAX detects a cluster
    c.device_images_gb = -1.0  # images that stay on each device; -1: what fits (nothing on CPUs), 0: none
    c.convert_timeout = 30.0  # minutes after which converting one model is given up
    c.convert_memory_gb = 0.0  # memory at which it is given up; 0: three quarters of what is free
    c.convert_ahead = 3  # converted models that wait for their turn, at most

    # Where --executor=slurm sends it. "" and 0: what the cluster does by itself.
    s = c.slurm = ConfigDict()
    s.jobs = 8  # elements of the job array; each takes its share of the cells
    s.at_once = 0  # of them that run at the same time, at most; 0: all
    s.partition = ""
    s.account = ""
    s.nodes = 1  # of each job; with more, or with tasks, its processes are one worker
    s.tasks = 1  # processes on each node; for GPUs usually one per GPU
    s.gpus = 1  # of each node
    s.cpus = 8  # of each process
    s.memory_gb = 0  # of each node
    s.minutes = 24 * 60  # after which a job is requeued and goes on
    s.requeues = 20  # how often that may happen
    s.extra = ""  # further options of sbatch, comma-separated: constraint=a100,qos=low
    s.setup = ""  # a line of shell before it starts, such as: module load cuda
    s.folder = ""  # its scripts and logs, on a disk that all nodes see [WORKDIR/slurm]
    s.wait = False  # wait for the end, show the table, exit with its status

    # Folders; "" is the default in brackets.
    c.data_dir = ""  # prepared TensorFlow data sets [their own default, ~/tensorflow_datasets]
    c.cache_dir = ""  # decoded and resized images; may be shared by workdirs [WORKDIR/cache/images]
    c.models_dir = ""  # converted models; may be shared by workdirs [WORKDIR/models]
    return c
