"""Sweeps over checkpoint files: moved away after the work, given twice, of a kind that cannot be read."""

import os
import shutil

import pytest

from vtabjax import results, specs
from vtabjax.specs import weight_files
from vtabjax.sweep import runner, status
from vtabjax.sweep.plan import UsageError


def test_results_stay_readable_when_the_file_was_moved_away(config, fake_converters, tmp_path, capsys):
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"weights")
    config.models, workdir = f"tiny/a@{weights}", tmp_path / "runs"
    assert runner.run(config, workdir) == 0
    before = results.collect(workdir)
    weights.unlink()
    fake_converters.forget()
    results.file_stem.cache_clear()  # as in another process
    assert status.main(None, workdir) == 0
    assert runner.run(config, workdir) == 0
    assert fake_converters.calls() == [] and results.collect(workdir).equals(before)
    # The converted model is still there, so another task needs no file either.
    config.tasks = "digits,sprites_location"
    assert runner.run(config, workdir) == 0
    assert fake_converters.calls() == [] and len(results.collect(workdir)) == 2
    shutil.rmtree(workdir / "cache" / "files")
    results.file_stem.cache_clear()
    assert runner.run(config, workdir) == 0  # found by the model that the results name
    shutil.rmtree(workdir / "models")  # without the converted model new work needs the file
    config.k = 3
    with pytest.raises(UsageError, match="there is no weight file"):
        runner.run(config, workdir)


def test_one_row_for_one_model(config, fake_converters, tmp_path, capsys):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.pth").write_bytes(b"weights")
    names = [
        "tiny/a@random",
        "tiny/a@random:0",
        "tiny/a@random:00",
        *(f"tiny/a@{tmp_path}/{f}/a.pth" for f in "xy"),
    ]
    config.models = ",".join(names)
    assert runner.run(config, tmp_path / "runs") == 0
    assert sorted(results.collect(tmp_path / "runs")["model"]) == sorted([names[0], names[3]])
    assert f"{names[4]} has the same weights as {names[3]} and is left out" in capsys.readouterr().err


def test_a_spec_is_parsed_once_and_its_weight_file_hashed_once(
    config, fake_converters, tmp_path, monkeypatch
):
    """However often its name is needed: by the results, the converted models, the shares, the next run."""
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"weights")
    os.utime(weights, (1e9, 1e9))  # a file that was written just now is read again: it may still change
    read, hashed = weight_files._read, []
    monkeypatch.setattr(weight_files, "_read", lambda path: hashed.append(path) or read(path))
    config.models, config.tasks = f"tiny/a@{weights},tiny/b", "digits,sprites_location"
    specs.parse.cache_clear()
    for _ in range(2):
        assert runner.run(config, tmp_path / "runs") == 0
    assert hashed == [weights.resolve()] and specs.parse.cache_info().misses == 2


@pytest.mark.parametrize("dry", [True, False])
def test_a_pipe_is_refused_at_the_door(dry, config, fake_converters, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    config.models, config.dry_run = f"tiny/a@{tmp_path}/pipe", dry
    with pytest.raises(UsageError, match="pipe is not a regular file but a pipe"):
        runner.run(config, tmp_path / "runs")
    config.models = "tiny/a@random:99999999999999999999999"
    with pytest.raises(UsageError, match="does not fit in 64 bits"):
        runner.run(config, tmp_path / "runs")
