"""The answer: a ranking with its uncertainty, as one HTML page, and the same tables and figures for papers.

    python main.py --config=configs/report.py --workdir=runs/mini
    python main.py --config=configs/report.py --workdir=runs/vtab --config.published=vtab
    python main.py --config=configs/report.py:status --workdir=runs/vtab    # the state of sweeps, running or finished
    python main.py --config=configs/report.py:pack --workdir=runs/vtab --config.pack=mine.parquet  # results for others

Reads the results of all protocols in a workdir and writes WORKDIR/report: report.html (self-contained, works offline),
tables/ (CSV, Markdown, LaTeX) and figures/ (PDF, PNG). docs/report.md says what is in it and how it is computed.
"""

from ml_collections import ConfigDict

SUITES = ("html", "status", "pack")


def get_config(suite: str = "html") -> ConfigDict:
    """Suites: "html", the page; "status", the state of a workdir's sweeps; "pack", all results in one file for others.

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; choose from {', '.join(SUITES)} (configs/report.py:status)"
        )
    c = ConfigDict()
    c.protocol = "report"
    c.suite = suite
    c.title = ""  # of the page [the workdir's name]
    # Others' results as rows: "vtab" (the benchmark's own table), "mini" (small models on the embedded tasks), CSV
    # files and packs (.parquet), comma-separated.
    c.published = ""
    c.imagenet = ""  # CSV file with columns model, top1: a baseline for the proxies
    c.reference = ""  # model whose strength is 0 [the mean strength is 0]
    # By what models are ranked: "accuracy"; "balanced_accuracy", the mean of the accuracies on each class.
    c.score = "accuracy"
    c.filter = ""  # conditions on the models that are shown: 'licence!=non-commercial, parameters<50M'

    # Uncertainty.
    c.resamples = 1000  # draws of tasks, test examples and models
    c.seed = 0  # of the draws
    c.tie_margin = 0.0  # difference of accuracies, in points, up to which two models tie
    c.example_rounds = 0  # n: a round of EPP is one of n resamples of a task's examples; 0: a round is a task

    # The file of results for others.
    c.pack = ""  # where it goes [WORKDIR/pack.parquet]
    c.who = ""  # who made them, in a line, for others to see
    c.licence = ""  # under which others may use them, such as CC-BY-4.0

    c.figures = True  # write PDF and PNG, which takes longer than the rest
    # Converted models, for results of versions that did not describe theirs [WORKDIR/models].
    c.models_dir = ""
    return c
