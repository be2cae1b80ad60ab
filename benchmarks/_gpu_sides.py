"""The sides of gpu.py: what one process of it runs, round after round. `serve` answers lines on stdin."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _alternate
import _gpu_kernels
import numpy as np

sys.path.insert(0, str(_alternate.ROOT))

MEAN, STD = 0.5, 0.25
CLASSES = 100
# By part: the real size and the one that shows that everything runs.
SIZES = {
    "edge": (224, 64),
    "extraction_batch": (256, 2),
    "extraction_batches": (8, 2),
    "training_batch": (64, 2),
    "training_steps": (50, 2),
    "matrix": (8192, 128),
    "knn_examples": (100_000, 300),
    "features": (2048, 16),
    "score_examples": (1000, 120),
    "score_classes": (47, 4),
}

Round = Callable[[], dict[str, Any]]  # one round of a side; what it found beside its time


def size(args: argparse.Namespace, what: str) -> int:
    return SIZES[what][args.small]


# What the sides have in common.


def torch_device(args: argparse.Namespace) -> str:
    return "cuda" if args.device == "gpu" else "cpu"


def torch_compiler(args: argparse.Namespace) -> str:
    return "eager" if args.small else "inductor"  # the C++ that inductor writes takes minutes to compile


def timm_module(name: str, edge: int):
    from converters import _compat  # noqa: F401  (before timm, which imports torchvision)

    # isort: split
    import timm

    options = {"img_size": edge} if "vit" in name else {}
    return timm.create_model(name, num_classes=0, **options)


def jax_parts(name: str, edge: int):
    import converters
    from vtabjax import model

    graph, variables = converters.from_torch(timm_module(name, edge).eval(), (3, edge, edge))
    info = {"mean": [MEAN] * 3, "std": [STD] * 3, "input_size": [3, edge, edge]}
    return model.SavedModel(graph, variables, info)


def pictures(n: int, edge: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, edge, edge, 3), np.uint8)


def jax_memory() -> dict[str, int]:
    import jax

    return {"peak_device_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)}


def torch_memory(args: argparse.Namespace) -> dict[str, int]:
    import torch

    return {"peak_device_bytes": torch.cuda.max_memory_allocated() if args.device == "gpu" else 0}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """XLA measures kernels to choose among them: the sides of vtabjax compile one after the other."""
    with open(Path(tempfile.gettempdir()) / "vtabjax-benchmark-compiles", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The chip.


def chip_jax(args: argparse.Namespace) -> Round:
    import jax
    import jax.numpy as jnp

    n = size(args, "matrix")
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), jnp.bfloat16)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    large = jnp.zeros(16 * n * n, jnp.float32)
    return lambda: {
        "teraflops": 2 * n**3 / each(lambda: product(a, b), jax.block_until_ready) / 1e12,
        "copy_gigabytes_per_second": 2
        * large.nbytes
        / each(lambda: copy(large), jax.block_until_ready)
        / 1e9,
    }


def chip_torch(args: argparse.Namespace) -> Round:
    import torch

    n, device = size(args, "matrix"), torch_device(args)
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
    large, target = (torch.zeros(16 * n * n, device=device) for _ in range(2))

    def wait(_: object) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return lambda: {
        "teraflops": 2 * n**3 / each(lambda: a @ b, wait) / 1e12,
        "copy_gigabytes_per_second": 8 * len(large) / each(lambda: target.copy_(large), wait) / 1e9,
    }


def each(run: Callable[[], Any], wait: Callable[[Any], object], n: int = 20) -> float:
    """Seconds of one of `n` runs after a first."""
    wait(run())
    begun = time.perf_counter()
    for _ in range(n):
        last = run()
    wait(last)
    return (time.perf_counter() - begun) / n


# Extraction.


def extraction_jax(args: argparse.Namespace, name: str) -> Round:
    from vtabjax import features
    from vtabjax.features.device_images import DeviceImageCache
    from vtabjax.model import flops
    from vtabjax.runtime import devices

    edge, batch = size(args, "edge"), size(args, "extraction_batch")
    parts, mesh = jax_parts(name, edge), devices.data_mesh()
    images = pictures(batch * size(args, "extraction_batches"), edge)
    run = features.extractor(
        parts, mesh=mesh, batch_size=batch, dtype="bfloat16", images=DeviceImageCache(mesh, room=8e9)
    )
    work = flops.count(parts.graph.select({"features": "features"}))

    def one_round() -> dict[str, Any]:
        run(images)
        return {"flops_per_image": work, **jax_memory()}

    with alone():
        one_round()
    return one_round


def extraction_torch(args: argparse.Namespace, name: str, own_weights: bool) -> Round:
    import torch

    edge, batch, device = size(args, "edge"), size(args, "extraction_batch"), torch_device(args)
    module = timm_module(name, edge).eval().to(device, memory_format=torch.channels_last)
    if own_weights:
        module = module.bfloat16()
    images = torch.from_numpy(pictures(batch * size(args, "extraction_batches"), edge)).to(device)

    @torch.compile(backend=torch_compiler(args))
    def forward(x):
        x = x.permute(0, 3, 1, 2).float().div(255).sub(MEAN).div(STD)
        return module(x.bfloat16() if own_weights else x).float()

    def one_round() -> dict[str, Any]:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=not own_weights):
            torch.cat([forward(part) for part in images.split(batch)]).cpu()
        return torch_memory(args)

    return one_round


# Training.


def training_jax(args: argparse.Namespace, name: str) -> Round:
    from vtabjax.model import flops
    from vtabjax.protocols import finetune

    edge, batch, n = size(args, "edge"), size(args, "training_batch"), size(args, "training_steps")
    parts = jax_parts(name, edge)
    own = finetune.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=batch, dtype="bfloat16")
    trainer = finetune.Trainer(finetune.trainable(parts, own), own, classes=CLASSES, capacity=1000)
    run = finetune.plan(own, learning_rate=0.01, steps=2500, classes=CLASSES, seed=0)
    labels = np.random.default_rng(1).integers(0, CLASSES, 1000).astype(np.int32)
    data, state = trainer.data(pictures(1000, edge), labels), [trainer.initial_state()]
    work = 3 * flops.count(parts.graph.select({"features": "features"}))

    def one_round() -> dict[str, Any]:
        state[0], losses, _ = trainer.train_steps(state[0], data, run, n)
        return {"flops_per_image": work, "loss": float(losses[-1]), **jax_memory()}

    with alone():
        one_round()
    return one_round


def training_torch(args: argparse.Namespace, name: str) -> Round:
    import torch

    edge, batch, device = size(args, "edge"), size(args, "training_batch"), torch_device(args)
    trunk = timm_module(name, edge)
    module = torch.nn.Sequential(trunk, torch.nn.Linear(trunk.num_features, CLASSES)).to(device).train()
    module = module.to(memory_format=torch.channels_last)
    torch.nn.init.zeros_(module[1].weight)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, fused=True)
    images = torch.from_numpy(pictures(1000, edge)).to(device)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, 1000)).to(device)

    @torch.compile(backend=torch_compiler(args))
    def loss_of(index):
        x = images[index].permute(0, 3, 1, 2).float().div(255).sub(MEAN).div(STD)
        with torch.autocast(device, torch.bfloat16):
            logits = module(x.contiguous(memory_format=torch.channels_last))
        return torch.nn.functional.cross_entropy(logits.float(), labels[index])

    def one_round() -> dict[str, Any]:
        for _ in range(size(args, "training_steps")):
            loss = loss_of(torch.randperm(1000, device=device)[:batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {"loss": loss.item(), **torch_memory(args)}

    return one_round


# Nearest neighbours.


def knn_features(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    n, d = size(args, "knn_examples"), size(args, "features")
    return np.random.default_rng(0).standard_normal((n, d), np.float32), np.arange(n) % 10


def knn_jax(args: argparse.Namespace) -> Round:
    from vtabjax.protocols import knn

    x, y = knn_features(args)

    def one_round() -> dict[str, Any]:
        return {
            "checksum": int(knn.leave_one_out(x, y).neighbours[:, 0].astype(np.int64).sum()),
            **jax_memory(),
        }

    return one_round


def knn_torch(args: argparse.Namespace) -> Round:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    x, _ = knn_features(args)

    def one_round() -> dict[str, Any]:
        rows = torch.from_numpy(x).to(torch_device(args))
        norms, found = rows.square().sum(1), []
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192]
            distances = torch.addmm(norms, part, rows.T, alpha=-2)
            here = torch.arange(len(part), device=rows.device)
            distances[here, start + here] = torch.inf
            found.append(distances.argmin(1))
        return {"checksum": int(torch.cat(found).sum()), **torch_memory(args)}

    return one_round


def knn_faiss(args: argparse.Namespace) -> Round:
    import faiss

    x, _ = knn_features(args)

    def one_round() -> dict[str, Any]:
        index = faiss.IndexFlatL2(x.shape[1])
        if args.device == "gpu":
            index = faiss.index_cpu_to_all_gpus(index)
        index.add(x)
        found = index.search(x, 2)[1]
        nearest = np.where(found[:, 0] == np.arange(len(x)), found[:, 1], found[:, 0])
        return {"checksum": int(nearest.sum())}

    return one_round


# Scores.


def scores(args: argparse.Namespace) -> Round:
    from vtabjax import options
    from vtabjax.protocols import transferability

    n, d, c = size(args, "score_examples"), size(args, "features"), size(args, "score_classes")
    rng = np.random.default_rng(0)
    labels = np.arange(n) % c
    x = np.maximum(rng.normal(size=(c, d))[labels] + 3 * rng.normal(size=(n, d)), 0).astype(np.float32)
    source = rng.dirichlet(np.ones(100), n)

    def one_round() -> dict[str, Any]:
        seconds = {}
        begun = time.perf_counter()
        np.linalg.svd(x.astype(np.float64) - x.mean(0), full_matrices=False)
        seconds["one SVD"] = time.perf_counter() - begun
        features = transferability.Decomposed(x)
        for score in options.SCORES:
            begun = time.perf_counter()
            first = {"leep": source, "nce": source}.get(score, features)
            if score in transferability.UNSAFE_WHEN_WIDE:
                first = transferability.pca(features, min(64, d))
            getattr(transferability, score)(first, labels)
            seconds[score] = time.perf_counter() - begun
        return {"seconds_by_score": seconds}

    return one_round


def prepare(args: argparse.Namespace) -> Round:
    """The round of the side that --side names."""
    part, name, side = args.side.split("|")
    makers: dict[tuple[str, str], Callable[[], Round]] = {
        ("chip", "JAX"): lambda: chip_jax(args),
        ("chip", "PyTorch"): lambda: chip_torch(args),
        ("extraction", "vtabjax"): lambda: extraction_jax(args, name),
        ("extraction", "PyTorch compiled, autocast"): lambda: extraction_torch(args, name, False),
        ("extraction", "PyTorch compiled, bfloat16 weights"): lambda: extraction_torch(args, name, True),
        ("training", "vtabjax"): lambda: training_jax(args, name),
        ("training", "PyTorch compiled, autocast"): lambda: training_torch(args, name),
        ("knn", "vtabjax"): lambda: knn_jax(args),
        ("knn", "PyTorch float32"): lambda: knn_torch(args),
        ("knn", "faiss"): lambda: knn_faiss(args),
        ("scores", "vtabjax"): lambda: scores(args),
    }
    return makers[part, side]()


def serve(args: argparse.Namespace) -> None:
    begun = time.perf_counter()
    run = prepare(args)
    run()
    print(json.dumps({"start_seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        if line.strip() == "kernels":
            print(json.dumps({"kernels": _gpu_kernels.of(run, args.side.split("|")[2])}), flush=True)
            continue
        begun = time.perf_counter()
        found = run()
        print(json.dumps({"wall": time.perf_counter() - begun, **found}), flush=True)
