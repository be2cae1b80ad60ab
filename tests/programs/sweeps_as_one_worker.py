"""One process of a worker: `sweeps_as_one_worker.py TEMPLATES SWEEPS WORKDIR BROKEN`

With converters that only copy (TEMPLATES). SWEEPS: [[protocol, {field of its config: value}], ...] as JSON. BROKEN: a
task whose images process 1 cannot read, or "".
"""

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vtabjax.sweep import converters_client, inputs, runner

templates, sweeps, workdir, broken = sys.argv[1:]
fakes = Path(__file__).with_name("fake_converters.py")
converters_client.COMMAND = [sys.executable, str(fakes), templates]
whole = inputs.CellContext._examples


def examples(self, split):
    if os.environ["JAX_PROCESS_ID"] == "1" and self.task == broken:
        raise OSError("a disk of its own")
    return whole(self, split)


inputs.CellContext._examples = examples
status = 0
for protocol, changes in json.loads(sweeps):
    config = importlib.import_module(f"configs.{protocol}").get_config()
    config.tasks, config.image_size, config.batch_size = "digits,sprites_location", 16, 64
    config.update(changes)
    status = max(status, runner.run(config, workdir))
sys.exit(status)
