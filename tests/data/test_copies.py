"""Copies of pictures: counted within and between splits, said once, in the result, in the tables."""

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from configs import linear, transferability
from vtabjax import data, results, tasks
from vtabjax.data import copies
from vtabjax.data.copies import Pictures
from vtabjax.protocols import knn
from vtabjax.sweep import runner


def picture(i, size=(9, 6)):
    return np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)


def save(folder, cls, numbers):
    """Pictures by number: equal numbers, equal pixels, whatever file they are in."""
    (folder / cls).mkdir(parents=True, exist_ok=True)
    for place, i in enumerate(numbers):
        Image.fromarray(picture(i)).save(folder / cls / f"{place}.{'png' if place % 2 else 'bmp'}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A task: 40 pictures to train on, of which cat/0 is there three times more, once as a dog; 10 to test, of which
    three were trained on."""
    folder = tmp_path_factory.mktemp("pictures")
    save(folder / "train", "cat", [*range(18), 0, 0])
    save(folder / "train", "dog", [*range(100, 119), 0])
    save(folder / "test", "cat", [1, 2, 200, 201, 202])
    save(folder / "test", "dog", [101, 300, 301, 302, 303])
    return f"folder:{folder}"


COUNTED = {
    "within": {"train800val200": 3, "test": 0},
    "between": {"train800val200+test": 3},
    "classes": 1,
}
SAID = (
    "3 test pictures are copies of train800val200 pictures; 3 train800val200 pictures are copies of others there; "
    "1 picture is in more than one class"
)


def test_equal_pixels_have_equal_hashes():
    a = picture(0)
    assert copies.pixel_hash(a) == copies.pixel_hash(a.copy())
    grey = a[:, :, :1]
    assert copies.pixel_hash(grey) == copies.pixel_hash(np.repeat(grey, 3, axis=2))
    changed = a.copy()
    changed[-1, -1, -1] ^= 1
    others = [changed, a[:, ::-1], a.reshape(6, 9, 3), a[:-1]]
    assert len({copies.pixel_hash(x) for x in [a, *others]}) == 5


def test_counting_against_every_pair():
    rng = np.random.default_rng(0)
    for n, values in [(0, 5), (1, 5), (30, 40), (60, 8)]:
        splits = {
            name: Pictures(rng.integers(0, values, size).astype(np.uint64), rng.integers(0, 3, size))
            for name, size in (("train", n), ("val", n // 2), ("test", n // 3))
        }
        found = copies.count(splits)
        lists = {name: s.hashes.tolist() for name, s in splits.items()}
        assert found["within"] == {
            name: sum(x in own[:i] for i, x in enumerate(own)) for name, own in lists.items()
        }
        assert found["between"] == {
            f"{a}+{b}": sum(x in lists[a] for x in lists[b])
            for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
        }
        classes: dict[int, set[int]] = {}
        for s in splits.values():
            for x, label in zip(s.hashes.tolist(), s.labels.tolist(), strict=True):
                classes.setdefault(x, set()).add(label)
        assert found["classes"] == sum(len(c) > 1 for c in classes.values())


def test_what_is_said():
    assert copies.said(None) == "" == copies.said({"within": {"a": 0}, "between": {"a+b": 0}, "classes": 0})
    assert copies.said(COUNTED) == SAID
    one = {"within": {"train": 1}, "between": {"train+test": 1}, "classes": 2}
    assert copies.said(one) == (
        "1 test picture is a copy of train pictures; 1 train picture is a copy of others there; 2 pictures are in "
        "more than one class"
    )


@pytest.mark.parametrize("resize", ["vtab", "bicubic"])
def test_pictures_are_compared_before_they_are_resized(pictures, tmp_path, resize):
    options = {"image_size": 1, "resize": resize, "cache_dir": tmp_path}
    for _ in range(2):  # decoded, and from the cache
        train, test = (data.load(pictures, split, **options) for split in ("train800val200", "test"))
        assert train.hashes.dtype == np.uint64 and len(np.unique(train.hashes)) == 37
        assert len(np.unique(train.images.reshape(40, -1), axis=0)) <= 37
        assert np.isin(test.hashes, train.hashes).sum() == 3
    by_name = dict(zip(train.ids, train.hashes.tolist(), strict=True))
    assert by_name["train/cat/0.bmp"] == by_name["train/dog/19.png"] == copies.pixel_hash(picture(0))


def test_embedded_tasks_have_no_copies():
    for task in tasks.EMBEDDED:
        splits = {s: data.load(task, s, image_size=2) for s in ("train800val200", "test")}
        found = copies.count({s: Pictures(e.hashes, e.labels) for s, e in splits.items()})
        assert copies.said(found) == ""


def test_a_cell_says_and_records_them(config, fake_converters, pictures, tmp_path, capsys):
    config.tasks = f"{pictures},digits"
    assert runner.run(config, tmp_path) == 0
    of_the_folder = (
        "1 val picture is a copy of train pictures; 3 test pictures are copies of train pictures; "
        "2 train pictures are copies of others there; 1 picture is in more than one class"
    )
    err = capsys.readouterr().err
    assert err.count(of_the_folder) == 1 == err.count("copies of others")  # not for every model
    found = {(r["task"], r["model"]): r for _, r in results.records(tmp_path)}
    record = found[pictures, "tiny/b"]
    assert record["copies"] == {"within": {"trainval": 3}, "between": {}, "classes": 1}
    # cat/0 lies in four places, of which one says dog: whose nearest is another place of the first.
    assert record["notes"]["distance_zero"] == (
        "4 of 40 examples have the same features as their nearest neighbour: "
        + _by_class(data.load(pictures, "train800val200", image_size=16))
    )
    assert found["digits", "tiny/a"]["copies"] == {
        "within": {"train800val200": 0},
        "between": {},
        "classes": 0,
    }
    assert "distance_zero" not in found["digits", "tiny/a"]["notes"]

    for module in (linear, transferability):
        c = module.get_config()
        c.models, c.tasks, c.image_size = "tiny/a", pictures, 16
        c.update({"c_count": 2} if module is linear else {"scores": "logme"})
        assert runner.run(c, tmp_path) == 0
    assert capsys.readouterr().err.count(of_the_folder) == 2
    copied = {r["protocol"]: r["copies"] for _, r in results.records(tmp_path) if r["task"] == pictures}
    # A sweep takes all of one's own pictures that are not tested, by the name of that split.
    assert copied["linear"] == {
        "within": {"trainval": 3, "test": 0},
        "between": {"trainval+test": 3},
        "classes": COUNTED["classes"],
    }
    assert copied["transferability"] == copied["knn"]


def _by_class(examples):
    """Of the four places of cat/0: whose nearest other place (the first of them) has its own class?"""
    hashes, labels = examples.hashes, examples.labels
    places = np.flatnonzero(hashes == np.uint64(copies.pixel_hash(picture(0))))
    same = sum(labels[i] == labels[next(j for j in places if j != i)] for i in places)
    return f"{same} a neighbour of their own class, {len(places) - same} one of another class"


@pytest.mark.parametrize("metric", knn.METRICS)
def test_copies_far_from_the_origin(metric):
    """Leave-one-out of rows that are there twice has to find the copy, at distance zero, whatever float32 does."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(200, 64)) + 1e4, 2, axis=0).astype(np.float32)
    y = rng.integers(0, 5, 400)
    found = knn.leave_one_out(x, y, metric=metric)
    copy = np.arange(400) ^ 1
    np.testing.assert_array_equal(found.neighbours[:, 0], copy)
    assert found.accuracy == np.mean(y[copy] == y)
    reference = NearestNeighbors(n_neighbors=2, algorithm="brute", metric=metric).fit(x.astype(np.float64))
    distance, index = reference.kneighbors(x.astype(np.float64))
    if metric == "euclidean":
        np.testing.assert_array_equal(np.sort(index, axis=1), np.sort(np.stack([copy, copy ^ 1], 1), axis=1))
        assert distance.max() == 0
    assert knn.at_distance_zero(x, found.neighbours, block=7).all()
    single = rng.normal(size=(50, 8)).astype(np.float32)
    assert not knn.at_distance_zero(single, knn.leave_one_out(single, y[:50]).neighbours).any()


def test_many_copies_far_from_the_origin():
    """Ten rows, each forty times: the first other one is the neighbour, and all distances are ties."""
    x = (np.random.default_rng(1).normal(size=(10, 64)) + 1e4).astype(np.float32)[np.arange(400) % 10]
    y = np.random.default_rng(2).integers(0, 3, 400)
    found = knn.leave_one_out(x, y)
    first = np.where(np.arange(400) < 10, np.arange(400) + 10, np.arange(400) % 10)
    np.testing.assert_array_equal(found.neighbours[:, 0], first)
    assert found.accuracy == np.mean(y[first] == y) and found.n_tied == 400
