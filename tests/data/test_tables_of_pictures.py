"""Lists of pictures: which columns and rows are taken, and what a wrong one is told."""

import io
import json

import conftest
import forms
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtabjax import data, tasks
from vtabjax.data import describe
from vtabjax.sweep import plan, runner

PICTURES = ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
GOOD = [(path, path[0]) for path in PICTURES]


@pytest.fixture(autouse=True)
def folder(tmp_path):
    tasks.forget_folders()
    for i, name in enumerate(PICTURES):
        conftest.picture(tmp_path / name, (60 * i, 0, 0))
    return tmp_path


def table(folder, text, name="list.csv", options=""):
    """Writes a list, text or bytes; the name of its task."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"table:{folder / name}{options}"


def rows(*lines, header="path,label"):
    return "\n".join([header, *(line if isinstance(line, str) else ",".join(line) for line in lines)]) + "\n"


def labels(task):
    """Picture -> class, of all splits."""
    return {f.name: task.class_names[f.label] for own in task.files.values() for f in own}


@pytest.mark.parametrize(
    "text, name, options",
    [
        (rows(*GOOD), "list.csv", ""),
        ("\ufeff" + rows(*GOOD).replace("\n", "\r\n"), "list.csv", ""),
        (rows(*GOOD).replace(",", ";"), "list.csv", ""),
        (rows(*GOOD).replace(",", "\t"), "list.tsv", ""),
        (rows(*(f'"{p}", {c} ' for p, c in GOOD), header=" Path ,LABEL"), "list.csv", ""),
        (rows(*GOOD, "", header="image,label"), "list.CSV", ""),
        (
            rows(*(f"x,{c},{p}" for p, c in GOOD), header="id,species,file"),
            "list.csv",
            "#label=species+path=file",
        ),
        (rows(*GOOD, GOOD[0]), "list.csv", ""),
        ("\n".join(json.dumps({"label": c, "path": p, "size": [1, 2]}) for p, c in GOOD), "list.jsonl", ""),
    ],
)
def test_a_list_is_read(folder, text, name, options):
    task = tasks.get(table(folder, text, name, options))
    assert labels(task) == dict(GOOD) and task.own and task.group == "Table"
    assert task.sizes == {"train": 2, "val": 0, "test": 2}  # of two pictures of a class one is tested
    assert task.file_stem.startswith("table-list.")


def test_absolute_paths_are_names_below_what_they_share(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    there = table(elsewhere, rows(*((f"{folder}/{p}", c) for p, c in GOOD)))
    beside = table(folder, rows(*((f"{folder}/{p}", c) for p, c in GOOD)))
    assert labels(tasks.get(there)) == labels(tasks.get(beside)) == dict(GOOD)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "it is empty; its first row names the columns, such as path,label"),
        ("path,label\n", "it has a header and no rows"),
        (rows(*GOOD[1:], header="a/0.png,a"), "row 1 is a picture, not a header: a/0.png, a; write a row"),
        (rows(*GOOD, header="file,label"), "it has no column path (or image); row 1 names file, label. Rename"),
        (rows(*GOOD, header="path,species"), "it has no column label; row 1 names path, species. Rename them, or say"),
        (rows(*GOOD, header="path,species"), "list.csv#label=NAME"),
        (rows(*GOOD, header="path,path"), "its header has 'path' twice"),
        (rows(*GOOD, ("a/2.png", "a")), "1 of 5 files cannot be found; paths are absolute, or relative to"),
        (rows(*GOOD, ("a/2.png", "a")), "row 6: a/2.png (No such file or directory)"),
        (rows(*GOOD[:2], "", ("a/2.png", "a")), "row 5: a/2.png"),
        (rows(*GOOD, ("a", "a")), "row 6: a is not a file"),
        (rows(*GOOD, ("", "a")), "row 6 names no picture"),
        (rows(*GOOD[:3], ("b/1.png", "")), "row 5 has no label (and no other)"),
        (rows(*GOOD[:3], "b/1.png"), "row 5 has no label"),
        (rows(*GOOD[:3], "b/1.png,b,x"), "row 5 has 3 cells, and the header has 2"),
        (rows(*GOOD[:3], ("b/1.png", "c")), "2 of 3 labels occur once: 'b' (row 4), 'c' (row 5)"),
        (rows(*GOOD[:2]), "all rows have the label 'a'; a task needs at least two classes"),
        (rows(*GOOD, ("b/1.png", "a")), "rows 5 and 6 name the same file"),
        (rows(*GOOD, ("b/1.png", "a")), "with the labels 'b' and 'a'; each picture has one label"),
        (rows(*(f"{p},{c},part" for p, c in GOOD), "a/0.png,a,rest", header="path,label,split"), "the splits 'part'"),
        (rows(*(f"{p},{c},{s}" for (p, c), s in zip(GOOD, "train train test fold7".split(), strict=True)),
              header="path,label,split"), "row 5: 'fold7' is not the name of a split; call them train, val and test"),
        (rows(*(f"{p},{c},{s}" for (p, c), s in zip(GOOD, ["train", "", "test", "test"], strict=True)),
              header="path,label,split"), "row 3 names no split"),
        (rows(*(f"{p},{c},{s}" for (p, c), s in zip(GOOD, ["train", "training", "test", "test"], strict=True)),
              header="path,label,split"), "'train' and 'training' may both be the train split"),
        (rows(*(f"{p},{c},test" for p, c in GOOD[:2]), *(f"{p},{c},val" for p, c in GOOD[2:]),
              header="path,label,split"), "there is 'test' and 'val' and no training split; call it train"),
        (rows(*(f"{p},{c},{s}" for (p, c), s in zip(GOOD, ["train", "train", "test", "test"], strict=True)),
              header="path,label,split"), "the training split has no picture of b, which other splits have"),
        (rows(*GOOD).encode("utf-16"), "row 1 is not UTF-8"),
        (rows("\u00e4.png,a").encode("latin-1"), "row 2 is not UTF-8"),
        (b"path,label\na\x00,b\n", "row 2"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_told_in_one_message(folder, text, message):
    name = table(folder, text)
    with pytest.raises(tasks.TaskError) as e:
        tasks.get(name)
    assert message in str(e.value) and str(e.value).startswith(f"task '{name.partition('#')[0]}")


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "list.csv",
            "#label=lable",
            "there is no column 'lable'; did you mean 'label'? There are path, label",
        ),
        (
            "list.csv",
            "#names=x",
            "'names' cannot be chosen after '#'; there are path, image, label, split, group",
        ),
        ("list.csv", "#label=a+label=b", "chooses a column twice"),
        ("list.csv", "#label=path", "one column cannot be both picture and label"),
        ("list.xlsx", "", "tables are .csv, .tsv, .jsonl, .parquet; save it as one of these"),
        ("a", "", "it is a folder; did you mean folder:"),
        ("none.csv", "", "there is no file"),
        ("list.jsonl", "", "row 1 is not JSON"),
        ("list.parquet", "", "it is not a Parquet file"),
    ],
)
def test_what_is_no_list(folder, name, options, message):
    if name not in ("a", "none.csv"):
        table(folder, rows(*GOOD), name)
    with pytest.raises(tasks.TaskError) as e:
        tasks.get(f"table:{folder / name}{options}")
    assert message in str(e.value)


def classes(folder, values, kind="csv"):
    """The classes that labels stand for, and what is said of them."""
    pictures = [PICTURES[i % 4] for i in range(len(values))]
    for i in range(len(pictures)):
        conftest.picture(folder / f"{i}.png", (i % 250, 3, 3))
    names = [f"{i}.png" for i in range(len(pictures))]
    if kind == "csv":
        task = tasks.get(table(folder, rows(*zip(names, map(str, values), strict=True))))
    else:
        pq.write_table(pa.table({"path": names, "label": values}), folder / "list.parquet")
        task = tasks.get(f"table:{folder / 'list.parquet'}")
    return list(task.class_names), task.notes.get("labels")


def test_labels_that_are_numbers_are_classes_in_their_order(folder):
    assert classes(folder, [10, 2, 10, 2, -1, -1]) == (["-1", "2", "10"], "whole numbers")
    tasks.forget_folders()
    assert classes(folder, ["3.0", "1", "3", "1.0"]) == (["1", "3"], "whole numbers, 1.0 read as 1")
    tasks.forget_folders()
    assert classes(folder, ["01", "1", "01", "1"]) == (["01", "1"], None)  # codes, not numbers
    tasks.forget_folders()
    codes = [f"{i:02}" for i in range(30)]
    assert classes(folder, codes * 2) == (codes, None)
    tasks.forget_folders()
    assert classes(folder, [0.5, 1.5, 0.5, 1.5]) == (["0.5", "1.5"], None)
    tasks.forget_folders()
    assert classes(folder, [3.0, 1.0, 3.0, 1.0], "parquet") == (["1", "3"], "whole numbers, 1.0 read as 1")
    tasks.forget_folders()
    assert classes(folder, [True, False, True, False], "parquet") == (["false", "true"], None)


def test_a_quantity_is_no_label(folder):
    with pytest.raises(
        tasks.TaskError, match="30 different numbers with fractions, such as 0.5: a quantity, not a"
    ):
        classes(folder, [i / 2 + 0.5 for i in range(30)] * 2)
    tasks.forget_folders()
    with pytest.raises(tasks.TaskError, match="row 1 has no label"):
        classes(folder, [None, 1, 1, 2, 2], "parquet")


def test_classes_that_a_parquet_file_names_keep_their_numbers(folder):
    import datasets

    features = datasets.Features(
        {"path": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y", "x"])}
    )
    found = datasets.Dataset.from_dict({"path": PICTURES, "label": [1, 1, 0, 0]}, features=features)
    found.to_parquet(folder / "list.parquet")
    task = tasks.get(f"table:{folder / 'list.parquet'}")
    assert (
        task.class_names == ("z", "y", "x")
        and labels(task)["a/0.png"] == "y"
        and labels(task)["b/0.png"] == "z"
    )


def test_own_splits_and_what_is_said(folder):
    found = forms.pictures(("train", "dev"), n=5)
    forms.write_folder(folder / "p", found)
    task = tasks.get(forms.write_list(folder / "p" / "list.csv", found))
    assert task.sizes == {"train": 18, "val": 3, "test": 21} and task.notes["taken"] == {
        "train": "train",
        "test": "dev",
    }
    line = describe.line(task, describe.notes(task), "knn", ("train800val200",))
    assert "3 classes, 42 pictures (train 18, val 3, test 21)" in line
    assert "dev is the test split; a fifth of train is val; cut by a hash of the path" in line


def png(mode="RGB", colour=(1, 2, 3)):
    file = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def test_broken_pictures_in_rows_are_told_before_the_work(folder, config, fake_converters):
    images = [png(colour=(i, 0, 0)) for i in range(20)]
    images[3], images[17] = b"", b"no picture"
    columns = {"image": images, "label": [i % 2 for i in range(20)], "path": [f"{i}.png" for i in range(20)]}
    pq.write_table(pa.table(columns), folder / "list.parquet", row_group_size=6)
    config.models, config.tasks = "tiny/a", f"table:{folder / 'list.parquet'}"
    with pytest.raises(
        plan.UsageError, match="2 files cannot be read(.|\n)*3.png: the file is empty(.|\n)*17.png: not an"
    ):
        runner.run(config, folder / "w")
    config.skip_broken = True
    assert runner.run(config, folder / "w") == 0
    examples = [data.load(config.tasks, s, image_size=16, skip_broken=True) for s in ("trainval", "test")]
    assert sorted(i for e in examples for i in e.ids) == sorted(
        f"{i}.png" for i in range(20) if i not in (3, 17)
    )
    for e in examples:
        assert [i[0, 0, 0] for i in e.images] == [int(name.removesuffix(".png")) for name in e.ids]


def test_a_damaged_page_is_told(folder):
    found = forms.pictures(n=20)
    name = forms.write_parquet(folder / "list.parquet", found)
    task = tasks.get(name)
    content = bytearray((folder / "list.parquet").read_bytes())
    at = content.index(found[40].png[40:60])
    start = content.rindex(b"\x15", 0, at)
    content[start - 40 : at] = bytes(len(content[start - 40 : at]))
    (folder / "list.parquet").write_bytes(content)
    with pytest.raises(data.DataError, match="cannot be"):
        data.load(task, "trainval", image_size=8)


def test_a_comma_in_a_path_is_told(folder):
    name = table(folder, rows(*GOOD), "a,b.csv")
    with pytest.raises(
        tasks.TaskError, match="a comma separates tasks, and the file .*a,b.csv has one in its path"
    ):
        tasks.check_commas(f"digits,{name}")
    with pytest.raises(tasks.TaskError, match="did you mean table:"):
        tasks.get(str(folder / "a,b.csv"))


def test_groups_are_kept(folder):
    task = tasks.get(table(folder, rows(*(f"{p},{c},{p[2]}" for p, c in GOOD), header="path,label,group")))
    assert "2 groups, the largest 0 with 2 pictures, never divided" in describe.line(
        task, describe.notes(task)
    )
    assert {f.name: f.group for own in task.files.values() for f in own} == {p: p[2] for p in PICTURES}
