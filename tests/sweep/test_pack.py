"""Packs: what comes back is what was packed; what contradicts itself, or is no pack, is refused."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import report_data

from vtabjax import results
from vtabjax.results import PackError, _pack


@pytest.fixture
def packed(tmp_path):
    report_data.sweep(tmp_path, 2, ("digits",), n=203)
    return results.pack(tmp_path, tmp_path / "mine.parquet", who="Ada Lovelace", licence="CC-BY-4.0")


def changed(made, **changes):
    """The file with the first row's cells changed."""
    table = pyarrow.parquet.read_table(made.path)
    rows = table.to_pylist()
    rows[0].update(changes)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), made.path)
    return made.path


def test_what_comes_back_is_what_was_packed(packed):
    read = results.read_pack(packed.path)
    assert (read.who, read.licence, read.when) == ("Ada Lovelace", "CC-BY-4.0", packed.when)
    assert len(read.records) == 8

    def held(record):
        return {k: v for k, v in record.items() if v is not None}

    assert [held(r) for r in read.records] == [held(r) for r in packed.records]


def test_columns_are_readable_without_us(packed):
    frame = pyarrow.parquet.read_table(packed.path).to_pandas().set_index(["protocol", "model"])
    row = frame.loc["knn", report_data.spec(0)]
    bits = np.unpackbits(np.frombuffer(row["correct"], np.uint8), count=int(row["correct_count"]))
    assert row["n_examples"] == 203 and bits.mean() == pytest.approx(row["accuracy"])
    assert json.loads(row["settings"])["metric"] == ["euclidean", "cosine"]


def test_paths_are_named(tmp_path):
    report_data.finetuned(tmp_path, 0, "folder:/home/ada/birds")
    assert results.pack(tmp_path, tmp_path / "x.parquet").local_names == ["folder:/home/ada/birds"]


def test_nothing_to_pack(tmp_path):
    with pytest.raises(ValueError, match="has no results to pack"):
        results.pack(tmp_path, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="ends in .parquet"):
        results.pack(tmp_path, tmp_path / "x.csv")
    with pytest.raises(ValueError, match="who='a\\\\nb' has to be one line"):
        results.pack(tmp_path, tmp_path / "x.parquet", who="a\nb")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 0.123}, "accuracy is 0.123, but metrics say"),
        ({"settings": '{"k": 99}'}, "config_hash is not that of its settings"),
        ({"settings": "{"}, "row 1: Expecting"),
        ({"settings": "[" * 100_000}, "row 1: maximum recursion"),
        ({"metrics": '{"accuracy": NaN}'}, "NaN is not a number"),
        ({"versions": "[]"}, r"versions is \[\]"),
        ({"correct_count": 10**12}, "correct does not hold n_examples bits"),
        ({"correct": b""}, "correct does not hold n_examples bits"),
        ({"correct": b"\x00" * 26}, "but 0 of 203 bits are set"),
        ({"n_examples": None}, "correct does not hold n_examples bits"),
        ({"model": None}, "row 1: model is 'None'"),
        ({"model": "x" * 2000}, "row 1: model is"),
        ({"finished": "yesterday"}, "finished 'yesterday'"),
        ({"protocol": "../../etc"}, "protocol is '../../etc'"),
        ({"notes": '"' + "x" * (1 << 20) + '"'}, "notes has 1,048,578 characters"),
    ],
)
def test_rows_that_contradict_themselves(packed, changes, message):
    with pytest.raises(PackError, match=message):
        results.read_pack(changed(packed, **changes))


def test_a_result_twice(packed):
    table = pyarrow.parquet.read_table(packed.path)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table, table]), packed.path)
    with pytest.raises(PackError, match="row 9: a second result of .* on digits"):
        results.read_pack(packed.path)


def test_files_that_are_no_packs(packed, tmp_path, monkeypatch):
    def refused(message):
        with pytest.raises(PackError, match=message):
            results.read_pack(path)

    path = tmp_path / "gone.parquet"
    refused("cannot be read as a Parquet file .No such file")
    path.write_bytes(b"PAR1 and nothing else")
    refused("cannot be read as a Parquet file")
    table = pyarrow.parquet.read_table(packed.path)
    pyarrow.parquet.write_table(table.replace_schema_metadata(), path)
    refused("is a Parquet file but no pack of results")
    pyarrow.parquet.write_table(table.drop_columns("settings"), path)
    refused("does not have the columns of a pack: settings")
    about = {_pack.META: json.dumps({"format": 2}).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(about), path)
    refused("is a pack of format 2; this version reads 1")
    about = {_pack.META: json.dumps({"format": 1, "who": "a\nb", "when": "", "licence": ""}).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(about), path)
    refused("does not say what it is")
    monkeypatch.setattr(_pack, "_MAX_ROWS", 3)
    path = packed.path
    refused("holds 8 rows")
    monkeypatch.setattr(_pack, "_MAX_BYTES", 3)
    refused("has .* bytes; a pack has at most 3")


def test_a_flipped_bit_is_found(packed):
    """Page checksums: no flip within the data gives other numbers."""
    before, whole = results.read_pack(packed.path).records, packed.path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(4, len(whole) - 8, 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        packed.path.write_bytes(damaged)
        try:
            assert (
                results.read_pack(packed.path).records == before
            )  # in what nobody reads, such as statistics
        except PackError:
            pass
