"""Fine-tuning that is killed, told to end, or spread over devices and processes: the same numbers."""

import json
import signal
import subprocess
import sys
import time

import conftest
import numpy as np
import pytest


def start(program, devices=1, **settings):
    return subprocess.Popen(
        [
            sys.executable,
            str(conftest.PROGRAMS / "finetune_run.py"),
            json.dumps({"program": program, **settings}),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=conftest.on_devices(devices),
    )


def let_go(processes):
    """They wait for the test no more."""
    for process in processes:
        print("\n" * 1000, file=process.stdin, flush=True)


def finish(process):
    """(calls of the device it began, result) of a process that is left alone."""
    out, err = process.communicate(timeout=300)
    lines = out.splitlines()
    results = [json.loads(line.removeprefix("result ")) for line in lines if line.startswith("result ")]
    assert process.returncode == 0, out + err
    return [line for line in lines if line.startswith("step ")], results[0]


@pytest.fixture(scope="module")
def uninterrupted():
    steps, result = finish(start("protocol", folder=None, pace=3))
    assert {line.split()[1] for line in steps} == {"30", "40"}  # grid, retraining
    return result


# Six runs of 4, 5, 4, 5 (grid), 4 and 4 (retraining) calls: the third call of the first grid point, of the last one,
# the second of the second retraining.
@pytest.mark.parametrize(("moment", "finished"), [(2, 0), (15, 3), (23, 5)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_started_again(moment, finished, number, tmp_path, uninterrupted):
    folder = str(tmp_path / "cell")
    process = start("protocol", folder=folder, pace=3)
    seen = [process.stdout.readline()]
    for _ in range(moment):
        print(file=process.stdin, flush=True)
        seen.append(process.stdout.readline())
    assert all(line.startswith("step ") for line in seen), seen
    process.send_signal(number)
    rest, _ = process.communicate(timeout=300)
    assert "result" not in rest
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM, rest
        assert rest.count("step ") <= 1  # it ended with the call of the device that was under way
    content = json.loads((tmp_path / "cell" / "progress.json").read_text())
    assert len(content["finished"]) == finished
    assert (tmp_path / "cell" / content["current"]["state"]).is_dir()

    steps, result = finish(start("protocol", folder=folder, pace=3))
    assert result == uninterrupted
    assert int(steps[0].split()[2]) > 0  # it went on where it was
    assert sum(line.endswith(" 0") for line in steps) == 6 - finished - 1
    assert [p.name for p in (tmp_path / "cell").iterdir()] == ["progress.json"]  # no checkpoint stays behind


def test_time_is_up_for_a_scheduler():
    """Whoever waits for SIGUSR2 gets it, after the state is saved; where nobody waits it is not touched."""
    from vtabjax.protocols import finetune

    got = []
    with finetune.catch_sigterm() as stop:
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    before = signal.signal(signal.SIGUSR2, lambda *_: got.append(1))
    try:
        with pytest.raises(SystemExit) as ended, finetune.catch_sigterm() as stop:
            assert not stop()
            signal.raise_signal(signal.SIGUSR2)
            assert stop() and not got
        assert got == [1] and ended.value.code == 143
        with finetune.catch_sigterm():
            pass
        assert got == [1]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_journal_of_other_runs_is_thrown_away(tmp_path):
    from vtabjax.protocols import finetune

    first = finetune.Journal(tmp_path / "j", {"weights": "a"})
    first.finish("run", {"val_accuracy": 1.0})
    assert finetune.Journal(tmp_path / "j", {"weights": "a"}).finished("run") == {"val_accuracy": 1.0}
    assert finetune.Journal(tmp_path / "j", {"weights": "b"}).finished("run") is None
    (tmp_path / "j" / "progress.json").write_text("{half")
    assert finetune.Journal(tmp_path / "j", {"weights": "a"}).finished("run") is None


@pytest.fixture(scope="module")
def one_device():
    return finish(start("twenty_steps", loop=False))[1]


def agree(result, wanted, devices):
    assert result[3] == devices and wanted[3] == 1
    np.testing.assert_allclose(result[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(result[2], wanted[2], rtol=1e-5)
    assert result[1] == wanted[1] and len(wanted[1]) == 50
    assert wanted[0][-1] < 0.9 * wanted[0][0]


@pytest.mark.parametrize("loop", [False, True])
def test_four_devices(loop, one_device):
    agree(finish(start("twenty_steps", devices=4, loop=loop))[1], one_device, 4)


def test_two_processes(one_device):
    port = conftest.free_port()
    workers = [start("twenty_steps", devices=2, loop=False, port=port, process=i) for i in range(2)]
    for worker in workers:
        agree(finish(worker)[1], one_device, 4)


WITH_ALL = {
    "optimizer": "adamw", "weight_decay": (0.05,), "schedule": "cosine", "clip": 1.0, "ema": 0.5,
    "label_smoothing": 0.1, "augment": "crop+flip+jitter",
}  # fmt: skip


def test_four_devices_with_averages_and_augmentation():
    one, four = (finish(start("twenty_steps", devices=n, loop=True, changes=WITH_ALL))[1] for n in (1, 4))
    np.testing.assert_allclose(four[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(four[2], one[2], rtol=1e-5)
    assert four[1] == one[1] and (one[3], four[3]) == (1, 4)


def test_two_processes_give_up_the_same_grid_points():
    changes = {**WITH_ALL, "halving": 2, "hours": 100.0}
    port = conftest.free_port()
    workers = [start("protocol", folder=None, port=port, process=i, changes=changes) for i in range(2)]
    workers.append(start("protocol", folder=None, changes=changes))
    let_go(workers)
    a, b, alone = (finish(worker)[1] for worker in workers)
    assert a == b and a[2] == alone[2]
    assert [point[-1] for point in a[3]] == [point[-1] for point in alone[3]]
    assert [point[-1] for point in a[3]].count("halving") == 2


def test_two_processes_told_to_end(tmp_path):
    """One of two gets the signal; both save and end, and together they go on."""

    def both():
        port, folder = conftest.free_port(), str(tmp_path / "cell")
        return [start("protocol", folder=folder, port=port, process=i) for i in range(2)]

    workers = both()
    workers[1].stdout.readline()
    workers[1].send_signal(signal.SIGTERM)
    let_go(workers)
    deadline = time.monotonic() + 200
    while any(w.poll() is None for w in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    ends = [w.communicate()[1] for w in workers]
    assert [w.returncode for w in workers] == [143, 143], ends
    workers = both()
    let_go(workers)
    a, b = (finish(worker)[1] for worker in workers)
    assert a == b and a[2]
