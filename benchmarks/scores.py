"""Transferability scores and linear evaluation against one SVD of the features: python benchmarks/scores.py

N x D features of C classes, one process and one thread for numpy's work on either side. "ten scores" is a cell of the
protocol as a sweep runs it; "linear" chooses among 45 values of C, fits again and tests. The SVD (numpy's, of the same
features in float64, full_matrices=False) takes turns with them, and is what the scores would begin with otherwise.
The last part repeats all of it beside two processes that multiply matrices, as a conversion and a second worker would.
Compilation (of linear) is not in the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _alternate
import linear as linear_benchmark
import numpy as np
from threadpoolctl import threadpool_limits

from vtabjax import options
from vtabjax.protocols import linear
from vtabjax.sweep import inputs
from vtabjax.sweep.adapters import transferability


def multiply_forever() -> None:
    """A busy neighbour, of one thread."""
    threadpool_limits(1)
    x = np.random.default_rng(0).normal(size=(600, 600))
    while True:
        x @ x


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """`n` processes that work meanwhile."""
    neighbours = [
        multiprocessing.get_context("spawn").Process(target=multiply_forever, daemon=True) for _ in range(n)
    ]
    for neighbour in neighbours:
        neighbour.start()
    time.sleep(2 if n else 0)  # they import numpy first
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.join()


def sides(n: int, d: int, classes: int) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What takes turns; and where the scores' seconds go, filled by each call."""
    x, y = linear_benchmark.features(n, d, classes)
    logits = 3 * np.random.default_rng(1).normal(size=(n, 1000)).astype(np.float32)
    split = SimpleNamespace(features=x, labels=y, logits=logits)
    settings = {
        "splits": ["train800val200"],
        "scores": list(options.SCORES),
        "pca_components": 64,
        "seed": 0,
        "nleep_seeds": 5,
    }
    by_score: dict[str, float] = {}
    cut = n * 4 // 5
    test = linear_benchmark.features(n, d, classes, seed=1)

    def scores() -> None:
        stages = inputs.Stages()
        context = SimpleNamespace(split=lambda name, logits=False: split, stages=stages)
        transferability.run(context, settings)
        by_score.clear()
        by_score.update(stages.seconds)

    return {
        "one SVD": lambda: np.linalg.svd(x.astype(np.float64), full_matrices=False),
        "ten scores": scores,
        "linear": lambda: linear.evaluate((x[:cut], y[:cut]), (x[cut:], y[cut:]), test),
    }, by_score


def measured(args: argparse.Namespace, classes: int, neighbours: int) -> dict:
    """Medians of the rounds, and how many SVDs they are."""
    called, by_score = sides(args.n, args.d, classes)
    rounds: dict[str, list[float]] = {name: [] for name in called}
    with threadpool_limits(1):
        called["linear"]()  # compiles
        with busy(neighbours):
            for _ in range(args.rounds):
                for name, call in called.items():
                    begun = time.perf_counter()
                    call()
                    rounds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(of) for name, of in rounds.items()}
    return {
        "seconds": medians,
        "times_one_svd": {name: s / medians["one SVD"] for name, s in medians.items()},
        "seconds_by_score": dict(by_score),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 47, 102])
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "scores.json")
    args = parser.parse_args()
    record = {
        **_alternate.environment("numpy", "scipy", "scikit-learn", "jax"),
        "settings": {"n": args.n, "d": args.d, "rounds": args.rounds, "neighbours": args.neighbours},
    }
    for neighbours, part in ((0, "quiet"), (args.neighbours, "beside busy neighbours")):
        record[part] = {}
        for classes in args.classes:
            record[part][classes] = measured(args, classes, neighbours)
            print(part, classes, json.dumps(record[part][classes]["seconds"]), os.getloadavg(), flush=True)
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
