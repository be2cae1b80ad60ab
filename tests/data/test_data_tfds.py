"""Reading what tfds prepared: every data set, both file formats, the official examples in the official order."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import numpy as np
import pytest
import tfds_tiny

from vtabjax import data, tasks
from vtabjax.data import images, prepare
from vtabjax.data.sources import tfds
from vtabjax.sweep import runner

SIZE = 24


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """file format -> folder with tiny versions of all data sets."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("array_record", "tfrecord")}
    tfds_tiny.prepare_all(folders["array_record"])
    tfds_tiny.prepare_all(folders["tfrecord"], tfrecord=tasks.VTAB)
    return folders


def _numpy(example):
    """An example as it was handed to tfds -> as label rules see it."""
    if "objects" not in example:
        return example
    fields = example["objects"][0]
    vehicles = ["Car", "Van", "Truck", "Pedestrian"]
    objects = {k: [o[k] for o in example["objects"]] for k in fields}
    if "type" in objects:
        objects["type"] = [vehicles.index(t) for t in objects["type"]]
    return {"objects": objects}


def _expected(task, ranges):
    """Images and labels of a task's examples, from what was handed to tfds and its documented order."""
    pictures, labels = [], []
    for piece in ranges:
        made = dict(tfds_tiny.examples(task, piece.split, tfds_tiny.SIZES[piece.split]))
        for key in tfds_tiny.hash_order(piece.split, list(made))[piece.start : piece.stop]:
            image = made[key]["image"]
            image = (
                image if isinstance(image, np.ndarray) else images.to_array(images.decode(image.getvalue()))
            )
            pictures.append(images.resize(image * np.uint8(task.scale), SIZE, "vtab"))
            labels.append(task.label(_numpy(made[key])))
    return np.stack(pictures), labels


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", tasks.VTAB)
def test_every_task_from_both_formats(prepared, name, kind):
    task = tasks.get(name)
    data.require_prepared(task, prepared[kind])
    for split in ("train800val200", "trainval", "test"):
        examples = data.load(name, split, image_size=SIZE, data_dir=prepared[kind])
        ranges = tasks.ranges(task, split, {s: tfds_tiny.SIZES[s] for s in task.sizes})
        pictures, labels = _expected(task, ranges)
        np.testing.assert_array_equal(examples.images, pictures)
        assert examples.labels.tolist() == labels and examples.labels.dtype == np.int32
        builder = tfds.builder_name(task).split("/")[0]
        ids = [
            f"{builder}-{r.split}.{kind}-00000-of-00001__{i}" for r in ranges for i in range(r.start, r.stop)
        ]
        assert examples.ids == ids


def _load(prepared, name, split, kind="array_record", **options):
    return data.load(name, split, image_size=SIZE, data_dir=prepared[kind], **options)


def test_the_examples_reach_many_labels(prepared):
    # The made-up data sets would hide a wrong label rule if they had one class only.
    assert set(_load(prepared, "clevr_count", "trainval").labels) == set(range(8))
    assert set(_load(prepared, "clevr_distance", "trainval").labels) == set(range(6))
    assert set(_load(prepared, "kitti_distance", "train").labels) == {0, 1, 2, 3}
    assert set(_load(prepared, "dsprites_orientation", "trainval").labels) >= set(range(14))


def test_smallnorb_validation_is_half_of_the_test_set(prepared):
    val, test = (_load(prepared, "smallnorb_azimuth", split).ids for split in ("val200", "test"))
    assert val == [f"smallnorb-test.array_record-00000-of-00001__{i}" for i in range(10)]
    assert test == [f"smallnorb-test.array_record-00000-of-00001__{i}" for i in range(10, 20)]


def test_smallnorb_uses_the_left_camera(prepared):
    made = dict(tfds_tiny.examples(tasks.get("smallnorb_azimuth"), "train", tfds_tiny.SIZES["train"]))
    first = made[tfds_tiny.hash_order("train", list(made))[0]]
    loaded = data.load("smallnorb_azimuth", "train", image_size=96, data_dir=prepared["array_record"])
    for channel in range(3):
        np.testing.assert_array_equal(loaded.images[0, ..., channel], first["image"][..., 0])
    assert (first["image"] != first["image2"]).any()


def test_clevr_is_tested_on_validation(prepared):
    assert all("clevr-validation" in i for i in _load(prepared, "clevr_count", "test").ids)


def test_val200_starts_where_val_does(prepared):
    # 40 examples: train is the first 36, so the four of val200 do not start at 800 nor at 0.
    ids = _load(prepared, "cifar100", "val200").ids
    assert ids == [f"cifar100-train.array_record-00000-of-00001__{i}" for i in range(36, 40)]


def test_dsprites_is_black_and_white(prepared):
    loaded = data.load("dsprites_location", "test", image_size=64, data_dir=prepared["tfrecord"])
    assert set(np.unique(loaded.images)) == {0, 255}


def test_absent_classes_keep_the_numbering(prepared):
    task = tasks.get("sun397")
    labels = _load(prepared, "sun397", "train800").labels
    assert len(set(labels)) == 40 < task.num_classes == 397  # heads are sized by the task
    made = dict(tfds_tiny.examples(task, "train", tfds_tiny.SIZES["train"]))
    assert sorted(labels) == sorted(e["label"] for e in made.values())


def test_published_order_of_the_real_data_sets():
    # tfds's order depends on the keys alone; these are the real ones. First of train, first of val200.
    cifar = tfds_tiny.hash_order("train", range(50_000))
    assert (cifar[:3], cifar[45_000:45_003]) == ([16399, 1680, 47917], [13431, 9237, 17462])
    norb = tfds_tiny.hash_order("test", range(24_300))
    assert norb[:3] == [23018, 16932, 19084]
    clevr = tfds_tiny.hash_order("train", [f"CLEVR_train_{i:06d}.png" for i in range(70_000)])
    assert clevr[63_000:63_003] == [f"CLEVR_train_{i}.png" for i in ("035084", "029360", "004525")]


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_many_shards_are_read_in_order(tmp_path, kind):
    sizes = {"train": 300, "test": 20}
    tfds_tiny.prepare("svhn", tmp_path, file_format=kind, sizes=sizes, num_shards=3)
    made = dict(tfds_tiny.examples(tasks.get("svhn"), "train", 300))
    order = tfds_tiny.hash_order("train", list(made))
    for split, expected in (("train800val200", order), ("val", order[270:]), ("train", order[:270])):
        examples = data.load("svhn", split, image_size=8, data_dir=tmp_path)
        assert examples.labels.tolist() == [made[key]["label"] for key in expected]
        assert len(set(examples.ids)) == len(expected)
    assert examples.ids[99:101] == [
        f"svhn_cropped-train.{kind}-{s}" for s in ("00000-of-00003__99", "00001-of-00003__0")
    ]


def test_ids_are_those_of_tfds(prepared):
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(
        tfds.locate(tasks.get("eurosat"), prepared["tfrecord"])
    )
    config = tensorflow_datasets.ReadConfig(add_tfds_id=True)
    expected = [
        e["tfds_id"].decode()
        for e in tensorflow_datasets.as_numpy(builder.as_dataset(split="train[24:32]", read_config=config))
    ]
    assert _load(prepared, "eurosat", "val", "tfrecord").ids == expected


def test_fingerprints(prepared, tmp_path):
    prints = {
        _load(prepared, "dtd", split, kind).fingerprint for split in ("train", "val") for kind in prepared
    }
    assert len(prints) == 4
    assert _load(prepared, "dtd", "val").fingerprint in prints
    # Other examples under the same names: another fingerprint.
    tfds_tiny.prepare("dtd", tmp_path, sizes={"train": 40, "validation": 19, "test": 20})
    assert data.load("dtd", "val", image_size=SIZE, data_dir=tmp_path).fingerprint not in prints


def test_sizes_that_differ_are_said_once(prepared, caplog):
    tfds._warn_sizes.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            data.require_prepared("dtd", prepared["array_record"])
    (record,) = caplog.records
    assert "train has 40 examples, not 1,880" in record.message


def test_array_record_is_read_without_tensorflow(prepared):
    program = conftest.PROGRAMS / "all_data_sets_read.py"
    command = [sys.executable, str(program), str(prepared["array_record"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What is missing or broken.


def test_not_prepared(tmp_path):
    with pytest.raises(data.NotPreparedError) as e:
        data.require_prepared("dtd", tmp_path)
    assert f"dtd 3.*.* is not prepared in {tmp_path}" in str(e.value)
    command = "python main.py --config=configs/prepare.py --config.tasks=dtd"
    assert str(e.value).endswith(f"{command} --config.data_dir={tmp_path}")
    with pytest.raises(data.NotPreparedError):
        data.load("dtd", "test", image_size=8, data_dir=tmp_path)
    with pytest.raises(data.NotPreparedError):
        data.stream(
            "dtd", "test", image_size=8, batch_size=2, data_dir=tmp_path
        )  # at once, not at the first batch


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(data.NotPreparedError) as e:
        data.require_prepared("svhn")
    assert str(tmp_path) in str(e.value) and str(e.value).endswith("--config.tasks=svhn")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(tfds.resolve_data_dir("")) == os.path.expanduser("~/tensorflow_datasets")


@pytest.mark.parametrize(
    "name, text", [("resisc45", "NWPU-RESISC45.rar from https"), ("retinopathy", "kaggle.com/c/diabetic")]
)
def test_downloads_by_hand(tmp_path, name, text):
    with pytest.raises(data.NotPreparedError, match="First download by hand") as e:
        data.require_prepared(name, tmp_path)
    assert text in str(e.value) and f"{tmp_path}/downloads/manual/" in str(e.value)


@pytest.fixture
def one(tmp_path, prepared, request):
    """A copy of one prepared data set (default: dtd as array_record) that a test may damage: its folder."""
    name, kind = getattr(request, "param", ("dtd", "array_record"))
    source = Path(tfds.locate(tasks.get(name), prepared[kind]))
    target = tmp_path / source.relative_to(prepared[kind])
    shutil.copytree(source, target)
    return target


def test_another_version(one, tmp_path):
    one.rename(one.parent / "2.0.0")
    with pytest.raises(data.NotPreparedError, match=r"holds version 2\.0\.0, but the task needs 3\.\*\.\*"):
        data.require_prepared("dtd", tmp_path)


@pytest.mark.parametrize("one", [("kitti_distance", "array_record"), ("pets", "array_record")], indirect=True)
def test_versions_that_hold_the_same_examples(one, tmp_path):
    name = "kitti_distance" if "kitti" in str(one) else "pets"
    for version in {"kitti_distance": ("3.1.0", "3.2.0"), "pets": ("3.2.0",)}[name]:
        one = one.rename(one.parent / version)
        data.require_prepared(name, tmp_path)
    one.rename(one.parent / "1.0.0")
    with pytest.raises(data.NotPreparedError, match="1.0.0"):
        data.require_prepared(name, tmp_path)


def test_an_interrupted_preparation(one, tmp_path):
    one.rename(one.parent / f"incomplete.7KCXAK_{one.name}")
    with pytest.raises(data.NotPreparedError, match="not prepared.*interrupted preparation"):
        data.require_prepared("dtd", tmp_path)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("cut", [False, True])
def test_half_prepared_metadata(one, tmp_path, file, cut):
    if cut:
        os.truncate(one / file, 40)
    else:
        (one / file).unlink()
    with pytest.raises(
        data.NotPreparedError, match=r"is not a complete data set.*\nPrepare it with: python main.py"
    ):
        data.require_prepared("dtd", tmp_path)


def test_half_prepared_files(one, tmp_path):
    (one / "dtd-validation.array_record-00000-of-00001").unlink()
    with pytest.raises(
        data.NotPreparedError, match="1 of 1 files of split validation are missing.*dtd-validation"
    ):
        data.require_prepared("dtd", tmp_path)


@pytest.mark.parametrize("one", [("dtd", "array_record"), ("dtd", "tfrecord")], indirect=True)
@pytest.mark.parametrize("damage", ["middle", "end", "all"])
def test_a_corrupted_file(one, tmp_path, damage):
    (file,) = one.glob("dtd-train.*")
    content = bytearray(file.read_bytes())
    if damage == "middle":
        start = len(content) // 2
        content[start : start + 2000] = bytes(2000)
    file.write_bytes({"middle": content, "end": content[: len(content) // 2], "all": b""}[damage])
    data.load("dtd", "val", image_size=8, data_dir=tmp_path)  # other splits are not affected
    with pytest.raises(
        data.DataError, match=r"task dtd, split train: cannot read dtd-train\.\w+-00000-of-00001__\d+"
    ):
        data.load("dtd", "train", image_size=8, data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").glob("*") if not p.name.endswith(".lock")] == []
    with pytest.raises(data.DataError, match="prepare it anew with\npython main.py"):
        list(data.stream("dtd", "train", image_size=8, batch_size=4, data_dir=tmp_path))


@pytest.mark.parametrize("one", [("dtd", "tfrecord")], indirect=True)
def test_a_file_that_ends_between_two_records(one, tmp_path):
    (file,) = one.glob("dtd-train.*")
    content, end = file.read_bytes(), 0
    for _ in range(5):  # length, its checksum, data, their checksum
        end += 8 + 4 + int.from_bytes(content[end : end + 8], "little") + 4
    file.write_bytes(content[:end])
    with pytest.raises(data.NotPreparedError, match="-00001 holds 5 examples, and dataset_info.json says 40"):
        data.require_prepared("dtd", tmp_path)
    for read in (data.load, lambda *a, **k: list(data.stream(*a, **k, batch_size=2))):
        with pytest.raises(data.DataError, match=r"cannot read dtd-train.tfrecord-00000-of-00001__5 "):
            read("dtd", "train", image_size=8, data_dir=tmp_path)


_CUTS = {
    "half": lambda b: b[: len(b) // 2],
    "one byte": lambda b: b[:-1],
    "all": lambda b: b"",
}


@pytest.mark.parametrize("one", [("dtd", "array_record"), ("dtd", "tfrecord")], indirect=True)
@pytest.mark.parametrize("cut", _CUTS)
def test_a_file_that_is_cut_off_is_named_before_any_work(one, tmp_path, cut):
    data.require_prepared("dtd", tmp_path)
    (file,) = one.glob("dtd-train.*")
    file.write_bytes(_CUTS[cut](file.read_bytes()))
    said = f"is damaged: {file.name} (is cut off|holds 0 examples).*\\nPrepare it with: python"
    with pytest.raises(data.NotPreparedError, match=said):
        data.require_prepared("dtd", tmp_path)


@pytest.mark.parametrize("one", [("dtd", "array_record"), ("dtd", "tfrecord")], indirect=True)
@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"40"', '"39"', "holds 40 examples, and dataset_info.json says 39"),
        ('"name": "train"', '"name": "trian"', "lacks the split train"),
        ('"name": "dtd"', '"name": "dtt"', "files of split .* are missing"),
        ('"numBytes": "', '"numBytes": "1', None),  # no examples depend on it
        ('"splits"', '"split"', "lacks the split|is not a complete data set"),
    ],
)
def test_metadata_that_were_edited(one, tmp_path, old, new, said):
    path = one / "dataset_info.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if said is None:
        data.require_prepared("dtd", tmp_path)
        return
    with pytest.raises(data.NotPreparedError, match=said):
        data.require_prepared("dtd", tmp_path)


def test_a_sweep_names_what_is_damaged_before_any_model_runs(prepared, tmp_path, config, fake_converters):
    """Of two data sets one is cut off: which, how to prepare it, and how to go on with the other."""
    for name in ("dtd", "pets"):
        source = Path(tfds.locate(tasks.get(name), prepared["array_record"]))
        shutil.copytree(source, tmp_path / "data" / source.relative_to(prepared["array_record"]))
    file = next((tmp_path / "data" / "dtd").rglob("*train.array_record*"))
    os.truncate(file, file.stat().st_size // 2)
    config.tasks, config.data_dir = "dtd,pets,digits", str(tmp_path / "data")
    with pytest.raises(runner.UsageError, match=f"dtd: .* is damaged: {file.name} is cut off"):
        runner.run(config, tmp_path / "w")
    assert fake_converters.calls() == []
    text, missing = prepare._table(prepare._sets(["dtd", "pets"]), str(tmp_path / "data"), "")
    assert [s.name for s in missing] == ["dtd"] and f"{file.name} is cut off" in text
    assert re.search(r"^dtd +dtd +\S+ +damaged", text, re.M)
    data.require_prepared("pets", config.data_dir)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_a_broken_image_within_a_data_set(tmp_path, kind, monkeypatch):
    made = dict(tfds_tiny.examples(tasks.get("eurosat"), "train", 40))
    order = tfds_tiny.hash_order("train", list(made))
    original = tfds_tiny.examples

    def broken(task, split, n):
        made = original(task, split, n)
        for key, example in made:
            if key == order[3]:
                example["image"].truncate(300)
        return made

    monkeypatch.setattr(tfds_tiny, "examples", broken)
    tfds_tiny.prepare("eurosat", tmp_path, file_format=kind)
    name = f"eurosat-train.{kind}-00000-of-00001__3"
    with pytest.raises(data.BrokenImageError, match=f"1 image.*\n  {name}: "):
        data.load("eurosat", "train", image_size=8, data_dir=tmp_path)
    kept = data.load("eurosat", "train", image_size=8, data_dir=tmp_path, skip_broken=True)
    assert len(kept.ids) == len(kept.images) == 23 and name not in kept.ids


def test_labels_out_of_range(tmp_path, monkeypatch):
    original = tfds_tiny.examples

    def too_few(task, split, n):
        made = original(task, split, n)
        made[5][1]["objects"] = made[5][1]["objects"][:2]
        return made

    monkeypatch.setattr(tfds_tiny, "examples", too_few)
    tfds_tiny.prepare("clevr_count", tmp_path)
    with pytest.raises(data.DataError, match=r"cannot read clevr-train.*its label -1 is not in 0 \.\.\. 7"):
        data.load("clevr_count", "trainval", image_size=8, data_dir=tmp_path)
