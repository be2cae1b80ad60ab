"""Converted models on disk, and what the converters know about models that are not there yet.

The sweep meets ``converters`` here and in `vtabjax.sweep.conversions`, and it does so over a pipe: torch and JAX in one
process fight over the cores, and a model whose conversion crashes must not take the sweep with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax import bundled, installation, integrity, specs
from vtabjax.runtime import files
from vtabjax.specs import weight_files
from vtabjax.sweep.converters_client import ConversionError, ask

_log = logging.getLogger(__name__)


def folder(models_dir: str | os.PathLike, spec: str, image_size: int) -> Path:
    """Where a model converted at that image size lies, whatever is measured of its features."""
    models_dir, base = files.as_path(models_dir), str(specs.parse(spec).base)
    return models_dir / f"{specs.file_stem(base, models_dir / weight_files.STORE)}-{image_size}"


def find(models_dir: str | os.PathLike, spec: str, image_size: int) -> Path | None:
    """The folder of a converted model, or None. Size 0 (the model's own) is known only after converting.

    Raises:
      ConversionError: there is one, and it may not be read.
    """
    named = given(spec, image_size)
    if named is not None:
        return named
    path = folder(models_dir, spec, image_size)
    try:
        return path if image_size and (path / "model.json").exists() else None
    except PermissionError as e:
        raise ConversionError(
            f"{path} cannot be read ({e.strerror}): another user made it; ask them to make it readable "
            "(chmod -R a+rX), or name another folder with --config.models_dir=DIR"
        ) from e


def is_converted(path: str | os.PathLike) -> bool:
    """Whether a folder is a converted model, which a spec may name (``file//path/to/it``)."""
    return all((Path(path) / name).is_file() for name in ("graph.json", "model.json"))


def given(spec: str, image_size: int) -> Path | None:
    """The converted model that a spec names by its folder, which is taken where it lies; None for other specs.

    Raises:
      ConversionError: it is damaged, or made for images of another size than `image_size` (0: any).
    """
    parsed = specs.parse(spec)
    if parsed.path is None or not is_converted(parsed.path):
        return None
    path = Path(parsed.path).absolute()
    try:
        _, height, width = integrity.read(path).info["input_size"]
    except (OSError, ValueError, KeyError) as e:
        raise ConversionError(f"model {spec!r}: {e}") from e
    if parsed.options:
        raise ConversionError(
            f"model {spec!r}: {path} is converted, and its features are chosen; leave out what follows '#', or convert "
            "its source with it"
        )
    if image_size and (height, width) != (image_size, image_size):
        raise ConversionError(
            f"model {spec!r} was converted for images of {height} x {width} pixels, and {image_size} are asked for: "
            f"give --config.image_size={height} (or 0, each model's own), or convert it again from its source"
        )
    return path


def local(path: Path) -> Path:
    """A converted model's folder on this machine: itself, or what was fetched from an object store."""
    if not files.is_remote(path):
        return path
    digest = hashlib.sha256((path / "model.json").read_text().encode()).hexdigest()[:16]
    here = local_cache() / "models" / f"{path.name}-{digest}"
    if not here.is_dir():
        files.remove_stale_temporaries(here.parent)
        files.download_tree(path, here, last="model.json")
    return here


def local_cache() -> Path:
    """Where a machine keeps what a run in an object store needs as files: models, images."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "vtabjax"


def read_info(path: str | os.PathLike) -> dict[str, Any]:
    """A converted model's model.json, with "graph_hash" added; reads no weights.

    Raises:
      integrity.DamagedModelError: it or the graph is not what was written.
    """
    graph, info = integrity.read(files.as_path(path))
    return {**info, "graph_hash": hashlib.sha256(graph).hexdigest()[:16]}


def notes(info: Mapping[str, Any]) -> list[str]:
    """What a person should know of a model: which weights, what was left out or assumed, a first look at them."""
    found = list(info.get("notes", ()))
    if "checkpoint" in info:
        found.append(
            f"weights: {info['place']}; all of the architecture's tensors, features pooled by {info['pooling']}"
        )
        dropped = info["checkpoint"].get("dropped", {"count": 0})
        if dropped["count"]:
            names = ", ".join(dropped["names"][:3]) + (", ..." if dropped["count"] > 3 else "")
            found.append(f"left out: {dropped['count']} tensors of the file ({names})")
        if info["checkpoint"].get("head", "").startswith("left out"):
            found.append(f"classifier {info['checkpoint']['head']}")
    for name, shapes in info.get("positions", {}).get("resampled", {}).items():
        old, new = ("x".join(map(str, shapes[k])) for k in ("from", "to"))
        found.append(f"positions resampled: {name} from {old} to {new} ({info['positions']['method']})")
    look = info.get("sanity")
    if look and look["accuracy"] is not None:
        found.append(
            f"first look: nearest neighbours on {look['examples']} {look['task']}: {100 * look['accuracy']:.1f} %, "
            f"with random weights {100 * look['random']:.1f} %"
        )
    if look and look["warning"]:
        found.append(f"WARNING: {look['warning']}")
    return found


def gflops(path: Path, info: Mapping[str, Any]) -> float:
    """Thousand millions of floating-point operations for one image, by model.json or, in older ones, by the graph."""
    if info.get("gflops") is not None:
        return info["gflops"]
    from vtabjax.graph import Graph
    from vtabjax.model import flops

    return flops.gflops(Graph.from_json(integrity.read(path).graph.decode("utf-8")))


def unavailable_models(
    models: Sequence[str], check: Callable[[Sequence[str]], list[dict[str, Any]]] | None = None
) -> dict[str, str]:
    """Models that cannot be had, each with a line that says why; loads no weights.

    Args:
      models: specs.
      check: asks converters that are there already; by default some are started for it.

    Raises:
      ConversionError: the converters do not run.
    """
    if not models:
        return {}
    lines = ask(["check", *models]) if check is None else check(models)
    return {line["spec"]: line.get("message") or "unknown" for line in lines if not _fine(line)}


def expand(models: Iterable[str], cache: str | os.PathLike) -> list[str]:
    """Models with glob patterns replaced by what they match, in order, each once.

    What a pattern stands for depends on nothing but the installed torchvision and timm, the converters' sources and
    those that packages add, so it is remembered in the file `cache`, and looking at a finished sweep starts no
    converter.

    Raises:
      specs.SpecError: a pattern matches nothing, or no such model is bundled.
      ConversionError: the converters do not run.
    """
    models = list(models)
    ours = {m: bundled.expand(m) for m in models if bundled.is_bundled(m)}
    patterns = [m for m in models if specs.is_pattern(m) and m not in ours]
    if not patterns:
        return _replaced(models, ours)
    installed = installed_sources()
    known = remembered(files.as_path(cache), installed)
    for pattern in patterns:
        if pattern not in known:
            found = [line["spec"] for line in ask(["list", pattern]) if _fine(line)]
            if not found:
                raise specs.SpecError(
                    f"config.models: {pattern!r} matches no published model; "
                    f"`{installation.converters_command()} list 'timm/*'` shows what there is"
                )
            known[pattern] = found
    files.write_text(cache, files.seal({"installed": installed, "patterns": known}))
    return _replaced(models, {**known, **ours})


def installed_sources() -> str:
    """What decides which models there are and what is known of them: the libraries' versions, the converters' code."""
    packages = ("torchvision", "timm", "transformers", "open_clip_torch", "huggingface_hub")
    return json.dumps(
        [*map(_version, packages), _sources(installation.CONVERTERS / "sources"), *_added_sources()]
    )


def _replaced(models: Iterable[str], known: Mapping[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(m for model in models for m in known.get(model, [model])))


def remembered(cache: Path, installed: str, what: str = "patterns") -> dict[str, Any]:
    """What `cache` says that patterns stood for (or `what` else it holds), if the same models were installed then.

    Nothing where that is not known for sure.
    """
    try:
        if not cache.exists():
            return {}
        content = files.unseal(cache.read_text(encoding="utf-8"))
        return content[what] if content["installed"] == installed else {}
    except Exception as e:  # asked again, whatever it is: an object store has errors of its own
        _log.warning("%s is written again: %s", cache, e)
        return {}


def _fine(line: dict[str, Any]) -> bool:
    return line.get("ok", line.get("status") != "failed")


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _added_sources() -> list[str]:
    """The sources that packages add, with their versions."""
    import importlib.metadata

    points = importlib.metadata.entry_points(group="vtabjax.sources")
    return sorted(
        {f"{p.name}={p.value} {p.dist and p.dist.name} {p.dist and p.dist.version}" for p in points}
    )


def _sources(folder: Path) -> str:
    """A hash of the modules that know models."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
