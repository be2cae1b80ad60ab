"""Fine-tuning's progress on disk: damaged, shared by two, restored on other devices, left behind."""

import json
import os
import shutil
import subprocess
import sys

import conftest
import numpy as np
import pytest
from finetune_models import conv_parts, examples

from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import journal
from vtabjax.protocols.finetune.journal import Progress
from vtabjax.runtime import files

OWN = finetune.Settings(learning_rates=(0.1,), steps=(8,), batch_size=8, seeds=(0,))
SPLITS = examples(30, 3), examples(10, 3, 1), examples(50, 3, 2)
NAME = "grid learning_rate=0.1 steps=8"


@pytest.fixture(scope="module")
def trainer():
    return finetune.Trainer(finetune.trainable(conv_parts(), OWN), OWN, classes=3, capacity=40, eval_batch=16)


@pytest.fixture(scope="module")
def uninterrupted(trainer):
    return finetune.evaluate(trainer, *SPLITS, classes=3)


def advanced(trainer, steps=3):
    run = finetune.plan(OWN, learning_rate=0.1, steps=8, classes=3, seed=0)
    state, losses, hits = trainer.train_steps(trainer.initial_state(), trainer.data(*SPLITS[0]), run, steps)
    return Progress(state, losses.tolist(), hits.tolist())


@pytest.fixture
def folder(tmp_path, trainer):
    """A cell whose first run was interrupted after three steps."""
    journal = finetune.Journal(tmp_path / "cell", {"weights": "a"}, stop=lambda: True)
    with pytest.raises(SystemExit):
        journal.checkpoint_if_due(NAME, advanced(trainer), trainer)
    return tmp_path / "cell"


def same(found, wanted):
    assert np.array_equal(found.correct, wanted.correct) and found[:4] == wanted[:4]
    assert found.curves == wanted.curves


def resumed(folder, trainer):
    said = []
    journal = finetune.Journal(folder, {"weights": "a"}, say=said.append)
    return finetune.evaluate(trainer, *SPLITS, classes=3, journal=journal), said


def checkpoint(folder):
    return folder / json.loads((folder / "progress.json").read_text())["current"]["state"]


def test_resumed_it_is_the_same(folder, trainer, uninterrupted):
    journal = finetune.Journal(folder, {"weights": "a"})
    assert len(journal.restore(NAME, trainer).losses) == 3
    found, said = resumed(folder, trainer)
    same(found, uninterrupted)
    assert said == [] and os.listdir(folder) == ["progress.json"]


@pytest.mark.parametrize("what", ["gone", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_made_anew(what, folder, trainer, uninterrupted):
    state = checkpoint(folder)
    if what == "gone":
        shutil.rmtree(state)
    else:
        largest = max((state / "d").iterdir(), key=lambda p: p.stat().st_size)  # the arrays
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content if what == "flipped" else b"")
    found, said = resumed(folder, trainer)
    same(found, uninterrupted)
    assert said == [f"{state} is damaged: {NAME} starts from its beginning"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"{half", b"\xff", None])
def test_a_damaged_record_is_named_and_made_anew(content, folder, trainer, uninterrupted):
    record = folder / "progress.json"
    if content is None:  # a digit of it
        content = record.read_text().replace('"micro_batch": 8', '"micro_batch": 4').encode()
    record.write_bytes(content)
    found, said = resumed(folder, trainer)
    same(found, uninterrupted)
    assert len(said) == 1 and str(record) in said[0] and "from the beginning" in said[0]


def test_two_at_once_do_not_disturb_each_other(folder, trainer, uninterrupted, monkeypatch):
    """Both restore what a third one left; each saves, replaces and removes while the other goes on."""
    journals = []
    for number in range(2):
        monkeypatch.setattr(files, "owner", lambda number=number: f".elsewhere.{number}")
        journals.append(finetune.Journal(folder, {"weights": "a"}))
    monkeypatch.setattr(journal, "CHECKPOINT_SECONDS", 0.0)
    one, two = journals
    position = one.restore(NAME, trainer)
    for either in (one, two, one):
        either.checkpoint_if_due(NAME, advanced(trainer, 4), trainer)
    assert len(list(folder.glob("state-*"))) == 2  # one each
    assert len(position.losses) == 3 and len(two.restore(NAME, trainer).losses) == 4
    one.finish(NAME, {"x": 1})
    assert len(two.restore(NAME, trainer).losses) == 4
    for own in journals:
        own._content["finished"].clear()  # the record above was none
        same(finetune.evaluate(trainer, *SPLITS, classes=3, journal=own), uninterrupted)
    assert os.listdir(folder) == ["progress.json"]


def test_what_dead_processes_left_goes(folder, trainer):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = f".{files.host()}.{ended.pid}", files.owner()
    current = checkpoint(folder).name
    names = [
        f"state-0-6{dead}",
        f"state-0-6{dead}.orbax-checkpoint-tmp",
        f"state-0-6{dead}.orbax-checkpoint-tmp-17",
    ]
    kept = [f"state-0-9{alive}", f"state-0-9{alive}.orbax-checkpoint-tmp", f"state-0-6.elsewhere.{ended.pid}"]
    for name in [*names, *kept, "state-0-5.elsewhere.7"]:
        (folder / name / "d").mkdir(parents=True)
    os.utime(folder / "state-0-5.elsewhere.7", (0, 0))  # nobody has touched it for a day
    finetune.Journal(folder, {"weights": "a"})
    assert {p.name for p in folder.iterdir()} == {*kept, current, "progress.json"}


def test_resumed_on_another_number_of_devices(folder, trainer, uninterrupted, tmp_path):
    """Saved by one device, resumed by four: the same within rounding."""
    program = conftest.PROGRAMS / "finetune_resumed.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(tmp_path / "correct.npy")],
        env=conftest.on_devices(4),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)
    np.testing.assert_allclose(losses, [p["loss"] for p in uninterrupted.curves], rtol=1e-5)
    assert np.array_equal(np.load(tmp_path / "correct.npy"), uninterrupted.correct)


def test_fewer_examples_at_once_than_devices(folder, trainer, monkeypatch):
    """A micro-batch that was saved elsewhere and cannot be shared here is not taken."""
    journal = finetune.Journal(folder, {"weights": "a"})
    journal._content["current"]["micro_batch"] = 2
    monkeypatch.setattr(trainer, "can_use", lambda m: m % 4 == 0)
    assert len(journal.restore(NAME, trainer).losses) == 3 and trainer.micro_batch == 8
