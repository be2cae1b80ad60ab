"""Sections of docs/benchmarks.md about the cheap protocols, and about sweeps of thousands of models."""

from __future__ import annotations

from collections.abc import Callable

Text = Callable[..., str]


def proxies(knn: dict, linear: dict, memory: dict, table: Text, origin: Text, gigabytes: Text) -> str:
    """Nearest neighbours and linear evaluation against their rivals."""
    rows = []
    for kind in ("normal", "rectified"):
        if kind in knn:
            seconds, times = knn[kind]["median_seconds"], knn[kind]["times_faster"]
            rows.append(
                [f"kNN, {kind} features", f"**{seconds['vtabjax']:.2f} s**"]
                + [f"{seconds[k]:.2f} s ({times[k]:.1f})" for k in times]
            )
    fits = [
        [f"{name}", f"{linear['median_seconds'][name]:.1f} s", f"{linear['times_faster'].get(name, 1):.0f}"]
        for name in linear["median_seconds"]
    ]
    excess = linear["largest_objective_excess_over_best"]
    for row, name in zip(fits, linear["median_seconds"], strict=True):
        row.append(f"{excess[name]:.1g}")
    return f"""## Leave-one-out nearest neighbours

{knn["task"]}; the neighbours are exact, and the same for all three. In brackets, how many times as fast vtabjax is.

{table(["", "vtabjax", *next(iter(knn[k] for k in ("normal", "rectified") if k in knn))["times_faster"]], rows)}

{memory["task"]}: {memory["seconds"]:.0f} s, {gigabytes(memory["peak_beyond_features_bytes"])} beyond the features themselves.

{origin(knn, memory)}

## Linear evaluation

{linear["task"]}. "Excess": how far the objective of the worst fit lies above the best known one, relative to it; scikit-learn stops
early unless it gets a smaller tolerance.

{table(["", "median", "times as long as vtabjax", "excess"], fits)}

{origin(linear)}
"""


def scores(record: dict, table: Text, origin: Text) -> str:
    """Scores and linear evaluation against one singular value decomposition, alone and beside busy neighbours."""
    settings = record["settings"]
    quiet, busy = record["quiet"], record["beside busy neighbours"]
    rows = []
    for name in ("ten scores", "linear"):
        for classes, found in quiet.items():
            beside = busy[classes]
            rows.append(
                [
                    name,
                    classes,
                    f"{found['seconds']['one SVD']:.2f} s",
                    f"**{found['seconds'][name]:.2f} s** ({found['times_one_svd'][name]:.2f})",
                    f"{beside['seconds'][name]:.2f} s ({beside['seconds'][name] / found['seconds'][name]:.2f})",
                ]
            )
    parts = {
        classes: sorted(found["seconds_by_score"].items(), key=lambda part: -part[1])[:3]
        for classes, found in quiet.items()
    }
    longest = "; ".join(
        f"{classes} classes: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in part)
        for classes, part in parts.items()
    )
    return f"""## Scores and linear evaluation beside one decomposition

{settings["n"]:,} x {settings["d"]:,} features. "Ten scores" is a cell of the protocol as a sweep runs it, "linear" 45 values of C, fitted again and
tested; compiling is left out. The measure is one singular value decomposition of the features by numpy, in the same process and as many
threads (one), which took turns with them; in brackets, how many of these the work takes. "Beside": the same with {settings["neighbours"]} processes that
multiply matrices all the time, and in brackets how many times as long that takes. The longest of the scores, the first one with the
decomposition that all of them share: {longest}.

{table(["", "classes", "one SVD", "alone (in SVDs)", "beside (times as long)"], rows)}

{origin(record)}
"""


def sweep_scale(record: dict, table: Text, origin: Text, gigabytes: Text) -> str:
    """What a large sweep costs apart from its arithmetic."""
    names = ("plan", "first look", "resume", "dry run when finished", "status", "report")
    rows = [
        [size]
        + [
            f"{found[name]['seconds']:.1f} s, {gigabytes(found[name]['peak_bytes'])}" if name in found else ""
            for name in names
        ]
        for size, found in record["sweeps"].items()
    ]
    pages = [
        [
            size,
            f"{found['page']['megabytes']:.0f} MB",
            f"{found['page']['ms_first_paint'] / 1000:.1f} s",
            f"{found['page']['ms_load'] / 1000:.1f} s",
        ]
        for size, found in record["sweeps"].items()
        if "page" in found
    ]
    workers = [
        [
            n,
            f"{found['cells']:,}",
            f"{found['written']:,}",
            f"{found['cells_per_second']:.0f}",
            f"{100 * found['cells_per_second'] / found['at_best']:.0f} %",
            f"{found['seconds_with_start']:.0f} s",
        ]
        for n, found in record["workers"].items()
    ]
    sleep = record["settings"]["sleep"]
    return f"""## Thousands of models

Results are made up, everything else is main.py on them: wall seconds and peak memory of whole commands. "Plan" is a dry run of a sweep that
has no results, "first look" the command of a finished sweep when it reads every result (and remembers what tables need), "resume"
the same command again.

{table(["models x tasks", *names], rows)}

The report's page in Chromium:

{table(["models x tasks", "size", "first paint", "loaded"], pages)}

Workers on one folder, whose cells do nothing but sleep for {sleep} s: "written" counts results that a worker found missing and wrote. "At
best" is the number of workers over that time.

{table(["workers", "cells", "written", "cells/s", "of the best", "with starting"], workers)}

{origin(record)}
"""
