"""Tasks as data: split arithmetic of all nineteen, label rules at their edges, unknown names."""

import numpy as np
import pytest

from vtabjax import tasks

# train, val, trainval, test, val200, N test, classes: the table of VTAB's released code, worked out by hand.
_OWN = ("train", "validation", "train+validation", "test", "validation[:200]")
_EXPECTED = {
    "caltech101": ("train[:2754]", "train[2754:]", "train", "test", "train[2754:2954]", 6084, 102),
    "cifar100": ("train[:45000]", "train[45000:]", "train", "test", "train[45000:45200]", 10000, 100),
    "dtd": (*_OWN, 1880, 47),
    "flowers102": (*_OWN, 6149, 102),
    "pets": ("train[:2944]", "train[2944:]", "train", "test", "train[2944:3144]", 3669, 37),
    "sun397": (*_OWN, 21750, 397),
    "svhn": ("train[:65931]", "train[65931:]", "train", "test", "train[65931:66131]", 26032, 10),
    "eurosat": (
        *("train[:16200]", "train[16200:21600]", "train[:21600]", "train[21600:]", "train[16200:16400]"),
        *(5400, 10),
    ),
    "resisc45": (
        *("train[:18900]", "train[18900:25200]", "train[:25200]", "train[25200:]", "train[18900:19100]"),
        *(6300, 45),
    ),
    "patch_camelyon": (*_OWN, 32768, 2),
    "retinopathy": (*_OWN, 42670, 5),
    "clevr_count": ("train[:63000]", "train[63000:]", "train", "validation", "train[63000:63200]", 15000, 8),
    "clevr_distance": (
        "train[:63000]",
        "train[63000:]",
        "train",
        "validation",
        "train[63000:63200]",
        15000,
        6,
    ),
    "dsprites_location": (
        *(
            "train[:589824]",
            "train[589824:663552]",
            "train[:663552]",
            "train[663552:]",
            "train[589824:590024]",
        ),
        *(73728, 16),
    ),
    "smallnorb_azimuth": (
        "train",
        "test[:12150]",
        "train+test[:12150]",
        "test[12150:]",
        "test[:200]",
        12150,
        18,
    ),
    "dmlab": (*_OWN, 22735, 6),
    "kitti_distance": (*_OWN, 711, 4),
}
_EXPECTED["dsprites_orientation"] = _EXPECTED["dsprites_location"]
_EXPECTED["smallnorb_elevation"] = (*_EXPECTED["smallnorb_azimuth"][:6], 9)


def _size(pieces):
    return sum(r.stop - r.start for r in pieces)


@pytest.mark.parametrize("name", tasks.VTAB)
def test_splits(name):
    task = tasks.get(name)
    train, val, trainval, test, val200, n_test, classes = _EXPECTED[name]
    assert (task.splits["train"], task.splits["val"], task.splits["trainval"]) == (train, val, trainval)
    assert (task.splits["test"], task.splits["val200"]) == (test, val200)
    assert task.splits["train800"] == "train[:800]"
    assert task.splits["train800val200"] == f"train[:800]+{val200}"
    assert task.num_classes == classes
    assert _size(tasks.ranges(task, "test")) == n_test
    assert _size(tasks.ranges(task, "train800val200")) == 1000


@pytest.mark.parametrize("name", tasks.TASKS)
def test_no_example_is_both_trained_and_tested_on(name):
    task = tasks.get(name)
    seen = set()
    for split in ("train", "val", "test"):
        members = {(r.split, i) for r in tasks.ranges(task, split) for i in range(r.start, r.stop)}
        assert members and not members & seen
        seen |= members


def test_names_and_groups():
    groups = [tasks.get(name).group for name in tasks.VTAB]
    assert len(tasks.VTAB) == 19 and len(tasks.TASKS) == 22
    assert [groups.count(g) for g in tasks.GROUPS] == [7, 4, 8, 0, 0, 0, 0, 0]
    assert all(name == task.name for name, task in tasks.TASKS.items())
    assert len({task.builder for task in map(tasks.get, tasks.VTAB)}) == 16
    assert all(tuple(task.splits) == tasks.SPLITS for task in tasks.TASKS.values())
    assert tasks.get("retinopathy").majority == 0.7359
    assert tasks.get("clevr_count").chance == 1 / 8


def test_pets_reads_the_version_tfds_can_prepare():
    assert tasks.get("pets").builder == "oxford_iiit_pet:4.*.*"


def test_splits_follow_the_sizes_that_are_there():
    # A local caltech101 can have 3,059 training images: int(0.9 * 3059) = 2753.
    sizes = {"train": 3059, "test": 6085}
    assert tasks.ranges(tasks.get("caltech101"), "train", sizes) == [("train", 0, 2753)]
    assert tasks.ranges(tasks.get("caltech101"), "val200", sizes) == [("train", 2753, 2953)]
    assert tasks.ranges(tasks.get("caltech101"), "test", sizes) == [("test", 0, 6085)]
    # Where train and val hold less than 800 and 200, the 1k splits do not reach into each other.
    small = tasks.ranges(tasks.get("caltech101"), "train800val200", {"train": 10, "test": 1})
    assert small == [("train", 0, 10)]
    assert tasks.ranges(tasks.get("caltech101"), "train800", {"train": 10, "test": 1}) == [("train", 0, 9)]


def test_unknown_names():
    with pytest.raises(
        tasks.TaskError, match="flower_102.*did you mean flowers102.*Tasks: caltech101,.*folder:/"
    ):
        tasks.get("flower_102")
    with pytest.raises(ValueError, match="split 'dev' of task dtd.*train800val200"):
        tasks.ranges(tasks.get("dtd"), "dev")


def _clevr(*depths):
    return {"objects": {"pixel_coords": [np.float32([1, 2, d]) for d in depths]}}


def test_clevr_count():
    assert [tasks.clevr_count(_clevr(*[9.0] * n)) for n in range(3, 11)] == list(range(8))


@pytest.mark.parametrize(
    "depth, label",
    [
        *((0.1, 0), (8.0, 0), (np.nextafter(np.float32(8), np.float32(9)), 1), (8.5, 1), (8.51, 2), (9.0, 2)),
        *((9.01, 3), (9.5, 3), (9.51, 4), (10.0, 4), (10.01, 5), (99.0, 5)),
    ],
)
def test_clevr_distance(depth, label):
    assert tasks.clevr_distance(_clevr(depth)) == label
    assert tasks.clevr_distance(_clevr(99.5, depth, 99.9)) == label  # the closest one counts


def _kitti(*objects):
    kinds, depths = zip(*objects, strict=True) if objects else ((), ())
    return {"objects": {"type": list(kinds), "location": [np.float32([0, 0, d]) for d in depths]}}


@pytest.mark.parametrize(
    "objects, label",
    [
        (((0, 5),), 0),
        (((0, -3),), 0),
        (((1, 8.0),), 0),
        (((2, np.nextafter(np.float32(8), np.float32(9))),), 1),
        (((0, 20.0),), 1),
        (((0, 20.01),), 2),
        (((0, 999),), 2),
        (((0, 999.5),), 3),  # a vehicle, but beyond the last edge
        (((0, 2000),), 3),
        (((3, 5), (7, 2)), 3),  # pedestrian and others: no vehicle
        ((), 3),
        (((3, 2), (0, 30), (1, 15)), 1),
    ],
)
def test_kitti_distance(objects, label):
    assert tasks.kitti_distance(_kitti(*objects)) == label


def test_dsprites_bins():
    orientation = [tasks.dsprites_orientation({"label_orientation": i}) for i in range(40)]
    assert orientation[:10] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert np.bincount(orientation).tolist() == [3, 2] * 8
    location = [tasks.dsprites_location({"label_x_position": i}) for i in range(32)]
    assert location == [i // 2 for i in range(32)]


def test_other_labels():
    example = {"label": np.int64(7), "label_azimuth": 17, "label_elevation": 8}
    assert tasks.stored_label(example) == 7 and isinstance(tasks.stored_label(example), int)
    assert tasks.smallnorb_azimuth(example) == 17
    assert tasks.smallnorb_elevation(example) == 8


def test_file_stem_of_folders(tmp_path):
    for parent in "ab":
        for cls in ("x", "y"):
            (tmp_path / parent / "my pets" / cls).mkdir(parents=True)
            (tmp_path / parent / "my pets" / cls / "1.png").write_bytes(b"")
    first, second = (tasks.get(f"folder:{tmp_path}/{p}/my pets").file_stem for p in "ab")
    assert first.startswith("folder-my_pets-") and first != second
    assert "/" not in first and tasks.get(f"folder:{tmp_path}/a/my pets/").file_stem == first
    assert tasks.get("dtd").file_stem == "dtd"
