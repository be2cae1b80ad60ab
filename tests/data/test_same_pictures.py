"""The same pictures as folder, list, Parquet file, hub data set and tfds builder are the same task, to the digit."""

import datasets
import forms
import numpy as np
import pytest

from vtabjax import data, results, tasks
from vtabjax.protocols import knn
from vtabjax.sweep import runner

SPLITS = {"cut here": ("",), "three splits": ("train", "val", "test"), "two splits": ("train", "test")}


@pytest.fixture(scope="module", params=SPLITS)
def written(request, tmp_path_factory):
    """{form: (task, data_dir)} of the same pictures, and which splits they have."""
    root = tmp_path_factory.mktemp("forms")
    found = forms.pictures(SPLITS[request.param])
    tfds = {
        f"tfds {kind}": (forms.write_tfds(root / kind, found, kind), root / kind)
        for kind in ("array_record", "tfrecord")
    }
    shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    names = {
        "folder": forms.write_folder(root / "pictures", found),
        "csv": forms.write_list(root / "pictures" / "list.csv", shuffled),
        "tsv": forms.write_list(root / "pictures" / "list.tsv", found),
        "jsonl": forms.write_list(root / "pictures" / "list.jsonl", found),
        "parquet": forms.write_parquet(root / "list.parquet", shuffled),
        "parquet of structs": forms.write_parquet(root / "structs.parquet", found, struct=True),
        "saved": forms.write_hub(root / "saved", shuffled),
        "as on the hub": forms.write_hub(root / "hub", found, parquet=True),
        "pictures as on the hub": forms.write_folder(root / "folder", found).replace("folder:", "hf:", 1),
    }
    return {form: (name, None) for form, name in names.items()} | tfds, request.param


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    tasks.forget_folders()


def test_examples_and_neighbours_are_the_same(written):
    written, splits = written
    seen = {}
    for form, (name, data_dir) in written.items():
        task = tasks.get(name, data_dir)
        found = {s: data.load(task, s, image_size=12, data_dir=data_dir) for s in ("train800val200", "test")}
        whole = found["train800val200"]
        features = np.asarray(whole.images, np.float32).reshape(len(whole.labels), -1)
        correct = knn.leave_one_out(features, whole.labels).predictions == whole.labels
        seen[form] = {
            "fingerprints": [e.fingerprint for e in found.values()],
            "ids": [e.ids for e in found.values()],
            "labels": [e.labels.tolist() for e in found.values()],
            "splits": {s: text for s, text in task.splits.items()},
            "classes": task.class_names,
            "correct": np.asarray(correct).tolist(),
        }
    first = seen["folder"]
    assert {form: own == first for form, own in seen.items()} == dict.fromkeys(written, True)
    assert 0.4 < np.mean(first["correct"]) < 1  # it says something
    sizes = {"cut here": 35, "three splits": 84, "two splits": 42}
    assert len(first["ids"][0]) == sizes[splits]


def test_a_sweep_has_the_same_numbers(written, config, fake_converters, tmp_path, capsys):
    written, _ = written
    chosen = [written[form] for form in ("folder", "csv", "parquet", "saved", "tfds array_record")]
    config.models, config.tasks = "tiny/a", ",".join(name for name, _ in chosen)
    config.data_dir = str(chosen[-1][1])
    assert runner.run(config, tmp_path / "w") == 0
    records = [record for _, record in results.records(tmp_path / "w")]
    assert len(records) == 5 and len({record["metrics"]["accuracy"] for record in records}) == 1
    assert len({str(record["data"]) for record in records}) == 1
    assert len({str(record["data_notes"]["splits"]) for record in records}) == 1
    said = capsys.readouterr().err
    assert all(f"{name}: 3 classes" in said for name, _ in chosen)


def test_pictures_without_names_are_cut_by_their_content(tmp_path):
    found = forms.pictures(n=20)
    names = [
        (forms.write_parquet(tmp_path / "a.parquet", found, names=False), None),
        (forms.write_parquet(tmp_path / "b.parquet", found[::-1], names=False, struct=True), None),
        (forms.write_hub(tmp_path / "hub", found, names=False), None),
        (forms.write_tfds(tmp_path / "tfds", found, "array_record", names=False), tmp_path / "tfds"),
    ]
    loaded = []
    for name, data_dir in names:
        task = tasks.get(name, data_dir)
        assert task.notes["cut_by"] == "content" and task.sizes == {"train": 44, "val": 10, "test": 12}
        loaded.append([data.load(task, s, image_size=12, data_dir=data_dir) for s in ("train", "test")])
    prints = [[e.fingerprint for e in own] for own in loaded]
    assert all(own == prints[0] for own in prints)


def test_a_fingerprint_changes_with_a_pixel_and_with_a_label(tmp_path):
    found = forms.pictures()

    def fingerprint(name, pictures):
        task = tasks.get(forms.write_parquet(tmp_path / name, pictures))
        return data.load(task, "train800val200", image_size=12).fingerprint

    changed = found[0]._replace(png=found[1].png)
    assert len({
        fingerprint("a.parquet", found),
        fingerprint("b.parquet", [changed, *found[1:]]),
        fingerprint("c.parquet", [found[0]._replace(label="dog"), *found[1:]]),
    }) == 3  # fmt: skip
    assert fingerprint("d.parquet", found) == fingerprint("a.parquet", found)
