"""What several test files use: a tiny converted model, and converters that only copy it."""

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Before torch starts its threads: those of several processes wait for each other actively, and torch's float64
# convolutions by group take ten times as long with two threads on busy cores as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests do not depend on which way of an operator happens to be faster while they run.
os.environ.setdefault("VTABJAX_AUTOTUNE", "0")
# The terminal from which the tests are started is none of theirs: tables would be cut to its width.
os.environ.pop("COLUMNS", None)

import numpy as np
import pytest

pytest_plugins = ["chromium"]  # fixtures: one browser for all tests of pages

ROOT = Path(__file__).resolve().parent.parent

PROGRAMS = ROOT / "tests" / "programs"


# Compiling is most of what tests wait for, and their programs run for milliseconds: XLA leaves out what makes programs
# faster. With XLA_FLAGS set, even to nothing, tests run as its users compile.
_QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Before xdist starts its workers: they and the processes that tests start share what is compiled in one run."""
    if "XLA_FLAGS" not in os.environ:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": _QUICK_COMPILATION}
        # A version of XLA that does not know a flag ends the process.
        known = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True
        )
        os.environ["XLA_FLAGS"] = "" if known.returncode else _QUICK_COMPILATION
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="vtabjax-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_xdist_auto_num_workers():
    """One more than there are cores: many tests wait for a process, a browser or a disk."""
    return (os.cpu_count() or 1) + 1


# Files whose tests share nothing that is costly to make. They come last, so that workers end together.
_SPREAD = {
    f"test_{name}"
    for name in ("distributed", "finetune_survival", "main", "parity", "resume", "training_step")
}


@pytest.hookimpl(tryfirst=True)  # before xdist, which puts the groups into the tests' names
def pytest_collection_modifyitems(items):
    """What the tests of a file share (data sets, models, compiled programs) is made by one worker, not by each."""
    items.sort(key=lambda item: item.path.stem in _SPREAD)
    for item in items:
        if item.path.stem not in _SPREAD and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish():
    """What imported libraries hold stays: no garbage collection looks through it again."""
    gc.collect()
    gc.freeze()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_devices(count: int) -> dict[str, str]:
    """The environment of a process that has `count` CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def picture(path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (9, 6)) -> None:
    """Saves a picture of one colour, in the kind that the name's ending says."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def fill_with_pictures(root: Path, **classes: int) -> None:
    """Puts `n` different pictures into each class's folder."""
    for cls, n in classes.items():
        for i in range(n):
            picture(root / cls / f"{i:03d}.png", (i, 100, 0))


def tiny_graph(head: bool = False, size: int = 16):
    """Average-pooled to 4x4, flattened, a linear layer to 24 features; with `head` one to 5 logits."""
    from vtabjax.graph import Graph, Node, Ref, Variable

    nodes = [
        Node("pool", "aten.adaptive_avg_pool2d.default", (Ref("value", "input"), (4, 4)), {}),
        Node("flat", "aten.flatten.using_ints", (Ref("value", "pool"), 1), {}),
        Node("fc", "aten.linear.default", (Ref("value", "flat"), Ref("variable", "w")), {}),
    ]
    outputs = {"features": Ref("value", "fc")}
    variables = {"w": Variable((24, 48), "float32", "parameter")}
    if head:
        nodes.append(Node("head", "aten.linear.default", (Ref("value", "fc"), Ref("variable", "h")), {}))
        outputs["logits"] = Ref("value", "head")
        variables["h"] = Variable((5, 24), "float32", "parameter")
    return Graph(tuple(nodes), outputs, variables, {}, (3, size, size))


def tiny_parts(head: bool = False, size: int = 16, seed: int = 0):
    """A model of `tiny_graph` with random weights."""
    from vtabjax.model import SavedModel

    graph, rng = tiny_graph(head, size), np.random.default_rng(seed)
    variables = {
        name: rng.normal(size=v.shape).astype(np.float32) / v.shape[1] ** 0.5
        for name, v in graph.variables.items()
    }
    info = {
        "spec": "tiny/a",
        "input_size": [3, size, size],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "num_features": 24,
        "num_classes": 5 if head else None,
        "weight_hash": "0",
    }
    return SavedModel(graph, variables, info)


def tiny_choices():
    """A model whose "blocks" are pieces of its features, with the choices that a transformer of two blocks has."""
    import dataclasses

    from vtabjax.graph import Node, Ref

    parts, nodes, choices = tiny_parts(), [], {}
    for layer, width in ((1, 8), (2, 12)):
        for pool, start in (("token", 0), ("avg", 12)):
            nodes.append(
                Node(f"{pool}{layer}", "aten.slice.Tensor", (Ref("value", "fc"), 1, start, start + width), {})
            )
        pieces = (Ref("value", f"token{layer}"), Ref("value", f"avg{layer}"))
        nodes.append(Node(f"both{layer}", "aten.cat.default", (pieces, 1), {}))
        for pool in ("token", "avg", "both"):
            choices[f"features:layer={layer}+pool={pool}"] = Ref("value", f"{pool}{layer}")
            choices[f"features:pool={pool}"] = Ref("value", f"{pool}{layer}")  # the last one stays
    about = {
        "native": None,
        "positions": "tokens",
        "pools": ["token", "avg", "both"],
        "blocks": 2,
        "layer_pool": "token",
        "prefix_tokens": 1,
        "norm": "norm",
        "widths": [8, 12],
    }
    graph = dataclasses.replace(parts.graph, nodes=(*parts.graph.nodes, *nodes), choices=choices)
    return parts._replace(graph=graph, info={**parts.info, "feature_choices": about})


class FakeConverters:
    """`command` stands for converters_client.COMMAND; `main` is main.py with it; `calls()`: what it was asked."""

    def __init__(self, folder: Path):
        from vtabjax import model

        self.folder = folder
        for kind in ("plain", "head", "nan", "pool"):
            parts = tiny_choices() if kind == "pool" else tiny_parts(head=kind == "head")
            if kind == "nan":
                parts.variables["w"][3] = np.nan
            model.save(folder / f"{kind}-16", *parts)
        self.command = [sys.executable, str(PROGRAMS / "fake_converters.py"), str(folder)]
        self.main = [sys.executable, str(PROGRAMS / "main_with_fakes.py"), str(folder)]

    def calls(self) -> list[list[str]]:
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def forget(self) -> None:
        (self.folder / "log").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def _converters(tmp_path_factory):
    return FakeConverters(tmp_path_factory.mktemp("converters"))


@pytest.fixture
def fake_converters(_converters, monkeypatch):
    """Converters that only copy, for this process and for `run_main`."""
    from vtabjax.sweep import converters_client

    _converters.forget()
    monkeypatch.setattr(converters_client, "COMMAND", _converters.command)
    return _converters


@pytest.fixture
def run_main(fake_converters, tmp_path):
    """Runs main.py with the copying converters in a process of its own, as a user would: `run_main("--config=...")`."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [*fake_converters.main, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            timeout=300,
        )

    return run


@pytest.fixture
def config():
    """configs/knn.py, shrunk: tiny models on one embedded task."""
    from configs import knn

    c = knn.get_config("mini")
    c.models, c.tasks, c.image_size = "tiny/a,tiny/b", "digits", 16
    return c


@pytest.fixture
def extractions(monkeypatch):
    """Counts the passes over images."""
    from vtabjax import features

    seen = []
    extractor = features.extractor

    def counted(parts, **options):
        run = extractor(parts, **options)
        return lambda images: seen.append((parts.info["spec"], len(images))) or run(images)

    monkeypatch.setattr(features, "extractor", counted)
    return seen


@pytest.fixture
def memory_back():
    """For tests of big models: what JAX compiled goes after each, and nothing of it is written to disk."""
    import jax

    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)
    jax.clear_caches()
    gc.collect()
