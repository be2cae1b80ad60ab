"""A folder looked through: its pictures, what is not a picture, what cannot be read; every real directory once."""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# Files that are opened. What has another ending is counted, not read.
PICTURES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .avif .avifs .bmp .dib .tif .tiff .tga .icb .vda .vst .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .ppm .pgm .pbm .pnm .pfm .qoi .pcx".split()
)
# What operating systems, network drives and archives leave behind, in lower case. (What begins with a dot is, too.)
_LEFTOVERS = frozenset(
    (
        *(
            "@eadir",
            "@tmp",
            "@recycle",
            "@recently-snapshot",
            "#recycle",
            "#snapshot",
            "~snapshot",
            "__macosx",
        ),
        *("lost+found", "$recycle.bin", "recycler", "system volume information", "network trash folder"),
        *("temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
    )
)


class Picture(NamedTuple):
    """A file with a picture's ending.

    Attributes:
      path: where it lies.
      where: the same relative to the folder, with slashes, in Unicode's composed form (NFC).
      raw: the same as the file system spells it.
      size: bytes.
      changed: nanoseconds since 1970.
    """

    path: str
    where: str
    raw: str
    size: int
    changed: int


@dataclasses.dataclass
class Directory:
    """A directory. Paths are as in `Picture`; `linked`: it was reached through a link."""

    path: str
    where: str
    raw: str
    linked: bool = False
    pictures: list[Picture] = dataclasses.field(default_factory=list)
    unread: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    children: list[Directory] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """The last component of its path, in NFC."""
        return self.where.rpartition("/")[2]

    def below(self) -> Iterator[Directory]:
        """Itself and every directory in it."""
        stack = [self]
        while stack:
            directory = stack.pop()
            yield directory
            stack += directory.children

    def has_pictures(self) -> bool:
        """Whether there is a picture in it or below."""
        return any(directory.pictures for directory in self.below())


class Tree(NamedTuple):
    """What a folder holds.

    Attributes:
      root: the folder.
      problems: path -> why it cannot be read: links to nowhere, directories without permission, pipes.
      again: (a link, the directory that it leads to), where that is read in its own place.
      hidden: entries that begin with a dot or are a system's leftovers, with what is in them.
    """

    root: Directory
    problems: dict[str, str]
    again: list[tuple[str, Directory]]
    hidden: int


def walk(root: str) -> Tree:
    """Looks through a folder.

    Links to directories are followed, after everything that lies there itself: a directory that two ways lead to is
    taken in its own place, or else at the first link in the order of the paths.

    Args:
      root: its path.
    """
    walker = _Walker()
    directory = Directory(root, "", "")
    walker.read(directory)
    while walker.links:
        links, walker.links = sorted(walker.links, key=lambda link: link[1].where), []
        for parent, target in links:
            walker.read(target, parent)
    return Tree(directory, dict(sorted(walker.problems.items())), walker.again, walker.hidden)


class _Walker:
    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.again: list[tuple[str, Directory]] = []
        self.hidden = 0
        self.links: list[tuple[Directory, Directory]] = []  # the directory that holds it, what it leads to
        self._seen: dict[tuple[int, int], Directory] = {}

    def read(self, directory: Directory, parent: Directory | None = None) -> None:
        """Reads a directory and what is below, and hangs it into `parent`."""
        stack = [(directory, parent)]
        while stack:
            directory, parent = stack.pop()
            try:
                status = os.stat(directory.path)
                place = (status.st_dev, status.st_ino)
                if place in self._seen:
                    self.again.append((directory.where, self._seen[place]))
                    continue
                self._seen[place] = directory
                if parent is not None:
                    parent.children.append(directory)
                entries = sorted(os.scandir(directory.path), key=lambda entry: entry.name)
            except OSError as e:
                self.problems[directory.where or "."] = f"the folder cannot be read ({e.strerror})"
                continue
            for entry in entries:
                self._entry(entry, directory, stack)

    def _entry(
        self, entry: os.DirEntry, directory: Directory, stack: list[tuple[Directory, Directory | None]]
    ) -> None:
        if entry.name.startswith(".") or entry.name.lower() in _LEFTOVERS:
            self.hidden += 1
            return
        raw = f"{directory.raw}/{entry.name}" if directory.raw else entry.name
        where = unicodedata.normalize("NFC", raw)
        suffix = os.path.splitext(entry.name)[1].lower()
        try:
            if entry.is_dir(follow_symlinks=False):
                stack.append((Directory(entry.path, where, raw, directory.linked), directory))
                return
            status = os.stat(entry.path)
        except OSError as e:
            if suffix in PICTURES or not suffix:
                link = "a link to nowhere" if entry.is_symlink() else "it cannot be read"
                self.problems[where] = f"{link} ({e.strerror})"
            else:
                directory.unread[suffix] += 1
            return
        if stat.S_ISDIR(status.st_mode):
            self.links.append((directory, Directory(entry.path, where, raw, linked=True)))
        elif suffix not in PICTURES:
            directory.unread[suffix or "no extension"] += 1
        elif not stat.S_ISREG(status.st_mode):
            self.problems[where] = "not a file (a pipe, a socket or a device)"
        else:
            directory.pictures.append(Picture(entry.path, where, raw, status.st_size, status.st_mtime_ns))
