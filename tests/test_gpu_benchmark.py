"""Benchmarks that run rarely: they must run when the machine for them is there."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_gpus_benchmark_runs_in_small(tmp_path):
    command = [
        sys.executable,
        "benchmarks/gpu.py",
        "--device=cpu",
        "--small",
        "--rounds=1",
        "--protocols=knn",
    ]
    command += ["--models=test_vit", f"--out={tmp_path / 'gpu.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    for part in ("extraction", "training"):
        sides = found[part]["test_vit"]
        assert all(side["images_per_second"] > 0 for side in sides.values()), sides
        assert sides["vtabjax"]["share_of_peak"] > 0
    checksums = {side["checksum"] for side in found["knn"].values()}
    assert len(checksums) == 1
    assert len(found["scores"]["vtabjax"]["seconds_by_score"]) == 11  # the decomposition beside them
    assert found["sweep"]["knn"]["status"] == 0
    assert found["sweep"]["knn"]["seconds_by_stage"]["features"] > 0
