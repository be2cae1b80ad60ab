import json
import subprocess
import sys

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vtabjax
from vtabjax import features, model
from vtabjax.features import cache, device_images
from vtabjax.runtime.devices import data_mesh, round_up


def images(n, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def direct(parts, x):
    inputs = (x.astype(np.float32) / 255 - np.float32(parts.info["mean"])) / np.float32(parts.info["std"])
    with jax.default_matmul_precision("float32"):
        return model.apply(parts.graph, parts.variables, jnp.asarray(inputs))[0]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 20])
def test_any_number_of_images(n):
    parts, x = conftest.tiny_parts(head=True), images(n)
    found = features.extract(parts, x, batch_size=8)
    expected = direct(parts, x)
    assert found["features"].shape == (n, 24) and found["logits"].shape == (n, 5)
    for name in ("features", "logits"):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_no_images_and_no_head():
    found = features.extract(conftest.tiny_parts(), images(0), batch_size=8)
    assert set(found) == {"features"} and found["features"].shape == (0, 24)


def test_one_compilation_per_model(monkeypatch):
    traced = []
    apply = model.apply
    monkeypatch.setattr(model, "apply", lambda *a, **k: traced.append(1) or apply(*a, **k))
    run = features.Extractor(conftest.tiny_parts(), batch_size=8)
    for n in (3, 8, 21, 1):
        run(images(n))
    assert len(traced) == 1


def test_the_function_s_name_stays():
    x = images(3)
    found = features.extractor(conftest.tiny_parts(), batch_size=8)(x)
    expected = features.extract(conftest.tiny_parts(), x, batch_size=8)
    np.testing.assert_array_equal(found["features"], expected["features"])


def test_bfloat16_is_near_float32():
    parts, x = conftest.tiny_parts(), images(5)
    exact, rough = (features.extract(parts, x, dtype=d)["features"] for d in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert 1e-4 < np.abs(exact - rough).max() < 0.05
    with pytest.raises(ValueError, match="dtype 'float16' is not known; choose one of float32, bfloat16"):
        features.extract(parts, x, dtype="float16")


@pytest.mark.parametrize("x", [images(2, 8), images(2).astype(np.float32), images(2)[0]])
def test_other_images_are_refused(x):
    with pytest.raises(ValueError, match=r"takes uint8 \[N, 16, 16, 3\]"):
        features.extract(conftest.tiny_parts(), x)


class SmallDevice(device_images.DeviceImageCache):
    """Has room for batches of `most` images."""

    most = 1_000_000

    def __init__(self, mesh, room=0):
        super().__init__(mesh, room)
        self.tried = []

    def batch(self, images, start, size):
        self.tried.append((size, self.bytes > 0))
        if size > self.most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return super().batch(images, start, size)


def test_out_of_memory_halves_the_batch():
    parts, x, mesh = conftest.tiny_parts(), images(10), data_mesh(jax.devices()[:1])
    store = SmallDevice(mesh, room=1e6)
    store.batch(x, 0, 4)  # of another model
    store.tried.clear()
    store.most = 4
    run = features.Extractor(parts, batch_size=16, mesh=mesh, images=store)
    np.testing.assert_allclose(run(x)["features"], direct(parts, x)["features"], rtol=1e-5, atol=1e-6)
    assert run.batch_size == 4
    run(x)
    rest = [(4, False)] * 3
    assert store.tried == [(16, True), (16, False), (8, False), *rest, *rest]  # and remembers


def test_images_stay_on_the_device(monkeypatch):
    """The second model finds them there; what comes when the room is taken is read each time."""
    reads = []

    class Counted(np.ndarray):
        def __getitem__(self, index):
            reads.append(index)
            return np.asarray(self)[index]

    x, more = images(10).view(Counted), images(3, seed=1).view(Counted)
    mesh = data_mesh(jax.devices()[:1])
    store = device_images.DeviceImageCache(mesh, room=13 * 16 * 16 * 3)
    expected = direct(conftest.tiny_parts(), images(10))["features"]
    for model_number in range(2):
        run = features.Extractor(conftest.tiny_parts(), batch_size=4, mesh=mesh, images=store)
        before = len(reads)
        np.testing.assert_allclose(run(x)["features"], expected, rtol=1e-5, atol=1e-6)
        assert (len(reads) == before) == bool(model_number)
        before = len(reads)
        assert run(more)["features"].shape == (3, 24)
        assert len(reads) > before
    assert store.bytes == 12 * 16 * 16 * 3


def test_nothing_stays_on_cpus():
    store = device_images.DeviceImageCache(data_mesh())
    store.batch(images(4), 0, len(jax.devices()))
    assert store.bytes == 0 and not store.give_way()


def test_out_of_memory_for_one_image_is_an_error():
    store = SmallDevice(data_mesh())
    store.most = 0
    with pytest.raises(jax.errors.JaxRuntimeError):
        features.Extractor(conftest.tiny_parts(), batch_size=4, images=store)(images(3))
    assert store.tried[-1] == (len(jax.devices()), False)


def test_another_error_is_not_tried_again():
    class Broken(device_images.DeviceImageCache):
        def batch(self, images, start, size):
            tried.append(size)
            raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    tried = []
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        features.Extractor(conftest.tiny_parts(), batch_size=8, images=Broken(data_mesh(), 0))(images(3))
    assert tried == [8]


def test_one_device_and_four_agree(tmp_path):
    found, program = {}, conftest.PROGRAMS / "features_of_images.py"
    np.save(tmp_path / "images.npy", images(21))
    for n in (1, 4):
        out = subprocess.run(
            [sys.executable, str(program), str(tmp_path / "images.npy"), str(tmp_path / f"{n}.npy")],
            env=conftest.on_devices(n),
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.split() == [str(n)]
        found[n] = np.load(tmp_path / f"{n}.npy")
    assert found[1].shape == (21, 24)
    np.testing.assert_allclose(found[1], found[4], rtol=1e-6, atol=1e-6)


def test_round_up():
    assert [round_up(n, 4) for n in (1, 4, 5)] == [4, 4, 8]


KEY = features.Key("w", "g", "e", (3, 16, 16), ((0.5,), (0.2,)), "float32")


def test_cache_round_trip(tmp_path):
    data = {"features": np.float32([[1, 2]]), "logits": np.float32([[3]])}
    assert features.load(tmp_path, KEY) is None
    features.save(tmp_path, KEY, data)
    found = features.load(tmp_path, KEY)
    assert set(found) == set(data)
    for name, value in data.items():
        np.testing.assert_array_equal(found[name], value)
    assert [p.name for p in tmp_path.iterdir()] == [f"{KEY.digest()}.npz"]  # no temporary file stays


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "v"},
        {"graph": "h"},
        {"examples": "f"},
        {"input_size": (3, 8, 8)},
        {"normalisation": ((0.4,), (0.2,))},
        {"dtype": "bfloat16"},
        {"version": "0.0.9"},
    ],
)
def test_cache_knows_everything_that_changes_features(tmp_path, change):
    features.save(tmp_path, KEY, {"features": np.zeros((1, 2), np.float32)})
    assert features.load(tmp_path, KEY._replace(**change)) is None
    assert set(change) <= set(KEY._fields)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-90] + b"x" * 90])
def test_damaged_cache_file_is_none(tmp_path, damage):
    features.save(tmp_path, KEY, {"features": np.arange(2000, dtype=np.float32).reshape(20, 100)})
    path = tmp_path / f"{KEY.digest()}.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert features.load(tmp_path, KEY) is None
    features.save(tmp_path, KEY, {"features": np.ones((1, 1), np.float32)})
    assert features.load(tmp_path, KEY)["features"] == 1


def test_every_flipped_bit_in_the_cache_is_noticed(tmp_path, caplog):
    rng = np.random.default_rng(0)
    data = {"features": rng.normal(size=(20, 100)).astype(np.float32), "logits": np.ones((20, 3), np.float32)}
    features.save(tmp_path, KEY, data)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    places = np.concatenate(
        [rng.integers(0, len(sound), 150), rng.integers(len(sound) - 400, len(sound), 50)]
    )
    for place in places:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ (1 << rng.integers(8))]) + sound[place + 1 :])
        caplog.clear()
        assert features.load(tmp_path, KEY) is None, place
        assert f"{path} is extracted again: its content has changed" in caplog.text
    path.write_bytes(sound)
    np.testing.assert_array_equal(np.load(path)["features"], data["features"])  # numpy alone reads it, too


def test_a_new_version_makes_its_own_features():
    assert KEY.version == vtabjax.__version__ and features.Key(*KEY[:6]).digest() == KEY.digest()
    assert KEY._replace(version="0.0.9").digest() != KEY.digest()


def test_a_file_of_another_key_is_not_taken(tmp_path):
    features.save(tmp_path, KEY, {"features": np.zeros((1, 2), np.float32)})
    other = KEY._replace(weights="v")
    (tmp_path / f"{KEY.digest()}.npz").rename(tmp_path / f"{other.digest()}.npz")
    assert features.load(tmp_path, other) is None
    assert json.loads(json.dumps(KEY))[0] == "w"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_not_kept(tmp_path, value):
    data = np.zeros((4, 3), np.float32)
    data[2, 1] = value
    with pytest.raises(features.NotFiniteError, match=r"1 of 4 rows of features .*the first is row 2"):
        features.save(tmp_path, KEY, {"features": data})
    assert not list(tmp_path.iterdir())


def test_huge_logits_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_LOGITS_BYTES", 8)
    features.save(
        tmp_path, KEY, {"features": np.zeros((1, 9), np.float32), "logits": np.zeros((1, 3), np.float32)}
    )
    assert set(features.load(tmp_path, KEY)) == {"features"}
