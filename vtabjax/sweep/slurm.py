"""A sweep as a SLURM job array, through submitit: a share of the cells for each job.

Jobs share nothing but the workdir. One that reaches its time limit or is preempted is requeued and resumes where it
stopped, as any sweep does; only the cell in progress is lost (in fine-tuning, at most what was done since its last
checkpoint).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtabjax import installation, options, specs
from vtabjax.options import SlurmOptions, UsageError
from vtabjax.runtime import files, processes
from vtabjax.sweep import plan, runner

# SLURM signals this long before the end: time to record that the job will resume, and to ask for that.
_SIGNAL_SECONDS = 60
_POLL_SECONDS = 5.0
_POLLS_AFTER = 12  # a job's last files may reach this machine later than the queue knows that it ended
_BY_HAND = "Run this on a machine with SLURM, or start workers by hand with --cells=i/n"


class Job:
    """What a job of the array does.

    Args:
      config: the sweep's configuration.
      workdir: the sweep's folder.
      share: "i/n".
    """

    def __init__(self, config: Any, workdir: str, share: str):
        self.config, self.workdir, self.share = config, workdir, share

    def __call__(self) -> int:
        """Runs the share; the exit status."""
        if self.config.protocol == "select":
            from vtabjax.sweep.select import run as selection

            status = selection.run(self.config, self.workdir, self.share)
        else:
            status = runner.run(self.config, self.workdir, self.share)
        if processes.count() > 1:
            import jax

            jax.distributed.shutdown()  # submitit ends with os._exit, at which others would take this one for dead
        return status

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """What submitit queues again when time is up: the same, which finds what is done."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(config: Any, workdir: str | os.PathLike) -> int:
    """Submits a sweep and, with config.slurm.wait, waits for its end.

    Returns:
      The exit status: 0 if it was submitted; with config.slurm.wait that of the sweep.

    Raises:
      UsageError: a field is wrong, there is no SLURM here, or it refused the job.
    """
    if config.protocol == "select":
        return _submit_selection(config, workdir)
    asked = plan.read(config)
    own = asked.slurm
    workdir, folder = _folders(own, workdir)
    if not asked.run.dry_run:
        _check_commands(own.requeues)
    state = runner.assess(asked, workdir, None)
    if asked.run.dry_run:
        return runner.conclude(state, asked.run, workdir)
    if not state.pending:
        print("nothing to submit: every cell has a result or has failed before")
        return runner.conclude(state, asked.run, workdir)
    runner.preflight(state.pending, asked.run, workdir)
    jobs = min(own.jobs, len(state.pending))
    submitted = _submit([Job(config, str(workdir), f"{i}/{jobs}") for i in range(jobs)], own, folder)
    if not _announce(submitted, own, folder, workdir, f"{len(state.pending)} cells"):
        return 0
    return runner.conclude(state, asked.run, workdir)


def _submit_selection(config: Any, workdir: str | os.PathLike) -> int:
    """Submits a whole experiment, whose jobs pass the stages together; see `submit`."""
    from vtabjax.sweep.select import record, run

    own = options.read(SlurmOptions, config, "slurm")
    workdir, folder = _folders(own, workdir)
    experiment = run.prepared(config, workdir)
    if config.dry_run:
        experiment.foretell()
        return 0
    _check_commands(own.requeues)
    jobs = min(own.jobs, len(experiment.models))
    submitted = _submit([Job(config, str(workdir), f"{i}/{jobs}") for i in range(jobs)], own, folder)
    if not _announce(submitted, own, folder, workdir, f"{len(experiment.models)} models"):
        return 0
    found = record.read(workdir) or {}
    print(found.get("verdict", "the experiment has not ended; the same command goes on"), flush=True)
    return 0 if found.get("finished") else 1


def _folders(own: SlurmOptions, workdir: str | os.PathLike) -> tuple[Path, Path]:
    """The workdir, and where scripts and logs go. Raises UsageError."""
    workdir = files.as_path(workdir)
    if not files.is_remote(workdir):
        workdir = workdir.absolute()
    folder = files.as_path(own.folder or workdir / "slurm")
    if files.is_remote(folder):
        raise UsageError(
            f"config.slurm.folder={own.folder!r}: SLURM's scripts and logs need a disk that all nodes see, which "
            f"{folder} is not; give --config.slurm.folder=/shared/disk/slurm"
        )
    return workdir, folder


def _announce(submitted: Sequence[Any], own: SlurmOptions, folder: Path, workdir: Path, what: str) -> bool:
    """Says what was submitted; with config.slurm.wait waits for its end, says what failed and returns True."""
    number = submitted[0].job_id.partition("_")[0]
    print(f"submitted job {number}: {len(submitted)} share(s) of {what}; logs: {folder}/{number}*")
    watch = f"{installation.command()} --config=configs/report.py:status --workdir={workdir}"
    print(f"watch it with: {watch}", flush=True)
    if not own.wait:
        return False
    _wait(submitted, number)
    for job in submitted:
        # Asking an unfinished job for its exception would wait for its end.
        error = job.exception() if job.done() else "it left the queue without a result; its log may say why"
        if error is not None:
            print(f"job {job.job_id} failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}")
    return True


def _submit(calls: Sequence[Job], own: SlurmOptions, folder: Path) -> list[Any]:
    """Submits the jobs of an array; a single job is not made an array."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        executor = submitit.SlurmExecutor(folder=folder.absolute(), max_num_timeout=own.requeues)
        executor.update_parameters(**_parameters(own, len(calls)))
        if len(calls) == 1:
            return [executor.submit(calls[0])]
        with executor.batch():
            submitted = [executor.submit(call) for call in calls]
        return submitted
    except (FailedJobError, FailedSubmissionError, ValueError, RuntimeError, OSError) as e:
        raise UsageError(
            f"--executor=slurm: SLURM rejected the job: {str(e).strip()}\n"
            "Nothing is lost: check with squeue whether it was queued nevertheless; if not, run the same command again"
        ) from e


def _check_commands(requeues: int) -> None:
    """Raises UsageError where there is no SLURM."""
    missing = [command for command in ("sbatch", "srun") if shutil.which(command) is None]
    if missing:
        raise UsageError(f"--executor=slurm: there is no {' and no '.join(missing)} here. {_BY_HAND}")
    if requeues and shutil.which("scontrol") is None:
        print(
            "there is no scontrol here: if the nodes lack it, too, a job that reaches its time limit ends; the same "
            "command resumes where it stopped",
            file=sys.stderr,
        )


def _wait(submitted: Sequence[Any], number: str) -> None:
    """Waits until all jobs have reported how they ended, or have left the queue without reporting anything."""
    gone = 0
    while not all(job.done() for job in submitted) and gone < _POLLS_AFTER:
        gone = 0 if _queued(number) else gone + 1
        time.sleep(_POLL_SECONDS)


def _queued(number: str) -> bool:
    """Whether a job is in the queue: it is assumed to be, unless squeue says otherwise."""
    try:
        asked = subprocess.run(["squeue", "--noheader", f"--jobs={number}"], capture_output=True, text=True)
    except OSError:
        return True
    if asked.returncode:
        return "Invalid job id" not in asked.stderr
    return bool(asked.stdout.strip())


def _parameters(own: SlurmOptions, jobs: int) -> dict[str, Any]:
    """The fields of config.slurm as submitit names them."""
    given = {
        "job_name": "vtabjax",
        "time": own.minutes,
        "nodes": own.nodes,
        "ntasks_per_node": own.tasks,
        "cpus_per_task": own.cpus,
        "array_parallelism": own.at_once or jobs,
        "signal_delay_s": min(_SIGNAL_SECONDS, 30 * own.minutes),
        # The job starts where this was called; the project may be elsewhere.
        "setup": [
            f"export PYTHONPATH={installation.PATH}${{PYTHONPATH:+:$PYTHONPATH}}",
            *([own.setup] * bool(own.setup)),
        ],
    }
    optional = {
        "partition": own.partition,
        "account": own.account,
        "gpus_per_node": own.gpus,
        "mem": f"{own.memory_gb}GB" if own.memory_gb else "",
    }
    more = {name: value for name, _, value in (i.partition("=") for i in specs.split_list(own.extra))}
    given |= {name: value for name, value in optional.items() if value}
    return given | ({"additional_parameters": more} if more else {})
