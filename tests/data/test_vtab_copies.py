"""VTAB without tensorflow-datasets: the copies that people have, written here from tiny prepared data sets."""

import dataclasses
import importlib
import io
import tarfile

import numpy as np
import pytest
import tfds_tiny
from PIL import Image

from vtabjax import data, results, tasks
from vtabjax.data import prepare
from vtabjax.data.sources import vtab_copies
from vtabjax.data.sources.vtab_copies import CopyError
from vtabjax.options import UsageError
from vtabjax.sweep import runner

SIZES = {"train": 2000, "test": 20}  # as many as 800 and 200 are cut from
SPLITS = ("train800", "val200", "train800val200", "test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Split -> examples at their own size, as tensorflow-datasets has them."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds_tiny.prepare("svhn", folder, sizes=SIZES)
    return {s: data.load("svhn", s, image_size=32, data_dir=folder) for s in SPLITS}


@pytest.fixture
def svhn():
    return dataclasses.replace(tasks.get("svhn"), sizes=SIZES)


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def write_lists(folder, prepared):
    for split in SPLITS:
        lines = []
        for i, (picture, label) in enumerate(
            zip(prepared[split].images, prepared[split].labels, strict=True)
        ):
            name = f"images/{'test' if split == 'test' else 'train'}/{i if split != 'val200' else 800 + i:06d}.png"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture))
            lines.append(f"{name} {label}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_shards(folder, prepared, split="test"):
    (folder / split).mkdir(parents=True)
    examples = list(zip(prepared[split].images, prepared[split].labels, strict=True))
    for shard in range(2):
        with tarfile.open(folder / split / f"{shard}.tar", "w") as tar:
            for i, (picture, label) in list(enumerate(examples))[shard::2]:
                for suffix, content in (("png", png(picture)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"s{i:07d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (folder / "classnames.txt").write_text("\n".join("0123456789"))
    (folder / split / "nshards.txt").write_text("2")


def pictures_of(source):
    raws = list(source.read(range(len(source.ids))))
    encoded = [r.image if isinstance(r.image, bytes) else r.image.read_bytes() for r in raws]
    return [np.asarray(Image.open(io.BytesIO(e)).convert("RGB")) for e in encoded], [r.label for r in raws]


@pytest.mark.parametrize("name", ["svhn", "vtab-1k/svhn"])
def test_lists_give_the_benchmark_s_examples(name, prepared, svhn, tmp_path):
    write_lists(tmp_path / name, prepared)
    copy = vtab_copies.find("svhn", tmp_path)
    assert copy.form == "lists" and vtab_copies.form(svhn, SPLITS, copy) == "lists, png"
    for split in SPLITS:
        pictures, labels = pictures_of(vtab_copies.open_source(svhn, split, copy))
        np.testing.assert_array_equal(labels, prepared[split].labels)
        np.testing.assert_array_equal(pictures, prepared[split].images)
    notes = vtab_copies.notes(svhn, "test", copy)
    assert notes["files"] == {"png": 20} and "published" not in notes
    assert notes["not_verified"].startswith("which examples they are")


def test_shards_give_the_test_split_and_nothing_else(prepared, svhn, tmp_path):
    write_shards(tmp_path / "vtab-svhn", prepared)
    copy = vtab_copies.find("svhn", tmp_path)
    pictures, labels = pictures_of(vtab_copies.open_source(svhn, "test", copy))
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    np.testing.assert_array_equal(labels, prepared["test"].labels[order])
    np.testing.assert_array_equal(pictures, prepared["test"].images[order])
    for split in ("train800", "val200", "train800val200"):
        with pytest.raises(CopyError, match="1,000 training examples of VTAB-1k cannot be recovered"):
            vtab_copies.open_source(svhn, split, copy)


def test_every_task_is_found_by_the_names_of_either_form(tmp_path):
    lists = (
        "caltech101 cifar clevr_count clevr_dist diabetic_retinopathy dmlab dsprites_loc dsprites_ori dtd eurosat "
        "kitti oxford_flowers102 oxford_iiit_pet patch_camelyon resisc45 smallnorb_azi smallnorb_ele sun397 svhn"
    ).split()
    for name in lists:
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "test.txt").write_text("images/0.jpg 0\n")
    found = {task: vtab_copies.find(task, tmp_path / "a").folder.name for task in tasks.VTAB}
    assert sorted(found.values()) == lists and len(set(found.values())) == 19
    assert vtab_copies.find("digits", tmp_path / "a") is None and vtab_copies.find("svhn", tmp_path) is None
    (tmp_path / "a" / "pets").mkdir()
    (tmp_path / "a" / "pets" / "test.txt").write_text("images/0.jpg 0\n")
    with pytest.raises(CopyError, match="two copies"):
        vtab_copies.find("pets", tmp_path / "a")


def damage(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


@pytest.mark.parametrize(
    "file, change, split, message",
    [
        ("train800", lambda x: x[:-2], "train800", "has 798 examples; split train800 of svhn has 800"),
        ("test", lambda x: x[:-3], "test", "has 17 examples; split test of svhn has 20"),
        (
            "test",
            lambda x: [x[0].rpartition(" ")[0] + " 10", *x[1:]],
            "test",
            "has the class 10; svhn has the classes 0 to 9",
        ),
        (
            "test",
            lambda x: ["images/test/000000.png", *x[1:]],
            "test",
            "test.txt, line 1: .* is not a path, a blank",
        ),
        (
            "test",
            lambda x: ["images/gone.png 1", *x[1:]],
            "test",
            "1 of 20 pictures are missing, first .*images/gone.png",
        ),
        ("val200", lambda x: [*x[:-1], x[0]], "val200", "more than once"),
        (
            "train800val200",
            lambda x: [*x[:-1], "images/other.png 3"],
            "train800val200",
            "not the union of train800.txt and",
        ),
    ],
)
def test_wrong_lists_are_named(file, change, split, message, prepared, svhn, tmp_path):
    write_lists(tmp_path / "svhn", prepared)
    damage(tmp_path / "svhn" / f"{file}.txt", change)
    with pytest.raises(CopyError, match=message):
        vtab_copies.open_source(svhn, split, vtab_copies.find("svhn", tmp_path))


def test_one_example_more_or_fewer_is_said(prepared, svhn, tmp_path):
    write_lists(tmp_path / "svhn", prepared)
    damage(tmp_path / "svhn" / "test.txt", lambda lines: lines[:-1])
    copy = vtab_copies.find("svhn", tmp_path)
    notes = vtab_copies.notes(svhn, "test", copy)
    assert (notes["examples"], notes["published"]) == (19, 20)
    with pytest.raises(CopyError, match="not the whole training set: use the suite vtab"):
        vtab_copies.open_source(svhn, "trainval", copy)


def test_known_histograms_are_compared(tmp_path):
    eurosat = tasks.get("eurosat")
    counts = [96, 94, 91, 87, 83, 81, 79, 78, 70, 41]

    def write(counts):
        labels = np.repeat(np.arange(10), counts)
        folder = tmp_path / "eurosat"
        folder.mkdir(exist_ok=True)
        (folder / "train800.txt").write_text(
            "".join(f"images/{i}.jpg {label}\n" for i, label in enumerate(labels))
        )
        return vtab_copies.find("eurosat", tmp_path)

    assert len(vtab_copies.examples(eurosat, "train800", write(counts))) == 800
    assert "examples of each class" in vtab_copies.notes(eurosat, "train800", write(counts))["checked"]
    with pytest.raises(CopyError, match="another choice of examples, or labels are wrong"):
        vtab_copies.examples(eurosat, "train800", write([80] * 10))


def test_a_shard_that_is_cut_off(prepared, svhn, tmp_path):
    write_shards(tmp_path / "vtab-svhn", prepared)
    shard = tmp_path / "vtab-svhn" / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(CopyError, match="1.tar"):
        vtab_copies.open_source(svhn, "test", vtab_copies.find("svhn", tmp_path))


def sweep(protocol, folder, workdir):
    config = importlib.import_module(f"configs.{protocol}").get_config("vtab")
    config.models, config.tasks, config.image_size = "baseline/pixels", "svhn", 16
    config.data_dir = str(folder)
    return runner.run(config, workdir), results.collect(workdir)


def test_a_sweep_reads_a_copy_and_says_so(prepared, tmp_path, capsys):
    """Nearest neighbours are those of the prepared data set; settings and notes tell the two apart."""
    write_lists(tmp_path / "copies" / "svhn", prepared)
    tfds_tiny.prepare("svhn", tmp_path / "tfds", sizes=SIZES)
    status, copied = sweep("knn", tmp_path / "copies", tmp_path / "runs")
    assert status == 0 and copied["settings.data"].tolist() == ["lists, png"]
    record = results.read(copied["path"][0])
    notes = record["data_notes"]["train800val200"]
    assert notes["examples"] == 1000 and notes["files"] == {"png": 1000}
    assert notes["not_verified"] == "which examples they are, and the order of the class numbers"
    status, both = sweep("knn", tmp_path / "tfds", tmp_path / "runs")
    assert status == 0 and len(both) == 2 and both["accuracy"].nunique() == 1
    with pytest.raises(UsageError, match="has 20 examples; split test of svhn has 26,032"):
        sweep("linear", tmp_path / "copies", tmp_path / "runs")


def test_shards_are_refused_for_what_they_lack(prepared, tmp_path):
    write_shards(tmp_path / "vtab-svhn", prepared)
    with pytest.raises(UsageError, match="1,000 training examples of VTAB-1k cannot be recovered"):
        sweep("knn", tmp_path, tmp_path / "runs")


def test_check_says_which_form_is_there(prepared, tmp_path, capsys, monkeypatch):
    config = importlib.import_module("configs.prepare").get_config("vtab")
    config.data_dir, config.tasks, config.check = str(tmp_path), "svhn,dtd", True
    write_lists(tmp_path / "svhn", prepared)
    assert prepare.main(config, "") == 1
    assert "a wrong copy" in (out := capsys.readouterr().out) and "svhn: " in out and "has 26,032" in out
    monkeypatch.setitem(tasks.TASKS, "svhn", dataclasses.replace(tasks.get("svhn"), sizes=SIZES))
    assert prepare.main(config, "") == 1
    out = capsys.readouterr().out
    assert (
        "copy: lists, png (train800, val200, train800val200, test)" in out
        and "1 of 2 data sets are prepared." in out
    )
