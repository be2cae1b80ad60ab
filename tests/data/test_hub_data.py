"""Data sets of the datasets library: which columns are taken, which splits, and what a wrong one is told."""

import datasets
import forms
import huggingface_hub
import pytest
from datasets import ClassLabel, Image, Value
from huggingface_hub import errors

from vtabjax import data, tasks
from vtabjax.data import describe

PNG = [p.png for p in forms.pictures(n=6)][:12]
LABELS = [i % 2 for i in range(12)]
AB = ClassLabel(names=["a", "b"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tasks.forget_folders()


def saved(path, columns, features, **splits):
    """Saves a data set; the name of its task."""
    values = {
        name: [{"bytes": v, "path": None} for v in c] if isinstance(c[0], bytes) else c
        for name, c in columns.items()
    }
    whole = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    found = datasets.DatasetDict({s: whole.select(rows) for s, rows in splits.items()}) if splits else whole
    found.save_to_disk(path)
    return f"hf:{path}"


def labels(task):
    return {f.row: task.class_names[f.label] for own in task.files.values() for f in own}


def test_splits_are_its_own_and_what_else_there_is_is_left_out(tmp_path):
    name = saved(
        tmp_path / "d", {"image": PNG, "label": LABELS}, {"image": Image(), "label": AB},
        train=range(6), validation=range(6, 8), test=range(8, 10), extra=range(10, 12),
    )  # fmt: skip
    task = tasks.get(name)
    assert task.sizes == {"train": 6, "val": 2, "test": 2} and task.class_names == ("a", "b")
    assert task.notes["taken"] == {"train": "train", "val": "validation", "test": "test"}
    line = describe.line(task, describe.notes(task))
    assert "validation is the val split; extra is neither train, val nor test and left out" in line
    assert len(data.load(task, "trainval", image_size=8).labels) == 8


def test_a_test_split_without_labels_is_left_out_and_said(tmp_path):
    columns = {"image": PNG, "label": [*LABELS[:10], -1, -1]}
    name = saved(
        tmp_path / "d", columns, {"image": Image(), "label": AB}, train=range(10), test=range(10, 12)
    )
    task = tasks.get(name)
    assert task.sizes == {"train": 6, "val": 2, "test": 2} and task.notes["splits_without_labels"] == ["test"]
    assert "test is without labels and left out" in describe.line(task, describe.notes(task))
    columns["label"] = [-1, *LABELS[1:]]
    name = saved(
        tmp_path / "e", columns, {"image": Image(), "label": AB}, train=range(10), test=range(10, 12)
    )
    with pytest.raises(
        tasks.TaskError, match=r"example 0 has no label \(and no other\); the data set declares 2"
    ):
        tasks.get(name)


@pytest.mark.parametrize(
    "features, options, expected",
    [
        ({"image": Image(), "label": AB}, "", ["a", "b"]),
        ({"picture": Image(), "fine": AB, "note": Value("string")}, "", ["a", "b"]),
        ({"image": Image(), "label": Value("int64")}, "", ["0", "1"]),
        ({"image": Image(), "species": Value("string")}, "", ["0", "1"]),
        ({"image": Image(), "label": Value("string"), "note": Value("string")}, "", ["0", "1"]),
        ({"image": Image(), "fine": AB, "coarse": AB}, "#label=coarse", ["a", "b"]),
        ({"image": Image(), "mask": Image(), "label": AB}, "#image=image", ["a", "b"]),
        ({"image": Image(), "n": Value("int64")}, "#label=n", ["0", "1"]),
    ],
)
def test_columns_are_found_by_their_types(tmp_path, features, options, expected):
    name = saved(tmp_path / "d", columns_of(features), features)
    task = tasks.get(name + options)
    assert list(task.class_names) == expected and task.name == name + options
    assert labels(task) == {i: expected[label] for i, label in enumerate(LABELS)}


def columns_of(features):
    """Pictures and labels for every column, as its type wants them."""

    def values(feature):
        if isinstance(feature, Image):
            return PNG
        return list(map(str, LABELS)) if getattr(feature, "dtype", "") == "string" else LABELS

    return {name: values(feature) for name, feature in features.items()}


@pytest.mark.parametrize(
    "features, options, message",
    [
        ({"image": Image(), "fine": AB, "coarse": AB}, "", "it has 2 columns that may be the label, fine, coarse; w"),
        ({"image": Image(), "fine": AB, "coarse": AB}, "", "d#label=fine, ...#label=coarse"),
        ({"image": Image(), "mask": Image(), "label": AB}, "", "it has 2 columns of images, image, mask; write hf:"),
        ({"image": Image(), "a": Value("string"), "b": Value("string")}, "", "2 columns that may be the label, a, b"),
        ({"image": Image(), "path": Value("string")}, "", "none of its columns is a class label: image (Image), path"),
        ({"label": AB, "n": Value("int64")}, "", "none of its columns is an image: label (ClassLabel), n"),
        ({"image": Image(), "label": AB}, "#label=lable", "there is no column 'lable'; did you mean 'label'?"),
        ({"image": Image(), "label": AB}, "#image=label", "its column 'label' holds no pictures"),
        ({"image": Image(), "label": AB, "path": Value("string")}, "#path=path", "'path' does not tell pictures"),
        ({"image": Image(), "label": Value("float64")}, "", "a quantity"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_asked(tmp_path, features, options, message):
    columns = columns_of(features)
    if message == "a quantity":
        columns = {"image": PNG * 2, "label": [i / 2 + 0.5 for i in range(24)]}
    name = saved(tmp_path / "d", columns, features)
    with pytest.raises(tasks.TaskError) as e:
        tasks.get(name + options)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_lists_are_no_labels(tmp_path):
    name = saved(
        tmp_path / "d", {"image": PNG, "label": [[0]] * 12}, {"image": Image(), "label": datasets.List(AB)}
    )
    with pytest.raises(tasks.TaskError, match="none of its columns is a class label"):
        tasks.get(name)
    with pytest.raises(
        tasks.TaskError, match="its column 'label' holds lists, and only one label per picture"
    ):
        tasks.get(name + "#label=label")


def test_nothing_of_a_repository_is_executed(tmp_path):
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport datasets\n")
    with pytest.raises(tasks.TaskError, match="it cannot be loaded: Dataset scripts are no longer supported"):
        tasks.get(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, message",
    [
        ("hf:/no/where", "there is no folder /no/where"),
        (
            "hf:cifar10",
            "a data set of the hub is hf:OWNER/NAME or hf:OWNER/NAME/CONFIG, one on a disk hf:/path",
        ),
        ("hf:", "does not name any data"),
        ("hf:some/thing", "it cannot be loaded: Couldn't reach 'some/thing' on the Hub"),
    ],
)
def test_what_is_not_there(name, message):
    with pytest.raises(tasks.TaskError) as e:
        tasks.get(name)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_the_hub_is_asked_once_and_its_answers_are_told(monkeypatch):
    asked = []

    def answer(self, repository, timeout):
        asked.append(repository)
        raise replies[repository]

    replies = {
        "o/gated": errors.GatedRepoError.__new__(errors.GatedRepoError),
        "o/none": errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError),
        "o/far": ConnectionError("no route"),
    }
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    for name, message in (
        ("o/gated", "its owner gives access on request: ask at https://huggingface.co/datasets/o/gated"),
        ("o/none", "the hub has no data set o/none, or it is private"),
        ("o/far", "it cannot be loaded: Couldn't reach 'o/far' on the Hub"),
        ("o/far", "it cannot be loaded: Couldn't reach 'o/far' on the Hub"),
    ):
        with pytest.raises(tasks.TaskError, match=message):
            tasks.get(f"hf:{name}")
    assert asked == ["o/gated", "o/none", "o/far"]


def test_without_the_library_one_line_says_so(tmp_path, monkeypatch):
    from vtabjax import installation

    monkeypatch.setattr(installation, "absent", lambda extra, *modules: list(modules))
    with pytest.raises(
        installation.MissingExtraError, match="task hf:a/b needs datasets, which is not installed: pip"
    ):
        tasks.get("hf:a/b")
    (tmp_path / "list.parquet").write_bytes(b"x")
    with pytest.raises(
        installation.MissingExtraError, match="list.parquet needs pyarrow, which is not installed"
    ):
        tasks.get(f"table:{tmp_path}/list.parquet")
