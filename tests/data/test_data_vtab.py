"""The command line over all nineteen tasks, from data sets that tfds prepared, without a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tfds_tiny

from vtabjax import data, tasks


def _without_network() -> list[str]:
    """What to put before a command so that it has no network; nothing where that is not permitted."""
    command = ["unshare", "--net"]
    permitted = (
        shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode
    )
    return command if permitted else []


def _leave_one_out(images, labels):
    """Accuracy of the nearest other image's label: all distances, in whole numbers."""
    pixels = images.reshape(len(images), -1).astype(np.int64)
    squares = (pixels**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * pixels @ pixels.T
    np.fill_diagonal(distances, np.iinfo(np.int64).max)
    return float(np.mean(labels[distances.argmin(axis=1)] == labels))


def test_knn_over_all_tasks(tmp_path):
    data_dir, workdir = tmp_path / "data", tmp_path / "run"
    tfrecord = ("dtd", "pets", "clevr_count", "smallnorb_azimuth", "kitti_distance")
    tfds_tiny.prepare_all(data_dir, tfrecord=tfrecord)
    command = [
        *(
            *_without_network(),
            sys.executable,
            "main.py",
            "--config=configs/knn.py:vtab",
            f"--workdir={workdir}",
        ),
        *("--config.models=baseline/pixels", "--config.image_size=16", f"--config.data_dir={data_dir}"),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in tasks.VTAB:
        result = json.loads((workdir / "results" / "knn" / "baseline--pixels" / f"{name}.json").read_text())
        examples = data.load(name, "train800val200", image_size=16, data_dir=data_dir)
        assert result["n_examples"] == len(examples.labels)
        expected = _leave_one_out(examples.images, examples.labels)
        assert result["metrics"]["accuracy"] == expected, name
    again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and "[1/19]" not in again.stdout
