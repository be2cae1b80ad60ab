"""Fine-tuning in a process of its own: `finetune_run.py '{"program": "protocol", ...}'`, settings as JSON.

Settings: `program`: one of `PROGRAMS`; `folder`: of the journal, or null; `pace`: steps per call, null for what the
protocol chooses; `loop`: how a call of the device takes its steps; `port` and `process`: of the two that are connected;
`changes`: of the fine-tuning's settings.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from finetune_models import conv_parts, examples

from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import journal, runs

settings: dict[str, Any] = json.loads(sys.argv[1])
changes: dict[str, Any] = settings.get("changes", {})


def whole_protocol() -> list[Any]:
    """Grid, retraining and test; each call of the device waits for a line on stdin."""
    journal.CHECKPOINT_SECONDS = 0.0  # after every call
    if settings.get("pace"):
        runs._pace = lambda n, seconds: settings["pace"]
    own = finetune.Settings(learning_rates=(0.1, 0.02), steps=(9, 12), batch_size=8, seeds=(0, 1), **changes)
    trainer = finetune.Trainer(
        finetune.trainable(conv_parts(), own), own, classes=5, capacity=40, eval_batch=16
    )
    advance = trainer.train_steps

    def slow(state, data, run, n):
        print("step", int(data.n_examples), int(state.step), flush=True)
        sys.stdin.readline()  # until the test lets it go on, or has closed its end
        return advance(state, data, run, n)

    trainer.train_steps = slow
    splits = examples(30, 3), examples(10, 3, 1), examples(100, 3, 2)
    with finetune.catch_sigterm() as stop:
        record = finetune.Journal(settings["folder"], {"settings": 1}, stop)
        found = finetune.evaluate(trainer, *splits, classes=3, journal=record)
    grid = [list(point) for point in found.grid]
    return [found.accuracy, found.val_accuracy, found.correct.tolist(), grid, found.curves]


def twenty_steps() -> list[Any]:
    own = finetune.Settings(learning_rates=(0.1,), steps=(20,), batch_size=8, **changes)
    trainer = finetune.Trainer(
        finetune.trainable(conv_parts(), own),
        own,
        classes=5,
        capacity=40,
        eval_batch=12,
        loop=settings["loop"],
    )
    run = finetune.plan(own, learning_rate=0.1, steps=20, classes=3, seed=0)
    state, losses, _ = trainer.train_steps(trainer.initial_state(), trainer.data(*examples(30, 3)), run, 20)
    predictions = trainer.predict(state, examples(50, 3, 1)[0], 3)
    variance = np.asarray(state.buffers["bn.running_var"])
    return [losses.tolist(), predictions.tolist(), variance.tolist(), jax.device_count()]


if "port" in settings:  # before anything asks for the devices
    where = f"127.0.0.1:{settings['port']}"
    jax.distributed.initialize(where, num_processes=2, process_id=settings["process"])
PROGRAMS = {"protocol": whole_protocol, "twenty_steps": twenty_steps}
print("result", json.dumps(PROGRAMS[settings["program"]]()), flush=True)
