"""A repository of the Hugging Face hub, or a local folder of the same files: its small files first, its weights later.

Nothing in it is ever executed: texts are read as JSON and YAML, weights by `converters.checkpoints`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import specs
from vtabjax.specs import Spec, SpecError

from .. import checkpoints
from ..checkpoints import reading
from ..sources.download import downloading

# What says which library wrote a repository and how its pictures are prepared; tokenizers are left where they are.
_SMALL = (
    "README.md", "adapter_config.json", "config.json", "config_sentence_transformers.json", "graph.json", "model.json",
    "model_index.json", "modules.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
# Where weights lie, the first that is there: the file and what comes with it.
_TRANSFORMERS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_WEIGHTS = {
    "timm": (*_TRANSFORMERS, ("pytorch_model.pth",), ("model.pth",)),
    "transformers": _TRANSFORMERS,
    "open_clip": (
        ("open_clip_model.safetensors",),
        ("open_clip_pytorch_model.safetensors",),
        ("open_clip_pytorch_model.bin",),
    ),
}
# What else a repository may hold instead, and how it is said.
_OTHER_WEIGHTS = (
    ("adapter_model.safetensors", "an adapter (PEFT) alone, to be merged with its base model first"),
    (".gguf", "GGUF files, which hold quantised weights"),
    (".onnx", "ONNX programs"),
    ("tf_model.h5", "weights for TensorFlow"),
    ("saved_model.pb", "a TensorFlow SavedModel"),
    (".keras", "weights for Keras"),
    (".msgpack", "weights for Flax"),
    (".mlpackage", "a Core ML program"),
    (".tflite", "a TensorFlow Lite program"),
)


class Repository(NamedTuple):
    """A repository whose small files are on this machine.

    Attributes:
      spec: the spec that names it.
      folder: where the files lie.
      commit: the commit they are of; None for a local folder.
    """

    spec: Spec
    folder: Path
    commit: str | None

    def error(self, text: str) -> SpecError:
        """The error for a repository that cannot be used."""
        return SpecError(f"model {str(self.spec)!r}: {text}")

    def json(self, name: str) -> dict[str, Any] | None:
        """What a JSON file of the repository holds; None if it has no such file.

        Raises:
          SpecError: it is not JSON, or not an object.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as e:
            raise self.error(f"its {name} is not readable JSON ({e})") from e
        if not isinstance(found, dict):
            raise self.error(f"its {name} holds a {type(found).__name__}, not the fields of a config")
        return found

    def card(self) -> dict[str, Any]:
        """The tags at the head of its README.md: license, datasets, base_model, library_name, ..."""
        import yaml
        from huggingface_hub import metadata_load

        path = self.folder / "README.md"
        try:
            found = metadata_load(path) if path.is_file() else None
        except (OSError, ValueError, yaml.YAMLError):
            return {}  # a text that is not laid out as a card says nothing
        return found if isinstance(found, dict) else {}

    def files(self) -> list[str]:
        """The names of all its files, as far as they can be listed."""
        if self.commit is None:
            return sorted(os.listdir(self.folder))
        from huggingface_hub import list_repo_files

        try:
            return sorted(list_repo_files(self.spec.name, revision=self.commit))
        except Exception:  # only asked for what else is there, for a message
            return []

    def weights(self, library: str) -> Path:
        """The file of its weights (of shards: their index), downloaded if need be.

        Raises:
          SpecError: there is none that PyTorch wrote, or it cannot be downloaded.
        """
        for names in _WEIGHTS[library]:
            if self.commit is not None:
                _download(self.spec, self.commit, names)
            if (self.folder / names[0]).is_file():
                return self.folder / names[0]
        there = self.files()
        for end, what in _OTHER_WEIGHTS:
            if any(name.endswith(end) for name in there):
                raise self.error(
                    f"it holds {what}, and no weights for PyTorch; name a repository that has them"
                )
        wanted = " or ".join(n[0] for n in _WEIGHTS[library] if not n[0].endswith("index.json"))
        has = f"; it has {specs.listed(there, 5)}" if there else ""
        raise self.error(f"it has no weights that {library} reads ({wanted}){has}")

    def state(self, library: str) -> dict[str, Any]:
        """Its weights {name: tensor}, read without executing anything.

        Raises:
          SpecError: as `weights`; or the file is damaged, has code in it, or holds something else.
        """
        path = self.weights(library)
        try:
            found = reading.read(path)
        except checkpoints.CheckpointError as e:
            raise self.error(str(e)) from e
        import torch

        tensors = (
            {k: v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, dict) else {}
        )
        if not tensors:
            raise self.error(f"its {path.name} does not hold a state_dict")
        return tensors


def open_repository(spec: Spec) -> Repository:
    """A repository with its small files on this machine; asks the hub once in a process.

    Raises:
      SpecError: there is no such folder or repository, it may not be read, or the hub cannot be reached.
    """
    if spec.path is not None:
        folder = Path(spec.path)
        if not folder.is_dir():
            what = "a file, not a folder" if folder.exists() else "not there"
            raise SpecError(
                f"model {str(spec)!r}: the folder {folder} is {what}; hf// takes the folder of a model"
            )
        return Repository(spec, folder, None)
    if spec.name.count("/") != 1 or not all(spec.name.split("/")):
        raise SpecError(
            f"model {str(spec)!r} does not name a repository: write hf/OWNER/NAME, or hf//path/to/folder"
        )
    folder = _download(spec, spec.revision, _SMALL)
    return Repository(spec, folder, folder.name)


@functools.lru_cache(maxsize=256)
def _download(spec: Spec, revision: str | None, names: tuple[str, ...]) -> Path:
    """Has files of a repository downloaded to the hub library's own cache; gives the folder of its commit."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import HFValidationError, disable_progress_bars

    if not logging.getLogger("huggingface_hub").isEnabledFor(logging.INFO):
        disable_progress_bars()
    with downloading(spec, hub=True):
        try:
            return Path(snapshot_download(spec.name, revision=revision, allow_patterns=list(names)))
        except HFValidationError as e:
            raise SpecError(f"model {str(spec)!r} does not name a repository: {e}") from e
        except errors.RevisionNotFoundError as e:
            raise SpecError(
                f"model {str(spec)!r}: the repository {spec.name} has no branch, tag or commit {revision!r}; "
                "leave it out for the default branch"
            ) from e


def is_converted(folder: Path) -> bool:
    """Whether a folder is a model that was converted before."""
    return all((folder / name).is_file() for name in ("graph.json", "model.json"))
