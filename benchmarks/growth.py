"""How cost grows with images, features, models, tasks and devices: python benchmarks/growth.py

Seconds at several sizes, the best of three after compilation, and the slope of their logarithms: 1 is in proportion,
2 the square. Sweeps are real ones (main.py, kNN), of one small architecture with several seeds, so that every model
is converted and compiled for itself. Devices are simulated on the same cores: they show what sharding costs, not what
more hardware brings. docs/scale.md rests on these slopes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import _alternate
import numpy as np

sys.path.insert(0, str(_alternate.ROOT))
EMBEDDED = ("digits", "sprites_location", "sprites_orientation")


def curve(sizes: Sequence[int], seconds: Callable[[int], float]) -> dict:
    found = {n: seconds(n) for n in sizes}
    slope = float(np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0])
    print(f"  {found}, slope {slope:.2f}", flush=True)
    return {"seconds": {str(n): s for n, s in found.items()}, "slope": slope}


def best(run: Callable[[], object], repeats: int = 3) -> float:
    run()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return min(found)


def features(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d), dtype=np.float32), np.arange(n) % 10


def knn_seconds(n: int, d: int) -> float:
    from vtabjax.protocols import knn

    return best(lambda: knn.leave_one_out(*features(n, d)))


def linear_seconds(n: int, d: int) -> float:
    from vtabjax.protocols import linear

    x, y = features(n, d)
    return best(lambda: linear.fit(x, y, c=1.0))


def extraction_seconds(n: int, devices: int = 1) -> float:
    """In a process of its own: the number of devices is fixed when JAX starts."""
    code = (
        "import numpy as np, converters, timm, growth\n"
        "from vtabjax import features, model\n"
        "graph, variables = converters.from_torch(timm.create_model('resnet18', num_classes=0), (3, 64, 64))\n"
        "info = {'mean': [0.5] * 3, 'std': [0.25] * 3, 'input_size': [3, 64, 64]}\n"
        "run = features.extractor(model.Parts(graph, variables, info), batch_size=64)\n"
        f"images = np.zeros(({n}, 64, 64, 3), np.uint8)\n"
        "print('seconds', growth.best(lambda: run(images)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{_alternate.ROOT}:{Path(__file__).parent}"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return float(out.stdout.split("seconds")[-1])


def sweep_seconds(models: int, tasks: int) -> float:
    names = ",".join(f"timm/test_resnet@random:{i}" for i in range(models))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "main.py", "--config=configs/knn.py", f"--workdir={folder}"]
        command += [f"--config.models={names}", f"--config.tasks={','.join(EMBEDDED[:tasks])}"]
        begun = time.perf_counter()
        subprocess.run(command, cwd=_alternate.ROOT, check=True, capture_output=True)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "growth.json")
    args = parser.parse_args()
    record = {**_alternate.environment("jax", "timm"), "curves": {}}
    curves = {
        "kNN, examples (D = 1,024)": ((1000, 2000, 4000, 8000, 16000), lambda n: knn_seconds(n, 1024)),
        "kNN, features (N = 4,000)": ((256, 512, 1024, 2048, 4096), lambda d: knn_seconds(4000, d)),
        "linear fit, examples (D = 1,024)": ((500, 1000, 2000, 4000), lambda n: linear_seconds(n, 1024)),
        "linear fit, features (N = 1,000)": ((256, 512, 1024, 2048, 4096), lambda d: linear_seconds(1000, d)),
        "extraction, images (resnet18, 64 px)": ((256, 512, 1024, 2048), extraction_seconds),
        "extraction, simulated devices": ((1, 2, 4), lambda n: extraction_seconds(512, n)),
        "kNN sweep, models (one task)": ((1, 2, 4, 8, 16), lambda n: sweep_seconds(n, 1)),
        "kNN sweep, tasks (two models)": ((1, 2, 3), lambda n: sweep_seconds(2, n)),
    }
    for name, (sizes, seconds) in curves.items():
        print(name, flush=True)
        record["curves"][name] = curve(sizes, seconds)
    _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
