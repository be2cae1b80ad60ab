"""Others' results: three layouts, the table that comes with the project, and what is told about wrong files."""

import numpy as np
import pytest

from vtabjax import tasks
from vtabjax.report import published
from vtabjax.report.published import PublishedError, read

OFFICIAL = """train_examples_if_subset,1000,1000,full,metadata,metadata
dataset,CIFAR-100,sNORB-Elev,CIFAR-100,model,architecture
method,,,,,
Sup-100%,57.029998,35.441368,83.819997,https://x/1,ResNet50
From-Scratch,13.171073,37.607473,64.443111,,ResNet50
"""


def write(tmp_path, text):
    path = tmp_path / "others.csv"
    path.write_text(text)
    return str(path)


def test_the_benchmarks_own_table():
    found = read("vtab")
    assert found.name == "VTAB (2019)" and "1910.04867" in found.source
    assert len(found.rows) == 16 * 19 * 2 and {r.task for r in found.rows} == set(tasks.VTAB)
    by = {}
    for r in found.rows:
        by.setdefault((r.model, r.fields["examples"]), []).append(r.accuracy)
    # Means as published (two decimals).
    for key, mean in {
        ("Sup-Rotation-100%", "1000"): 67.97,
        ("WAE-GAN", "1000"): 33.30,
        ("Cond-BigGAN", "1000"): 41.39,
        ("Sup-100%", "full"): 89.74,
        ("WAE-UKL", "full"): 46.82,
    }.items():
        assert 100 * np.mean(by[key]) == pytest.approx(mean, abs=0.01)
    assert {r.fields["method"] for r in found.rows if r.model == "VAE"} == {"generative"}


def test_official_layout(tmp_path):
    found = read(write(tmp_path, OFFICIAL))
    got = {(r.model, r.task, r.fields["examples"]): r.accuracy for r in found.rows}
    assert len(got) == 6 and found.name == "others"
    assert got["Sup-100%", "cifar100", "1000"] == pytest.approx(0.57029998)
    assert got["Sup-100%", "cifar100", "full"] == pytest.approx(0.83819997)
    assert got["From-Scratch", "smallnorb_elevation", "1000"] == pytest.approx(0.37607473)
    assert found.rows[0].fields["architecture"] == "resnet50"


def test_long_layout(tmp_path):
    text = "# table 9 of the paper\nmodel,task,accuracy,n,examples,method,parameters\n"
    text += "ViT-H,cifar100,85.5,10000,1000,supervised,632e6\nViT-H,Caltech101,95.3,,1000,supervised,632e6\n"
    found = read(write(tmp_path, text))
    assert found.source == "table 9 of the paper"
    assert [(r.task, r.accuracy, r.n) for r in found.rows] == [
        ("cifar100", 0.855, 10000),
        ("caltech101", 0.953, None),
    ]
    assert found.rows[0].fields == {"examples": "1000", "method": "supervised", "parameters": "632e6"}


def test_fractions_and_gaps(tmp_path):
    found = read(write(tmp_path, "model,dtd,svhn\na,0.5,\nb,0.25,nan\n"))
    assert [(r.model, r.task, r.accuracy) for r in found.rows] == [("a", "dtd", 0.5), ("b", "dtd", 0.25)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("model,dtd\n", "has no numbers"),
        ("name,dtd\na,1\n", "one named model is needed"),
        ("model,dtdd\na,1\n", "no task is called 'dtdd'; did you mean dtd"),
        ("model,dtd\na,many\n", "row 1, dtd: accuracy 'many' is not a number from 0 to 100"),
        ("model,dtd\na,101\n", "'101' is not a number from 0 to 100"),
        ("model,dtd\na,1,2\n", "row 1: 3 columns, the header has 2"),
        ("model,task,accuracy\na,dtd,1\na,dtd,2\n", "row 2: a second number for a on dtd"),
        ("model,task,accuracy,n\na,dtd,1,few\n", "n='few' is not a number of test examples"),
    ],
)
def test_what_is_wrong(tmp_path, text, message):
    with pytest.raises(PublishedError, match=message):
        read(write(tmp_path, text))


def test_no_file():
    with pytest.raises(PublishedError, match=r"config.published='no.csv' cannot be read .* or vtab for"):
        read("no.csv")


def test_imagenet(tmp_path):
    path = tmp_path / "top1.csv"
    path.write_text("model,top1,top5\nresnet50.a1_in1k,81.2,95.6\n")
    assert published.imagenet(str(path)) == {"resnet50.a1_in1k": 81.2} and published.imagenet("") == {}
    path.write_text("model,top5\nx,1\n")
    with pytest.raises(PublishedError, match="config.imagenet=.*columns model and top1"):
        published.imagenet(str(path))
