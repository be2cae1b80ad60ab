"""How a folder of pictures is laid out: which directories are classes, which are splits.

Where a name has to be interpreted, what was taken is noted; where two readings are equally good, both are named and
nothing is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from vtabjax import specs
from vtabjax.tasks import _names
from vtabjax.tasks._own import ALL
from vtabjax.tasks._task import TaskError
from vtabjax.tasks._tree import PICTURES, Directory, Tree

_EITHER = "either one sub-folder per class, or train/ and test/ (and val/) with one sub-folder per class each"


@dataclasses.dataclass
class Layout:
    """A folder's splits and classes.

    Attributes:
      base: the directory that was read: the folder itself, or the only one in it.
      splits: split ("train", "val", "test", or `ALL`) -> its directory.
      classes: names of the classes, sorted.
      members: (split, class) -> its directories: more than one where a name is there in two Unicode forms.
      unused: directories without pictures that were left out.
    """

    base: Directory
    splits: dict[str, Directory]
    classes: list[str]
    members: dict[tuple[str, str], list[Directory]]
    unused: list[str]


def find(tree: Tree) -> Layout:
    """The layout of a folder.

    Raises:
      TaskError: the folder is not a classification task, or may be read in two ways.
    """
    base = tree.root
    unused: list[str] = []
    while (only := _wrapped(base)) is not None:
        unused += [d.where for d in base.children if d is not only]
        base = only
    roles = _roles(base)
    if roles:
        splits = _own_splits(base, roles)
        unused += [d.where for d in base.children if _names.role(d.name) is None]
        splits = {split: _unwrap_split(directory) for split, directory in splits.items()}
        reference = splits["train"]
    else:
        splits, reference = {ALL: base}, base
    _check_names(reference, roles)
    _check_class_names(reference)
    unused += [
        d.where for d in reference.children if _names.is_target(d.name)
    ]  # those with pictures are refused above
    names = sorted({d.name for d in reference.children if not _names.is_target(d.name)})
    inside = _with_pictures(reference)
    if len(names) < 2 or len(inside) == 1 and len(_with_pictures(inside[0])) > 1:
        raise TaskError(
            f"{reference.path} has {len(names)} sub-folder(s); a task needs one sub-folder with pictures per class, "
            "and at least two of them"
            + _unread_hint(reference)
            + (
                f"; did you mean folder:{inside[0].path}?"
                if inside and len(_with_pictures(inside[0])) > 1
                else ""
            )
        )
    members: dict[tuple[str, str], list[Directory]] = {}
    for split, directory in splits.items():
        for child in directory.children:
            members.setdefault((split, child.name), []).append(child)
    _check_empty(reference, names, members, tree)
    if roles:
        _check_own_classes(splits, names)
    layout = Layout(base, splits, names, members, unused)
    _check_twice(layout, tree)
    return layout


def _with_pictures(directory: Directory) -> list[Directory]:
    return sorted((d for d in directory.children if d.has_pictures()), key=lambda d: d.where)


def _listed(directories: Iterable[Directory]) -> str:
    return specs.listed((f"{name}/" for name in dict.fromkeys(d.name for d in directories)), 5)


def _wrapped(base: Directory) -> Directory | None:
    """The only directory, where it holds classes or splits itself and nothing speaks for its being a class."""
    inside = _with_pictures(base)
    beside = [d for d in base.children if d not in inside and not _names.is_target(d.name)]
    if len(inside) == 1 and not beside and not inside[0].pictures and _with_pictures(inside[0]):
        return inside[0]
    return None


def _unwrap_split(split: Directory) -> Directory:
    """A split's directory, or the one of the same split in it: train/train."""
    inside = _with_pictures(split)
    if len(inside) == 1 and _names.role(inside[0].name) == _names.role(split.name) and inside[0].children:
        return inside[0]
    return split


def _roles(base: Directory) -> dict[str, list[Directory]]:
    found: dict[str, list[Directory]] = {}
    for directory in sorted(base.children, key=lambda d: d.where):
        if role := _names.role(directory.name):
            found.setdefault(role, []).append(directory)
    return found


def _own_splits(base: Directory, roles: Mapping[str, Sequence[Directory]]) -> dict[str, Directory]:
    """Training, validation and test directories; validation is the test set where there is no other."""
    others = [d for d in _with_pictures(base) if _names.role(d.name) is None]
    for role, directories in roles.items():
        if len(directories) > 1:
            raise TaskError(
                f"{base.path} has {len(directories)} folders that may be the {role} split: {_listed(directories)}; "
                "keep one of them"
            )
    own = [roles[role][0] for role in ("train", "val", "test") if role in roles]
    names = _listed(own)
    if others and not ("train" in roles and len(roles) > 1):
        raise TaskError(
            f"{base.path} can be read in two ways: {names} is a split, and {_listed(others)} beside it does not "
            f"belong to the data set; or all of them are classes. Move the others away, or rename {names} (train "
            "-> trains)"
        )
    beside = " and ".join(f"{d.name}/" for d in own)
    if others:
        raise TaskError(
            f"beside {beside} there is {', '.join(d.name for d in others[:5])}; a folder holds {_EITHER}"
        )
    if "train" not in roles or len(roles) == 1:
        raise TaskError(
            f"{base.path} has {beside} and no {'test' if 'train' in roles else 'train'}/; a folder holds {_EITHER}"
            + (
                f"; {names} holds {len(own[0].pictures)} picture(s) outside class folders"
                if own[0].pictures
                else ""
            )
        )
    splits = {role: directories[0] for role, directories in roles.items()}
    if "test" not in splits:
        splits["test"] = splits.pop("val")
    for directory in splits.values():
        if not _with_pictures(directory):
            n = len(directory.pictures)
            raise TaskError(
                f"{directory.where}/ has "
                + (f"{n} picture(s) outside class folders" if n else "no pictures")
                + " and no class folder with pictures"
                + _unread_hint(directory)
                + "; sort its pictures into one sub-folder per class, or remove the folder"
            )
    return splits


def _unread_hint(directory: Directory) -> str:
    kinds = sum((d.unread for d in directory.below()), start=type(directory.unread)())
    if not kinds:
        return ""
    return (
        f" (it holds files that are not read: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common(4))})"
    )


def _check_names(base: Directory, roles: Mapping[str, object]) -> None:
    """Refuses directories that are not classes by their names or by what they hold."""
    inside = _with_pictures(base)
    images = [d for d in inside if _names.is_images(d.name)]
    targets = [d for d in inside if _names.is_target(d.name)]
    if images or targets:
        way_out = "; if they are classes, rename them"
        if len(images) == 1 and len(_with_pictures(images[0])) > 1:
            way_out = f"; if its sub-folders are the classes, name it: folder:{images[0].path}" + way_out
        raise TaskError(
            f"{base.path}: {_listed(images + targets)} looks like the pictures of a data set and what is to be "
            "predicted of them, not like classes" + way_out
        )
    if roles:
        if nested := [d for d in inside if _names.role(d.name)]:
            raise TaskError(
                f"{base.path}: {_listed(nested)} is the name of a split, not of a class; rename it if it is one"
            )
        return
    _check_hidden_splits(base, inside)


def _check_hidden_splits(base: Directory, inside: Sequence[Directory]) -> None:
    hidden = {d.name: found for d in inside if (found := _names.hidden_role(d.name))}
    if len({role for role, _ in hidden.values()}) > 1 and len({rest for _, rest in hidden.values()}) == 1:
        raise TaskError(
            f"{base.path} can be read in two ways: {', '.join(f'{n}/' for n in hidden)} are splits, or classes. "
            "Call splits train/, val/ and test/; rename the folders if they are classes"
        )
    below = [[d.name for d in _with_pictures(child)] for child in inside]
    if len(inside) > 1 and all(names and all(map(_names.role, names)) for names in below):
        raise TaskError(
            f"{base.path}: {_listed(inside)} hold folders named like splits ({', '.join(below[0])}); put "
            f"the splits above the classes, as in {below[0][0]}/{inside[0].name}/"
        )
    if len(inside) > 1 and all(_names.is_fold(d.name) and not d.pictures for d in inside):
        shared = set.intersection(*map(set, below))
        if len(shared) > 1:
            raise TaskError(
                f"{base.path} can be read in two ways: {_listed(inside)} are folds of one data set with the classes "
                f"{', '.join(sorted(shared)[:5])}, or classes. Put train/ and test/ in their place, or rename them"
            )


def _check_class_names(base: Directory) -> None:
    """Refuses two class folders whose names differ only in blanks at their ends."""
    by_name: dict[str, str] = {}
    for name in sorted({d.name for d in base.children}):
        other = by_name.setdefault(name.strip(), name)
        if other != name:
            raise TaskError(
                f"{base.path}: the classes {other!r} and {name!r} differ only in spaces; join or rename the folders"
            )


def _check_empty(
    base: Directory, names: Sequence[str], members: Mapping[tuple[str, str], list[Directory]], tree: Tree
) -> None:
    split = "train" if any(s == "train" for s, _ in members) else ALL
    empty = [n for n in names if not any(d.has_pictures() for d in members[split, n])]
    if not empty:
        return
    problems = [
        f"{where}: {why}"
        for where, why in tree.problems.items()
        if any(where == d.where or where.startswith(d.where + "/") for n in empty for d in members[split, n])
    ]
    raise TaskError(
        f"no pictures in {', '.join(f'{n}/' for n in empty)} (supported formats: {' '.join(sorted(PICTURES))})"
        + _unread_hint(members[split, empty[0]][0])
        + "".join(f"\n  {problem}" for problem in problems[:5])
    )


def _check_own_classes(splits: Mapping[str, Directory], names: Sequence[str]) -> None:
    for split, directory in sorted(splits.items()):
        unknown = sorted({d.name for d in _with_pictures(directory)} - set(names))
        if split == "train" or not unknown:
            continue
        near = [
            f"{u!r} (train/ has {n!r})" for u in unknown for n in _names.same_but_for_spelling(u, names)[:1]
        ]
        raise TaskError(
            f"{directory.where}/ has the classes {', '.join(unknown)}, which train/ does not have"
            + (f"; nearly the same: {', '.join(near)}" if near else "")
        )


def _check_twice(layout: Layout, tree: Tree) -> None:
    """Refuses one directory in two places that mean different things: two classes, or training and testing."""
    places = [(d, key) for key, directories in layout.members.items() for d in directories]

    def place(where: str) -> tuple[str, str] | None:
        for directory, key in places:
            if where == directory.where or where.startswith(directory.where + "/"):
                return key
        return None

    class_level = {d.where for d in layout.splits.values()}
    for link, target in tree.again:
        there, here = place(target.where), place(link)
        if there is None:
            continue
        parent = link.rpartition("/")[0]
        as_class = parent in class_level
        if as_class or (target.linked and here is not None and here != there):
            raise TaskError(
                f"{link} and {target.where} are the same folder, so that its pictures would belong to two classes "
                "or splits; remove one of the links"
            )
