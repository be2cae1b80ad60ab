"""What all sweeps share: suites, models, images, devices, folders."""

from ml_collections import ConfigDict

from vtabjax import tasks

SUITES = ("mini", "vtab", "vtab_full")

# Models that are compared unless others are named.
MODELS = {
    # These need no download: raw pixels, the bundled pre-trained model beside its own architecture with random
    # weights, and three more families with random weights.
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
            f"suite {suite!r} is not known; choose from {', '.join(SUITES)} (configs/{protocol}.py:vtab)"
        )
    mini = suite == "mini"
    c = ConfigDict()
    c.protocol = protocol
    # "mini": embedded tasks; "vtab": 19 tasks, 1,000 examples; "vtab_full": full training sets
    c.suite = suite

    # What is compared on what. Comma-separated; models may be patterns: 'timm/resnet*'.
    c.models = ",".join(MODELS["mini" if mini else "vtab"])
    c.filter = ""  # conditions on models: 'licence!=non-commercial, parameters<50M, gflops<5'
    # Also folder:/pictures, table:/list.csv, hf:OWNER/NAME, tfds:name.
    c.tasks = ",".join(tasks.EMBEDDED if mini else tasks.VTAB)
    # Pictures of your own that belong together, by a regular expression on their paths, such as '(patient\d+)_':
    # never divided by a cut, never each other's neighbours, drawn together for intervals.
    c.group = ""
    c.folds = 0  # parts, each tested once, of your own pictures (linear, finetune); 0: a fifth is tested

    # Images. These change the numbers.
    c.image_size = 64 if mini else 224  # edge in pixels that models see; 0: each model's own
    # "vtab": as in the benchmark's code (TF1 bilinear, both edges); "bilinear", "bicubic" (antialiased, both edges);
    # "source": as each model's source evaluates it (its interpolation, aspect ratio kept, its crop).
    c.resize = "vtab"
    c.dtype = "float32"  # that models compute in; "bfloat16" is faster and changes the third digit
    # "native": as the model's spec says; "auto": the pooling that is best on the validation examples.
    c.features = "native"
    c.skip_broken = False  # leave out unreadable pictures of your own instead of stopping
    c.background = "white"  # behind transparent parts of your own pictures: a colour's name or '#rrggbb'
    c.seed = 0  # of protocols that draw random numbers

    # How it runs. These do not change the numbers.
    c.batch_size = 128  # images per step over all devices; halved automatically when memory runs out
    c.max_pixels = 178_956_970  # your own pictures with more pixels are refused before they are decoded
    c.retry_failed = False  # also run cells that failed in an earlier run
    c.dry_run = False  # print what would run, how much of it is done and how long it may take
    c.distributed = False  # several processes are one worker (a pod); automatic where JAX detects a cluster
    c.device_images_gb = -1.0  # images that stay on each device; -1: what fits (none on CPUs), 0: none
    c.convert_timeout = 30.0  # minutes after which the conversion of one model is given up
    c.convert_memory_gb = 0.0  # memory at which it is given up; 0: three quarters of what is free
    c.convert_ahead = 3  # converted models that may wait for their turn

    # Where --executor=slurm sends it. "" and 0: the cluster's default.
    s = c.slurm = ConfigDict()
    s.jobs = 8  # in the job array; each takes its share of the cells
    s.at_once = 0  # jobs that may run at the same time; 0: all
    s.partition = ""
    s.account = ""
    s.nodes = 1  # per job; with more than one, or more tasks, all processes of the job are one worker
    s.tasks = 1  # processes per node; for GPUs usually one per GPU
    s.gpus = 1  # per node
    s.cpus = 8  # per process
    s.memory_gb = 0  # per node
    s.minutes = 24 * 60  # after which a job is requeued and resumes
    s.requeues = 20  # of one job, at most
    s.extra = ""  # further sbatch options, comma-separated: constraint=a100,qos=low
    s.setup = ""  # a shell command to run before it starts, such as: module load cuda
    s.folder = ""  # for scripts and logs, on a disk that all nodes see [WORKDIR/slurm]
    s.wait = False  # wait for the end, show the table, exit with the sweep's status

    # Folders; "" is the default in brackets.
    c.data_dir = ""  # prepared TensorFlow data sets [their own default, ~/tensorflow_datasets]
    c.cache_dir = ""  # decoded and resized images; may be shared by workdirs [WORKDIR/cache/images]
    c.models_dir = ""  # converted models; may be shared by workdirs [WORKDIR/models]
    return c
