"""The tables at the end of a sweep."""

import numpy as np
import pytest
from PIL import Image

from vtabjax.ranking import resampling
from vtabjax.sweep import tables
from vtabjax.tables import to_csv


def record(value, **more):
    return {"metrics": {"accuracy": value, **more}}


def test_table_of_accuracies():
    found = {
        ("a", "digits"): record(0.5, accuracy_cosine=0.25),
        ("a", "sprites_location"): record(0.25, accuracy_cosine=0.75),
        ("b", "digits"): record(0.9),
        ("b", "sprites_location"): None,
        ("c", "digits"): record(1.0, accuracy_cosine=0.0),
        ("c", "sprites_location"): record(0.5, accuracy_cosine=0.5),
    }
    table = tables.accuracy_table(found)
    assert table.header == ["model", "digits", "sprites_location", "mean", "mean (cosine)"]
    assert table.rows == [
        ["c", 1.0, 0.5, 0.75, 0.25],
        ["a", 0.5, 0.25, 0.375, 0.5],
        ["b *", 0.9, None, None, None],  # never a mean over what is there
        ["(chance)", 0.1, 1 / 16, (0.1 + 1 / 16) / 2, (0.1 + 1 / 16) / 2],
        ["(majority)", 102 / 797, 145 / 2000, *[(102 / 797 + 145 / 2000) / 2] * 2],
    ]
    assert table.remarks == [
        "accuracy in percent",
        "1 of 3 models lack tasks (*), so they have no mean",
    ]
    assert table.texts()[0] == ["c", "100.0", "50.0", "75.0", "25.0"]


def test_vtab_means_are_named():
    from vtabjax import tasks

    value = {"Natural": 0.7, "Specialized": 0.4, "Structured": 0.1}
    found = {("m", t): record(value[tasks.get(t).group]) for t in tasks.VTAB}
    found |= {("lacking", t): None if t == "svhn" else record(0.5) for t in tasks.VTAB}
    table = tables.accuracy_table(found)
    assert table.header[-5:] == ["Natural", "Specialized", "Structured", "mean", "mean of groups"]
    plain = (7 * 0.7 + 4 * 0.4 + 8 * 0.1) / 19
    assert table.rows[0][0] == "m"
    assert table.rows[0][-5:] == pytest.approx([0.7, 0.4, 0.1, plain, 0.4])
    assert table.rows[1][0] == "lacking *" and table.rows[1][-5:] == [None, 0.5, 0.5, None, None]


def test_the_majority_is_shown_where_it_is_known():
    table = tables.accuracy_table({("m", "dtd"): record(0.5), ("m", "svhn"): record(0.5)})
    assert table.rows[1:] == [
        ["(chance)", 1 / 47, 1 / 10, (1 / 47 + 1 / 10) / 2],
        ["(majority)", 1 / 47, None, None],
    ]
    table = tables.accuracy_table({("m", "svhn"): record(0.5), ("m", "folder:/gone"): record(0.5)})
    assert table.rows[1:] == [["(chance)", 0.1, None, None]]


def test_what_so_many_examples_show():
    found = {("a", "digits"): record(0.9), ("b", "digits"): record(0.5), ("a", "svhn"): record(0.8)}
    found |= {("b", "svhn"): record(0.8)}
    for (_, task), given in found.items():
        n = 1000 if task == "digits" else 250
        low, high = (float(v) for v in resampling.wilson(given["metrics"]["accuracy"], n))
        given["metrics"] |= {"interval": [low, high]}
        given["n_examples"] = n
    table = tables.accuracy_table(found)
    best = [resampling.wilson(0.9, 1000), resampling.wilson(0.8, 250)]
    halves = [float(high - low) / 2 for low, high in best]
    assert table.rows[-1] == ["(± 95 %)", *map(pytest.approx, halves), pytest.approx(np.hypot(*halves) / 2)]
    assert "2.6 points on digits (1,000), 7.0 points on svhn (250)" in table.remarks[-1]


def test_what_examples_show_calls_folders_by_their_names():
    given = record(0.9)
    given["metrics"]["interval"] = [0.88, 0.92]
    given["n_examples"] = 1000
    table = tables.accuracy_table({("a", "folder:/far/away/birds"): given})
    assert "points on birds (1,000)" in table.remarks[-1]


def test_uneven_classes_of_one_s_own_have_a_balanced_mean(tmp_path):
    for split in ("train", "test"):
        for name, n in (("rare", 2), ("common", 12)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8), (i, len(name), n)).save(tmp_path / split / name / f"{i}.png")
    given = record(12 / 14)
    given["metrics"]["balanced_accuracy"] = 0.5
    table = tables.accuracy_table({("m", f"folder:{tmp_path}"): given})
    assert table.header[-1] == "mean (balanced)" and table.rows[0][-1] == 0.5


def test_copies_are_a_remark():
    copies = {"within": {"train": 0, "test": 0}, "between": {"train+test": 2}, "classes": 0}
    found = {
        ("a", "digits"): record(0.5) | {"copies": copies, "notes": {"distance_zero": "4 of 9"}},
        ("b", "digits"): record(0.5) | {"copies": copies, "notes": {"distance_zero": "4 of 9"}},
        ("b", "svhn"): None,
        ("a", "svhn"): record(0.5) | {"copies": None, "notes": {"distance_zero": "2 of 9"}},
    }
    assert tables.accuracy_table(found).remarks[2:] == [
        "digits: 2 test pictures are copies of train pictures",
        "digits: 4 of 9 (a and 1 more)",
        "svhn: 2 of 9 (a)",
    ]


def test_table_files(tmp_path):
    found = {("a", "digits"): record(0.123456789), ("b", "digits"): None}
    table = tables.table("knn", found)
    text = tables.shown(table) + tables.write(table, "knn", tmp_path)
    assert "12.3" in text and str(tmp_path / "tables" / "knn.csv") in text
    assert (tmp_path / "tables" / "knn.csv").read_text().splitlines() == [
        "model,digits,mean",
        "a,0.123456789,0.123456789",
        "b *,,",
        "(chance),0.1,0.1",
        f"(majority),{102 / 797},{102 / 797}",
    ]
    markdown = (tmp_path / "tables" / "knn.md").read_text()
    assert "12.3" in markdown and "accuracy in percent" in markdown and markdown.startswith("|")


def test_table_of_scores(tmp_path):
    found = {
        ("a", "digits"): {"metrics": {"leep": None, "logme": 0.5}},
        ("a", "dtd"): None,
        ("b", "digits"): {"metrics": {"leep": -1.5, "logme": 0.25}},
        ("b", "dtd"): {"metrics": {"leep": -2.0, "logme": 1.5}, "notes": {"logme": "of 64 components"}},
    }
    table = tables.score_table(found)
    assert table.remarks[1:] == ["logme: of 64 components"]
    assert table.header == ["task", "model", "leep", "logme"]
    assert table.rows == [
        ["digits", "a", None, 0.5],
        ["digits", "b", -1.5, 0.25],
        ["dtd", "a", None, None],
        ["dtd", "b", -2.0, 1.5],
    ]
    assert "not applicable" in tables.shown(tables.table("transferability", found))
    tables.write(tables.table("transferability", found), "transferability", tmp_path)
    assert (tmp_path / "tables" / "transferability.csv").read_text().splitlines()[1] == "digits,a,,0.5"


def test_long_tables_are_in_the_files(tmp_path):
    found = {(f"m{i}", "digits"): record(i / 1000) for i in range(100)}
    table = tables.table("knn", found)
    text = tables.shown(table)
    tables.write(table, "knn", tmp_path)
    assert "the first 80 of 100 rows" in text and "(chance)" in text and len(text.splitlines()) < 90
    assert len((tmp_path / "tables" / "knn.csv").read_text().splitlines()) == 103


def test_terminal_gets_no_commands():
    found = {("a\x1b[31m\n", "folder:/d/x\ny"): record(0.5)}
    text = tables.shown(tables.table("knn", found))
    assert "\x1b" not in text and r"a\x1b[31m\n" in text and len(text.splitlines()) == 5


def test_folders_are_named_by_their_last_parts():
    names = ["folder:/data/birds", "folder:/data/v2/cats", "folder:/data/v1/cats", "digits"]
    found = {("a", name): record(0.5) for name in names}
    header = tables.shown(tables.table("knn", found)).splitlines()[0].split()
    assert header == ["model", "birds", "v2/cats", "v1/cats", "digits", "mean"]
    assert to_csv(tables.accuracy_table(found)).startswith("model,folder:/data/birds,")
    assert tables.short_names(["folder:/", "folder:/a"]) == {"folder:/": "folder:/", "folder:/a": "a"}
