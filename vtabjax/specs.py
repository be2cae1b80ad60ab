"""Model specs: ``source/name[.tag][@weights]`` as text, taken apart."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable
from typing import NamedTuple


class SpecError(ValueError):
    """A model spec that cannot be used; the message says why and what to write instead."""


class Spec(NamedTuple):
    """A model spec.

    Attributes:
      source: "timm", "torchvision", "openselfsup", "embedded" or "baseline".
      name: the architecture (or method) within the source.
      tag: which of its published weights, or None for the source's default.
      file: path of a checkpoint file, or None.
      seed: seed of a random initialisation, or None.
    """

    source: str
    name: str
    tag: str | None = None
    file: str | None = None
    seed: int | None = None

    @property
    def random(self) -> bool:
        """Whether the weights are a random initialisation."""
        return self.seed is not None

    def __str__(self) -> str:
        text = f"{self.source}/{self.name}" + (f".{self.tag}" if self.tag else "")
        if self.file is not None:
            return f"{text}@{self.file}"
        if self.random:
            return f"{text}@random" + (f":{self.seed}" if self.seed else "")
        return text


_FORM = "a model spec is source/name[.tag][@weights], such as timm/resnet50.a1_in1k or timm/resnet18@random"


def parse(text: str) -> Spec:
    """Takes a spec apart. The name may hold a glob pattern.

    Raises:
      SpecError: the text does not have a spec's form.
    """
    body, at, weights = text.strip().partition("@")
    source, slash, name = body.partition("/")
    if not slash or not source or not name:
        raise SpecError(f"model {text!r} has no source: {_FORM}")
    if at and not weights:
        raise SpecError(
            f"model {text!r} names no weights after '@': write @random, @random:SEED or @/path/to/file"
        )
    name, _, tag = name.partition(".")
    seed = file = None
    if weights == "random" or weights.startswith("random:"):
        digits = weights.removeprefix("random").removeprefix(":") or "0"
        if not digits.isdecimal():
            raise SpecError(f"model {text!r}: the seed {digits!r} is not a whole number; write @random:7")
        seed = int(digits)
    elif at:
        file = os.path.expanduser(weights)
    if tag and seed is not None:
        raise SpecError(f"model {text!r} has both a weight tag ({tag}) and @random; leave one out")
    return Spec(source, name, tag or None, file, seed)


def is_pattern(text: str) -> bool:
    """Whether a spec's name holds a glob pattern."""
    return any(c in text.partition("@")[0] for c in "*?[")


def file_hash(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def slug(text: str) -> str:
    """A spec as a file name: the same weights have the same, different weights different ones.

    ``timm/resnet50.a1_in1k`` -> ``timm--resnet50.a1_in1k``; a checkpoint file is named by its file name and the
    first eight digits of its content's SHA-256.

    Raises:
      SpecError: the text is no spec, or its checkpoint file cannot be read.
    """
    spec = parse(text)
    if spec.file is None:
        return str(spec).replace("/", "--").replace(":", "-")
    try:
        digest = file_hash(spec.file)
    except OSError as e:
        raise SpecError(f"model {text!r}: cannot read the weight file {spec.file}: {e.strerror}") from e
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(spec.file))
    return f"{str(spec._replace(file=None)).replace('/', '--')}@{stem}-{digest[:8]}"


def split_list(text: str) -> list[str]:
    """The items of a comma-separated string, in order, without blanks and repetitions."""
    return list(dict.fromkeys(item for item in (part.strip() for part in text.split(",")) if item))


def nearest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names most like `name`, for messages."""
    return difflib.get_close_matches(name, list(names), n=n, cutoff=0.5)
