"""Two processes as one worker, connected over loopback: the numbers of one, written by one."""

import importlib
import json
import re
import subprocess
import sys

import conftest
import numpy as np
import pytest

from vtabjax import results
from vtabjax.sweep import runner


def run_two(fake_converters, workdir, sweeps, devices=1, broken=""):
    """Runs sweeps in two processes; the exit status and what each process said."""
    program = conftest.PROGRAMS / "sweeps_as_one_worker.py"
    environment = {
        **conftest.on_devices(devices),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{conftest.free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    started = [
        subprocess.Popen(
            [
                sys.executable,
                str(program),
                str(fake_converters.folder),
                json.dumps(sweeps),
                str(workdir),
                broken,
            ],
            env={**environment, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert started[0].returncode == started[1].returncode, said  # they agree
    # The library below is not asked to be silent, and what it says may come in two pieces.
    library = re.compile(r"\[Gloo\].*\n| ?peer ranks\. Expected number of connected.*\n")
    return started[0].returncode, [library.sub("", text) for text in said]


def numbers(workdir):
    return {(r["protocol"], r["model"], r["task"], r["config_hash"]): r for _, r in results.records(workdir)}


def test_two_processes_give_the_numbers_of_one(fake_converters, tmp_path):
    tiny = {"models": "tiny/head", "tasks": "digits", "image_size": 16}
    sweeps = [
        ("knn", tiny),
        ("linear", tiny | {"c_count": 3}),
        ("transferability", tiny | {"scores": "leep,logme"}),
        ("finetune", tiny | {"finetune": {"learning_rates": "0.1", "steps": "6", "batch_size": 8}}),
        (
            "finetune",
            tiny | {"finetune": {"learning_rates": "0.1", "steps": "6", "batch_size": 8, "scope": "head"}},
        ),
    ]
    for protocol, changes in sweeps:
        config = importlib.import_module(f"configs.{protocol}").get_config()
        config.update(changes)
        assert runner.run(config, tmp_path / "one") == 0
    status, (first, second) = run_two(fake_converters, tmp_path / "two", sweeps, devices=2)
    assert status == 0, first + second
    assert first.count("2 processes") == 5 and not second.strip()  # one of them speaks
    one, two = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert set(one) == set(two) and len(one) == 5
    for key, record in one.items():
        other = two[key]
        assert other["device"]["count"] == 4 and other["device"]["processes"] == 2
        assert other["correct"] == record["correct"], key
        for name, value in record["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, rel=1e-4), (key, name)
    # The features themselves, and one file for each split.
    pairs = [sorted((tmp_path / which / "features").glob("*.npz")) for which in ("one", "two")]
    assert [p.name for p in pairs[0]] == [p.name for p in pairs[1]] and len(pairs[0]) == 3
    for a, b in zip(*pairs, strict=True):
        np.testing.assert_allclose(np.load(a)["features"], np.load(b)["features"], rtol=1e-5, atol=1e-5)
    assert not [p for p in (tmp_path / "two").rglob("*.tmp")]


def test_two_processes_agree_on_what_fails(fake_converters, tmp_path):
    """A model that is not converted, one with NaN, one that is fine; and again: nothing is left to do."""
    models = "tiny/bad,tiny/nan,tiny/a"
    status, (first, second) = run_two(fake_converters, tmp_path, [("knn", {"models": models})])
    assert status == 1, first + second
    assert {key[1:3] for key in numbers(tmp_path)} == {("tiny/a", "digits"), ("tiny/a", "sprites_location")}
    errors = {(r["model"], r["stage"]) for _, r in results.errors(tmp_path)}
    assert errors == {("tiny/bad", "convert"), ("tiny/nan", "features")}
    assert "4 cells failed:" in first and not second.strip()
    status, (first, second) = run_two(fake_converters, tmp_path, [("knn", {"models": models})])
    assert status == 1 and "2 done, 0 to do, 4 failed before" in first and "4 cells failed:" in first


def test_one_process_that_cannot_read_stops_both(fake_converters, tmp_path):
    """What only one of them meets is the end of the cell on both, not a process that waits forever."""
    status, said = run_two(fake_converters, tmp_path, [("knn", {"models": "tiny/a"})], broken="digits")
    assert status == 1, said
    assert [key[1:3] for key in numbers(tmp_path)] == [("tiny/a", "sprites_location")]
    ((_, record),) = results.errors(tmp_path)
    assert record["task"] == "digits" and record["stage"] == "data"
    assert "OtherProcessError: process 1: OSError: a disk of its own" in record["message"]


def test_nobody_to_connect_to(run_main, tmp_path):
    process = run_main(
        "--config=configs/knn.py",
        "--config.models=tiny/a",
        "--config.distributed=true",
        f"--workdir={tmp_path}",
    )
    assert process.returncode == 2
    assert "error: config.distributed=True: the processes cannot be connected" in process.stderr
    assert "JAX_COORDINATOR_ADDRESS" in process.stderr and "Traceback" not in process.stderr
