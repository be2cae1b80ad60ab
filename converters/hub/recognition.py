"""Which library wrote a repository, told by its own config; whatever is no image model is refused by what it is."""

from __future__ import annotations

from typing import Any

from vtabjax import installation, specs
from vtabjax.specs import SpecError

from .repository import Repository, is_converted

LIBRARIES = ("timm", "transformers", "open_clip")


def library(repository: Repository) -> str:
    """One of `LIBRARIES`.

    Raises:
      SpecError: none of them wrote it, or it is to be opened by code of its own.
    """
    config = repository.json("config.json")
    clip = repository.json("open_clip_config.json")
    if config is not None and "architecture" in config:
        return "timm"
    model_type = config.get("model_type") if config else None
    if clip is not None and (model_type is None or repository.card().get("library_name") == "open_clip"):
        return "open_clip"
    if isinstance(model_type, str) and config is not None:
        _check_transformers(repository, config, model_type)
        return "transformers"
    raise _unknown(repository, config)


def _check_transformers(repository: Repository, config: dict[str, Any], model_type: str) -> None:
    need(repository, "transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        if "auto_map" in config or any(name.endswith(".py") for name in repository.files()):
            raise repository.error(
                f"the repository is to be opened by Python code of its own ({_own_code(config)}), which is never "
                f"executed, and transformers itself does not know its model_type {model_type!r}; "
                "have its code on this machine and write python/package.module:function"
            )
        near = specs.nearest(model_type, CONFIG_MAPPING_NAMES)
        hint = f"; near ones are {', '.join(near)}" if near else ""
        raise repository.error(f"the installed transformers has no model_type {model_type!r}{hint}")
    if config.get("quantization_config"):
        raise repository.error("its weights are quantised; name the repository of the original ones")


def _own_code(config: dict[str, Any]) -> str:
    auto_map = config.get("auto_map")
    named = [str(v) for v in auto_map.values()] if isinstance(auto_map, dict) else []
    return specs.listed(named) or "*.py"


def _unknown(repository: Repository, config: dict[str, Any] | None) -> SpecError:
    """What a repository is that none of the libraries wrote."""
    names = repository.files()
    if is_converted(repository.folder):
        return repository.error(f"the folder is a converted model; write file/{repository.folder}")
    adapter = repository.json("adapter_config.json")
    if adapter is not None:
        base = adapter.get("base_model_name_or_path") or "its base model"
        return repository.error(
            f"it holds only an adapter (PEFT) to {base}; merge the two (merge_and_unload), save_pretrained, "
            "and write hf//path/to/that/folder"
        )
    if "model_index.json" in names:
        return repository.error(
            "it is a pipeline of diffusers, which generates images; it is not an image encoder"
        )
    if "modules.json" in names or "config_sentence_transformers.json" in names:
        return repository.error(
            "it is a model of sentence-transformers; name the repository of the image encoder inside it"
        )
    if config is not None and "auto_map" in config:
        return repository.error(
            f"the repository is to be opened by Python code of its own ({_own_code(config)}), which is never executed"
        )
    for end, what in ((".gguf", "GGUF files"), (".onnx", "ONNX programs"), (".keras", "Keras models")):
        if any(name.endswith(end) for name in names):
            return repository.error(f"it holds {what}, which are not read; name a repository for PyTorch")
    known = "timm (architecture), transformers (model_type) or open_clip (open_clip_config.json)"
    if config is not None:
        return repository.error(
            f"its config.json is not one of {known}: it has {specs.listed(config, 5) or 'no fields'}; where you know "
            "the architecture, download the weights and write timm/ARCHITECTURE@/path/to/file"
        )
    there = f"; it has {specs.listed(names, 5)}" if names else ""
    return repository.error(
        f"it has no config.json or open_clip_config.json, so that nothing says which library wrote it{there}; "
        "where you know the architecture, download the weights and write timm/ARCHITECTURE@/path/to/file"
    )


def need(repository: Repository, module: str) -> None:
    """Raises SpecError unless the library that wrote a repository is installed."""
    try:
        installation.require("hub", f"a repository that {module} wrote", module)
    except installation.MissingExtraError as e:
        raise repository.error(str(e)) from e
