"""What a checkpoint's path stands for, and its hash: computed once, known when the file is gone."""

import json
import os
import socket

import pytest

from vtabjax import specs
from vtabjax.specs import weight_files
from vtabjax.specs.weight_files import WeightFileError


def old(path, content: bytes):
    """A file that was written a while ago."""
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def reads(monkeypatch):
    """Paths whose content is read to be hashed."""
    found = []
    read = weight_files._read
    monkeypatch.setattr(weight_files, "_read", lambda path: found.append(path) or read(path))
    return found


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path, reads):
    path = old(tmp_path / "a.pth", b"one")
    first = [weight_files.digest(path) for _ in range(3)]
    assert first == ["7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"] * 3
    assert len(reads) == 1
    old(path, b"two")  # as large, and given the same time
    assert weight_files.digest(path) != first[0]


def test_a_file_just_written_is_read_each_time(tmp_path, reads):
    path = tmp_path / "a.pth"
    path.write_bytes(b"one")
    assert weight_files.digest(path) == weight_files.digest(path)
    assert len(reads) == 2


def test_the_store_knows_files_of_other_processes_and_files_that_are_gone(tmp_path, reads, monkeypatch):
    path, store = old(tmp_path / "a.pth", b"one"), tmp_path / "cache"
    first = specs.file_stem(f"timm/resnet18@{path}", store)
    monkeypatch.setattr(weight_files, "_file_digest", lambda stamp: pytest.fail("read again"))
    assert specs.file_stem(f"timm/resnet18@{path}", store) == first
    path.rename(tmp_path / "b.pth")
    assert specs.file_stem(f"timm/resnet18@{path}", store) == first
    with pytest.raises(specs.SpecError, match="there is no weight file"):
        specs.file_stem(f"timm/resnet18@{path}")
    (next(store.iterdir())).write_text("garbage")
    with pytest.raises(specs.SpecError, match="there is no weight file"):
        specs.file_stem(f"timm/resnet18@{path}", store)


def test_what_is_not_a_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    for path, what in ((tmp_path / "pipe", "pipe"), (tmp_path / "socket", "socket"), ("/dev/zero", "device")):
        with pytest.raises(specs.SpecError, match=f"is not a regular file but a {what}"):
            specs.file_stem(f"timm/resnet18@{path}")
    server.close()
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(WeightFileError, match="Too many levels of symbolic links"):
        weight_files.parts(tmp_path / "loop")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightFileError, match="empty.pth is empty"):
        weight_files.parts(tmp_path / "empty.pth")


def test_folders(tmp_path):
    with pytest.raises(
        WeightFileError, match="is a folder, not a weight file; it holds no model.safetensors"
    ):
        weight_files.parts(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(WeightFileError, match="TensorFlow SavedModel"):
        weight_files.parts(tmp_path)
    old(tmp_path / "a.pth", b"one")
    assert weight_files.parts(tmp_path) == [tmp_path / "a.pth"]
    old(tmp_path / "b.pth", b"two")
    with pytest.raises(WeightFileError, match=r"2 weight files \(a.pth, b.pth\); name one"):
        weight_files.parts(tmp_path)
    old(tmp_path / "model.safetensors", b"three")
    assert weight_files.parts(tmp_path) == [tmp_path / "model.safetensors"]


def test_an_index_stands_for_its_shards_whatever_its_name(tmp_path):
    index = tmp_path / "blob"
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin", "c": "1.bin"}}))
    with pytest.raises(
        WeightFileError, match="index of 2 shards, of which 2 are not beside it: 1.bin, 2.bin"
    ):
        weight_files.parts(index)
    for name in ("1.bin", "2.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in weight_files.parts(index)] == ["blob", "1.bin", "2.bin"]
    before = weight_files.digest(index)
    (tmp_path / "2.bin").write_bytes(b"y")
    assert weight_files.digest(index) != before
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(WeightFileError, match="its weight_map names no tensors"):
        weight_files.parts(index)
