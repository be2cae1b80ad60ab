"""What may happen to a run: killed anywhere, full disks, damaged caches. `pytest -n 0 -m faults`.

Everything is real here: main.py in a process of its own, PyTorch's models, signals, file systems. Moments and bits are
random; the seed is printed, and FAULTS_SEED=N repeats it (moments are fractions of what an undisturbed run takes).
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import conftest
import pytest

from vtabjax import results

pytestmark = pytest.mark.faults

_MAIN = conftest.PROGRAMS / "main_with_many_checkpoints.py"
MODELS = "--config.models=timm/test_resnet@random,baseline/pixels"
KNN = ("--config=configs/knn.py", "--config.image_size=32", MODELS, "--config.tasks=digits,sprites_location")
FINETUNE = (
    "--config=configs/finetune.py", "--config.image_size=32", MODELS, "--config.tasks=digits",
    "--config.finetune.learning_rates=0.1", "--config.finetune.steps=30,60", "--config.finetune.seeds=0,1",
    "--config.finetune.save=true",
)  # fmt: skip
REPORT = ("--config=configs/report.py",)


def start(workdir, *arguments):
    # Compiled programs go to the workdir: they are among what is damaged.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    return subprocess.Popen(
        [sys.executable, str(_MAIN), *arguments, f"--workdir={workdir}"],
        cwd=conftest.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(workdir, *arguments):
    """(exit status, output, seconds) of a run that is left alone."""
    since = time.monotonic()
    process = start(workdir, *arguments)
    output = process.communicate(timeout=900)[0]
    return process.returncode, output, time.monotonic() - since


def kill(seconds, workdir, *arguments):
    """Kills a run after so many seconds; whether it was still running."""
    process = start(workdir, *arguments)
    reader = threading.Thread(target=process.stdout.read)  # or it would wait for somebody to read
    reader.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    reader.join()
    process.stdout.close()
    return alive


def numbers(workdir):
    return {
        (r["protocol"], r["model"], r["task"]): (r["metrics"], r["correct"])
        for _, r in results.records(workdir)
    }


def leftovers(workdir):
    found = [p for p in Path(workdir).rglob(".*.tmp") if "xla" not in p.parts]
    return found + [p for p in Path(workdir).rglob("*orbax-checkpoint-tmp*")]


@pytest.fixture(scope="module")
def rng():
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nFAULTS_SEED={seed}", file=sys.__stderr__, flush=True)
    return random.Random(seed)


class Straight:
    """A workdir in which everything ran undisturbed, and the seconds that took."""

    def __init__(self, folder):
        self.folder, self.seconds = folder, {}
        for name, arguments in (
            ("conversion", KNN),
            ("features", KNN),
            ("finetune", FINETUNE),
            ("report", REPORT),
        ):
            if name == "features":  # once more, without conversions
                wipe(folder, "results", "features")
            status, output, self.seconds[name] = run(folder, *arguments)
            assert status == 0, output
        self.numbers = numbers(folder)


def wipe(workdir, *names):
    for name in names:
        shutil.rmtree(workdir / name, ignore_errors=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return Straight(tmp_path_factory.mktemp("straight") / "w")


@pytest.mark.parametrize(
    "stage, kills, arguments, made",
    [
        ("conversion", 10, KNN, ("models", "results", "features")),
        ("features", 9, KNN, ("results", "features")),
        ("finetune", 19, FINETUNE, ("results", "cells")),
        ("report", 12, REPORT, ("report",)),
    ],
)
def test_killed(stage, kills, arguments, made, straight, rng, tmp_path):
    workdir = shutil.copytree(straight.folder, tmp_path / "w")
    wipe(workdir, *made)
    done, seen = 0, {}
    for _ in range(3 * kills):
        if kill(rng.uniform(0.1, 1.0) * straight.seconds[stage], workdir, *arguments):
            done += 1
            now = numbers(workdir)
            assert seen.items() <= now.items()  # nothing lost, nothing changed
            seen = now
        if done == kills:
            break
        if stage != "report" and all(
            key in numbers(workdir)
            for key in straight.numbers
            if (key[0] == "finetune") == (stage == "finetune")
        ):
            wipe(workdir, *made)  # it is through: from the beginning again
            seen = {}
    assert done == kills
    status, output, _ = run(workdir, *arguments)
    assert status == 0, output
    for key, value in numbers(workdir).items():
        assert value == straight.numbers[key], key
    if stage == "report":
        pages = [(w / "report" / "report.html").read_text() for w in (workdir, straight.folder)]
        assert len(pages[0]) == len(pages[1]) and pages[0].rstrip().endswith("</html>")
    assert leftovers(workdir) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size", ["100k", "600k", "2m", "6m"])
def test_full_disk(size, straight, tmp_path):
    """One line and another exit status; with room again the same command gets the same numbers."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        status, output, _ = run(place / "w", *KNN)
        assert status in (1, 2) and "Traceback" not in output, output
        assert "o space left" in output or "no room" in output or "full" in output, output
        assert all(value == straight.numbers[key] for key, value in numbers(place / "w").items())
        subprocess.run(["mount", "-o", "remount,size=300m", str(place)], check=True)
        status, output, _ = run(place / "w", *KNN, "--config.retry_failed=true")
        assert status == 0, output
        assert numbers(place / "w") == {k: v for k, v in straight.numbers.items() if k[0] == "knn"}
        assert leftovers(place / "w") == []
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def replace(path, rng):
    path.write_bytes(rng.randbytes(rng.randrange(2000)))


CACHES = {"images": "cache/images/*.npy", "labels": "cache/images/*.json", "features": "features/*.npz",
          "programs": "cache/xla/*/*-cache"}  # fmt: skip


@pytest.mark.parametrize("damage, cache", itertools.product((flip, cut, replace), CACHES))
def test_damaged_cache(damage, cache, straight, rng, tmp_path):
    """Made anew: the same numbers."""
    workdir = shutil.copytree(straight.folder, tmp_path / "w")
    wipe(workdir, "results", *(["features"] if cache != "features" else []))
    found = sorted(workdir.glob(CACHES[cache]))
    assert found
    for path in found:
        damage(path, rng)
    status, output, _ = run(workdir, *KNN)
    assert status == 0 and "Traceback" not in output, output
    assert numbers(workdir) == {k: v for k, v in straight.numbers.items() if k[0] == "knn"}
