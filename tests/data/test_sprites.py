"""The embedded data sets: the sprite renderer, digits, and splits that never change."""

import hashlib
import itertools

import numpy as np
import pytest

from vtabjax import data, tasks
from vtabjax.data.sources import sprites


def test_factors_of_all_states():
    n = int(np.prod(sprites.FACTOR_SIZES))
    assert n == 737_280
    factors = sprites.all_factors(np.arange(0, n, 997))
    assert factors.max(axis=0).tolist() == [2, 5, 39, 31, 31] and factors.min() == 0
    assert sprites.all_factors(np.array([n - 1])).tolist() == [[2, 5, 39, 31, 31]]


def test_render_is_binary_and_cuts_nothing_off():
    extremes = np.array(list(itertools.product(range(3), [5], range(40), [0, 31], [0, 31])))
    images = sprites.render(extremes)
    assert images.shape == (480, 64, 64) and images.dtype == np.uint8
    assert set(np.unique(images)) == {0, 1}
    assert not images[:, [0, -1]].any() and not images[:, :, [0, -1]].any()


def test_position_moves_by_one_pixel():
    base, right, down = sprites.render(np.array([[2, 3, 7, 10, 12], [2, 3, 7, 11, 12], [2, 3, 7, 10, 13]]))
    np.testing.assert_array_equal(right[:, 1:], base[:, :-1])
    np.testing.assert_array_equal(down[1:], base[:-1])


def test_shapes_and_scale():
    square, ellipse, heart = sprites.render(np.array([[s, 5, 0, 16, 16] for s in range(3)])).astype(int)
    # An axis-parallel square of half side 10.8 around a pixel's centre: 21 x 21 pixels.
    assert square.sum() == 21 * 21 and square[22:43, 22:43].all()
    assert abs(ellipse.sum() - np.pi * 14.3 * 8.7) < 8
    np.testing.assert_array_equal(ellipse[:, 1:], ellipse[:, :0:-1])
    np.testing.assert_array_equal(heart[:, 1:], heart[:, :0:-1])  # upright: left equals right ...
    assert heart[:32].sum() > heart[33:].sum()  # ... and the point is down
    areas = [sprites.render(np.array([[1, scale, 0, 16, 16]])).sum() for scale in range(6)]
    assert areas == sorted(areas) and areas[0] * 3.5 < areas[5] < areas[0] * 4.5


def test_orientation():
    images = sprites.render(np.array([[2, 5, o, 16, 16] for o in range(40)]))
    np.testing.assert_array_equal(images[0], images[39])  # a full turn, both ends included, as in dSprites
    assert len({image.tobytes() for image in images[:39]}) == 39


def test_render_refuses_factors_out_of_range():
    with pytest.raises(ValueError, match=r"\[2, 5, 39, 31, 31\]"):
        sprites.render(np.array([[3, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"\[N, 5\]"):
        sprites.render(np.zeros((2, 4), int))


def _hash(examples):
    return hashlib.sha256("\n".join(examples.ids).encode() + examples.labels.tobytes()).hexdigest()[:12]


# Pinned: no version of numpy or of this project may move an example into another split.
_PINNED = {
    "digits": {
        "train800": "407f058a2538",
        "val200": "1cd24ce53b67",
        "train800val200": "e62394295828",
        "test": "fafa9627a920",
    },
    "sprites_location": {
        "train800": "eb06111f8415",
        "val200": "6f2482fcb7a7",
        "train800val200": "8b45ebdd92a3",
        "test": "156997384d5b",
    },
    "sprites_orientation": {
        "train800": "bd95c9ac6406",
        "val200": "bb3bc7700f7b",
        "train800val200": "00d3b652b50b",
        "test": "92d849564218",
    },
}


@pytest.mark.parametrize("name", _PINNED)
def test_splits_are_pinned(name):
    sizes = {
        "train800": 800,
        "val200": 200,
        "train800val200": 1000,
        "test": 797 if name == "digits" else 2000,
    }
    loaded = {split: data.load(name, split, image_size=8) for split in sizes}
    assert {split: len(e.ids) for split, e in loaded.items()} == sizes
    assert {split: _hash(e) for split, e in loaded.items()} == _PINNED[name]
    assert loaded["train800val200"].ids == loaded["train800"].ids + loaded["val200"].ids
    assert not set(loaded["train800val200"].ids) & set(loaded["test"].ids)
    for split in ("train", "val", "trainval"):
        again = {"train": "train800", "val": "val200", "trainval": "train800val200"}[split]
        assert data.load(name, split, image_size=8).ids == loaded[again].ids
    assert np.bincount(loaded["test"].labels).max() / sizes["test"] == tasks.get(name).majority
    for examples in loaded.values():
        assert len(set(examples.ids)) == len(examples.ids)
        assert set(examples.labels) == set(range(tasks.get(name).num_classes))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    both = [data.load("digits", split, image_size=8) for split in ("trainval", "test")]
    rows = [int(i.removeprefix("digits-")) for e in both for i in e.ids]
    assert sorted(rows) == list(range(1797))
    images = np.concatenate([e.images for e in both])
    assert images.shape == (1797, 8, 8, 3) and images.dtype == np.uint8
    for channel in range(3):
        expected = np.rint(original.images[rows] * 255 / 16)
        np.testing.assert_array_equal(images[..., channel], expected)
    np.testing.assert_array_equal(np.concatenate([e.labels for e in both]), original.target[rows])


def test_sprites_labels_are_those_of_dsprites():
    location = data.load("sprites_location", "test", image_size=64)
    orientation = data.load("sprites_orientation", "test", image_size=64)
    assert location.ids == orientation.ids
    np.testing.assert_array_equal(location.images, orientation.images)
    states = np.array([int(i.removeprefix("sprite-")) for i in location.ids])
    factors = sprites.all_factors(states)
    np.testing.assert_array_equal(location.images[..., 0], sprites.render(factors) * 255)
    np.testing.assert_array_equal(location.labels, factors[:, 3] // 2)
    expected = np.repeat(np.arange(16), [3, 2] * 8)[factors[:, 2]]
    np.testing.assert_array_equal(orientation.labels, expected)
