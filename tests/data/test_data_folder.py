"""Your own pictures: layouts, hash splits, what is wrong with a folder, broken pictures."""

import os
import shutil

import numpy as np
import pytest
from conftest import fill_with_pictures as _fill
from conftest import picture as _picture
from PIL import Image

from vtabjax import data, tasks


@pytest.fixture
def pictures(tmp_path):
    """50 cats and 25 dogs."""
    _fill(tmp_path / "pictures", cat=50, dog=25)
    return tmp_path / "pictures"


def _load(root, split="trainval", **options):
    return data.load(f"folder:{root}", split, image_size=8, **options)


def test_one_folder_per_class(pictures):
    task = tasks.get(f"folder:{pictures}")
    assert (task.group, task.num_classes, task.class_names) == ("Folder", 2, ("cat", "dog"))
    # Of 50: 10 test, 8 validation, 32 train; of 25: 5, 4 and 16.
    assert task.sizes == {"train": 48, "val": 12, "test": 15}
    assert task.chance == 0.5 and task.majority == pytest.approx(10 / 15)
    split = {s: _load(pictures, s) for s in ("train", "val", "test")}
    counts = {s: np.bincount(e.labels).tolist() for s, e in split.items()}
    assert counts == {"train": [32, 16], "val": [8, 4], "test": [10, 5]}
    ids = [i for e in split.values() for i in e.ids]
    assert len(set(ids)) == 75 and set(ids) == {
        p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png")
    }
    for examples in split.values():
        assert all(
            i.startswith(("cat/", "dog/")[label])
            for i, label in zip(examples.ids, examples.labels, strict=True)
        )
        assert (examples.images[:, 0, 0, 0] == [int(i[4:7]) for i in examples.ids]).all()
        assert len(set(examples.labels[:12])) == 2  # in hash order, not class after class
    assert _load(pictures, "trainval").ids == split["train"].ids + split["val"].ids


def test_splits_do_not_depend_on_place_or_time(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "elsewhere" / "copy")
    for split in tasks.SPLITS:
        assert _load(tmp_path / "elsewhere" / "copy", split).ids == _load(pictures, split).ids
    # Pinned: these must not change between versions of this project.
    assert _load(pictures, "test").ids[:3] == ["cat/032.png", "cat/035.png", "dog/006.png"]


def test_1k_splits(tmp_path):
    _fill(tmp_path, a=900, b=900)
    sizes = {split: len(_load(tmp_path, split).ids) for split in tasks.SPLITS}
    assert sizes["train800"] == 800 and sizes["val200"] == 200 and sizes["train800val200"] == 1000
    assert (sizes["train"], sizes["val"], sizes["test"]) == (1152, 288, 360)


def test_small_classes_are_in_every_split(tmp_path):
    _fill(tmp_path, a=3, b=4, c=30)
    for split in ("train", "val", "test"):
        assert set(_load(tmp_path, split).labels) == {0, 1, 2}


def test_train_and_test_folders(tmp_path):
    _fill(tmp_path / "train", cat=10, dog=20)
    _fill(tmp_path / "test", dog=7)
    task = tasks.get(f"folder:{tmp_path}")
    assert task.sizes == {"train": 24, "val": 6, "test": 7}
    test = _load(tmp_path, "test")
    assert set(test.labels) == {1} and all(i.startswith("test/dog/") for i in test.ids)
    assert all(i.startswith("train/") for i in _load(tmp_path, "trainval").ids)


def test_train_val_and_test_folders(tmp_path):
    _fill(tmp_path / "train", cat=10, dog=20)
    _fill(tmp_path / "val", cat=3, dog=3)
    _fill(tmp_path / "test", cat=4, dog=7)
    assert tasks.get(f"folder:{tmp_path}").sizes == {"train": 30, "val": 6, "test": 11}
    assert all(i.startswith("val/") for i in _load(tmp_path, "val").ids)


def test_what_counts_as_a_picture(tmp_path):
    _fill(tmp_path, a=5, b=5)
    _picture(tmp_path / "a" / "deeper" / "still" / "x.JPG")
    _picture(tmp_path / "a" / "y.WebP")
    for name in ("a/notes.txt", "a/.hidden.png", "a/.cache/z.png", ".git/z.png", "readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    task = tasks.get(f"folder:{tmp_path}")
    assert task.class_names == ("a", "b") and sum(task.sizes.values()) == 12


def test_pictures_are_turned_upright_and_made_rgb(tmp_path):
    _fill(tmp_path, a=1, b=1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0] = 200
    for cls in "ab":
        Image.fromarray(pixels).save(tmp_path / cls / "000.png", exif=exif)
    image = data.load(f"folder:{tmp_path}", "train", image_size=4).images[0]
    np.testing.assert_array_equal(image, np.repeat(pixels[::-1, :, None], 3, axis=2))


def test_symbolic_links_and_home(pictures, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(pictures)
    assert _load(tmp_path / "link", "test").ids == _load(pictures, "test").ids
    for cls in ("cat", "dog"):  # classes put together from folders elsewhere
        (tmp_path / "linked" / cls).mkdir(parents=True)
        (tmp_path / "linked" / cls / "part").symlink_to(pictures / cls)
    assert sum(tasks.get(f"folder:{tmp_path}/linked").sizes.values()) == 75
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tasks.get("folder:~/pictures").name == f"folder:{pictures}"
    monkeypatch.chdir(tmp_path)
    assert tasks.get("folder:pictures").name == f"folder:{pictures}"


def _no_folder(root):
    return "there is no folder"


def _no_classes(root):
    _picture(root / "1.png")
    return r"has 0 sub-folder\(s\); a task needs one sub-folder with pictures per class"


def _one_class(root):
    _fill(root, cat=4)
    return r"has 1 sub-folder\(s\)"


def _empty_class(root):
    _fill(root, cat=4, dog=4)
    (root / "bird").mkdir()
    (root / "bird" / "list.txt").write_text("")
    return r"no pictures in bird/ \(supported formats: \.apng"


def _both_layouts(root):
    _fill(root / "train", cat=4, dog=4)
    _fill(root / "test", cat=4, dog=4)
    _fill(root, bird=4)
    return "beside train/ and test/ there is bird"


def _unknown_test_class(root):
    _fill(root / "train", cat=4, dog=4)
    _fill(root / "test", cat=4, bird=4)
    return "test/ has the classes bird, which train/ does not have"


@pytest.mark.parametrize(
    "make", [_no_folder, _no_classes, _one_class, _empty_class, _both_layouts, _unknown_test_class]
)
def test_a_folder_that_is_no_task(tmp_path, make):
    message = make(tmp_path / "root")
    with pytest.raises(tasks.TaskError, match=f"folder:{tmp_path}/root.*{message}"):
        tasks.get(f"folder:{tmp_path}/root")
    with pytest.raises(tasks.TaskError):
        data.require_prepared(f"folder:{tmp_path}/root")


def test_a_split_without_pictures(tmp_path):
    _fill(tmp_path, a=1, b=1)
    with pytest.raises(tasks.TaskError, match="split test of task folder:.* is empty"):
        _load(tmp_path, "test")


@pytest.fixture
def broken(pictures):
    """Three of the pictures are: empty, cut off, no picture at all."""
    (pictures / "cat" / "001.png").write_bytes(b"")
    content = (pictures / "cat" / "002.png").read_bytes()
    (pictures / "cat" / "002.png").write_bytes(content[:-30])
    (pictures / "dog" / "003.png").write_text("not a picture")
    return pictures


def test_broken_pictures_are_all_listed(broken, tmp_path):
    found = []
    for split in ("trainval", "test"):
        try:
            _load(broken, split, cache_dir=tmp_path / "cache")
        except data.BrokenImageError as e:
            assert "skip_broken=true" in str(e)
            found += [line.strip().split(":")[0] for line in str(e).splitlines()[1:]]
    assert sorted(found) == ["cat/001.png", "cat/002.png", "dog/003.png"]
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_broken_pictures_are_skipped_if_asked(broken, tmp_path, caplog):
    kept = {}
    for cache_dir in (None, tmp_path, tmp_path):  # in memory, written, read
        caplog.clear()
        kept = {s: _load(broken, s, cache_dir=cache_dir, skip_broken=True) for s in ("trainval", "test")}
        assert sum(len(e.ids) for e in kept.values()) == 72
        assert all(len(e.ids) == len(e.images) == len(e.labels) for e in kept.values())
        assert "left out" in caplog.text and "dog/003.png" in caplog.text
        for examples in kept.values():
            assert (examples.images[:, 0, 0, 0] == [int(i[4:7]) for i in examples.ids]).all()
    with pytest.raises(data.BrokenImageError):  # what was cached without them does not hide them
        _load(broken, "trainval", cache_dir=tmp_path)
        _load(broken, "test", cache_dir=tmp_path)


def test_many_broken_pictures_are_counted(tmp_path):
    for cls in "ab":
        (tmp_path / cls).mkdir()
        for i in range(30):
            (tmp_path / cls / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(data.BrokenImageError, match="48 image(.|\n)*: the file is empty\n  and 28 more") as e:
        _load(tmp_path)
    assert len(str(e.value).splitlines()) == 22


def test_skip_broken_changes_nothing_where_nothing_is_broken(pictures):
    assert _load(pictures).fingerprint == _load(pictures, skip_broken=True).fingerprint


def test_a_changed_picture_is_noticed(pictures, tmp_path):
    before = _load(pictures, cache_dir=tmp_path / "cache")
    name = before.ids[0]
    _picture(pictures / name, (255, 255, 255))
    os.utime(pictures / name, ns=(1, 1))
    tasks.forget_folders()  # a folder is looked through once per process
    after = _load(pictures, cache_dir=tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert (after.images[0] == 255).all() and (before.images[0] != 255).any()
