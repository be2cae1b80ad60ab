"""SLURM that is missing, says no, or loses a job: stand-ins for its commands in PATH."""

import os
import time

import pytest
import submitit  # noqa: F401  (its log goes to the standard error of the moment it is imported)

from vtabjax import results
from vtabjax.options import UsageError
from vtabjax.sweep import runner, slurm


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """``commands(sbatch="shell text")``: a PATH with those commands and the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(**texts):
        for name, text in texts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return make


def test_no_slurm(config, fake_converters, commands, tmp_path):
    with pytest.raises(
        UsageError, match="--executor=slurm: there is no sbatch and no srun here.*--cells=i/n"
    ):
        slurm.submit(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_submission_that_fails_once(config, fake_converters, commands, tmp_path, capsys):
    """The line says what SLURM said; the same command submits, and nothing is there twice."""
    count = tmp_path / "count"
    answer = f"echo x >> {count}; [ $(wc -l < {count}) -gt 1 ] && echo 'Submitted batch job 7' && exit 0"
    commands(sbatch=f"{answer}; echo 'sbatch: error: Socket timed out' >&2; exit 1", srun="", scontrol="")
    config.slurm.jobs = 2
    with pytest.raises(
        UsageError, match="(?s)SLURM rejected the job: .*Socket timed out.*run the same command again"
    ):
        slurm.submit(config, tmp_path / "w")
    assert not (tmp_path / "w" / "results").exists()
    assert slurm.submit(config, tmp_path / "w") == 0
    assert "submitted job 7: 2 share(s) of 2 cells" in capsys.readouterr().out
    assert len(count.read_text().split()) == 2


def test_an_answer_that_makes_no_sense(config, fake_converters, commands, tmp_path):
    commands(sbatch="echo hello", srun="", scontrol="")
    config.slurm.jobs = 1
    with pytest.raises(UsageError, match="SLURM rejected the job: .*hello"):
        slurm.submit(config, tmp_path / "w")


def test_without_scontrol(config, fake_converters, commands, tmp_path, capsys):
    commands(sbatch="echo Submitted batch job 7", srun="")
    config.slurm.jobs = 2
    assert slurm.submit(config, tmp_path / "w") == 0
    err = capsys.readouterr().err
    if not os.path.exists("/usr/bin/scontrol"):
        assert "there is no scontrol here" in err and "resumes where it stopped" in err


@pytest.mark.filterwarnings("ignore")  # submitit's, about sacct
def test_a_job_that_vanishes_is_not_waited_for(
    config, fake_converters, commands, tmp_path, monkeypatch, capsys
):
    commands(
        sbatch="echo Submitted batch job 7",
        srun="",
        scontrol="",
        sacct="exit 1",
        squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    )
    monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.0)
    config.slurm.jobs, config.slurm.wait = 2, True
    before = time.monotonic()
    assert slurm.submit(config, tmp_path / "w") == 1
    out, err = capsys.readouterr()
    assert out.count("failed: ") == 2 and "2 cells failed:" in err and "no result and no error file" in err
    assert time.monotonic() - before < 300  # it ends, that is


def test_a_job_that_is_queued_again_does_nothing_twice(
    config, fake_converters, extractions, tmp_path, monkeypatch
):
    """SLURM starts the same element once more, with the same number: what is done stays as it is."""
    for name, value in {"ID": "0", "COUNT": "2", "MIN": "0", "MAX": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    job = slurm.Job(config, str(tmp_path), "0/2")
    assert job() == 0 and len(results.collect(tmp_path)) == 1
    (path,) = [p for p, _ in results.records(tmp_path)]
    before, passes = path.stat().st_mtime_ns, len(extractions)
    again = job.checkpoint().function
    assert again() == 0 and path.stat().st_mtime_ns == before and len(extractions) == passes
    assert slurm.Job(config, str(tmp_path), "1/2")() == 0 and len(results.collect(tmp_path)) == 2
    assert runner.run(config, tmp_path, "0/1") == 0
