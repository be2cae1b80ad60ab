"""A sweep where neither PyTorch nor converters can be had: `sweep_without_torch.py WORKDIR [MODELS]`

Of the models that ship, unless others are named.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs import knn
from vtabjax.sweep import converters_client, runner


class Absent:
    def find_spec(name, path, target=None):
        if name in ("torch", "torchvision", "timm", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


assert not {"torch", "torchvision", "timm", "tensorflow_datasets"} & set(sys.modules)
sys.meta_path.insert(0, Absent)
converters_client.COMMAND = ["false"]
config = knn.get_config("mini")
config.models = sys.argv[2] if sys.argv[2:] else "embedded/*,baseline/pixels"
config.tasks, config.image_size = "digits", 16
sys.exit(runner.run(config, sys.argv[1]))
