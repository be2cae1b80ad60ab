"""A sweep as a SLURM job array, through submitit: a share of the cells for each job.

Jobs share nothing but the workdir. One that reaches its time limit or is preempted is requeued and goes on where it
was, as any sweep does; what is lost is the cell under way (fine-tuning loses at most what it did since its last
checkpoint).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from vtabjax import distributed, files, plan, specs, sweep
from vtabjax.options import SlurmOptions, UsageError

_ROOT = Path(__file__).resolve().parent.parent
# SLURM signals so long before the end: time to write down that the job goes on, and to ask for that.
_SIGNAL_SECONDS = 60
_POLL_SECONDS = 5.0


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
        status = sweep.run(self.config, self.workdir, self.share)
        if distributed.count() > 1:
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
    import submitit

    asked = plan.read(config)
    own = asked.slurm
    workdir = files.as_path(workdir)
    if not files.is_remote(workdir):
        workdir = workdir.absolute()
    state = sweep.look(asked, workdir, None)
    if asked.run.dry_run:
        return sweep.finish(state, asked.run, workdir)
    if not state.todo:
        print("nothing to submit: every cell has a result or has failed before")
        return sweep.finish(state, asked.run, workdir)
    sweep.check(state.todo, asked.run, workdir)
    jobs = min(own.jobs, len(state.todo))
    folder = Path(own.folder or workdir / "slurm")
    if files.is_remote(folder):
        raise UsageError(
            "config.slurm.folder='': SLURM's scripts and logs need a disk that all nodes see, which "
            f"--workdir={workdir} is not; give --config.slurm.folder=/shared/disk/slurm"
        )
    try:
        executor = submitit.SlurmExecutor(folder=folder.absolute(), max_num_timeout=own.requeues)
    except RuntimeError as e:
        raise UsageError(
            f"--executor=slurm: {e} Run this where sbatch is, or start workers by hand with --cells=i/n"
        ) from e
    try:
        executor.update_parameters(**_parameters(own, jobs))
        calls = [Job(config, str(workdir), f"{i}/{jobs}") for i in range(jobs)]
        if jobs == 1:
            submitted = [executor.submit(calls[0])]
        else:
            with executor.batch():
                submitted = [executor.submit(call) for call in calls]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, ValueError) as e:
        raise UsageError(f"--executor=slurm: SLURM took no job: {e}") from e
    number = submitted[0].job_id.partition("_")[0]
    print(f"submitted job {number}: {jobs} share(s) of {len(state.todo)} cells; logs: {folder}/{number}*")
    print(f"to watch it: python main.py --config=configs/report.py:status --workdir={workdir}", flush=True)
    if not own.wait:
        return 0
    while not all(job.done() for job in submitted):
        time.sleep(_POLL_SECONDS)
    ended = {job.job_id: job.exception() for job in submitted}
    for name, error in ended.items():
        if error is not None:
            print(f"job {name} failed: {str(error).strip().splitlines()[-1]}")
    return sweep.finish(state, asked.run, workdir)


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
            f"export PYTHONPATH={_ROOT}${{PYTHONPATH:+:$PYTHONPATH}}",
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
