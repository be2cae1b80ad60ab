"""docs/benchmarks.md is what its generator makes of the committed results, which say how they came about."""

import sys

import conftest
import pytest

sys.path.insert(0, str(conftest.ROOT / "benchmarks"))
import tables


def test_page_is_generated_from_the_results():
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run: python benchmarks/tables.py"
    text = tables.FINETUNE.read_text(encoding="utf-8")
    assert text == tables.with_scopes(text), "run: python benchmarks/tables.py"


@pytest.mark.parametrize("path", sorted((conftest.ROOT / "benchmarks" / "results").glob("*.json")))
def test_every_result_names_its_command_and_versions(path):
    record = tables.read(path.stem)
    assert record.get("versions") or record["browser"]
    for command in record.get("commands") or [record["command"]]:
        assert command.startswith("python ")
        assert (conftest.ROOT / command.split()[1]).is_file(), command
