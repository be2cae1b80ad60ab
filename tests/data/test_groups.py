"""Groups of pictures that belong together, and folds: what is cut, what is said, what is refused."""

import collections

import forms
import pytest
from conftest import fill_with_pictures as fill
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import tasks
from vtabjax.data import describe
from vtabjax.tasks import PictureFile, _groups, _own

# Groups of one class each, (class, sizes of its groups); a size of 0 stands for a picture in no group.
PURE = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=7), min_size=2, max_size=4)
# The group and the class of each picture, whatever they are.
MIXED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40)


def pictures(labels_and_groups):
    return [
        PictureFile(f"{i}.png", label, "", None, group=group)
        for i, (label, group) in enumerate(labels_and_groups)
    ]


def pure(sizes):
    return pictures(
        (label, f"{label}-{g}" if size else "")
        for label, own in enumerate(sizes)
        for g, size in enumerate(own)
        for _ in range(max(size, 1))
    )


def groups(files):
    return {_groups.key(file) for file in files}


def check_parts(files, parts):
    assert sorted(file for part in parts for file in part) == sorted(files)
    assert sum(len(groups(part)) for part in parts) == len(groups(files))


@given(PURE, st.integers(1, 60))
def test_a_cut_divides_no_group_and_leaves_no_class_out(sizes, percent):
    files = pure(sizes)
    first, second = _groups.cut(files, percent)
    check_parts(files, (first, second))
    for label, own in enumerate(sizes):
        assert label in {file.label for file in first}
        assert (label in {file.label for file in second}) == (len(own) > 1)


@given(MIXED)
def test_groups_of_several_classes(found):
    files = pictures((label, f"g{group}") for group, label in found)
    first, second = _groups.cut(files, 20)
    check_parts(files, (first, second))
    assert {file.label for file in first} == {file.label for file in files}  # what is tested can be learnt


@given(MIXED, st.integers(2, 5))
def test_folds_divide_no_group_and_lose_nothing(found, n):
    files = pictures((label, f"g{group}" if group else "") for group, label in found)
    check_parts(files, _groups.folds(files, n))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(2, 7))
def test_folds_without_groups_are_even(sizes, n):
    parts = _groups.folds(pictures((label, "") for label, size in enumerate(sizes) for _ in range(size)), n)
    for label in range(len(sizes)):
        counts = [sum(f.label == label for f in part) for part in parts]
        assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(5, 50))
def test_pictures_in_no_group_are_cut_as_ever(sizes, percent):
    files = pictures((label, "") for label, size in enumerate(sizes) for _ in range(size))
    first, second = _groups.cut(files, percent)
    for label, size in enumerate(sizes):
        own = sorted((f for f in files if f.label == label), key=_groups.order)
        n = size * percent // 100 or min(1, size - 1)
        assert {f.name for f in second if f.label == label} == {f.name for f in own[size - n :]}
    assert first == sorted(first, key=_groups.order)


@pytest.fixture
def patients(tmp_path):
    """Two classes of six patients with five pictures each, and three others."""
    for cls, start in (("ill", 0), ("well", 6)):
        for patient in range(start, start + 6):
            for i in range(5):
                path = tmp_path / cls / f"patient{patient:02d}_{i}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"x")
    for name in ("other.png", "another.png", "third.png"):
        (tmp_path / "ill" / name).write_bytes(b"x")
    tasks.forget_folders()
    return f"folder:{tmp_path}"


PATTERN = r"(patient\d+)_"


def test_a_regular_expression_on_the_paths(patients):
    name = tasks.with_options(patients, PATTERN)
    assert name == f"{patients}#group=~%28patient%5Cd%2B%29_"
    task = tasks.get(name)
    assert task.name == name and tasks.get(f"{patients}#group=%28patient%5Cd%2B%29_").name == name
    assert {f.group for own in task.files.values() for f in own} == {
        "",
        *(f"patient{i:02d}" for i in range(12)),
    }
    notes = {"groups": 12, "largest_group": ["patient00", 5], "in_no_group": 3, "grouped_by": PATTERN}
    assert notes.items() <= task.notes.items() and "looks_grouped" not in task.notes
    line = describe.line(task, describe.notes(task))
    assert r"12 groups by '(patient\d+)_', the largest patient00 with 5 pictures, never divided" in line
    assert "; 3 pictures in no group" in line
    numbers = tasks.group_numbers(task)
    of_group = collections.defaultdict(set)
    for split, own in task.files.items():
        for file in own:
            of_group[file.group or file.name].add((split, numbers[split][file.name]))
    assert len(of_group) == 15 and all(len(found) == 1 for found in of_group.values())
    assert len(set.union(*of_group.values())) == 15
    assert tasks.group_numbers(tasks.get(patients)) is None
    assert tasks.get(patients).files == tasks.get(f"{patients}/").files


def test_names_that_look_grouped_are_told(patients):
    task = tasks.get(patients)
    looks = task.notes["looks_grouped"]
    assert looks["count"] == 12 and looks["pattern"] == r"(patient\d+)[-_. ]"
    line = describe.line(task, describe.notes(task))
    assert r"--config.group='(patient\d+)[-_. ]'" in line and f"{looks['divided']:,} in more than one" in line
    grouped = tasks.get(tasks.with_options(patients, looks["pattern"]))
    assert grouped.notes["groups"] == 12


@pytest.mark.parametrize(
    "name", ["IMG_{:04d}.jpg", "{:03d}.png", "n01440764_{:d}.JPEG", "sub/{:d}-a.jpg", "DSC{:05d}.jpg"]
)
def test_names_that_only_count_do_not_look_grouped(name):
    files = [PictureFile(f"c{i % 2}/{name.format(i)}", i % 2, "", None) for i in range(40)]
    assert _groups.suspected({"train": files[:30], "test": files[30:]}, 2) == {}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(animal)", "group='(animal)' matches none of its 63 pictures; they are called 'ill/another.png'"),
        (r"\.png", "all of its pictures are in one group, '.png'"),
        ("(", "group='(' is not a regular expression"),
    ],
)
def test_expressions_that_make_no_groups(patients, pattern, message):
    with pytest.raises(tasks.TaskError) as e:
        tasks.get(tasks.with_options(patients, pattern))
    assert message in str(e.value)


def table(path, *rows):
    path.write_text("\n".join(["path,label,group,split", *rows]))
    for row in rows:
        (path.parent / row.split(",")[0]).write_bytes(b"x")
    return f"table:{path}"


def test_own_splits_that_divide_a_group(tmp_path):
    rows = ["a.png,x,p1,train", "b.png,y,p2,train", "c.png,x,p1,test", "d.png,y,p3,test"]
    with pytest.raises(tasks.TaskError, match=r"divide 1 of 3 groups: 'p1' \(train and test\)"):
        tasks.get(table(tmp_path / "list.csv", *rows))
    rows[2] = "c.png,x,p4,test"
    task = tasks.get(table(tmp_path / "other.csv", *rows))
    assert task.given == ("train", "test") and task.notes["groups"] == 4
    # An expression says otherwise; it is the one that counts.
    with pytest.raises(tasks.TaskError, match=r"divide 1 of 1 groups: 'png' \(train and test\)"):
        tasks.get(tasks.with_options(task.name, "png"))
    with pytest.raises(
        tasks.TaskError, match="has the splits train, test of its own; folds are for data without"
    ):
        tasks.get(tasks.with_options(task.name, fold=(1, 2)))


def test_folds_of_a_folder(patients):
    names = [tasks.with_options(patients, PATTERN, (i, 3)) for i in (1, 2, 3)]
    assert names[1] == f"{patients}#fold=2of3+group=~%28patient%5Cd%2B%29_"
    assert tasks.without_fold(names[1]) == (tasks.with_options(patients, PATTERN), (2, 3))
    found = [tasks.get(name) for name in names]
    every = sorted(f.name for own in tasks.get(patients).files.values() for f in own)
    assert sorted(f.name for task in found for f in task.files["test"]) == every
    for task in found:
        assert sorted(f.name for own in task.files.values() for f in own) == every
        of_split = [groups(own) for own in task.files.values()]
        assert len(set.union(*of_split)) == sum(map(len, of_split))
        assert all({f.label for f in own} == {0, 1} for own in task.files.values())
    assert "fold 2 of 3 is the test split" in describe.line(found[1], describe.notes(found[1]))


@pytest.mark.parametrize("fold", ["0of3", "4of3", "1of1", "a", "1of"])
def test_folds_that_there_are_none_of(patients, fold):
    with pytest.raises(tasks.TaskError, match=f"fold={fold} is not a fold; write fold=1of5"):
        tasks.get(f"{patients}#fold={fold}")


def test_more_folds_than_pictures(tmp_path):
    fill(tmp_path / "d", a=2, b=2)
    with pytest.raises(tasks.TaskError, match="5 folds are too many: number 5 would be empty"):
        tasks.get(f"folder:{tmp_path}/d#fold=1of5")


def test_what_is_derived_is_what_the_data_are_now(patients):
    first = tasks.get(tasks.with_options(patients, PATTERN))
    assert tasks.get(first.name) is first
    assert _own.derive.cache_info().currsize
    tasks.forget_folders()
    assert tasks.get(first.name) is not first


def test_groups_and_folds_are_the_same_in_every_form(tmp_path):
    pytest.importorskip("datasets")
    found = forms.pictures(n=40)
    names = [
        forms.write_folder(tmp_path / "folder", found),
        forms.write_list(tmp_path / "folder" / "list.csv", found),
        forms.write_parquet(tmp_path / "list.parquet", found),
        forms.write_hub(tmp_path / "hub", found),
    ]
    for fold in (None, (2, 3)):
        made = [tasks.get(tasks.with_options(name, r"\w+/\d\d", fold)) for name in names]
        splits = [{split: [f.name for f in own] for split, own in task.files.items()} for task in made]
        assert splits[1:] == splits[:-1] and all(splits[0].values())
        assert {task.notes["groups"] for task in made} == {14}
        assert tasks.known(made[-1].name) is made[-1]
