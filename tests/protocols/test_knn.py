"""Nearest neighbours against comparing every pair in float64, one after the other."""

import subprocess
import sys
import types

import conftest
import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from vtabjax.protocols import _arrays, knn
from vtabjax.protocols.knn import _bounds, _nearest, _space
from vtabjax.runtime.devices import data_mesh


def by_hand(x, k, metric="euclidean", groups=None, queries=None):
    """Neighbours [Q, k] and whether the k-th ties, from differences in float64."""
    x = np.asarray(x, np.float64)
    q = x if queries is None else np.asarray(queries, np.float64)
    if metric == "cosine":
        unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (q, x)]
        d = 1 - unit[0] @ unit[1].T
    else:
        d = np.stack([((x - row) ** 2).sum(1) for row in q])
    if queries is None:
        groups = np.arange(len(x)) if groups is None else groups
        d[groups[:, None] == groups[None, :]] = np.inf
    order = np.argsort(d, axis=1, kind="stable")
    s = np.take_along_axis(d, order, 1)
    return order[:, :k], s[:, k - 1] == s[:, k] if k < len(x) else np.zeros(len(q), bool)


def cases():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(150, 8))  # one width where it does not matter: one compilation
    return {
        "float64": normal,
        "float32": normal.astype(np.float32),
        "float16": normal.astype(np.float16),
        "duplicates": np.repeat(normal[:30], 5, axis=0)[rng.permutation(150)],
        "pixels": rng.integers(0, 3, size=(150, 8)),
        "uint8": rng.integers(0, 255, size=(150, 8)).astype(np.uint8),
        "offset": 1e4 + normal,
        "offset float32": (1e4 + normal).astype(np.float32),
        "offset integers": 1e8 + rng.integers(0, 3, size=(150, 8)),
        "constant column": np.c_[normal[:, 1:], np.full(150, 1e3)],
        "constant": np.ones((150, 8)),
        "zeros": np.zeros((150, 8), np.float32),
        "outlier": np.r_[normal[2:], 1e12 * normal[:2]],
        "huge": normal * 1e30,
        "wide": rng.normal(size=(40, 700)),
        "one column": rng.normal(size=(150, 1)),
    }


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", cases())
def test_neighbours_are_those_of_every_pair_compared(name, k):
    x = cases()[name]
    y = np.arange(len(x)) % 3
    found = knn.leave_one_out(x, y, k=k, block=64)
    expected, tied = by_hand(x, k)
    np.testing.assert_array_equal(found.neighbours, expected)
    assert found.n_tied == tied.sum()


def test_distances_beyond_the_range_of_squares():
    x = np.random.default_rng(0).normal(size=(50, 4))
    y = np.arange(50) % 2
    expected = by_hand(x, 2)[0]
    for scale in (2.0**700, 2.0**-700):
        np.testing.assert_array_equal(knn.leave_one_out(x * scale, y, k=2).neighbours, expected)


@pytest.mark.parametrize("k", [1, 5])
def test_cosine(k):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 8))
    x[7] = 0
    x[41] = x[41].astype(np.float32)
    x[40] = 3 * x[41]  # the same direction: the nearest, at distance 0
    x[42] = x[41] / 4
    found = knn.leave_one_out(x, np.arange(150) % 2, k=k, metric="cosine", block=64)
    expected = by_hand(x, k, "cosine")[0]
    others = np.setdiff1d(np.arange(150), [7, 40, 41, 42])
    np.testing.assert_array_equal(found.neighbours[others], expected[others])
    np.testing.assert_array_equal(found.neighbours[7], np.arange(k))  # all equally far: the lowest indices
    assert [found.neighbours[i, 0] for i in (40, 41, 42)] == [41, 40, 40]
    # A row opposite to all others is nearest to the zero row.
    x = np.array([[1.0, 0.1], [1.0, 0.2], [0.0, 0.0], [-1.0, -0.15], [1.0, 0.3]])
    assert knn.leave_one_out(x, np.arange(5), metric="cosine").neighbours[3, 0] == 2


def test_cosine_and_euclidean_differ_where_they_should():
    x = np.array([[1.0, 0], [10, 1], [0.5, 0.5], [9, 9]])
    y = np.array([0, 0, 1, 1])
    assert knn.leave_one_out(x, y, metric="cosine").accuracy == 1
    assert knn.leave_one_out(x, y).neighbours[:, 0].tolist() == [2, 3, 0, 1]


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 30)).astype(np.float32)
    y = rng.integers(0, 5, 400)
    brute = NearestNeighbors(algorithm="brute").fit(x.astype(np.float64))
    found = knn.leave_one_out(x, y, k=4)
    np.testing.assert_array_equal(found.neighbours, brute.kneighbors(n_neighbors=4, return_distance=False))
    accuracy = np.mean(y[found.neighbours[:, 0]] == y)
    assert knn.leave_one_out(x, y).accuracy == pytest.approx(accuracy)

    test = rng.normal(size=(70, 30))
    reference = KNeighborsClassifier(3, algorithm="brute").fit(x.astype(np.float64), y)
    got = knn.classify(x, y, test, k=3, block=64)
    np.testing.assert_array_equal(got.neighbours, reference.kneighbors(test, return_distance=False))
    assert got.accuracy is None
    labels = got.predictions.copy()
    labels[:7] += 1
    assert knn.classify(x, y, test, labels, k=3).accuracy == pytest.approx(0.9)
    # All training examples as neighbours.
    assert sorted(knn.classify(x[:5], y[:5], test, k=5).neighbours[0].tolist()) == [0, 1, 2, 3, 4]


def test_undecided_rows_get_a_second_look(monkeypatch):
    """Forty examples within float32's error of each other: the proposals cannot contain all candidates."""
    rng = np.random.default_rng(3)
    x = np.r_[1 + 1e-7 * rng.normal(size=(40, 16)), rng.normal(size=(60, 16))]
    looks = []
    original = _nearest._candidates
    monkeypatch.setattr(_nearest, "_candidates", lambda *a: (looks.append((a[-1], a[1])), original(*a))[1])
    found = knn.leave_one_out(x, np.zeros(100, int), k=2)
    np.testing.assert_array_equal(found.neighbours, by_hand(x, 2)[0])
    seen = {dtype: set(rows.tolist()) for dtype, rows in looks}
    assert seen[np.float32] >= set(range(40)) and seen[np.float64] >= set(range(40))


@pytest.mark.parametrize("k", [1, 3])
def test_an_accelerator_looks_again_before_the_host_does(monkeypatch, k):
    """Nine examples whose distances float32 does not tell apart, and forty of that kind: the latter need the host."""
    rng = np.random.default_rng(3)
    few, many = 1 + 1e-7 * rng.normal(size=(9, 16)), 1e-7 * rng.normal(size=(40, 16)) - 1
    x = np.r_[few, many, rng.normal(size=(60, 16))]
    looked, compared = [], []
    again, candidates = _nearest.look_again, _nearest._candidates
    monkeypatch.setattr(_nearest, "_host_is_slower", lambda device: True)
    monkeypatch.setattr(_nearest, "look_again", lambda *a: (looked.extend(a[2]), again(*a))[1])
    monkeypatch.setattr(_nearest, "_candidates", lambda *a: (compared.extend(a[1]), candidates(*a))[1])
    found = knn.leave_one_out(x, np.zeros(109, int), k=k)
    np.testing.assert_array_equal(found.neighbours, by_hand(x, k)[0])
    assert set(looked) >= set(range(49))
    assert set(compared) >= set(range(9, 49)) and not set(compared) & set(range(9))
    one_group = knn.leave_one_out(x, np.zeros(109, int), k=k, groups=np.arange(109) // 2)
    np.testing.assert_array_equal(one_group.neighbours, by_hand(x, k, groups=np.arange(109) // 2)[0])


def test_small_searches_leave_an_accelerator_alone():
    accelerator = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="gpu")]))
    (host,) = _nearest._where(accelerator, 1000 * 1000 * 2048).devices
    assert host.platform == "cpu"
    assert _nearest._where(accelerator, 100_000 * 100_000 * 2048) is accelerator
    mesh = data_mesh()
    assert _nearest._where(mesh, 1) is mesh


def test_lower_bounds_are_lower_bounds():
    """The proven error bound holds, and is not so wide that it would prove nothing."""
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(64, 512)) + 5).astype(np.float32)
    space = _space.Space(x, None, "euclidean")
    g = 1.01 * (512 + 64) * 2.0**-24
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    rows, norms = _bounds._block(space, x, 0, np.arange(64), 64, sharding)
    rows = _bounds._shrunken(rows, g)
    products = _bounds._products(rows.x, rows.x)
    bounds = np.asarray(_bounds._bounds(rows.about, rows.about, products, False), np.float64)
    exact = np.stack([((space.exact(x) - row) ** 2).sum(1) for row in space.exact(x)])
    slack = 2 * g * (norms[:, None] + norms)
    assert (bounds <= exact).all() and (exact <= bounds + slack).all()
    assert slack.max() < 1e-3 * np.median(exact)


def test_features_of_another_width_need_no_new_search_program():
    """Only the products depend on it; the rest is what takes long to compile."""
    labels = np.arange(120) % 3
    searching = (_bounds._update_both, _bounds._update_self)

    def search(width):
        x = np.random.default_rng(width).normal(size=(120, width))
        return knn.leave_one_out(x, labels, block=64, mesh=data_mesh(jax.devices()[:1])).neighbours

    search(7)
    before = [program._cache_size() for program in searching]
    found = search(9)
    assert [program._cache_size() for program in searching] == before and min(before) > 0
    x = np.random.default_rng(9).normal(size=(120, 9))
    distances = np.square(x[:, None] - x).sum(-1) + np.diag(np.full(120, np.inf))
    assert (found[:, 0] == distances.argmin(1)).all()


@pytest.mark.parametrize("kind", ["normal", "pixels", "close"])
def test_bfloat16_proposals_change_nothing(kind, monkeypatch):
    """On every machine, whatever its processor: the bounds are as true where the products are slow."""
    rng = np.random.default_rng(6)
    x = {
        "normal": rng.normal(size=(500, 64)),
        "pixels": rng.integers(0, 3, size=(500, 8)),
        "close": 1 + 1e-3 * rng.normal(size=(500, 64)) + 3 * rng.normal(size=(2, 64))[np.arange(500) % 2],
    }[kind].astype(np.float32)
    tried = []
    original = _bounds._to_bfloat16
    monkeypatch.setattr(_bounds, "_to_bfloat16", lambda v: (tried.append(len(v)), original(v))[1])
    monkeypatch.setattr(_nearest, "LARGE", 400)
    monkeypatch.setattr(_nearest, "has_fast_bfloat16", lambda device: True)
    one = data_mesh(jax.devices()[:1])
    found = knn.leave_one_out(x, np.zeros(500, int), k=2, block=128, mesh=one)
    assert tried
    expected, tied = by_hand(x, 2)
    np.testing.assert_array_equal(found.neighbours, expected)
    assert found.n_tied == tied.sum()


def test_groups_of_columns_keep_every_bound():
    rng = np.random.default_rng(7)
    d = rng.integers(0, 50, size=(40, 64)).astype(np.float32)
    for axis in (0, 1):
        n = d.shape[axis]
        first, who, rest = (np.asarray(v) for v in _bounds._finalists(d, np.arange(n) + 100, axis))
        kept = np.sort(np.take_along_axis(d, who - 100, axis), axis)
        np.testing.assert_array_equal(kept, np.sort(first, axis))
        m = d.copy()
        np.put_along_axis(m, who - 100, np.inf, axis)
        np.testing.assert_array_equal(m.min(axis), rest)


@pytest.mark.parametrize("block", [8, 30, 64, 4096])
def test_blocks_do_not_matter(block):
    x = np.random.default_rng(5).integers(0, 3, size=(101, 4))
    found = knn.leave_one_out(x, np.zeros(101, int), k=3, block=block)
    np.testing.assert_array_equal(found.neighbours, by_hand(x, 3)[0])


def test_threads_change_no_digit(monkeypatch):
    x = np.random.default_rng(7).normal(size=(300, 12)).astype(np.float32)
    spaces, found = [_space.Space(x, None, "euclidean")], [knn.leave_one_out(x, np.zeros(300, int), k=3)]
    monkeypatch.setattr(_arrays, "MANY", 1)
    spaces.append(_space.Space(x, None, "euclidean"))
    found.append(knn.leave_one_out(x, np.zeros(300, int), k=3))
    assert spaces[0].scale == spaces[1].scale and (spaces[0].mean == spaces[1].mean).all()
    np.testing.assert_array_equal(found[0].neighbours, found[1].neighbours)
    x[200, 3] = np.nan
    with pytest.raises(ValueError, match="rows 200"):
        knn.leave_one_out(x, np.zeros(300, int))


def test_four_devices_give_the_neighbours_of_one(tmp_path):
    path = tmp_path / "neighbours.npz"
    subprocess.run(
        [sys.executable, str(conftest.PROGRAMS / "neighbours_on_four_devices.py"), str(path)],
        env=conftest.on_devices(4),
        check=True,
    )
    saved = np.load(path)
    x = np.random.default_rng(0).normal(size=(203, 9))
    np.testing.assert_array_equal(saved["normal euclidean 7"], by_hand(x, 7)[0])


@pytest.mark.parametrize("name", ["float64", "duplicates", "pixels"])
def test_groups_are_left_out(name):
    x = cases()[name]
    groups = np.arange(150) // 5
    found = knn.leave_one_out(x, np.arange(150) % 3, k=2, groups=groups, block=64)
    np.testing.assert_array_equal(found.neighbours, by_hand(x, 2, groups=groups)[0])
    assert (groups[found.neighbours] != groups[:, None]).all()


def test_permuting_examples_permutes_predictions():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(90, 8)), rng.integers(0, 4, 90)
    order = rng.permutation(90)
    a, b = knn.leave_one_out(x, y, k=5), knn.leave_one_out(x[order], y[order], k=5)
    np.testing.assert_array_equal(a.predictions[order], b.predictions)
    assert a.accuracy == b.accuracy


def test_votes():
    x = np.array([[0.0], [1.0], [2.1], [3.3], [4.6], [50.0]])
    y = np.array([9, 5, 7, 7, 5, 9])
    # Neighbours of 0 in order: 1 (5), 2 (7), 3 (7), 4 (5): two votes each, class 5 has the nearest.
    assert knn.leave_one_out(x, y, k=3).predictions[0] == 7
    assert knn.leave_one_out(x, y, k=4).predictions[0] == 5
    assert knn.leave_one_out(x, y, k=5).predictions.tolist()[0] == 5

    angles = np.array([0.0, 0.1, 0.9, 1.0, 1.1])
    x = np.c_[np.cos(angles), np.sin(angles)]
    y = np.array([0, 1, 2, 2, 2])
    options = dict(k=4, metric="cosine")
    assert knn.leave_one_out(x, y, **options).predictions[0] == 2
    assert knn.leave_one_out(x, y, vote="weighted", **options).predictions[0] == 1
    # exp(cos(0.1) / T) against the sum of the other three: the vote turns at the T that balances them.
    weights = lambda t: np.exp(np.cos(angles[1:]) / t)  # noqa: E731
    for t in (0.2, 0.3, 0.4, 0.5):
        expected = 1 if weights(t)[0] > weights(t)[1:].sum() else 2
        found = knn.leave_one_out(x, y, vote="weighted", temperature=t, **options)
        assert found.predictions[0] == expected
    assert {1, 2} == {1 if weights(t)[0] > weights(t)[1:].sum() else 2 for t in (0.2, 0.5)}


def test_a_singleton_class_is_never_right():
    x = np.random.default_rng(7).normal(size=(30, 3))
    y = np.zeros(30, int)
    y[11] = 4
    found = knn.leave_one_out(x, y)
    assert found.predictions[11] == 0 and found.accuracy <= 29 / 30
    assert knn.leave_one_out(x, np.full(30, 2)).accuracy == 1.0


def test_noise_does_not_beat_information():
    rng = np.random.default_rng(8)
    y = np.arange(100) % 5
    informative = 1.5 * rng.normal(size=(5, 32))[y] + rng.normal(size=(100, 32))
    noise = rng.normal(size=(100, 240))
    assert knn.leave_one_out(informative, y).accuracy > 0.8
    assert knn.leave_one_out(noise, y).accuracy < 0.4


GOOD = np.random.default_rng(9).normal(size=(10, 3))
LABELS = np.arange(10) % 2


def broken(row, value):
    x = GOOD.copy()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=broken(4, np.nan)), r"features has NaN.* 1 of 10 rows \(rows 4\)"),
        (dict(features=broken(2, -np.inf)), r"rows 2"),
        (dict(features=GOOD[:1], labels=LABELS[:1]), "at least 2"),
        (dict(features=GOOD[0]), r"shape \(3,\)"),
        (dict(features=GOOD[:, :0]), r"shape \(10, 0\)"),
        (dict(features=GOOD > 0), "type bool"),
        (dict(features=GOOD + 1j), "complex"),
        (dict(features=GOOD.astype(str)), "type <U"),
        (dict(labels=LABELS[:9]), r"labels has shape \(9,\) for 10 examples"),
        (dict(labels=LABELS / 2), r"labels has 0\.5 in row \d+; a class number is a whole number"),
        (dict(k=10), "k=10 but each of the 10 examples has only 9"),
        (dict(k=0), "k=0"),
        (dict(k=1.5), "k=1.5"),
        (dict(metric="manhattan"), "'manhattan' is unknown; choose 'euclidean' or 'cosine'"),
        (dict(vote="loudest"), "'majority' or 'weighted'"),
        (dict(vote="weighted"), "cosine"),
        (dict(vote="weighted", metric="cosine", temperature=0.0), "temperature=0.0"),
        (dict(block=0), "block=0"),
        (dict(groups=np.zeros(10, int)), "one group has 10 of the 10"),
        (dict(groups=np.zeros(3, int)), "groups has shape"),
    ],
)
def test_bad_input(change, message):
    arguments = dict(features=GOOD, labels=LABELS) | change
    with pytest.raises(ValueError, match=message):
        knn.leave_one_out(arguments.pop("features"), arguments.pop("labels"), **arguments)


def test_bad_input_to_classify():
    with pytest.raises(ValueError, match="features has 2 columns and train_features 3"):
        knn.classify(GOOD, LABELS, GOOD[:, :2])
    with pytest.raises(ValueError, match="train_features has NaN"):
        knn.classify(broken(1, np.nan), LABELS, GOOD)
    with pytest.raises(ValueError, match="only 10 training examples"):
        knn.classify(GOOD, LABELS, GOOD, k=11)
    with pytest.raises(ValueError, match="labels has shape"):
        knn.classify(GOOD, LABELS, GOOD, LABELS[:4])
