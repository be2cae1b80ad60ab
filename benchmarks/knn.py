"""Leave-one-out 1-nearest neighbour against faiss and scikit-learn, on 10,000 x 2,048 float32 features.

    pip install -r requirements-bench.txt
    python benchmarks/knn.py --out=benchmarks/results/knn.json

All three run in one process on the same cores, in turn; times are medians over --repeats. faiss is its exact
IndexFlatL2, adding included, asked for two neighbours (an example finds itself); scikit-learn is brute force.
"normal" features are independent Gaussians, the hardest case for reduced precision; "rectified" ones are non-negative
and correlated. CPU time (of all threads) is reported beside the time that passed, since other work on the machine
disturbs it less.

    python benchmarks/knn.py --memory --n=100000

measures the peak memory of one leave-one-out beyond the features instead.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import _alternate
import numpy as np


def features(kind: str, n: int, d: int) -> np.ndarray:
    """[n, d] float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "rectified":
        mixing = rng.normal(size=(d, d)) * np.arange(1, d + 1) ** -0.5 / np.sqrt(d)
        x = np.maximum(x @ mixing.astype(np.float32), 0)
    return x


def peak() -> int:
    """The process's peak memory in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment(args) -> dict:
    import jax

    return {
        "command": "python " + " ".join(sys.argv),
        "machine": f"{_alternate.processor()}, {args.threads} of {os.cpu_count()} cores, "
        + jax.devices()[0].device_kind,
        "load_average": os.getloadavg(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    }


def memory(args) -> dict:
    from vtabjax.protocols import knn

    y = np.arange(args.n) % 10
    small = features("normal", 1100, args.d)
    knn.leave_one_out(small, y[:1100])  # imports and compilation
    x = features("normal", args.n, args.d)
    before = peak()
    start = time.perf_counter()
    found = knn.leave_one_out(x, y)
    seconds = time.perf_counter() - start
    rows = np.random.default_rng(1).integers(0, args.n, 20)
    right = []
    for i in rows:
        d = np.concatenate(
            [((x[s : s + 4096].astype(np.float64) - x[i]) ** 2).sum(1) for s in range(0, args.n, 4096)]
        )
        d[i] = np.inf
        right.append(d.argmin() == found.neighbours[i, 0])
    return environment(args) | {
        "task": f"leave-one-out, {args.n} x {args.d} float32",
        "features_bytes": x.nbytes,
        "peak_beyond_features_bytes": peak() - before,
        "seconds": seconds,
        "checked_rows_right": float(np.mean(right)),
    }


def speed(args) -> dict:
    import faiss
    import sklearn
    from sklearn.neighbors import NearestNeighbors

    from vtabjax.protocols import knn

    faiss.omp_set_num_threads(args.threads)
    y = np.arange(args.n) % 10

    def ours(x):
        return knn.leave_one_out(x, y).neighbours[:, 0]

    def by_faiss(x):
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        found = index.search(x, 2)[1]
        return np.where(found[:, 0] == np.arange(len(x)), found[:, 1], found[:, 0])

    def by_sklearn(x):
        return (
            NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors(return_distance=False)[:, 0]
        )

    contenders = {"vtabjax": ours, "faiss IndexFlatL2": by_faiss, "scikit-learn brute": by_sklearn}
    result = environment(args)
    result["task"] = f"leave-one-out 1-nearest neighbour, {args.n} x {args.d} float32"
    result["versions"] |= {"faiss": faiss.__version__, "scikit-learn": sklearn.__version__}
    for kind in args.kinds.split(","):
        x = features(kind, args.n, args.d)
        start = time.perf_counter()
        expected = ours(x)
        first = time.perf_counter() - start
        seconds = {name: [] for name in contenders}
        cpu = {name: [] for name in contenders}
        same = {}
        for _ in range(args.repeats):
            for name, run in contenders.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                found = run(x)
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
                same[name] = float(np.mean(found == expected))
                print(f"{kind} {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
        medians = {name: float(np.median(s)) for name, s in seconds.items()}
        work = {name: float(np.median(s)) for name, s in cpu.items()}
        result[kind] = {
            "seconds_first_call_with_compilation": first,
            "seconds": seconds,
            "median_seconds": medians,
            "times_faster": {n: m / medians["vtabjax"] for n, m in medians.items() if n != "vtabjax"},
            "median_cpu_seconds": work,
            "times_less_cpu_time": {n: m / work["vtabjax"] for n, m in work.items() if n != "vtabjax"},
            "same_neighbours": same,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kinds", default="normal,rectified")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out")
    args = parser.parse_args()
    # Before anything starts its threads: XLA takes as many as there are cores, the others ask the environment.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    result = memory(args) if args.memory else speed(args)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            f.write(text + "\n")


if __name__ == "__main__":
    main()
