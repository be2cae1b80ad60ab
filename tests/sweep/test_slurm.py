"""On a real SLURM: ``tests/slurm/cluster.sh python -m pytest -m slurm`` (see there for what it needs)."""

import os
import re
import shutil
import subprocess
import sys

import conftest
import pytest

from vtabjax import results
from vtabjax.sweep import status

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not shutil.which("sbatch"), reason="there is no SLURM here; see tests/slurm/cluster.sh"
    ),
]
MODELS = ("baseline/pixels", "embedded/sprites_resnet", "timm/test_resnet@random", "timm/test_vit@random")


def submit(*arguments, workdir, timeout):
    """Runs main.py with a job on one processor without GPUs, to its end; its output."""
    fields = {"gpus": 0, "cpus": 1, "wait": "true"}
    process = subprocess.run(
        [
            sys.executable,
            str(conftest.ROOT / "main.py"),
            *arguments,
            "--executor=slurm",
            *(f"--config.slurm.{name}={value}" for name, value in fields.items()),
            f"--workdir={workdir}",
        ],
        # Not the project's folder: jobs have to find it by themselves.
        cwd=workdir.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(conftest.ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    logs = "".join(p.read_text() for p in sorted(workdir.glob("slurm/*.err")))
    return process.returncode, process.stdout + process.stderr + logs


def knn(*more, workdir):
    config = f"--config={conftest.ROOT}/configs/knn.py"
    arguments = (f"--config.models={','.join(MODELS)}", "--config.image_size=32", *more)
    code, said = submit(config, *arguments, workdir=workdir, timeout=600)
    assert code == 0, said
    frame = results.collect(workdir)
    assert len(frame) == 12, said
    return frame.set_index(["model", "task"])["accuracy"].to_dict(), said


@pytest.fixture(scope="module")
def array(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("array") / "w"
    return workdir, *knn("--config.slurm.jobs=3", workdir=workdir)


def test_array(array):
    workdir, _, said = array
    assert "3 share(s) of 12 cells" in said and "share 2/3: " in said
    (sweep,) = status.read(workdir)
    assert sorted(worker["share"] for worker in sweep.workers) == ["0/3", "1/3", "2/3"]
    assert sum(worker["done"] for worker in sweep.workers) == 12  # each cell once
    assert {worker["state"] for worker in sweep.workers} == {"ended"}
    assert not sweep.failures and all(m.done == 3 for m in sweep.models)


def test_two_processes_are_one_worker(array, tmp_path):
    """srun starts two, JAX recognises that by itself: the same numbers as three jobs of one process each."""
    numbers, said = knn("--config.slurm.jobs=1", "--config.slurm.tasks=2", workdir=tmp_path / "w")
    assert "12 to do, 2 processes" in said
    assert numbers == array[1]
    ((_, record), *_) = results.records(tmp_path / "w")
    assert record["device"]["processes"] == 2 and record["device"]["count"] == 2


def test_time_limit(tmp_path):
    """A job that reaches its limit is requeued and goes on, as often as it takes."""
    workdir = tmp_path / "w"
    code, said = submit(
        f"--config={conftest.ROOT}/configs/finetune.py",
        "--config.models=embedded/sprites_resnet,timm/test_resnet@random",
        "--config.tasks=digits",
        "--config.finetune.steps=40,150",
        "--config.slurm.jobs=2",
        "--config.slurm.minutes=2",
        workdir=workdir,
        timeout=2400,
    )
    assert code == 0, said
    assert len(results.collect(workdir)) == 2, said
    number = re.search(r"submitted job (\d+)", said)[1]
    shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True).stdout
    restarts = [int(n) for n in re.findall(r"Restarts=(\d+)", shown)]
    assert sum(restarts) >= 1, shown + said
    (sweep,) = status.read(workdir)
    assert sum(worker["done"] for worker in sweep.workers) == 2  # none was computed twice
    assert {worker["status"] for worker in sweep.workers} == {"interrupted", "ended"}
