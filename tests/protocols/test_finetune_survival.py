"""Fine-tuning that is killed, told to end, or spread over devices and processes: the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import conftest
import numpy as np
import pytest

_SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {tests!r}]
import jax
if {processes}:
    jax.distributed.initialize("127.0.0.1:{port}", num_processes={processes}, process_id=int(sys.argv[1]))
import numpy as np
from finetune_models import conv_parts, examples
from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import journal, protocol
from vtabjax.runtime import devices
{body}
"""

_PROTOCOL = """
journal.CHECKPOINT_SECONDS = 0.0  # after every call
protocol._pace = lambda n, seconds: 3
own = finetune.Settings(learning_rates=(0.1, 0.02), steps=(9, 12), batch_size=8, seeds=(0, 1))
made = finetune.Trainer(finetune.trainable(conv_parts(), own), own, classes=5, capacity=40, eval_batch=16)
advance = made.train_steps

def slow(state, data, run, n):
    print("step", int(data.n_examples), int(state.step), flush=True)
    sys.stdin.readline()  # until the test lets it go on, or has closed its end
    return advance(state, data, run, n)

made.train_steps = slow
with finetune.catch_sigterm() as stop:
    record = finetune.Journal({folder!r}, {{"settings": 1}}, stop)
    found = finetune.evaluate(
        made, examples(30, 3), examples(10, 3, 1), examples(100, 3, 2), classes=3, journal=record
    )
print("result", json.dumps([found.accuracy, found.val_accuracy, found.correct.tolist(),
    [list(p) for p in found.grid], found.curves]), flush=True)
"""


def environment(devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def script(body, *, processes=0, port=0, **values):
    return _SCRIPT.format(
        root=str(conftest.ROOT),
        tests=str(conftest.ROOT / "tests" / "support"),
        processes=processes,
        port=port,
        body=body.format(**values),
    )


def start(code, *arguments, devices=1):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(devices),
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
    steps, result = finish(start(script(_PROTOCOL, folder=None)))
    assert {line.split()[1] for line in steps} == {"30", "40"}  # grid, retraining
    return result


# Six runs of 4, 5, 4, 5 (grid), 4 and 4 (retraining) calls: the third call of the first grid point, of the last one,
# the second of the second retraining.
@pytest.mark.parametrize(("moment", "finished"), [(2, 0), (15, 3), (23, 5)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_started_again(moment, finished, number, tmp_path, uninterrupted):
    folder = str(tmp_path / "cell")
    process = start(script(_PROTOCOL, folder=folder))
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

    steps, result = finish(start(script(_PROTOCOL, folder=folder)))
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


_TWENTY_STEPS = """
own = finetune.Settings(learning_rates=(0.1,), steps=(20,), batch_size=8)
made = finetune.Trainer(finetune.trainable(conv_parts(), own), own, classes=5, capacity=40, eval_batch=12, loop={loop})
run = finetune.plan(own, learning_rate=0.1, steps=20, classes=3, seed=0)
state, losses, _ = made.train_steps(made.initial_state(), made.data(*examples(30, 3)), run, 20)
found = made.predict(state, examples(50, 3, 1)[0], 3)
value = np.asarray(state.buffers["bn.running_var"])
print("result", json.dumps([losses.tolist(), found.tolist(), value.tolist(), jax.device_count()]), flush=True)
"""


@pytest.fixture(scope="module")
def one_device():
    return finish(start(script(_TWENTY_STEPS, loop=False)))[1]


def agree(result, wanted, devices):
    assert result[3] == devices and wanted[3] == 1
    np.testing.assert_allclose(result[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(result[2], wanted[2], rtol=1e-5)
    assert result[1] == wanted[1] and len(wanted[1]) == 50
    assert wanted[0][-1] < 0.9 * wanted[0][0]


@pytest.mark.parametrize("loop", [False, True])
def test_four_devices(loop, one_device):
    agree(finish(start(script(_TWENTY_STEPS, loop=loop), devices=4))[1], one_device, 4)


def test_two_processes(one_device):
    code = script(_TWENTY_STEPS, processes=2, port=conftest.free_port(), loop=False)
    workers = [start(code, str(i), devices=2) for i in range(2)]
    for worker in workers:
        agree(finish(worker)[1], one_device, 4)


def test_two_processes_told_to_end(tmp_path):
    """One of two gets the signal; both save and end, and together they go on."""
    body = _PROTOCOL.replace("protocol._pace", "protocol._pace_unused")

    def both():
        code = script(body, processes=2, port=conftest.free_port(), folder=str(tmp_path / "cell"))
        return [start(code, str(i)) for i in range(2)]

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
