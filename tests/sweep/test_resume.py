"""Killed at any moment and started again: no cell lost, none computed twice, no half-written file."""

import os
import random
import signal
import subprocess
import sys
import time

import conftest
import pytest

from vtabjax import results


def start(fake_converters, workdir, log, models, share=""):
    program = conftest.PROGRAMS / "logged_sweep.py"
    # Compiled programs go to the workdir: a sweep that is killed may leave half of one.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, str(program), str(fake_converters.folder), str(log), models, str(workdir), share],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )


def snapshot(workdir):
    """Every result that is there: file -> (inode, content). Reading one that is half-written raises."""
    found = {}
    for path, _ in results.records(workdir):
        found[path] = (path.stat().st_ino, path.read_bytes())
    return found


def killed(process, rng, most):
    """Kills a sweep at a random moment, after fewer than `most` cells; whether it was still running.

    The moment is a random line of its output and a little later, not a time: how long a sweep takes depends on what
    else the machine does, and on what is in its caches.
    """
    lines = rng.randrange(most)  # of cells that are done
    delay = rng.uniform(0, 0.05 if lines else 2)  # it takes a while until there are cells
    while lines and (line := process.stdout.readline()):
        lines -= line.startswith("[")
    time.sleep(delay)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.parametrize("kills", [6, pytest.param(25, marks=pytest.mark.audit)])
def test_killed_at_random_moments(kills, fake_converters, tmp_path):
    workdir, log = tmp_path / "w", tmp_path / "log"
    well = [f"tiny/m{i}" for i in range(4 if kills < 10 else 17)]
    ill = [] if kills < 10 else ["tiny/bad", "tiny/nan", "tiny/missing"]
    models, n_cells = ",".join(ill[:1] + well + ill[1:]), 3 * len(well)
    straight = start(fake_converters, tmp_path / "straight", tmp_path / "log2", models)
    seed = os.environ.get("VTABJAX_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
    print(
        f"again with VTABJAX_TEST_SEED={seed}"
    )  # not the same moments each time; pytest shows it with a failure
    rng = random.Random(seed)
    seen, n_killed = {}, 0
    for attempt in range(kills):
        process = start(fake_converters, workdir, log, models)
        assert process.stdout.readline() == "started\n"
        # Each one leaves some to do for those that follow.
        rest = n_cells - len(seen)
        n_killed += killed(process, rng, max(1, min(2 * rest // (kills - attempt), rest - 3)))
        now = snapshot(workdir)
        assert seen.items() <= now.items()  # nothing lost, nothing written again
        seen = now
        if len(seen) == n_cells:
            break
    process = start(fake_converters, workdir, log, models)
    output = process.communicate()[0]
    assert n_killed > 0 and process.returncode == int(bool(ill)), output
    assert {r["model"] for _, r in results.errors(workdir)} == set(ill)

    done = snapshot(workdir)
    assert len(done) == n_cells and seen.items() <= done.items()
    # A cell may be cut off between computing and writing, once per kill; one with a result never runs again.
    computed = log.read_text().splitlines()
    assert len(set(computed)) == n_cells and len(computed) <= n_cells + n_killed
    left = [p for folder in ("results", "features", "tables") for p in (workdir / folder).rglob(".*")]
    assert not left, left
    assert straight.communicate()[1] is None and straight.returncode == int(bool(ill))
    numbers = [
        {(r["model"], r["task"]): (r["metrics"], r["correct"]) for _, r in results.records(w)}
        for w in (workdir, tmp_path / "straight")
    ]
    assert numbers[0] == numbers[1]


def test_killed_sweep_takes_its_converters_along(fake_converters, tmp_path):
    process = start(fake_converters, tmp_path / "w", tmp_path / "log", "tiny/hang")
    try:
        for line in process.stdout:
            if "to do" in line:
                break
        deadline = time.monotonic() + 60
        while (
            not any(call[0] == "convert" for call in fake_converters.calls()) and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        running = children(process.pid)
        assert running
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 30
    while any(map(alive, running)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, running))


def test_interrupted(fake_converters, tmp_path):
    arguments = ["--config=configs/knn.py", "--config.models=tiny/a,tiny/hang", "--config.tasks=digits"]
    process = subprocess.Popen(
        [
            *fake_converters.main,
            *arguments,
            "--config.image_size=16",
            f"--workdir={tmp_path}",
        ],
        cwd=conftest.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Under a background job of a script SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("[1/2]"):
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, lines
    assert lines[-1] == "interrupted; the same command resumes where it stopped\n"
    process.stderr.close()
    assert len(results.collect(tmp_path)) == 1 and not list(results.errors(tmp_path))


def children(pid):
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            with open(f"/proc/{entry}/stat") as f:
                if entry.isdigit() and int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry))
        except OSError:
            continue
    return found


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("shares", [("", ""), ("0/2", "1/2")])
def test_two_workers_at_once(shares, fake_converters, tmp_path):
    """On one workdir: with shares each cell is computed once, without any it may be twice and is there once."""
    models = ",".join(f"tiny/m{i}" for i in range(4))
    logs = [tmp_path / f"log{i}" for i in range(2)]
    workers = [
        start(fake_converters, tmp_path / "w", log, models, share)
        for log, share in zip(logs, shares, strict=True)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert len(results.collect(tmp_path / "w")) == 12
    folders = tmp_path / "w" / "results" / "knn"
    assert sum(len(list(folder.iterdir())) for folder in folders.iterdir()) == 12
    computed = [set(log.read_text().splitlines()) for log in logs]
    assert len(computed[0] | computed[1]) == 12
    if any(shares):
        assert [len(c) for c in computed] == [6, 6] and not computed[0] & computed[1]
        assert len({line.split()[0] for line in computed[0]}) == 2  # whole models
