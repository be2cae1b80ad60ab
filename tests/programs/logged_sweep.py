"""A sweep that writes down each cell it computes: `logged_sweep.py TEMPLATES LOG MODELS WORKDIR SHARE`

With converters that only copy (TEMPLATES) and a protocol that takes no time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from configs import knn
from vtabjax import protocols
from vtabjax.sweep import adapters, converters_client, runner

templates, log_file, models, workdir, share = sys.argv[1:]
fakes = Path(__file__).with_name("fake_converters.py")
converters_client.COMMAND = [sys.executable, str(fakes), templates]


def run(inputs, settings):
    given = inputs.split("val200")
    with open(log_file, "a") as log:
        log.write(f"{inputs.model.spec} {inputs.task}\n")
    return protocols.Outcome({"accuracy": float(given.features.mean())}, np.asarray(given.labels) % 2 == 0)


adapters.PROTOCOLS["knn"] = adapters.Protocol(lambda config: {"splits": ["val200"]}, run)
config = knn.get_config()
config.models = models
config.tasks = "digits,sprites_location,sprites_orientation"
config.image_size = 16
print("started", flush=True)
sys.exit(runner.run(config, workdir, share))
