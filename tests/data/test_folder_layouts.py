"""Folders as people have them: names of splits, wrapping folders, links, leftovers of systems, two forms of Unicode."""

import os
import stat
import unicodedata

import pytest
from conftest import fill_with_pictures as fill
from conftest import picture

from vtabjax import data, tasks

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def get(root):
    return tasks.get(f"folder:{root}")


def refused(root, *words):
    with pytest.raises(tasks.TaskError) as e:
        get(root)
    assert all(word in str(e.value) for word in words), e.value


@pytest.mark.parametrize(
    "train, held_out",
    [
        ("train", "val"),
        ("train", "valid"),
        ("Train", "Validation"),
        ("training_set", "dev-set"),
        ("Training Set", "EVAL"),
        ("trainval", "testing"),
        ("train2017", "val2017"),
        ("TRAIN", "Test_Images"),
    ],
)
def test_splits_by_their_common_names(tmp_path, train, held_out):
    fill(tmp_path / train, cat=10, dog=20)
    fill(tmp_path / held_out, cat=3, dog=4)
    task = get(tmp_path)
    assert task.class_names == ("cat", "dog") and task.sizes == {"train": 24, "val": 6, "test": 7}
    assert task.notes["taken"] == {"train": train, "test": held_out}
    assert all(f.name.startswith(f"{held_out}/") for f in task.files["test"])


def test_a_split_within_itself(tmp_path):
    for split, cls in (("train", "cat"), ("train", "vals"), ("val", "vals")):
        fill(tmp_path / "a" / split / split, **{cls: 3})
        fill(tmp_path / "b" / split / cls, inner=3)  # a class that is called nearly like the split
    assert get(tmp_path / "a").class_names == get(tmp_path / "b").class_names == ("cat", "vals")
    assert get(tmp_path / "a").notes["taken"] == {"train": "train/train", "test": "val/val"}


def test_three_splits(tmp_path):
    for name, n in (("train", 10), ("valid", 3), ("test", 4)):
        fill(tmp_path / name, cat=n, dog=n)
    assert get(tmp_path).sizes == {"train": 20, "val": 6, "test": 8}
    fill(tmp_path / "dev", cat=1, dog=1)
    tasks.forget_folders()
    refused(tmp_path, "2 folders that may be the val split", "dev/", "valid/")


@pytest.mark.parametrize(
    "folders, words",
    [
        ({"images": 3, "masks": 3}, ("images/, masks/", "not like classes")),
        ({"bus": 3, "car": 3, "train": 3}, ("two ways", "train/ is a split", "bus/, car/", "rename")),
        ({"train": 3, "test": 3}, ("test/ has 3 picture(s) outside class folders",)),
        ({"x_train": 3, "x_test": 3}, ("two ways", "x_test/, x_train/ are splits, or classes")),
        ({"train/cat": 3, "train/dog": 3, "test": 1}, ("test/ has 1 picture(s) outside class folders",)),
        ({"train/cat": 3, "train/dog": 3, "test/Cat": 1}, ("the classes Cat", "'Cat' (train/ has 'cat')")),
        ({"train/cat ": 3, "train/dog": 3, "test/cat": 1}, ("nearly the same: 'cat' (train/ has 'cat ')",)),
        ({"cat": 3, "cat ": 3}, ("'cat' and 'cat ' differ only in spaces",)),
        ({"test/cat": 3, "val/cat": 3, "test/dog": 3}, ("no train/",)),
        ({"cat/train": 3, "cat/test": 3, "dog/train": 3, "dog/test": 3}, ("as in test/cat/",)),
        ({"fold1/cat": 3, "fold1/dog": 3, "fold2/cat": 3, "fold2/dog": 3}, ("folds", "cat, dog")),
        ({"train/images": 3, "valid/images": 3}, ("train: images/", "not like classes")),
        ({"dataset/cat": 3, "dataset/dog": 3, "docs/a.txt": 0}, ("did you mean folder:", "/dataset?")),
    ],
)
def test_two_readings_are_refused_and_named(tmp_path, folders, words):
    fill(tmp_path, **{name: n for name, n in folders.items() if n})
    for name in (name for name, n in folders.items() if not n):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    refused(tmp_path, *words)


@pytest.mark.parametrize("wrapping", ["dataset", "dataset/v1", "images", "train"])
def test_a_wrapping_folder_is_taken(tmp_path, wrapping):
    fill(tmp_path / wrapping, cat=5, dog=5)
    task = get(tmp_path)
    assert task.class_names == ("cat", "dog") and task.notes["read_from"] == wrapping
    assert [f.name for f in task.files["test"]] == [f.name for f in get(tmp_path / wrapping).files["test"]]


def test_nested_classes_stay_classes(tmp_path):
    for cls in ("cat", "dog"):
        fill(tmp_path / cls, indoor=3, outdoor=3)
    assert get(tmp_path).class_names == ("cat", "dog") and sum(get(tmp_path).sizes.values()) == 12


def test_masks_beside_images_are_no_pictures(tmp_path):
    for cls in ("covid", "normal"):
        fill(tmp_path / cls, images=5, masks=5)
    assert get(tmp_path).notes["left_out"]["masks"]["count"] == 10
    assert {f.name.split("/")[1] for files in get(tmp_path).files.values() for f in files} == {"images"}


@pytest.mark.parametrize(
    "target, link", [("..", "cat/up"), (".", "cat/self"), ("../..", "cat/deep/up"), (".", "loop")]
)
def test_a_cycle_of_links_ends(tmp_path, target, link):
    fill(tmp_path, cat=5, dog=5)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    os.symlink(target, tmp_path / link)
    assert get(tmp_path).notes["pictures"] == 10 and list(get(tmp_path).notes["left_out"]["links"]) == [link]


def test_a_directory_is_read_in_its_own_place(tmp_path):
    fill(tmp_path / "data", cat=5, dog=4)
    os.symlink("../dog", tmp_path / "data" / "cat" / "a")
    os.symlink("../cat", tmp_path / "data" / "dog" / "a")
    task = get(tmp_path / "data")
    assert task.notes["largest_class"] == ["cat", 5] and task.notes["smallest_class"] == ["dog", 4]
    # Elsewhere, and linked twice: once within a class, refused between two.
    fill(tmp_path, more=3)
    for name in ("b", "c"):
        os.symlink(tmp_path / "more", tmp_path / "data" / "cat" / name)
    tasks.forget_folders()
    assert get(tmp_path / "data").notes["largest_class"] == ["cat", 8]
    os.symlink(tmp_path / "more", tmp_path / "data" / "dog" / "c")
    tasks.forget_folders()
    refused(tmp_path / "data", "dog/c and cat/b are the same folder")


def test_an_alias_of_a_class_is_refused(tmp_path):
    fill(tmp_path, cat=5, dog=5)
    os.symlink("cat", tmp_path / "kitty")
    refused(tmp_path, "kitty and cat are the same folder")


def test_leftovers_of_systems(tmp_path):
    fill(tmp_path, cat=5, dog=5)
    for name in (
        *(
            "cat/@eaDir/000.png/SYNOPHOTO_THUMB_M.jpg",
            "#recycle/a.png",
            "__MACOSX/cat/._000.png",
            "lost+found/a.png",
        ),
        *("$RECYCLE.BIN/a.png", "cat/.@__thumb/000.png", ".ipynb_checkpoints/a.png", "dog/._000.png"),
    ):
        picture(tmp_path / name)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    assert get(tmp_path).class_names == ("cat", "dog") and get(tmp_path).notes["pictures"] == 10
    assert get(tmp_path).notes["left_out"] == {"hidden": 9}


def test_two_forms_of_unicode_are_one_name(tmp_path):
    fill(tmp_path / "a" / "train", **{NFC: 5, "dog": 5})
    fill(tmp_path / "a" / "test", **{NFD: 3, "dog": 3})
    assert get(tmp_path / "a").class_names == (NFC, "dog") and get(tmp_path / "a").sizes["test"] == 6
    for form in ("NFC", "NFD"):
        for i in range(20):
            for cls in (NFC, "dog"):
                name = unicodedata.normalize(form, f"{cls}/é_{i}.png")
                picture(tmp_path / form / name, (i, 0, 0))
    first, second = (get(tmp_path / form) for form in ("NFC", "NFD"))
    for split in ("train", "val", "test"):
        assert [f.name for f in first.files[split]] == [f.name for f in second.files[split]]
        assert all(unicodedata.is_normalized("NFC", f.name) for f in second.files[split])


def test_two_files_of_one_name_are_two(tmp_path):
    fill(tmp_path, cat=4, dog=4)
    for name in (NFC, NFD):
        picture(tmp_path / "cat" / f"{name}.png")
    names = [f.name for files in get(tmp_path).files.values() for f in files]
    assert len(names) == len(set(names)) == 10 and {f"cat/{NFC}.png", f"cat/{NFD}.png"} < set(names)


def test_what_is_not_read_is_counted(tmp_path):
    fill(tmp_path, cat=5, dog=5)
    for name in ("a.heic", "b.HEIC", "c.svg", "noext"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    picture(tmp_path / "middle.png")
    for name in ("a.jpe", "b.avif", "c.tga", "d.jp2"):
        picture(tmp_path / "dog" / name)
    picture(tmp_path / "dog" / "e.jpg")
    (tmp_path / "dog" / "e.jpg").rename(tmp_path / "dog" / "e.JFIF")
    notes = get(tmp_path).notes
    assert notes["left_out"]["unread"] == {".heic": 2, ".svg": 1, "no extension": 1}
    assert notes["left_out"]["outside_classes"] == {"count": 1, "first": ["middle.png"]}
    assert notes["largest_class"] == ["dog", 10]
    assert len(data.load(f"folder:{tmp_path}", "trainval", image_size=8).labels) == 12


def test_what_cannot_be_read_is_told_together(tmp_path):
    fill(tmp_path, cat=5, dog=5)
    os.symlink("/nowhere.png", tmp_path / "cat" / "gone.png")
    os.symlink("ring", tmp_path / "dog" / "ring")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "000.png").write_bytes(b"")
    with pytest.raises(
        data.BrokenImageError, match="4 files cannot be read(.|\n)*cat/gone.png: a link to nowhere"
    ) as e:
        data.look_through(f"folder:{tmp_path}")
    assert "dog/pipe.png: not a file" in str(e.value) and "and 1 more" in str(e.value)
    with pytest.raises(data.BrokenImageError, match="gone.png"):
        data.load(f"folder:{tmp_path}", "train", image_size=8)
    left = data.look_through(f"folder:{tmp_path}", skip_broken=True)["broken"]
    assert left["count"] == 4
    splits = [
        data.load(f"folder:{tmp_path}", s, image_size=8, skip_broken=True) for s in ("trainval", "test")
    ]
    assert sum(len(e.labels) for e in splits) == 9


def test_a_directory_without_permission(tmp_path, monkeypatch):
    fill(tmp_path, cat=5, dog=5)
    fill(tmp_path / "dog", sub=2)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # who runs the tests may be allowed everything
    assert get(tmp_path).problems == {"dog/sub": "the folder cannot be read (Permission denied)"}
    fill(tmp_path / "only" / "a", sub=1)
    fill(tmp_path / "only", b=2)
    refused(tmp_path / "only", "no pictures in a/", "a/sub: the folder cannot be read")


def test_names_that_are_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, cat=5, dog=5)
    for name in ("folder:", "folder: ", "folder:/", "folder://", "folder:/.."):
        with pytest.raises(tasks.TaskError, match="shell variable unset"):
            tasks.get(name)
    with pytest.raises(tasks.TaskError, match=f"did you mean folder:{tmp_path}"):
        tasks.get(str(tmp_path))
    with pytest.raises(tasks.TaskError, match="it is a file; unpack it"):
        tasks.get(f"folder:{tmp_path}/cat/000.png")
    fill(tmp_path / "a,b", cat=3, dog=3)
    with pytest.raises(tasks.TaskError, match="a comma separates tasks.*a,b has one"):
        tasks.check_commas("digits,folder:a,b")
    tasks.check_commas("digits,folder:a,folder:b")
    fill(tmp_path / "a b", cat=3, dog=3)
    assert tasks.get("folder:a b/").name == f"folder:{tmp_path}/a b"


def test_a_picture_linked_from_two_classes_is_a_copy(tmp_path):
    fill(tmp_path, cat=5)
    for i in range(5):
        picture(tmp_path / "dog" / f"{i}.png", (200, i, 0))
    os.symlink("../cat/003.png", tmp_path / "dog" / "link.png")
    assert data.look_through(f"folder:{tmp_path}")["copies"]["classes"] == 1


def test_classes_that_differ_in_case_are_told(tmp_path):
    fill(tmp_path, A=3, a=3, b=3)
    assert get(tmp_path).num_classes == 3 and get(tmp_path).notes["classes_alike"] == [["A", "a"]]


def test_names_that_are_no_unicode(tmp_path):
    root = os.fsencode(tmp_path) + b"/v\xe9lo"
    for cls in (b"caf\xe9", b"dog"):
        os.makedirs(root + b"/" + cls)
        for i in range(4):
            picture(tmp_path / "one.png")
            os.rename(tmp_path / "one.png", root + b"/" + cls + b"/\xe9%d.png" % i)
    name = f"folder:{os.fsdecode(root)}"
    examples = data.load(name, "trainval", image_size=8, cache_dir=tmp_path / "cache")
    assert len(examples.ids) == 6 and tasks.get(name).num_classes == 2


def test_devices_are_never_opened(tmp_path):
    fill(tmp_path, cat=5, dog=5)
    os.symlink("/dev/zero", tmp_path / "cat" / "zero.png")
    assert stat.S_ISCHR(os.stat(tmp_path / "cat" / "zero.png").st_mode)
    assert "not a file" in get(tmp_path).problems["cat/zero.png"]
