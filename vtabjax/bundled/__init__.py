"""The models that ship with vtabjax, as artefacts: the pixels themselves, and the weights under ``vtabjax/bundled``.

Their graphs are known, so a sweep needs neither the converters nor PyTorch for them. `converters` can convert them too,
from the torch modules in ``converters/sources``; the tests compare the two.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vtabjax import __version__, specs
from vtabjax.graph import Graph, Node, Ref
from vtabjax.runtime import files
from vtabjax.specs import Spec, SpecError, pooling

FOLDER = Path(__file__).parent
PACK = FOLDER / "mini.parquet"  # results of small models on the embedded tasks (docs/packs.md)
GRID = 16  # baseline/pixels averages the image to GRID x GRID pixels
_PIXELS = {
    "architecture": "pixels",
    "family": "pixels",
    "weights": f"none: the image average-pooled to {GRID}x{GRID}x3",
    "input_size": [3, 224, 224],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "num_classes": None,
    "license": "apache-2.0",
    "method": "none",
    "pretraining_data": None,
    "feature_choices": pooling.NONE,
}


def is_bundled(spec: str | Spec) -> bool:
    """Whether a spec belongs to a source of bundled models, whose names are checked here and not by the converters."""
    return (specs.parse(spec) if isinstance(spec, str) else spec).source in ("baseline", "embedded")


def names(spec: Spec) -> list[str]:
    """The bundled models that a spec's name, perhaps a pattern, stands for."""
    return fnmatch.filter(_available(spec.source), spec.name) if _is_plain(spec) else []


def expand(pattern: str) -> list[str]:
    """The specs that a pattern stands for; a spec without a pattern stands for itself.

    Raises:
      SpecError: the spec or the pattern names no bundled model.
    """
    spec = specs.parse(pattern)
    if not specs.is_pattern(pattern):
        check(spec)
        return [pattern]
    found = [f"{spec.source}/{name}{spec.suffix}" for name in names(spec)]
    if not found:
        raise SpecError(f"model pattern {pattern!r} matches nothing; {_there(spec.source)}")
    return found


def check(spec: Spec) -> None:
    """Raises SpecError unless the spec names a bundled model."""
    if spec.name not in _available(spec.source):
        raise SpecError(f"model {str(spec)!r} does not ship with the project; {_there(spec.source)}")
    if not _is_plain(spec):
        own = "brings its own weights" if spec.source == "embedded" else "has no weights"
        raise SpecError(
            f"model {str(spec)!r}: {spec.source}/{spec.name} {own}; write {spec.source}/{spec.name}"
        )


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a bundled model: keys as in `converters.sources.Source.info`.

    For the models under ``vtabjax/bundled`` it is in NAME/source.json, which holds {"architecture": name in timm,
    "kwargs": for its create_model, "num_features", "info": {family, weights, input_size, mean, std, interpolation,
    crop_pct, num_classes, license, method, pretraining_data, feature_choices}}.
    """
    if spec.source == "baseline":
        return dict(_PIXELS)
    source = read(spec.name)
    return {"architecture": source["architecture"], "crop_mode": "center", **source["info"]}


def read(name: str) -> dict[str, Any]:
    """The source.json of a model under ``vtabjax/bundled``."""
    return json.loads((FOLDER / name / "source.json").read_text(encoding="utf-8"))


def write(model: str, models_dir: str | os.PathLike, image_size: int) -> Path:
    """Writes a bundled model where the converters would write it; one that is there is kept.

    Args:
      model: a spec.
      models_dir: the artefact is a folder in there, named after the spec and the image size.
      image_size: height and width of the images; 0: the model's own.

    Returns:
      The artefact's folder.

    Raises:
      SpecError: no such model ships.
    """
    from vtabjax.model import flops, save

    spec = specs.parse(model).base
    check(spec)
    info = describe(spec)
    size = image_size or info["input_size"][1]
    path = files.as_path(models_dir) / f"{specs.file_stem(str(spec))}-{size}"
    if (path / "model.json").exists():
        return path
    graph, variables = _parts(spec, size)
    info = {
        "spec": str(spec),
        "source": spec.source,
        "imagenet_top1": None,
        **info,
        "input_size": [3, size, size],
        "num_features": 3 * GRID**2 if spec.source == "baseline" else read(spec.name)["num_features"],
        "parameters": _parameters(graph),
        "gflops": flops.gflops(graph),
        "no_weight_decay": [],
        "parity": None,  # PyTorch may not be there to compare with
        "versions": {"vtabjax": __version__},
    }
    if not files.is_remote(path):
        return save(path, graph, variables, info)
    with tempfile.TemporaryDirectory(prefix="vtabjax-models-") as staging:
        files.upload_tree(save(Path(staging) / path.name, graph, variables, info), path, last="model.json")
    return path


def known(model: str, image_size: int, *, gflops: bool) -> dict[str, Any]:
    """What is known of a bundled model before it is written: `describe`, parameters and, where asked for, gflops."""
    spec = specs.parse(model)
    info = describe(spec)
    graph, _ = _parts(spec, image_size or info["input_size"][1])
    found = {"source": spec.source, **info, "parameters": _parameters(graph)}
    if gflops:
        from vtabjax.model import flops

        found["gflops"] = flops.gflops(graph)
    return found


def _parts(spec: Spec, size: int) -> tuple[Graph, dict[str, np.ndarray]]:
    return _pixels(size) if spec.source == "baseline" else _embedded(spec.name, size)


def _parameters(graph: Graph) -> int:
    return sum(math.prod(v.shape) for v in graph.variables.values() if v.kind == "parameter")


def _pixels(size: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """The image average-pooled to GRID x GRID x 3 and flattened in [h, w, c] order: 768 features."""
    pool, extent = ("avg_pool2d", size // GRID) if size % GRID == 0 else ("adaptive_avg_pool2d", GRID)
    nodes = (
        Node(pool, f"aten.{pool}.default", (Ref("value", "input"), (extent, extent)), {}),
        Node("permute", "aten.permute.default", (Ref("value", pool), (0, 2, 3, 1)), {}),
        Node("flatten", "aten.flatten.using_ints", (Ref("value", "permute"), 1), {}),
    )
    return Graph(nodes, {"features": Ref("value", "flatten")}, {}, {}, (3, size, size)), {}


def _embedded(name: str, size: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """NAME/graph.json, which holds for images of any size, and NAME/weights.safetensors (float16)."""
    from safetensors.numpy import load_file

    graph = Graph.from_json((FOLDER / name / "graph.json").read_text(encoding="utf-8"))
    stored = load_file(FOLDER / name / "weights.safetensors")
    variables = {k: stored[k].astype(v.dtype) for k, v in graph.variables.items()}
    return dataclasses.replace(graph, input_size=(3, size, size)), variables


def _is_plain(spec: Spec) -> bool:
    """Whether a spec is nothing but source, name and a choice of features: a bundled model comes in one form."""
    return str(spec.base) == f"{spec.source}/{spec.name}"


def _available(source: str) -> list[str]:
    if source == "baseline":
        return ["pixels"]
    return sorted(p.parent.name for p in FOLDER.glob("*/source.json"))


def _there(source: str) -> str:
    return f"{source} models: {', '.join(f'{source}/{name}' for name in _available(source))}"
