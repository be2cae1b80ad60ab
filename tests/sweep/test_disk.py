"""Folders that cannot be written, full disks, and how failures are listed."""

import errno
import os
from pathlib import Path

import pytest
import report_data

from vtabjax import report
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.runtime import files
from vtabjax.sweep import failures, runner


def test_the_table_is_shown_before_it_is_written(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/a"
    assert runner.run(config, tmp_path) == 0
    shown = capsys.readouterr().out.split("tables: ")[0]
    for path in (tmp_path / "tables").iterdir():
        path.unlink()
    (tmp_path / "tables").rmdir()
    (tmp_path / "tables").write_text("")
    with pytest.raises(UsageError, match="the tables above cannot be written to .*tables"):
        runner.run(config, tmp_path)
    assert capsys.readouterr().out == shown  # the table, without the line that says where it is


@pytest.mark.parametrize("name", ["models", "results", "features", "sweeps", "cache", "tables", "cells"])
def test_what_is_not_a_folder_is_told_before_any_work(config, fake_converters, tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=f"{name}.* is not a (folder|result)"):
        runner.run(config, tmp_path)
    assert not [call for call in fake_converters.calls() if call[0] == "convert"]


def test_a_read_only_folder_within_the_workdir(config, fake_converters, tmp_path, monkeypatch):
    """As root everything can be written, so the answer comes from a stand-in."""
    models = tmp_path / "elsewhere"
    models.mkdir()
    config.models_dir = str(models)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != models and access(path, mode))
    with pytest.raises(UsageError, match=r"elsewhere cannot be written to; .*--config\.models_dir=DIR"):
        runner.run(config, tmp_path)


def test_the_report_on_a_full_disk(tmp_path, monkeypatch):
    report_data.sweep(tmp_path, 2, ("digits",), ("knn",))
    write = files.write_text

    def full(path, text):
        if str(path).endswith(".tex"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, text)

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(UsageError, match=r"the report cannot be made in .*\.tex: No space left on device"):
        report_data.make(tmp_path)


def test_the_report_where_nothing_can_be_written(tmp_path):
    report_data.sweep(tmp_path, 2, ("digits",), ("knn",))
    (tmp_path / "report").write_text("")
    with pytest.raises(UsageError, match="the report cannot be made in .*report"):
        report_data.make(tmp_path)


def test_a_report_without_results_says_so(tmp_path, capsys):
    from configs import report as report_config

    c = report_config.get_config()
    c.figures = False
    assert report.run(c, tmp_path) == 0
    err = capsys.readouterr().err
    assert f"no results in {tmp_path} yet" in err and "--config=configs/knn.py" in err


@pytest.mark.parametrize("width", [40, 80, 140])
def test_failures_are_listed_in_the_width_of_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    message = "12 image(s) cannot be decoded; repair or remove them:\n  a/1.png: truncated\n  a/2.png: not a picture"
    path = Path("/runs/w/results/knn/timm--resnet50.a1_in1k/folder-birds-73035fee.a4366a44.error.json")
    lost = [
        failures.FailedCell(Cell("knn", "timm/resnet50.a1_in1k", task, {}), "data", message, path)
        for task in ("digits", "folder:/data/birds")
    ]
    lost.append(failures.FailedCell(Cell("knn", "tiny/bad", "digits", {}), "convert", "no operator", path))
    lines = failures.listed(lost).splitlines()
    assert lines[0] == "3 cells failed:"
    assert all(len(line) <= width for line in lines if str(path) not in line)
    text = " ".join(" ".join(lines).split())
    assert "timm/resnet50.a1_in1k / digits, folder:/data/birds: in data" in text
    assert (
        "a/1.png: truncated" in text and "a/2.png: not a picture" in text
    )  # which pictures, not only how many
    assert text.count(f"traceback in {path}") == 2 and "tiny/bad / digits: in convert no operator" in text
