"""What the names of folders say: splits, what is never a class, names that are nearly the same."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_WORDS = {
    "train": ("train", "training", "trainval", "trainvalid", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_ROLE_OF = {word: role for role, words in _WORDS.items() for word in words}
_SPLIT = re.compile(
    f"({'|'.join(_ROLE_OF)})(sets?|data|dataset|split|images?|imgs|folder|samples|examples)?((19|20)[0-9]{{2}})?"
)
_IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages"))
_TARGETS = frozenset(
    (
        *("label", "labels", "mask", "masks", "annotation", "annotations", "annots", "groundtruth", "gt"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "bbox", "bboxes"),
    )
)
_FOLD = re.compile(r"(fold|split|part|subset|cv)[0-9]+")


def _plain(name: str) -> str:
    """A name without case, blanks and punctuation."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if c.isalnum()) or folded


def role(name: str) -> str | None:
    """Which split a folder's name stands for: ``Training_Set`` -> "train"; None for other names."""
    match = _SPLIT.fullmatch(_plain(name))
    return _ROLE_OF[match[1]] if match else None


def one_name(names: Iterable[str]) -> bool:
    """Whether names differ in case, blanks or punctuation only."""
    return len({_plain(name) for name in names}) == 1


def is_images(name: str) -> bool:
    """Whether a folder is called images, img, JPEGImages, ..."""
    return _plain(name) in _IMAGES


def is_target(name: str) -> bool:
    """Whether a folder is called labels, masks, annotations, ...: what is to be predicted of pictures."""
    return _plain(name) in _TARGETS


def is_fold(name: str) -> bool:
    """Whether a folder is called fold1, split2, ..."""
    return _FOLD.fullmatch(_plain(name)) is not None


def hidden_role(name: str) -> tuple[str, str] | None:
    """A split within a longer name and the rest: ``seg_train`` -> ("train", "seg"); None where there is none."""
    words = [w for w in re.split(r"[\W_]+", name.casefold()) if w]
    roles = {_ROLE_OF[w] for w in words if w in _ROLE_OF}
    if len(roles) != 1:
        return None
    return roles.pop(), " ".join(w for w in words if w not in _ROLE_OF)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case, blanks or punctuation only."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(_plain(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def same_but_for_spelling(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that differ from `name` in case, blanks or punctuation only, or else are much like it."""
    names = sorted(names)
    alike = [other for other in names if _plain(other) == _plain(name)]
    return alike or difflib.get_close_matches(name, names, n=1, cutoff=0.75)
