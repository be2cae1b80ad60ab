"""Streaming: the same images as `load`, shares of processes, masks, order, errors."""

import logging
import threading
import time

import numpy as np
import pytest
import tfds_tiny
from PIL import Image

from vtabjax import data
from vtabjax.data import decoding, streaming
from vtabjax.data.types import Raw, Source
from vtabjax.runtime import bars


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """file format -> folder with a tiny pets data set in three files."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("array_record", "tfrecord")}
    for kind, folder in folders.items():
        tfds_tiny.prepare("pets", folder, file_format=kind, num_shards=3)
    return folders


def _stream(task, split, **options):
    return data.stream(task, split, image_size=12, **options)


def _join(batches):
    """Images, labels and positions of what is not masked."""
    batches = list(batches)
    return (
        np.concatenate([getattr(b, field)[b.mask] for b in batches])
        for field in ("images", "labels", "index")
    )


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_load(prepared, kind, seed, count):
    whole = data.load("pets", "trainval", image_size=12, data_dir=prepared[kind])
    shares = [
        list(
            _stream(
                "pets", "trainval", batch_size=6, data_dir=prepared[kind], seed=seed, process=p, count=count
            )
        )
        for p in range(count)
    ]
    # 40 examples: 7 batches of 6; of three processes, the largest share is 14: 3 batches for each.
    assert [len(share) for share in shares] == ([7] if count == 1 else [3, 3, 3])
    images, labels, index = _join(b for share in shares for b in share)
    assert sorted(index) == list(range(40))
    assert (list(index) == list(range(40))) == (seed is None)
    np.testing.assert_array_equal(images, whole.images[index])
    np.testing.assert_array_equal(labels, whole.labels[index])


def test_the_last_batch_is_kept_and_masked():
    first, second = _stream("digits", "val200", batch_size=150)
    assert first.mask.all() and second.mask.tolist() == [True] * 50 + [False] * 100
    assert second.images.shape == first.images.shape == (150, 12, 12, 3)
    assert not second.images[50:].any() and not second.labels[50:].any() and (second.index[50:] == -1).all()
    assert (first.labels.dtype, first.images.dtype) == (np.int32, np.uint8)


def test_number_of_batches():
    # Of 40 examples the largest of three shares has 14.
    assert streaming.num_batches(40, 14, count=3) == 1 and streaming.num_batches(40, 13, count=3) == 2
    assert streaming.num_batches(40, 50, epochs=2) == 2 and streaming.num_batches(40, 40, epochs=2) == 2
    assert [len(streaming.share(40, p, 3)) for p in range(3)] == [13, 13, 14]


def test_more_processes_than_examples_get_as_many_batches():
    n = [len(list(_stream("digits", "val200", batch_size=2, process=p, count=150))) for p in (0, 1, 149)]
    assert n == [1, 1, 1]


def test_every_epoch_has_its_own_order():
    order = [b.index.tolist() for b in _stream("digits", "val200", batch_size=200, epochs=3, seed=1)]
    assert len(order) == 3 and all(sorted(o) == list(range(200)) for o in order)
    assert order[0] != order[1] != order[2]
    again = [b.index.tolist() for b in _stream("digits", "val200", batch_size=200, epochs=3, seed=1)]
    other = next(_stream("digits", "val200", batch_size=200, seed=2)).index.tolist()
    assert again == order and other not in order


def test_batches_go_across_epochs_and_without_end():
    batches = _stream("digits", "val200", batch_size=150, epochs=None)
    index = np.concatenate([next(batches).index for _ in range(6)])
    assert index.tolist() == list(range(200)) * 4 + list(range(100))
    batches.close()


def test_shuffle_buffer(monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLE_BUFFER", 10)
    raws = [(i, Raw(b"", 0)) for i in range(100)]
    order = [i for i, _ in streaming._buffered(raws, np.random.default_rng(0))]
    assert sorted(order) == list(range(100)) != order
    assert all(i <= place + 10 for place, i in enumerate(order))
    assert [i for i, _ in streaming._buffered(raws[:3], np.random.default_rng(0))] != []
    assert list(streaming._buffered([], np.random.default_rng(0))) == []


def _source(n, read=None):
    image = np.zeros((4, 4, 3), np.uint8)

    def default(positions):
        for i in positions:
            yield Raw(image, int(i) % 5)

    return Source([str(i) for i in range(n)], read or default, "1")


def _batches(source, **options):
    defaults = dict(
        batch_size=4, epochs=1, seed=None, process=0, count=1, workers=2, prefetch=2, skip_broken=False
    )
    return streaming.batches(source, decoding.Format(4), **{**defaults, **options}, what=("task", "test"))


def test_reads_ahead_but_not_everything():
    seen = []

    def read(positions):
        for i in positions:
            seen.append(i)
            yield Raw(np.zeros((4, 4, 3), np.uint8), 0)

    batches = _batches(_source(10_000, read))
    next(batches)
    time.sleep(0.2)
    assert 4 < len(seen) < 1000
    batches.close()


def test_no_thread_is_left_behind():
    before = set(threading.enumerate())
    for epochs in (1, None):
        batches = _batches(_source(1000), epochs=epochs)
        next(batches)
        batches.close()
    list(_batches(_source(30)))
    assert set(threading.enumerate()) <= before


def test_errors_reach_the_consumer():
    def read(positions):
        yield Raw(np.zeros((4, 4, 3), np.uint8), 0)
        raise data.DataError("record 1 is damaged")

    with pytest.raises(data.DataError, match="record 1"):
        list(_batches(_source(100, read)))


def test_broken_pictures(tmp_path, caplog):
    for cls in "ab":
        (tmp_path / cls).mkdir()
        for i in range(10):
            Image.new("RGB", (5, 5)).save(tmp_path / cls / f"{i}.png")
    good = data.load(f"folder:{tmp_path}", "test", image_size=12)
    (tmp_path / good.ids[2]).write_bytes(b"broken")
    with pytest.raises(data.BrokenImageError, match=good.ids[2]):
        list(_stream(f"folder:{tmp_path}", "test", batch_size=3))
    with caplog.at_level(logging.WARNING):
        batches = list(_stream(f"folder:{tmp_path}", "test", batch_size=3, skip_broken=True))
    assert good.ids[2] in caplog.text
    assert [b.mask.tolist() for b in batches] == [[True, True, False], [True, False, False]]
    assert batches[0].index.tolist() == [0, 1, -1] and batches[0].labels[2] == 0


def test_decode_keeps_the_order():
    raws = [Raw(np.full((2, 2, 3), i % 256, np.uint8), i) for i in range(500)]
    chunks = list(decoding.decode(raws, decoding.Format(2), workers=5))
    assert np.concatenate([c.labels for c in chunks]).tolist() == list(range(500))
    assert np.concatenate([c.images for c in chunks])[:, 0, 0, 0].tolist() == [i % 256 for i in range(500)]


def test_progress(capsys):
    class Board:
        bars = ()

        def add(self, bar):
            self.bars = (*self.bars, bar)

        def moved(self, bar): ...

        def remove(self, bar):
            assert bar.n == bar.total == 4

    board = Board()
    with bars.on_board(board):
        list(_stream("digits", "val200", batch_size=50, progress=True))
    assert [bar.desc for bar in board.bars] == ["digits val200"]
    assert capsys.readouterr().err == ""  # a log has no bars


def test_arguments_are_checked_at_once():
    with pytest.raises(ValueError, match="resize"):
        _stream("digits", "test", batch_size=2, resize="nearest")
    with pytest.raises(ValueError, match="batch_size 0"):
        _stream("digits", "test", batch_size=0)
    with pytest.raises(ValueError, match="process 2 of 2"):
        _stream("digits", "test", batch_size=2, process=2, count=2)
    with pytest.raises(ValueError, match="unknown task"):
        _stream("digit", "test", batch_size=2)
    with pytest.raises(ValueError, match="split 'dev'"):
        _stream("digits", "dev", batch_size=2)
