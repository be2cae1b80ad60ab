"""Lists of all kinds, right and wrong: rows are read as an oracle reads them, or one message says why not."""

import csv
import io
import json

import conftest
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtabjax import tasks

FILES = [f"{i}.png" for i in range(9)]
LABELS = ("a", "b", "1", "2", "02", "1.5", " a ", "", "1.0")
SPLITS = ("train", "Train", "val", "test", "dev", "fold", "")
LABEL_POOLS = [("a", "b"), ("1", "2", "1.0"), ("a", " a ", "b"), LABELS]
SPLIT_POOLS = [("train",), ("train", "test"), ("Train", "train", "val"), SPLITS]
EXTRA = st.lists(
    st.tuples(st.sampled_from([*FILES, "none.png"]), st.sampled_from(LABELS), st.sampled_from(SPLITS)),
    max_size=2,
)


@st.composite
def table_rows(draw):
    """(path, label, split) of every file, and a few more rows that may be anything."""
    n = len(FILES)
    labels = draw(st.lists(st.sampled_from(draw(st.sampled_from(LABEL_POOLS))), min_size=n, max_size=n))
    splits = draw(st.lists(st.sampled_from(draw(st.sampled_from(SPLIT_POOLS))), min_size=n, max_size=n))
    return [*zip(FILES, labels, splits, strict=True), *draw(st.just([]) | EXTRA)]


SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    for i, name in enumerate(FILES):
        conftest.picture(root / name, (25 * i, 0, 0))
    return root


def oracle(rows, with_splits):
    """{file: label as a class's name} if the rows are a task, else None."""
    if not rows or any(file not in FILES for file, _, _ in rows):
        return None
    seen = {}
    for file, label, split in rows:
        label = label.strip()
        if (
            not label
            or with_splits
            and not split
            or seen.setdefault(file, (label, split)) != (label, split)
            and (seen[file][0] != label or with_splits)
        ):
            return None
    values = [label for label, _ in seen.values()]
    if all(v in ("1", "2", "1.0") for v in values):
        values = [v[0] for v in values]
    if len(set(values)) < 2 or min(map(values.count, values)) < 2:
        return None
    if with_splits:
        roles = {s: {"dev": "val", "fold": None}.get(s.lower(), s.lower()) for _, s in seen.values()}
        if len(roles) == 1 and set(roles.values()) <= {"train", None}:
            return dict(zip(seen, values, strict=True))
        if None in roles.values() or "train" not in roles.values() or {"val", "dev"} <= set(roles):
            return None
        trained = {v for v, (_, s) in zip(values, seen.values(), strict=True) if roles[s] == "train"}
        if set(roles.values()) != {"train"} and trained != set(values):
            return None
    return dict(zip(seen, values, strict=True))


def write(path, rows, with_splits):
    columns = ["path", "label", "split"][: 2 + with_splits]
    cells = [row[: len(columns)] for row in rows]
    if path.suffix == ".parquet":
        table = {c: pa.array([row[i] for row in cells], pa.string()) for i, c in enumerate(columns)}
        pq.write_table(pa.table(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in cells))
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([columns, *cells])
        path.write_text(text.getvalue())


def test_the_oracle_says_both():
    rows = [(file, "ab"[i % 2], "train") for i, file in enumerate(FILES)]
    assert oracle(rows, True) == {file: "ab"[i % 2] for i, file in enumerate(FILES)}
    assert oracle(rows[:3], True) is None and oracle([*rows[:5], (FILES[5], "b", "")], True) is None


@SLOW
@given(
    rows=table_rows(), with_splits=st.booleans(), kind=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"])
)
def test_rows_are_read_as_they_are_or_refused(folder, rows, with_splits, kind):
    path = folder / f"list{kind}"
    write(path, rows, with_splits)
    tasks.forget_folders()
    expected = oracle(rows, with_splits)
    try:
        task = tasks.get(f"table:{path}")
    except tasks.TaskError as e:
        assert expected is None, e
        assert str(e).startswith(f"task 'table:{path}': ")
    else:
        assert {f.name: task.class_names[f.label] for own in task.files.values() for f in own} == expected


@SLOW
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(st.characters(codec="utf-8"), max_size=100).map(lambda t: ("path,label\n" + t).encode()),
        st.recursive(st.none() | st.floats() | st.text(max_size=3), lambda s: st.lists(s) | st.dictionaries(
            st.sampled_from(("path", "label", "split")), s), max_leaves=5).map(lambda v: json.dumps(v).encode()),
    ),
    kind=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
)  # fmt: skip
def test_nonsense_is_told(folder, content, kind):
    (folder / f"nonsense{kind}").write_bytes(content)
    tasks.forget_folders()
    with pytest.raises(tasks.TaskError):
        tasks.get(f"table:{folder}/nonsense{kind}")
