"""The audit: one process per model, limits, a table that resumes, and its summary."""

import csv
import os
import re
import time

import conftest
import pytest

from converters import audit
from converters.audit import model, table
from converters.audit.model import Limits
from vtabjax.specs import SpecError

ROOMY = Limits(memory=8e9, seconds=300)


def crash(*arguments):
    os._exit(3)


def hang(*arguments):
    time.sleep(600)


def slow_at_first(source, name, limits, plan, pipe):
    if plan == 0:
        time.sleep(600)
    pipe.send({"status": "passed", "blocks": f"plan {plan}", "features_error": "0"})


def hoard(source, name, limits, plan, pipe):
    if plan == 0:
        pipe.send({"parameters": 7})
        memory = bytearray(int(1.5e9))
        memory[::4096] = b"x" * len(memory[::4096])
        time.sleep(600)
    pipe.send({"status": "passed", "blocks": f"plan {plan}", "features_error": "0"})


def test_models_are_measured_and_a_second_run_has_nothing_to_do(tmp_path, capsys, monkeypatch):
    out = tmp_path / "coverage.csv"
    rows = audit.audit("timm", "test_resnet", out, ROOMY)
    (row,) = rows
    assert row["status"] == "passed", row
    assert row["family"] == "resnet" and row["dtype"] == "float64" and row["blocks"] == "all"
    assert float(row["features_error"]) < 1e-12 and float(row["logits_error"]) < 1e-12
    assert int(row["parameters"]) > 1000 and int(row["input_size"]) < 224
    assert {"conv2d", "batch_norm", "linear"} <= set(row["operators"].split())
    assert "[1/1] passed   test_resnet" in capsys.readouterr().err
    with open(out, newline="") as f:
        assert list(csv.DictReader(f)) == rows

    monkeypatch.setattr(audit, "measure", crash)
    assert audit.audit("timm", "test_resnet", out, ROOMY) == rows
    assert "1 of them in" in capsys.readouterr().err
    (row,) = audit.audit("timm", "test_resnet", out, ROOMY, again=["passed"])
    assert row["status"] == "crashed" and "status 3" in row["message"]


def test_what_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "measure", hang)
    out = tmp_path / "coverage.csv"
    start = time.monotonic()
    rows = audit.audit("torchvision", "resnet*8", out, Limits(8e9, 3.0), jobs=2)
    assert time.monotonic() - start < 120
    assert [(r["name"], r["status"]) for r in rows] == [("resnet18", "timeout")]
    assert "not done after 3 s" in rows[0]["message"]
    monkeypatch.setattr(audit, "measure", slow_at_first)
    (row,) = audit.audit("torchvision", "resnet34", out, Limits(8e9, 5.0))
    assert row["status"] == "passed" and row["blocks"] == "plan 1"


def test_what_takes_too_much_memory_is_tried_in_another_way(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "measure", hoard)
    (row,) = audit.audit("torchvision", "resnet18", tmp_path / "coverage.csv", Limits(1e9, 120))
    assert row["status"] == "passed" and row["blocks"] == "plan 1"


def test_the_plan_goes_from_the_whole_model_to_fewer_blocks():
    name, parameters = "vit_tiny_patch16_224", 5717416
    plan = lambda memory, i: model._choose_variant("timm", name, {}, parameters, memory, i)  # noqa: E731
    assert plan(1e12, 0) == ("float64", "all", {})
    assert plan(1e12, 1) == ("float32", "all", {})
    assert plan(1e12, 2) == ("float64", "depth=4", {"depth": 4})
    assert plan(parameters * 20, 0) == ("float32", "all", {})
    assert plan(parameters * 11, 0) == ("float64", "depth=4", {"depth": 4})
    with pytest.raises(MemoryError):
        plan(1e6, 0)
    with pytest.raises(MemoryError):  # torchvision's builders have no such options
        model._choose_variant("torchvision", "resnet18", {}, 11689512, 1e6, 0)


def test_sizes_are_small_where_the_architecture_allows():
    assert model._size("timm", "resnet18") == (64, {})
    assert model._size("timm", "vit_tiny_patch16_224") == (96, {"img_size": 96})
    assert model._size("timm", "swin_tiny_patch4_window7_224") == (224, {})
    assert model._size("torchvision", "vit_b_16") == (64, {})
    assert model._size("torchvision", "maxvit_t") == (224, {})


def test_two_blocks_of_transformers_and_open_clip_tell_as_much_as_all():
    plan = lambda source, name, i: model._choose_variant(source, name, {}, 90_000_000, 1e12, i)  # noqa: E731
    assert plan("transformers", "vit", 0) == ("float64", "num_hidden_layers=2", {"num_hidden_layers": 2})
    assert plan("transformers", "clip", 0)[1] == "num_hidden_layers=2"
    assert plan("transformers", "resnet", 0)[1] == "depths=(1, 1, 2, 1)"
    assert plan("open_clip", "ViT-B-32", 0) == ("float64", "layers=2", {"layers": 2})
    assert plan("open_clip", "RN50", 0)[1] == "layers=(1, 1, 2, 1)"
    assert plan("open_clip", "ViT-B-16-SigLIP", 0)[1] == "depth=2"
    assert [plan("open_clip", "ViT-B-32", i)[:2] for i in (1, 2, 3)] == [
        ("float64", "all"),
        ("float32", "layers=2"),
        ("float32", "all"),
    ]


def test_nothing_to_audit(tmp_path):
    with pytest.raises(SpecError, match="matches nothing"):
        audit.audit("timm", "qqq*", tmp_path / "c.csv", ROOMY)
    with pytest.raises(SpecError, match="no architecture 'resnet18x'"):
        audit.audit("timm", "resnet18x", tmp_path / "c.csv", ROOMY)


def row(name, family="vision_transformer", status="passed", **rest):
    defaults = {
        "source": "timm",
        "parameters": "2500000",
        "dtype": "float64",
        "blocks": "all",
        "features_error": "1e-14",
        "logits_error": "3e-14",
        "message": "",
    }
    return (
        dict.fromkeys(table.COLUMNS, "")
        | defaults
        | {"name": name, "family": family, "status": status}
        | rest
    )


def test_the_summary_counts_by_family_and_lists_what_is_not_plain():
    text = table.summary(
        [
            row("vit_a"),
            row("vit_b", parameters="99500000", features_error="2e-13"),
            row("vit_huge", dtype="float32", features_error="5e-6", logits_error=""),
            row("vit_giant", blocks="depth=4"),
            row("odd", family="odd_net", status="failed", message="UnknownOperatorError: aten.odd"),
            row("resnet18", family="resnet", source="torchvision"),
        ]
    )
    assert "## timm: 4 of 5 pass" in text and "## torchvision: 1 of 1 pass" in text
    assert "| vision_transformer | 4 | 4 | 2.5-99.5 | 2e-13 | 5e-06 |" in text
    assert "| odd_net | 1 | 0 | 2.5-2.5 |  |  |" in text
    assert "### Not passed\n\n- `odd`, UnknownOperatorError: aten.odd" in text
    assert "- `vit_giant`, depth=4" in text
    assert "### In float32 (too big for float64)\n\n- `vit_huge`" in text


def test_the_command(tmp_path, capsys, monkeypatch):
    from converters.__main__ import main

    monkeypatch.setattr(audit, "measure", crash)
    out = tmp_path / "docs" / "coverage.csv"
    status = main(["audit", "--source=timm", "--models=test_vit", f"--out={out}", "--timeout=60"])
    assert status == 1
    assert "0 of 1 pass" in capsys.readouterr().out
    assert "`test_vit`, the process ended with status 3" in out.with_suffix(".md").read_text()
    assert main(["audit", "--source=timm", f"--out={out}", "--again=nonsense"]) == 1
    assert "nonsense is not a status" in capsys.readouterr().err


def test_committed_table_has_every_architecture():
    """All of every library, each passed or explained, and the page is made of the table."""
    from converters import list_models

    rows = table.read(conftest.ROOT / "docs" / "coverage.csv")
    for source, least in (("timm", 1360), ("torchvision", 80), ("open_clip", 144), ("transformers", 80)):
        own = [r for r in rows if r["source"] == source]
        names = {
            n.removeprefix(f"{source}/").removesuffix("@random") for n in list_models(f"{source}/*@random")
        }
        assert sorted(r["name"] for r in own) == sorted(names)
        assert sum(r["status"] == "passed" for r in own) >= least
        assert all(r["status"] == "passed" or r["message"] for r in own)
    page = (conftest.ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    written, now = (re.sub("^Versions: .*$", "", text, flags=re.M) for text in (page, table.summary(rows)))
    assert written == now
