"""What a workdir holds, from its files alone.

python main.py --config=configs/report.py:status --workdir=runs/vtab    # how the sweeps stand, running or finished
"""

from ml_collections import ConfigDict

SUITES = ("html", "status")


def get_config(suite: str = "html"):
    """What to show of a workdir.

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; there are {', '.join(SUITES)} (configs/report.py:status)"
        )
    c = ConfigDict()
    c.protocol = "report"
    c.suite = suite
    return c
