"""Repositories that transformers wrote: config.json with a model_type, of which the library itself has the classes."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch

from vtabjax import specs
from vtabjax.specs import SpecError

from ..sources import Source
from ..sources.size import refuse_size
from . import preprocessing
from .repository import Repository

# Of a config, what would fetch code or weights from elsewhere, or names a way of computing that is not traced.
_LEFT_OUT = (
    "auto_map", "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "fusion_config",
    "experts_implementation", "_experts_implementation", "use_kernels", "kernel_config", "dtype", "torch_dtype",
)  # fmt: skip
_FETCHES = ("backbone", "use_pretrained_backbone", "use_timm_backbone")


def describe(repository: Repository) -> dict[str, Any]:
    """What the repository's configs say of the model."""
    return _described(repository)[0]


def _described(repository: Repository) -> tuple[dict[str, Any], bool]:
    """That, and whether the model gets blue first."""
    config = _config(repository)
    kind = _class(repository, config)
    prepared = preprocessing.read(repository, _image_size(config))
    size, flip = prepared.pop("size"), prepared.pop("flip")
    classifier = "ForImageClassification" in kind.__name__
    info = {
        "architecture": kind.__name__,
        "family": kind.__module__.split(".")[-2],
        "input_size": [3, size, size],
        **prepared,
        "num_classes": config.num_labels if classifier else None,
        "license": None,
        "method": None,
        "pretraining_data": None,
    }
    return info, flip


def build(repository: Repository, input_size: int | None) -> Source:
    """The image classifier, or the image encoder, with the repository's weights or with random ones."""
    (info, flip), config = _described(repository), _config(repository)
    kind = _class(repository, config)
    own = info["input_size"][1]
    missing: set[str] = set()
    notes: list[str] = []
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(repository.spec.seed or 0)
        if repository.spec.random:
            model = _guarded(repository, kind, lambda: kind._from_config(config, attn_implementation="eager"))
        else:
            model, missing, notes = _filled(repository, kind, config)
    module, found = _wrapped(repository, model.eval(), own, input_size, missing)
    if missing:
        notes.append(_without_missing(repository, module, missing, found["input_size"]))
    named, size = _image_size(config), found["input_size"][1]
    if named not in (None, size):
        notes.append(f"its config.json is for images of {named} pixels, and here they have {size}")
    if flip:
        module.image_outputs = _Flipped(module.image_outputs)
        notes.append("its processor exchanges red and blue; here the first step of the model does")
    if "auto_map" in (repository.json("config.json") or {}):
        notes.append(f"its own Python code was not used: transformers' {kind.__name__} was")
    return Source(module, {**info, **found, "notes": notes})


def parameters(repository: Repository) -> int:
    """The number of parameters of the image half, counted without allocating them."""
    from ..sources.transformers_models import wrap

    config = _config(repository)
    kind = _class(repository, config)
    with _quiet(), torch.device("meta"):
        model = _guarded(repository, kind, lambda: wrap(kind._from_config(config).eval())[0])
    return sum(p.numel() for p in model.parameters())


class _Flipped:
    """An encoder's function of images with its channels in the opposite order."""

    def __init__(self, outputs: Any):
        self.outputs = outputs

    def __call__(self, module: Any, x: torch.Tensor) -> Any:
        return self.outputs(module, x.flip(1))


def _config(repository: Repository) -> Any:
    """The library's own config object, from fields alone."""
    from transformers import CONFIG_MAPPING

    fields = repository.json("config.json") or {}
    fetching = [k for k in _FETCHES if fields.get(k)]
    if fetching:
        raise repository.error(f"its config.json sets {fetching[0]}: its weights lie in another repository")
    given = {k: v for k, v in fields.items() if k not in _LEFT_OUT}
    try:
        with _quiet():
            return CONFIG_MAPPING[str(fields["model_type"])].from_dict(given)
    except Exception as e:  # whatever a config of another version or hand makes the library do
        raise repository.error(f"transformers cannot read its config.json: {_line(e)}") from e


def _class(repository: Repository, config: Any) -> Any:
    """The library's class: the image classifier if the repository is one, else the model without a head."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    from ..sources.transformers import model_types

    named = [a for a in config.architectures or [] if isinstance(a, str)]
    others = {**auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, **auto.MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES}
    if config.model_type not in model_types() or config.model_type in others:
        raise repository.error(
            f"it is {_article(config.model_type)} model ({specs.listed(named) or config.model_type}), which is not an "
            "encoder of images; the image encoder it was built with has a repository of its own"
        )
    classifiers = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type, ())
    for architecture in named:
        if architecture in ((classifiers,) if isinstance(classifiers, str) else classifiers):
            return getattr(transformers, architecture)
    tables = (auto.MODEL_MAPPING_NAMES, auto.MODEL_FOR_BACKBONE_MAPPING_NAMES)
    found = next((t[config.model_type] for t in tables if config.model_type in t), None)
    if found is None:
        raise repository.error(f"transformers has no headless model for its model_type {config.model_type!r}")
    return getattr(transformers, found if isinstance(found, str) else found[0])


def _article(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"


def _filled(repository: Repository, kind: Any, config: Any) -> tuple[Any, set[str], list[str]]:
    """The model with the repository's weights, what these lack, and what a person should know."""
    state = repository.state("transformers")
    model, loading = _guarded(
        repository,
        kind,
        lambda: kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            attn_implementation="eager",
            dtype=torch.float32,
        ),
    )
    left = sorted(loading["unexpected_keys"])
    notes = [f"left out: {len(left)} tensors of its weights ({specs.listed(left)})"] if left else []
    return model, set(loading["missing_keys"]), notes


def _guarded(repository: Repository, kind: Any, make: Any) -> Any:
    try:
        return make()
    except SpecError as e:
        raise repository.error(str(e)) from e
    except Exception as e:  # each type's own code says in its own way what it cannot do
        raise repository.error(f"transformers cannot build its {kind.__name__}: {_line(e)}") from e


def _wrapped(
    repository: Repository, model: Any, own: int, input_size: int | None, missing: set[str]
) -> tuple[Any, dict[str, Any]]:
    from ..sources.transformers_models import wrap

    size = input_size or own
    try:
        return wrap(model, size=size, missing=missing)
    except SpecError as e:
        raise repository.error(str(e)) from e
    except Exception as e:  # the model's own code does not take that size
        config_size = _image_size(model.config)
        if input_size in (None, own) and config_size not in (None, own):
            raise repository.error(
                f"its image processor makes images of {own} pixels and its config.json is for {config_size}, and it "
                f"does not take {own} ({_line(e)}); give {config_size} as the input size"
            ) from e
        if size == own:
            raise repository.error(f"transformers cannot run its {type(model).__name__}: {_line(e)}") from e
        raise refuse_size(repository.spec, size, (own, own), lambda s: _takes(model, s, missing)) from e


def _takes(model: Any, size: int, missing: set[str]) -> bool:
    from ..sources.transformers_models import wrap

    try:
        wrap(model, size=size, missing=missing)
    except Exception:
        return False
    return True


def _without_missing(repository: Repository, module: Any, missing: set[str], shape: list[int]) -> str:
    """Makes sure that nothing the repository lacks is used, and takes the random numbers out of it.

    A number that is used would make the outputs not a number as well.
    """
    tensors = {k: v for k, v in module.state_dict().items() if k in missing and v.is_floating_point()}
    random = {k: v.clone() for k, v in tensors.items()}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
        outputs = module.image_outputs(module, torch.zeros(1, *shape))
        used = any(not bool(torch.isfinite(v).all()) for v in outputs.values())
        for name, tensor in tensors.items():
            tensor.copy_(random[name]) if used else tensor.zero_()
    if used:
        raise repository.error(
            f"its weights lack {len(missing)} tensors that its features are made with "
            f"({specs.listed(sorted(missing))}): they would be random. They may be those of another architecture"
        )
    return f"not in its weights, and not used: {specs.listed(sorted(missing))}"


def _image_size(config: Any) -> int | None:
    from ..sources.transformers_models import image_size

    return image_size(config)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's reports and bars, which repeat what is said here."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
