"""Model specs: ``source/name[.tag][@weights][#key=value[+key=value...]]`` as text, taken apart."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from vtabjax.specs import weight_files


class SpecError(ValueError):
    """A model spec that cannot be used; the message says why and what to write instead."""


# What may follow the '#': which set of weights of a file, and which features are measured.
OPTIONS = ("layer", "pool", "weights")
FEATURE_OPTIONS = ("layer", "pool")
POOLS = ("native", "token", "avg", "both")
# Names that may hold dots: of a repository, a Python module, a file.
_WHOLE_NAMES = ("hf", "python", "file")
_MAX_SEED = 2**64 - 1  # what torch's generator takes


class Spec(NamedTuple):
    """A model spec.

    Attributes:
      source: "timm", "torchvision", "hf", "transformers", "open_clip", "python", "file", "openselfsup", "embedded",
        "baseline", or one that an installed package adds.
      name: the architecture (or method) within the source; for "hf" a repository OWNER/NAME, for "python" a
        function package.module:function, for "hf" and "file" also a path.
      tag: which of its published weights, or None for the source's default.
      file: path of a checkpoint file, or None.
      seed: seed of a random initialisation, or None.
      options: (key, value) pairs in alphabetical order.
      revision: branch, tag or commit of a repository, or None for its default branch.
    """

    source: str
    name: str
    tag: str | None = None
    file: str | None = None
    seed: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    revision: str | None = None

    @property
    def random(self) -> bool:
        """Whether the weights are a random initialisation."""
        return self.seed is not None

    @property
    def weights(self) -> str | None:
        """Which of several sets of weights in the file, or None."""
        return dict(self.options).get("weights")

    @property
    def pool(self) -> str:
        """Which features of a token model are measured, one of `POOLS`."""
        return dict(self.options).get("pool", "native")

    @property
    def layer(self) -> int | None:
        """Features are taken after that block (1 is the first, -1 the last), or None for the model's own output."""
        layer = dict(self.options).get("layer")
        return None if layer is None else int(layer)

    @property
    def base(self) -> Spec:
        """The model without what chooses among its features: one conversion serves all choices."""
        return self._replace(options=tuple(o for o in self.options if o[0] not in FEATURE_OPTIONS))

    @property
    def has_own_features(self) -> bool:
        """Whether the model's own features are meant, no choice among others."""
        return self == self.base

    @property
    def path(self) -> str | None:
        """The file or folder that the whole model comes from (hf//folder, file//model), or None."""
        return self.name if _is_path(self.source, self.name) else None

    @property
    def suffix(self) -> str:
        """What follows name and tag: "@random:7", "@/path/to/file#weights=ema"."""
        text = ""
        if self.file is not None:
            text = f"@{self.file}"
        elif self.random:
            text = "@random" + (f":{self.seed}" if self.seed else "")
        elif self.revision is not None:
            text = f"@{self.revision}"
        if self.options:
            return f"{text}#" + "+".join(f"{key}={value}" for key, value in self.options)
        # A path that would be read as a path with options is closed by an empty list of them.
        path = self.file or self.path
        return f"{text}#" if path is not None and _split_options("@" + path)[1] is not None else text

    def __str__(self) -> str:
        return f"{self.source}/{self.name}" + (f".{self.tag}" if self.tag else "") + self.suffix


_FORM = "a model spec is source/name[.tag][@weights], such as timm/resnet50.a1_in1k or timm/resnet18@random"


@functools.cache
def parse(text: str) -> Spec:
    """Takes a spec apart, each text once. The name may hold a glob pattern.

    Raises:
      SpecError: the text does not have a spec's form.
    """
    whole, options_text = _split_options(text.strip())
    source, slash, name = whole.partition("/")
    at = weights = ""
    if _is_path(source, name):
        name = os.path.expanduser(name)
    else:
        name, at, weights = name.partition("@")
    if not slash or not source or "@" in source or not name:
        raise SpecError(f"model {text!r} has no source: {_FORM}")
    if at and not weights:
        raise SpecError(
            f"model {text!r} does not name any weights after '@': write @random, @random:SEED or @/path/to/file"
        )
    tag = ""
    if source not in _WHOLE_NAMES:
        name, _, tag = name.partition(".")
    seed = file = revision = None
    if weights == "random" or weights.startswith("random:"):
        seed = _seed(weights.removeprefix("random").removeprefix(":") or "0", text)
    elif at and source == "hf":
        revision = weights
    elif at:
        file = os.path.expanduser(weights)
    if tag and seed is not None:
        raise SpecError(f"model {text!r} has both a weight tag ({tag}) and @random; leave one out")
    options = _options(options_text or "", text)
    if "weights" in dict(options) and file is None:
        raise SpecError(
            f"model {text!r}: #weights= chooses among the sets of weights in a file, and it names no file; "
            "write @/path/to/file#weights=..."
        )
    return Spec(source, name, tag or None, file, seed, options, revision)


def _is_path(source: str, name: str) -> bool:
    return source == "file" or source == "hf" and name.startswith(("/", "~", "./", "../"))


def _seed(digits: str, text: str) -> int:
    if not digits.isdecimal():
        raise SpecError(f"model {text!r}: the seed {digits!r} is not a whole number; write @random:7")
    if len(digits.lstrip("0")) > 20 or int(digits) > _MAX_SEED:
        raise SpecError(
            f"model {text!r}: the seed {digits} does not fit in 64 bits; write one up to {_MAX_SEED}"
        )
    return int(digits)


def _split_options(text: str) -> tuple[str, str | None]:
    """A spec without its options, and these; None where there are none: a '#' may also be part of a path.

    Options follow the last '#', hold no '/', and each has a '='. A '#' at the very end is an empty list of options.
    """
    before, hash_sign, after = text.rpartition("#")
    if not hash_sign or "/" in after:
        return text, None
    if not after or re.fullmatch(r"[a-z_]+=[^+]*(\+[a-z_]+=[^+]*)*", after):
        return before, after
    if "@" in before or _is_path(*before.partition("/")[::2]):
        return text, None
    raise SpecError(
        f"model {text!r}: what follows '#' is not of the form key=value[+key=value...]; keys are {', '.join(OPTIONS)}"
    )


def _options(text: str, spec: str) -> tuple[tuple[str, str], ...]:
    pairs = [(item.partition("=")[0], item.partition("=")[2]) for item in text.split("+")] if text else []
    for key, value in pairs:
        if key not in OPTIONS:
            raise SpecError(
                f"model {spec!r}: there is no option {key!r} after '#'; there are {', '.join(OPTIONS)} "
                "(where the '#' is part of a file's path, end the spec with another '#')"
            )
        if not value:
            raise SpecError(f"model {spec!r}: the option {key} has no value")
        if key == "pool" and value not in POOLS:
            raise SpecError(f"model {spec!r}: pool={value} is not known; choose from {', '.join(POOLS)}")
        if key == "layer" and not re.fullmatch(r"-?[1-9]\d{0,3}", value):
            raise SpecError(
                f"model {spec!r}: layer={value} is not the number of a block; 1 is the first, -1 the last"
            )
    if len(dict(pairs)) < len(pairs):
        raise SpecError(f"model {spec!r} gives an option twice; leave one out")
    return tuple(sorted(pair for pair in pairs if pair != ("pool", "native")))  # what it is without


def is_pattern(text: str) -> bool:
    """Whether a spec's name holds a glob pattern. Paths and repositories are taken as they are."""
    source, _, name = text.strip().partition("/")
    if source in _WHOLE_NAMES:
        return False
    return any(c in re.split("[@#]", text, maxsplit=1)[0] for c in "*?[")


def file_stem(text: str, store: str | os.PathLike | None = None) -> str:
    """A spec as a file name: the same weights have the same, different weights different ones.

    ``timm/resnet50.a1_in1k`` -> ``timm--resnet50.a1_in1k``; a checkpoint file or a model's folder is named by its
    file name and the first eight digits of its content's SHA-256, a Python function also by those of its package's
    files; options follow as ``+weights=ema``.

    Args:
      text: the spec.
      store: the folder that remembers the hashes of weight files (`vtabjax.specs.weight_files.digest`).

    Raises:
      SpecError: the text is not a spec, or its file cannot be read.
    """
    spec = parse(text)
    body = "" if spec.path else _safe(f"{spec.name}.{spec.tag}" if spec.tag else spec.name)
    if spec.path is not None:
        body += _content(text, spec.path, store, weight_files.model_parts)
    elif spec.source == "python":
        body += f"-{_digest(text, spec.name, store, weight_files.code_parts)}"
    if spec.file is not None:
        stem = _content(text, spec.file, store, weight_files.parts)
        body += f"@{'_' if stem.startswith('random-') else ''}{stem}"
    elif spec.revision is not None:
        body += f"@{'_' if spec.revision == 'random' else ''}{_safe(spec.revision)}"
    elif spec.random:
        body += "@random" + (f"-{spec.seed}" if spec.seed else "")
    return f"{_safe(spec.source)}--{body}" + "".join(f"+{key}={_safe(value)}" for key, value in spec.options)


def _content(text: str, path: str, store: str | os.PathLike | None, find: Callable[[Any], list]) -> str:
    """The name of a file or folder with the first digits of its content's hash."""
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(os.path.normpath(path)))
    return f"{stem}-{_digest(text, path, store, find)}"


def _digest(text: str, path: str, store: str | os.PathLike | None, find: Callable[[Any], list]) -> str:
    try:
        return weight_files.digest(path, store, find)[:8]
    except weight_files.WeightFileError as e:
        raise SpecError(f"model {text!r}: {e}") from e


def _safe(name: str) -> str:
    """A name with the characters of a file name; where that changed it, with a hash, so that it stays unique."""
    safe = re.sub(r"[^\w.-]", "-", name)
    if safe == name and "--" not in name:
        return name
    return f"{safe}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def split_list(text: str) -> list[str]:
    """The items of a comma-separated string, in order, without blanks and repetitions."""
    return list(dict.fromkeys(item for item in (part.strip() for part in text.split(",")) if item))


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names of a list in words, for messages: "a, b, c and 4 more"."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names most like `name`, for messages."""
    return difflib.get_close_matches(name, list(names), n=n, cutoff=0.5)
