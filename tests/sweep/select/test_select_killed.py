"""Two workers of an experiment, killed at random moments: same selection, no cell twice. `pytest -n 0 -m faults`."""

import json
import os
import random
import subprocess
import sys
import time

import conftest
import pytest
from test_select_stopping import folder

from vtabjax import results

pytestmark = pytest.mark.faults

KILLS = 15


# The last stage in rounds of tasks, and in rounds of seeds.
ROUNDS = {
    "tasks": ["--config.stages=knn:3,linear"],
    "seeds": [
        "--config.stages=knn:3,finetune", "--config.finetune.scope=head", "--config.finetune.seeds=0,1,2,3",
        "--config.finetune.steps=40", "--config.finetune.learning_rates=0.01",
    ],
}  # fmt: skip


def start(fakes, workdir, tasks, share, rounds):
    arguments = [
        "--config=configs/select.py", f"--workdir={workdir}", f"--cells={share}/2", f"--config.tasks={','.join(tasks)}",
        "--config.models=tiny/a,tiny/b,tiny/slow1,tiny/slow2,baseline/pixels", "--config.image_size=16",
        *ROUNDS[rounds], "--config.k=1", "--config.c_count=2", "--config.stop_chance=0.3", "--config.audit=1",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with (workdir.parent / f"said-{workdir.name}-{share}.txt").open("a") as said:
        return subprocess.Popen(
            [*fakes.main, *arguments], cwd=conftest.ROOT, env=environment, stdout=said, stderr=said
        )


def decided(workdir):
    """A selection without what depends on the clock."""
    found = json.loads((workdir / "select" / "selection.json").read_text())
    found.pop("hours")
    found["stopped"].pop("hours")
    for row in found["stopped"]["models"]:
        row.pop("hours")
    stages = [*found["stages"], found["audit"]["stage"]]
    for stage in stages:
        for row in [stage, *stage["models"]]:
            row.pop("seconds")
    return found


def said(path):
    """The last that the workers have said."""
    return "\n".join(text.read_text()[-2000:] for text in sorted(path.glob("said-*.txt")))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_workers_killed_at_random_moments(rounds, fake_converters, tmp_path):
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nFAULTS_SEED={seed}", file=sys.__stderr__, flush=True)
    rng = random.Random(seed)
    tasks = [folder(tmp_path / f"pictures{i}", i) for i in range(3 if rounds == "tasks" else 1)]
    since = time.monotonic()
    straight = [start(fake_converters, tmp_path / "straight", tasks, i, rounds) for i in range(2)]
    assert [process.wait(timeout=600) for process in straight] == [0, 0], said(tmp_path)
    seconds = time.monotonic() - since

    workdir, first = tmp_path / "killed", {}
    workers = [start(fake_converters, workdir, tasks, i, rounds) for i in range(2)]

    def look():
        for path in results.paths(workdir):
            first.setdefault(path, path.stat().st_ino)

    try:
        for _ in range(KILLS):
            until = time.monotonic() + rng.uniform(0, seconds / 2)
            while time.monotonic() < until:
                look()
                time.sleep(0.02)
            i = rng.randrange(2)
            workers[i].kill()
            workers[i].wait()
            look()
            workers[i] = start(fake_converters, workdir, tasks, i, rounds)
        assert [process.wait(timeout=900) for process in workers] == [0, 0], said(tmp_path)
    finally:
        for process in workers:
            process.kill()
            process.wait()
    look()
    assert decided(workdir) == decided(tmp_path / "straight")
    there = {path: path.stat().st_ino for path in results.paths(workdir)}
    assert there == first, "a result was written again"
