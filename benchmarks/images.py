"""Images per second, decoded and resized: streaming, building the cache, reading it, against a torch DataLoader.

    python benchmarks/images.py [--images=1000] [--repeats=5] [--out=benchmarks/results/images.json]

All variants read the same JPEG files (made here, 500 x 375) and do the same work with the same library (Pillow
decodes; the resize is Pillow's bicubic, or this project's legacy bilinear in both). They take turns, so that
whatever else the machine does meets all of them; the median of the repeats is reported, by the clock and by
processor time (all threads and worker processes), which a busy machine changes less. The DataLoader keeps its
workers between epochs and its first epoch is not counted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from vtabjax import data, tasks
from vtabjax.data import decoding, images

SIZE, BATCH = 224, 64


def make_pictures(root: pathlib.Path, n: int) -> None:
    """Writes `n` smooth random pictures in two classes, some 50 kB each."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
        for split in ("train", "test"):  # nothing is tested here, but a task needs both
            (root / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture = coarse.resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(root / "train" / "ab"[i % 2] / f"{i:05d}.jpg", quality=90)


def torch_loader(files: list[str], method: str, workers: int):
    """A DataLoader that decodes and resizes; workers live on between epochs."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, i):
            # As torchvision's ImageFolder reads files; its Resize on a Pillow image is Pillow's.
            with open(files[i], "rb") as f:
                image = Image.open(f).convert("RGB")
            if method == "vtab":
                return torch.from_numpy(images.resize(image, SIZE, method).copy())
            return torch.from_numpy(np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))

    options = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    return DataLoader(Pictures(), batch_size=BATCH, num_workers=workers, **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="benchmarks/results/images.json")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    workers = decoding.default_workers()

    with tempfile.TemporaryDirectory() as temporary:
        root, cache = pathlib.Path(temporary, "pictures"), pathlib.Path(temporary, "cache")
        make_pictures(root, args.images)
        task = tasks.get(f"folder:{root}")
        files = [str(root / name) for name in data.load(task, "trainval", image_size=8).ids]

        def stream(method: str) -> int:
            batches = data.stream(task, "trainval", image_size=SIZE, batch_size=BATCH, resize=method)
            return sum(int(batch.mask.sum()) for batch in batches)

        def build(method: str) -> int:
            for file in cache.glob("*"):
                file.unlink()
            return len(data.load(task, "trainval", image_size=SIZE, resize=method, cache_dir=cache).images)

        def read(method: str) -> int:
            array = data.load(task, "trainval", image_size=SIZE, resize=method, cache_dir=cache).images
            copies = [np.array(array[i : i + BATCH]) for i in range(0, len(array), BATCH)]  # into memory
            return sum(map(len, copies))

        loaders = {
            (method, w): torch_loader(files, method, w)
            for method in ("bicubic", "vtab")
            for w in (0, workers)
        }

        def torch_epoch(key: tuple[str, int]) -> int:
            return sum(len(batch) for batch in loaders[key])

        variants: dict[str, Callable[[], int]] = {}
        for method in ("bicubic", "vtab"):
            variants[f"torch DataLoader, {workers} workers, {method}"] = lambda m=method: torch_epoch(
                (m, workers)
            )
            variants[f"torch DataLoader, in process, {method}"] = lambda m=method: torch_epoch((m, 0))
            variants[f"vtabjax stream, {workers} threads, {method}"] = lambda m=method: stream(m)
            variants[f"vtabjax load, cache built, {method}"] = lambda m=method: build(m)
            variants[f"vtabjax load, cache read, {method}"] = lambda m=method: read(m)

        rates: dict[str, list[float]] = {name: [] for name in variants}
        cpu_rates: dict[str, list[float]] = {name: [] for name in variants}
        for repeat in range(args.repeats + 1):
            for name, run in variants.items():
                start, cpu = time.perf_counter(), _processor_seconds(loaders.values())
                n = run()
                seconds, cpu = time.perf_counter() - start, _processor_seconds(loaders.values()) - cpu
                assert n == args.images, (name, n)
                if repeat:  # the first round warms up files and workers
                    rates[name].append(round(n / seconds, 1))
                    cpu_rates[name].append(round(n / cpu, 1))
            print(f"round {repeat} of {args.repeats}", file=sys.stderr)
        n_bytes = sum(os.path.getsize(f) for f in files) / len(files)

    packages = ("numpy", "pillow", "torch")
    result = {
        "command": "python benchmarks/images.py " + " ".join(sys.argv[1:]),
        "machine": {
            "processors": workers,
            "cpu": _cpu(),
            "platform": platform.platform(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in packages},
        "work": f"{args.images} JPEG files of 500 x 375, {n_bytes / 1e3:.0f} kB on average, to {SIZE} x {SIZE} uint8",
        "images_per_second": {name: {"median": statistics.median(r), "all": r} for name, r in rates.items()},
        "images_per_processor_second": {
            name: {"median": statistics.median(r), "all": r} for name, r in cpu_rates.items()
        },
    }
    out = pathlib.Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    for name, r in rates.items():
        cpu = statistics.median(cpu_rates[name])
        print(f"{statistics.median(r):8,.0f} images/s {cpu:8,.0f} per processor second  {name}")


def _processor_seconds(loaders) -> float:
    """Processor time of this process and of the loaders' workers, which live on between epochs."""
    seconds = time.process_time()
    for loader in loaders:
        for worker in getattr(loader._iterator, "_workers", []):
            fields = pathlib.Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
