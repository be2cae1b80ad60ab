"""Downloads and prepares the data sets of VTAB, each once, through tensorflow-datasets.

    python main.py --config=configs/prepare.py --config.check=true     # what is prepared, what is missing
    python main.py --config=configs/prepare.py                         # all 16 data sets: 86 GB of downloads
    python main.py --config=configs/prepare.py --config.tasks=dtd,pets,svhn

Prints a table: data set, tasks, state, bytes to download and on disk, what has to be downloaded by hand
(resisc45 and retinopathy) and where it goes. A data set that fails is reported at the end and does not stop the
others.
"""

from ml_collections import ConfigDict

from vtabjax import tasks

SUITES = {"vtab": tasks.VTAB, "vtab_full": tasks.VTAB, "mini": tasks.EMBEDDED}


def get_config(suite: str = "vtab") -> ConfigDict:
    """Suites: "vtab" and "vtab_full" (the same data sets), "mini" (embedded: nothing to prepare)."""
    if suite not in SUITES:
        raise ValueError(f"suite {suite!r} is not known; choose from {', '.join(SUITES)}")
    c = ConfigDict()
    c.protocol = "prepare"
    c.suite = suite
    c.tasks = ",".join(SUITES[suite])  # comma-separated
    c.check = False  # only print the table; exit status 1 if something is missing
    c.data_dir = ""  # where data sets go [tfds's default: $TFDS_DATA_DIR or ~/tensorflow_datasets]
    c.manual_dir = ""  # where manual downloads are [DATA_DIR/downloads/manual]
    c.file_format = "array_record"  # read without TensorFlow; "tfrecord" works too
    return c
