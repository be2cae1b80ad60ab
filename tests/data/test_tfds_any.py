"""Any builder of tensorflow-datasets: which fields are taken, which splits, and what a wrong one is told."""

import io

import forms
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets import features as f

from vtabjax import data, results, tasks
from vtabjax.data import describe, images
from vtabjax.sweep import plan, runner
from vtabjax.tasks import _columns

PNG = [p.png for p in forms.pictures(n=6)]


@pytest.fixture(autouse=True)
def forget():
    tasks.forget_folders()


def prepare(
    data_dir, fields, values, *, splits=("train",), version="1.0.0", config=None, file_format="array_record"
):
    """Prepares 12 examples per split: field -> its type; field -> (number of the example -> its value)."""

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Made up."""

        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(fields))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for i in range(12):
                yield f"{split}{i}", {field: values[field](i) for field in fields}

    Made(data_dir=data_dir, file_format=file_format).download_and_prepare()


def picture(i):
    return io.BytesIO(PNG[i])


AB = f.ClassLabel(names=["a", "b"])
IMAGE = f.Image(encoding_format="png")
NUMBER = f.Scalar(np.int64)
BANDS = f.Tensor(shape=(2, 2, 13), dtype=np.uint8)
PLAIN = {"image": IMAGE, "label": AB}
VALUES = {"image": picture, "label": lambda i: i % 2}


def test_splits_versions_and_configs(tmp_path):
    prepare(tmp_path, PLAIN, VALUES, splits=("train", "test", "extra"), version="1.10.0", config="small")
    prepare(tmp_path, PLAIN, VALUES, splits=("train", "validation"), version="1.9.0", config="small")
    task = tasks.get("tfds:made/small", tmp_path)
    assert task.notes["read_from"].endswith("made/small/1.10.0") and task.notes["splits_left_out"] == [
        "extra"
    ]
    assert task.sizes == {"train": 10, "val": 2, "test": 12} and task.class_names == ("a", "b")
    older = tasks.get("tfds:made/small:1.9.0", tmp_path)
    assert (
        older.notes["taken"] == {"train": "train", "test": "validation"}
        and older.name == "tfds:made/small:1.9.0"
    )
    assert "validation is the test split; a fifth of train is val" in describe.line(
        older, describe.notes(older)
    )
    with pytest.raises(tasks.TaskError, match="made holds 1 config.s.; write tfds:made/small"):
        tasks.get("tfds:made", tmp_path)
    with pytest.raises(
        tasks.TaskError, match="holds version 1.9.0, 1.10.0, not 2.0.0; prepare it with: tfds build made"
    ):
        tasks.get("tfds:made/small:2.0.0", tmp_path)
    assert tasks.get("tfds:made/small") is task  # found under that name before, wherever it was


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_single_split_is_cut_and_each_picture_is_its_own(tmp_path, file_format):
    prepare(tmp_path, PLAIN, VALUES, splits=("all_of_it",), file_format=file_format)
    task = tasks.get("tfds:made", tmp_path)
    assert task.sizes == {"train": 8, "val": 2, "test": 2} and task.notes["cut_by"] == "content"
    expected = {}
    for i in range(12):
        expected[_columns.content_name(PNG[i])] = i
    for split in ("train", "val", "test"):
        found = data.load(task, split, image_size=8, data_dir=tmp_path)
        numbers = [expected[name] for name in found.ids]
        assert [i % 2 for i in numbers] == found.labels.tolist()
        for image, i in zip(found.images, numbers, strict=True):
            assert (image == images.resize(images.decode(PNG[i], upright=True), 8, "vtab")).all()


@pytest.mark.parametrize(
    "fields, options, message",
    [
        ({"image": IMAGE, "fine": AB, "coarse": AB}, "", "2 fields that may be the label, coarse, fine; write tfds:"),
        ({"image": IMAGE, "fine": AB, "coarse": AB}, "#label=fine", ""),
        ({"image": IMAGE, "image2": IMAGE, "label": AB}, "", "it has 2 fields that may be the image, image, image2"),
        ({"image": IMAGE, "image2": IMAGE, "label": AB}, "#image=image2", ""),
        ({"photo": IMAGE, "kind": AB}, "", ""),
        ({"image": IMAGE, "number": NUMBER}, "", "none of its fields is a class label: image (Image)"),
        ({"image": IMAGE, "number": NUMBER}, "#label=number", ""),
        ({"bands": BANDS, "label": AB}, "", "none of its fields is an image: bands"),
        ({"image": IMAGE, "label": AB}, "#label=lable", "there is no column 'lable'; did you mean 'label'?"),
    ],
)  # fmt: skip
def test_fields_are_found_by_their_types_or_asked_for(tmp_path, fields, options, message):
    values = {
        name: picture if isinstance(kind, f.Image) else (lambda i: i % 2) for name, kind in fields.items()
    }
    values["bands"] = lambda i: np.zeros((2, 2, 13), np.uint8)
    prepare(tmp_path, fields, values)
    if message:
        with pytest.raises(tasks.TaskError) as e:
            tasks.get("tfds:made" + options, tmp_path)
        assert message in str(e.value) and "\n" not in str(e.value)
    else:
        task = tasks.get("tfds:made" + options, tmp_path)
        assert sum(task.sizes.values()) == 12 and task.num_classes == 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("tfds:", "does not name any data"),
        (
            "tfds:../x",
            "a data set of tensorflow-datasets is tfds:name, tfds:name/config or tfds:name/config:1.0.0",
        ),
        ("tfds:made:latest", "a data set of tensorflow-datasets is tfds:name"),
        ("tfds:made", "it is not prepared in .*; prepare it with: tfds build made --data_dir="),
    ],
)
def test_what_is_not_there(tmp_path, name, message):
    with pytest.raises(tasks.TaskError, match=message):
        tasks.get(name, tmp_path)


def test_damaged_files_are_told(tmp_path):
    prepare(tmp_path, PLAIN, VALUES)
    (file,) = (tmp_path / "made" / "1.0.0").glob("*array_record*")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(tasks.TaskError, match="example 0 in .* cannot be read .*; prepare it anew"):
        tasks.get("tfds:made", tmp_path)
    file.unlink()
    tasks.forget_folders()
    with pytest.raises(tasks.TaskError, match="prepare it anew"):
        tasks.get("tfds:made", tmp_path)


def test_a_sweep_finds_it_in_its_data_dir(tmp_path, config, fake_converters, capsys):
    prepare(tmp_path / "data", PLAIN, VALUES, splits=("train", "test"))
    config.models, config.tasks, config.data_dir = "tiny/a", "tfds:made", str(tmp_path / "data")
    assert runner.run(config, tmp_path / "w") == 0
    ((path, record),) = results.records(tmp_path / "w")
    assert (
        path.name.startswith("tfds-made-") and record["data_notes"]["copies"]["between"]["train+test"] == 10
    )
    assert "10 test pictures are copies of train pictures" in capsys.readouterr().err
    config.data_dir = str(tmp_path / "elsewhere")
    with pytest.raises(plan.UsageError, match="config.tasks: task 'tfds:made': it is not prepared in"):
        runner.run(config, tmp_path / "w")
