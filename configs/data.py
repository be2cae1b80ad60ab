"""A look at the data before they are used: a page per task with classes, pictures, copies and doubtful labels.

    python main.py --config=configs/data.py --config.tasks=folder:/path/to/pictures --workdir=runs/birds
    python main.py --config=configs/data.py --config.tasks=table:/path/to/list.csv,hf:OWNER/NAME --workdir=runs/birds
    python main.py --config=configs/data.py:vtab --config.tasks=dtd,svhn    # of VTAB what a sweep reads of it

Writes WORKDIR/data/<task>.html (self-contained, works offline). docs/data.md says what is in it and how it is found.
"""

from ml_collections import ConfigDict

from vtabjax import tasks

SUITES = {"mini": tasks.EMBEDDED, "vtab": tasks.VTAB}


def get_config(suite: str = "mini") -> ConfigDict:
    """Suites: "mini" (the embedded tasks), "vtab" (train800, val200 and test of its nineteen).

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; choose from {', '.join(SUITES)} (configs/data.py:vtab)"
        )
    c = ConfigDict()
    c.protocol = "data"
    c.suite = suite
    # Comma-separated; also folder:/pictures, table:/list.csv, hf:OWNER/NAME, tfds:name.
    c.tasks = ",".join(SUITES[suite])
    c.group = ""  # pictures that belong together, by a regular expression: as in configs/common.py

    # Pictures as models see them. With the values of a sweep they are in its image cache already.
    c.image_size = 224  # edge in pixels
    c.resize = "vtab"  # "vtab", "bilinear", "bicubic": as in configs/common.py
    c.background = "white"  # behind transparent parts of your own pictures: a colour's name or '#rrggbb'
    c.max_pixels = 178_956_970  # your own pictures with more pixels are refused before they are decoded

    c.per_class = 20  # pictures that are shown of each class, at most
    c.seed = 0  # of their choice

    # Folders; "" is the default in brackets.
    c.data_dir = ""  # prepared TensorFlow data sets [their own default, ~/tensorflow_datasets]
    c.cache_dir = ""  # decoded and resized images; may be shared with sweeps [WORKDIR/cache/images]
    return c
