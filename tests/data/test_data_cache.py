"""The image cache: what is wrong is built again, what cannot be written is said, two processes build once."""

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import tfds_tiny

from vtabjax import data
from vtabjax.data import cache
from vtabjax.runtime import files

KEY = "0123456789abcdef" * 4
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)


class Blocks:
    """Images as the cache takes them: what a generator yields is written, what it returns is kept beside that."""

    def __init__(self, make):
        self._make, self.content = make, {}

    def __iter__(self):
        self.content = (yield from self._make()) or {}


def _build():
    yield IMAGES[:7]
    yield IMAGES[7:]
    return {"labels": list(range(10))}


def _fetch(folder, build=_build, key=KEY, n=10):
    return cache.fetch(folder, "task-test-4", key, (4, 4, 3), n, Blocks(build))


def _never():
    raise AssertionError("built although it was cached")


def _files(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


@pytest.fixture
def cached(tmp_path):
    """A folder with one cached array."""
    _fetch(tmp_path)
    return tmp_path


@pytest.fixture
def array_file(cached):
    return next(cached.glob("*.npy"))


def test_built_once_and_memory_mapped(tmp_path):
    images, content = _fetch(tmp_path / "new" / "folder")
    again, content_again = _fetch(tmp_path / "new" / "folder", _never)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(again, IMAGES)
    assert content == content_again == {"labels": list(range(10))}
    assert isinstance(again, np.memmap) and not again.flags.writeable
    assert _files(tmp_path / "new" / "folder") == [f"task-test-4-{KEY[:16]}.{e}" for e in ("json", "npy")]
    np.testing.assert_array_equal(
        np.load(tmp_path / "new" / "folder" / f"task-test-4-{KEY[:16]}.npy"), IMAGES
    )


def test_fewer_images_than_announced_and_none(tmp_path):
    images, _ = _fetch(tmp_path, lambda: iter([IMAGES[:3]]), n=10_000_000)
    assert images.shape == (3, 4, 4, 3)
    images, _ = _fetch(tmp_path, lambda: iter([]), key="f" * 64)
    assert images.shape == (0, 4, 4, 3)
    assert _fetch(tmp_path, _never, key="f" * 64)[0].shape == (0, 4, 4, 3)


def _truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _foreign(path):
    np.save(path, np.zeros((10, 4, 4, 3), np.uint8))


def _other_shape(path):
    np.save(path, IMAGES.reshape(10, 48))


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _flip, _foreign, _other_shape, _empty, os.remove])
def test_a_damaged_array_is_built_again(cached, array_file, damage, caplog):
    damage(array_file)
    with caplog.at_level(logging.WARNING):
        images, content = _fetch(cached)
    np.testing.assert_array_equal(images, IMAGES)
    assert "is built again" in caplog.text and str(array_file) in caplog.text
    if damage in (_truncate, _empty):
        assert "bytes instead of" in caplog.text
    np.testing.assert_array_equal(_fetch(cached, _never)[0], IMAGES)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"key": "other"}), '{"key": 3, "bytes": 1}', "null"]
)
def test_a_damaged_description_is_built_again(cached, array_file, text, caplog):
    array_file.with_suffix(".json").write_text(text)
    np.testing.assert_array_equal(_fetch(cached)[0], IMAGES)
    assert "is built again" in caplog.text


def test_a_file_of_other_settings_is_not_used(cached, array_file, caplog):
    description = array_file.with_suffix(".json")
    meta = files.unseal(description.read_text())
    description.write_text(files.seal(meta | {"key": KEY[:16] + "f" * 48}))  # the same name
    assert _fetch(cached)[1] == {"labels": list(range(10))}
    assert "belongs to other settings" in caplog.text


def test_a_missing_description_is_an_interrupted_run(cached, array_file, caplog):
    array_file.with_suffix(".json").unlink()
    np.testing.assert_array_equal(_fetch(cached)[0], IMAGES)
    assert "never completed" in caplog.text


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_every_flipped_bit_is_noticed(tmp_path, suffix, caplog, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time
    big = np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), np.uint8)
    ids = [f"cat/\u00e9{i}.png" for i in range(90)]
    built = []

    def fetch():
        def build():
            built.append(1)
            yield big
            return {"labels": list(range(90)), "ids": ids, "broken": {}}

        return cache.fetch(tmp_path, "big", KEY, (16, 16, 3), 90, Blocks(build))

    fetch()
    path = next(tmp_path.glob(f"*{suffix}"))
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    places = rng.integers(0, len(sound), 200)
    places[:20] = rng.integers(0, 128, 20)  # the header, and what comes first in the description
    for place, bit in zip(places, rng.integers(0, 8, 200), strict=True):
        with open(path, "r+b") as f:
            f.seek(place)
            f.write(bytes([sound[place] ^ (1 << bit)]))
        built.clear(), caplog.clear()
        images, content = fetch()
        assert built == [1], f"bit {bit} of byte {place}"
        assert caplog.text.count("is built again") == 1
        assert content["ids"] == ids
    np.testing.assert_array_equal(images, big)
    built.clear()
    fetch()
    assert not built and path.read_bytes() == sound


def test_labels_edited_by_hand_are_not_used(cached, array_file, caplog):
    description = array_file.with_suffix(".json")
    description.write_text(description.read_text().replace("[0, 1, 2,", "[2, 1, 0,"))
    assert _fetch(cached)[1] == {"labels": list(range(10))}
    assert "its description cannot be used (its content has changed)" in caplog.text


def test_the_content_is_looked_at_once_per_process(cached, array_file, monkeypatch):
    read = []
    real = files.crc32
    monkeypatch.setattr(files, "crc32", lambda *a: read.append(1) or real(*a))
    cache._checksum.cache_clear()
    for _ in range(3):
        _fetch(cached, _never)
    assert read == [1]
    os.utime(array_file)  # touched: looked at again
    _fetch(cached, _never)
    assert read == [1, 1]


def test_a_failing_build_leaves_nothing(tmp_path):
    def build():
        yield IMAGES
        raise data.DataError("record 7 is damaged")

    with pytest.raises(data.DataError, match="record 7"):
        _fetch(tmp_path, build)
    assert _files(tmp_path) == []


def test_a_failing_rebuild_keeps_other_entries(cached):
    with pytest.raises(ZeroDivisionError):
        _fetch(cached, lambda: 1 / 0, key="a" * 64)
    np.testing.assert_array_equal(_fetch(cached, _never)[0], IMAGES)


def _slow(folder, log):
    def build():
        with open(log, "a") as f:
            f.write("built\n")
        time.sleep(0.5)
        return (yield from _build())

    images, _ = _fetch(folder, build)
    assert (images == IMAGES).all()


def test_two_processes_build_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_slow, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def _hang(folder):
    def build():
        yield IMAGES
        (folder / "started").touch()
        time.sleep(60)

    _fetch(folder, build)


def test_killed_while_building(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (leftover,) = tmp_path.glob(".*.tmp")
    name = f".task-test-4-{KEY[:16]}.npy.elsewhere.1.tmp"
    at_work, dead = tmp_path / name, tmp_path / name.replace("elsewhere", "gone")
    at_work.touch(), dead.touch()
    os.utime(dead, (0, 0))
    np.testing.assert_array_equal(_fetch(tmp_path)[0], IMAGES)  # the lock went with the process
    assert not leftover.exists()
    assert at_work.exists() and not dead.exists()  # another machine's, where only the time tells


def test_without_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    np.testing.assert_array_equal(_fetch(tmp_path)[0], IMAGES)


def test_too_little_room_is_said_before_building(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 100))
    with pytest.raises(data.CacheError, match=r"no room in .*480\.0 MB needed, 0\.0 MB free"):
        _fetch(tmp_path, _never, n=10_000_000)


@pytest.fixture
def mounted(tmp_path):
    """Mounts a tmpfs of one megabyte."""
    with tfds_tiny.small_disk(tmp_path / "mounted", "1m") as folder:
        yield folder


def test_a_disk_that_is_full(mounted, monkeypatch):
    _fetch(mounted)
    real = shutil.disk_usage
    # The disk fills up after the check.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1e9, 0, 1e9))

    def build():
        monkeypatch.setattr(shutil, "disk_usage", real)
        for _ in range(3000):
            yield IMAGES

    with pytest.raises(data.CacheError, match=r"no room in .*1\.4 MB needed, .* MB free; free some"):
        _fetch(mounted, build, key="b" * 64, n=30_000)
    assert len(_files(mounted)) == 2  # the half-written file is gone, the other entry is there
    np.testing.assert_array_equal(_fetch(mounted, _never)[0], IMAGES)
    images, _ = _fetch(mounted, key="b" * 64)
    np.testing.assert_array_equal(images, IMAGES)


def test_a_folder_that_cannot_be_written(mounted):
    _fetch(mounted)
    tfds_tiny.make_read_only(mounted)
    np.testing.assert_array_equal(_fetch(mounted, _never)[0], IMAGES)  # reading needs no permission to write
    with pytest.raises(
        data.CacheError, match=r"cannot be written \(Read-only file system\); name another folder"
    ):
        _fetch(mounted, _never, key="c" * 64)


def test_a_damaged_file_in_a_folder_that_cannot_be_written(mounted):
    _fetch(mounted)
    _flip(next(mounted.glob("*.npy")))
    tfds_tiny.make_read_only(mounted)
    with pytest.raises(data.CacheError, match=r"cannot be written .*built again: its content has changed"):
        _fetch(mounted, _never)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(data.CacheError, match="cannot be written"):
            _fetch(folder, _never)


def test_load_through_the_cache(tmp_path):
    direct = data.load("digits", "val200", image_size=12)
    first = data.load("digits", "val200", image_size=12, cache_dir=tmp_path)
    second = data.load("digits", "val200", image_size=12, cache_dir=str(tmp_path))
    for examples in (first, second):
        np.testing.assert_array_equal(examples.images, direct.images)
        np.testing.assert_array_equal(examples.labels, direct.labels)
        assert examples.ids == direct.ids and examples.fingerprint == direct.fingerprint
        assert examples.labels.dtype == np.int32
    assert isinstance(second.images, np.memmap)


def test_arguments_of_load():
    with pytest.raises(ValueError, match="image_size 0 is no size"):
        data.load("digits", "test", image_size=0)
    with pytest.raises(ValueError, match="split 'dev' of task digits"):
        data.load("digits", "dev", image_size=8)


def test_everything_that_matters_is_in_the_key(tmp_path):
    settings = [
        ("digits", "val200", {"image_size": 12}),
        ("digits", "train800", {"image_size": 12}),
        ("digits", "val200", {"image_size": 13}),
        ("digits", "val200", {"image_size": 12, "resize": "bicubic"}),
        ("digits", "val200", {"image_size": 12, "resize": "bilinear"}),
        ("sprites_location", "val200", {"image_size": 12}),
        ("sprites_orientation", "val200", {"image_size": 12}),
    ]
    prints = [
        data.load(task, split, cache_dir=tmp_path, **rest).fingerprint for task, split, rest in settings
    ]
    assert len(set(prints)) == len(prints) == len(list(tmp_path.glob("*.npy")))
    # The same examples under another split's name are the same file's content, but not the same file.
    assert data.load("digits", "val", image_size=12).fingerprint not in prints


def test_memory_of_mapped_images_can_be_let_go_of(tmp_path):
    examples = data.load("digits", "val", image_size=16, cache_dir=tmp_path)
    before = np.array(examples.images)
    cache.release(examples.images)
    np.testing.assert_array_equal(examples.images, before)
    cache.release(before)  # what is not mapped stays as it is
    assert before.any()
