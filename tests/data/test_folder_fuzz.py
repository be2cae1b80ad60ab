"""Random folders: a data set is drawn first, then dressed as people leave them; what was drawn is what must be read.

VTABJAX_FUZZ=2000 runs so many examples instead of the few of every day.
"""

import collections
import dataclasses
import os
import pathlib
import shutil
import tempfile
import unicodedata

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtabjax import tasks

EXAMPLES = int(os.environ.get("VTABJAX_FUZZ", "150"))
CLASSES = ("cat", "Dog", "café", "été 2", "10", "2", "bird house", "naïve", "日本", "a.b", "vals", "trains")
WORDS = {
    "train": (
        "train",
        "Training",
        "TRAIN",
        "training_set",
        "train-set",
        "Training Set",
        "trainval",
        "train_images",
    ),
    "val": ("val", "valid", "Validation", "dev", "eval", "VAL", "val_set", "validation-set"),
    "test": ("test", "Testing", "TEST", "test_set", "test set", "Test-Data"),
}
ENDINGS = (".png", ".JPG", ".jpeg", ".jfif", ".Tif", ".webp", ".avif", ".bmp")
PLACES = ("", "a/", "deep/er/", "é/")
HIDDEN = (
    ".DS_Store",
    "._0.png",
    "Thumbs.db",
    "@eaDir/0.png/T.jpg",
    ".git/0.png",
    "__MACOSX/0.png",
    "#recycle/0.png",
)
UNREAD = {"0.heic": ".heic", "1.HEIC": ".heic", "note.txt": ".txt", "noext": "no extension", "x.svg": ".svg"}
REFUSED = (
    *(
        "flat test",
        "second val",
        "alias of a class",
        "empty class",
        "unknown class",
        "masks",
        "one folder, two classes",
    ),
    *("a split beside classes", "blank"),
)


@dataclasses.dataclass
class Truth:
    """What a folder means: (split, class) -> its files, by the paths that they really have."""

    pictures: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(set))
    unread: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: set = dataclasses.field(default_factory=set)
    refused: str | None = None


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return os.path.realpath(path)


@st.composite
def folders(draw, scratch):
    """A folder under `scratch`, and what it means."""
    root, truth = scratch / "root", Truth()
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    roles = draw(st.sampled_from(((), ("train", "val"), ("train", "test"), ("train", "val", "test"))))
    base = root
    for _ in range(draw(st.integers(0, 2))):
        base /= draw(st.sampled_from(("data", "Bilder é", "v1")))
    splits = {role: base / draw(st.sampled_from(WORDS[role])) for role in roles} or {"all": base}
    homes = {}
    for split, home in splits.items():
        for cls in classes:
            if split in ("val", "test") and cls != classes[0] and draw(st.integers(0, 3)) == 0:
                continue  # a class that is not in this split
            form = draw(st.sampled_from(("NFC", "NFD")))
            homes[split, cls] = home / unicodedata.normalize(form, cls)
            for i in range(draw(st.integers(1, 4))):
                name = f"{draw(st.sampled_from(PLACES))}é{i}{draw(st.sampled_from(ENDINGS))}"
                truth.pictures[split, cls].add(put(homes[split, cls] / unicodedata.normalize(form, name)))
    dress(draw, truth, scratch, root, base, homes)
    truth.refused = draw(st.none() | st.none() | st.sampled_from(REFUSED))
    if truth.refused:
        spoil(truth, scratch, base, splits, homes, classes)
    return root, truth, roles, classes


def dress(draw, truth, scratch, root, base, homes):
    """Adds what must make no difference, or is told."""
    keys = sorted(homes)
    for name in draw(st.lists(st.sampled_from(HIDDEN), max_size=3, unique=True)):
        put(draw(st.sampled_from((root, base, homes[keys[0]]))) / name)
    for name in draw(st.lists(st.sampled_from(sorted(UNREAD)), max_size=3, unique=True)):
        put(homes[draw(st.sampled_from(keys))] / name)
        truth.unread[UNREAD[name]] += 1
    if base == root and draw(st.booleans()):  # in a wrapping folder it would look like a class's
        put(base / "preview.png")
    cycles = (("up", ".."), ("self", "."), ("top", str(root)), ("base", str(base)), ("x/up", "../.."))
    for name, target in draw(st.lists(st.sampled_from(cycles), max_size=2, unique=True)):
        link = homes[draw(st.sampled_from(keys))] / name
        link.parent.mkdir(exist_ok=True)
        if not os.path.lexists(link):
            os.symlink(target, link)
    if draw(st.booleans()):  # a link to what is read in its own place
        first, second = draw(st.sampled_from(keys)), draw(st.sampled_from(keys))
        os.symlink(homes[second], homes[first] / "neighbour")
    if draw(st.booleans()):  # a class put together from elsewhere, twice
        key = draw(st.sampled_from(keys))
        for i in range(draw(st.integers(1, 3))):
            truth.pictures[key].add(put(scratch / "elsewhere" / f"{i}.png"))
        for name in ("more", "more again"):
            os.symlink(scratch / "elsewhere", homes[key] / name)
    for name in draw(st.lists(st.sampled_from(("gone.png", "ring", "pipe.jpg")), max_size=2, unique=True)):
        path = homes[draw(st.sampled_from(keys))] / name
        os.mkfifo(path) if name == "pipe.jpg" else os.symlink(
            {"ring": "ring"}.get(name, "/nowhere.png"), path
        )
        truth.problems.add(unicodedata.normalize("NFC", path.relative_to(root).as_posix()))


def spoil(truth, scratch, base, splits, homes, classes):
    """Makes a folder one that must be refused; some kinds need splits of its own, some must not have them."""
    kind, first = truth.refused, next(iter(splits.values()))
    own = "train" in splits
    if kind == "flat test" and own:
        held = splits["test" if "test" in splits else "val"]
        shutil.rmtree(held)
        put(held / "1.png")
    elif kind == "second val" and "val" in splits:
        put(base / "devset" / classes[0] / "1.png")
    elif kind == "alias of a class":
        os.symlink(homes[next(iter(splits)), classes[0]], first / "alias")
    elif kind == "empty class":
        (first / "empty").mkdir()
    elif kind == "unknown class" and own:
        put(splits["test" if "test" in splits else "val"] / "unknown" / "1.png")
    elif kind == "masks":
        put(first / "Masks" / "1.png")
    elif kind == "one folder, two classes":
        put(scratch / "shared" / "1.png")
        for cls in classes[:2]:
            os.symlink(scratch / "shared", homes[next(iter(splits)), cls] / "shared")
    elif kind == "a split beside classes" and not own:
        put(base / "Testing" / "1.png")
    elif kind == "blank":
        put(first / f"{classes[0]} " / "1.png")
    else:
        truth.refused = None


def cut(n):
    """How many of a class's n pictures are cut off."""
    return n // 5 or (1 if n > 1 else 0)


def expected_sizes(truth, roles, classes):
    n = {key: len(files) for key, files in truth.pictures.items()}
    if not roles:
        test = {c: cut(n["all", c]) for c in classes}
        train = {c: n["all", c] - test[c] for c in classes}
    else:
        held_out = "test" if "test" in roles else "val"
        train = {c: n["train", c] for c in classes}
        test = {c: n.get((held_out, c), 0) for c in classes}
    if {"val", "test"} <= set(roles):
        val = {c: n.get(("val", c), 0) for c in classes}
    else:
        val = {c: cut(train[c]) for c in classes}
        train = {c: train[c] - val[c] for c in classes}
    return {name: sum(own.values()) for name, own in (("train", train), ("val", val), ("test", test))}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_was_drawn_is_read(data):
    with tempfile.TemporaryDirectory() as folder:
        root, truth, roles, classes = data.draw(folders(pathlib.Path(folder)))
        tasks.forget_folders()
        try:
            task = tasks.get(f"folder:{root}")
        except tasks.TaskError as e:
            assert truth.refused, e
            assert str(root) in str(e)
            return
        assert truth.refused is None, f"read in spite of: {truth.refused}"
        compare(task, truth, roles, classes)


def compare(task, truth, roles, classes):
    assert task.class_names == tuple(sorted(classes))
    assert task.sizes == expected_sizes(truth, roles, classes)
    read = [(split, f) for split, files in task.files.items() for f in files]
    names = [f.name for _, f in read]
    assert len(set(names)) == len(names) and all(unicodedata.is_normalized("NFC", name) for name in names)
    found = collections.defaultdict(list)
    for split, file in read:
        if not roles:
            place = "all"
        elif "test" in roles and "val" in roles:
            place = split
        else:
            place = next(r for r in roles if r != "train") if split == "test" else "train"
        found[place, task.class_names[file.label]].append(os.path.realpath(file.path))
    assert {key: sorted(files) for key, files in found.items()} == {
        key: sorted(files) for key, files in truth.pictures.items() if files
    }
    assert (
        task.notes["left_out"].get("unread", {}) == truth.unread
        if "left_out" in task.notes
        else not truth.unread
    )
    assert set(task.problems) == truth.problems
