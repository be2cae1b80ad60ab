"""The Hugging Face hub: ``hf/OWNER/NAME[@revision]``, and a folder of the same files, ``hf//path/to/folder``.

Which library wrote a repository its own config says: timm, transformers or open_clip. Nothing from a repository is
executed. ``hf/OWNER/NAME@random`` is its architecture with random weights.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

from vtabjax import specs
from vtabjax.specs import Spec

from ..hub import recognition
from ..hub.owners import provenance
from ..hub.repository import Repository, open_repository
from . import Source


def names(spec: Spec) -> list[str]:
    """None: repositories are named one by one."""
    return []


def check(spec: Spec) -> None:
    """Raises SpecError unless the repository is there and its configs are those of an image model.

    Downloads the configs, some kilobytes.
    """
    describe(spec)


def describe(spec: Spec) -> dict[str, Any]:
    """What the repository's configs and its card say of the model."""
    repository, library = _opened(spec)
    return _tagged(repository, library, _format(library).describe(repository))


def build(spec: Spec, input_size: int | None) -> Source:
    """The repository's model with its weights."""
    repository, library = _opened(spec)
    module, info = _format(library).build(repository, input_size)
    tagged = _tagged(repository, library, info)
    if not spec.random:
        tagged["repository"]["file"] = repository.weights(library).name
    return Source(module, tagged)


def parameters(spec: Spec) -> int:
    """The number of parameters, counted without allocating them."""
    repository, library = _opened(spec)
    return _format(library).parameters(repository)


def _opened(spec: Spec) -> tuple[Repository, str]:
    repository = open_repository(spec.base)
    return repository, recognition.library(repository)


def _format(library: str) -> types.ModuleType:
    return importlib.import_module(f"...hub.{library}_format", __name__)


def _tagged(repository: Repository, library: str, info: dict[str, Any]) -> dict[str, Any]:
    """What is known of a model, with the tags of its card: license, data sets, base model; and which commit it is."""
    spec, card = repository.spec, repository.card()
    channels = info["input_size"][0]
    if channels != 3 or len(info["mean"]) != 3 or len(info["std"]) != 3:
        raise repository.error(f"it takes images of {channels} channels; pictures here have three")
    datasets, base = _texts(card.get("datasets")), _texts(card.get("base_model"))
    told = {
        "name": spec.name,
        "revision": repository.commit,
        "library": library,
        "card_library": card.get("library_name"),
        "license": _license(card),
        "datasets": datasets,
        "base_model": base,
    }
    method, data = provenance(spec.name) if repository.commit else (None, None)
    weights = f"{spec.name} ({library})" + (f" at {repository.commit[:12]}" if repository.commit else "")
    found = {
        **info,
        "repository": told,
        "weights": weights,
        "license": told["license"] or info["license"],
        "method": method or info["method"],
        "pretraining_data": data or info["pretraining_data"] or ", ".join(datasets) or None,
    }
    if spec.random:
        found |= {
            "weights": f"random initialisation, seed {spec.seed}, of {weights}",
            "license": None,
            "method": "none",
            "pretraining_data": None,
        }
    unknown = ["how it was trained is not known here"] if found["method"] is None else []
    found["notes"] = [_said(found, library), *info.get("notes", []), *unknown]
    return found


def _said(info: dict[str, Any], library: str) -> str:
    commit = info["repository"]["revision"]
    at = f", commit {commit}" if commit else ""
    return f"{info['architecture']} of {library}{at}; pictures prepared by {info['preprocessing']}"


def _license(card: dict[str, Any]) -> str | None:
    """ "other" is what a card says whose license_name says more."""
    license = card.get("license")
    if license == "other":
        license = card.get("license_name") or license
    found = _texts(license)
    return specs.listed(found).lower() if found else None


def _texts(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v]
