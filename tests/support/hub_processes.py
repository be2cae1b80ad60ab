"""Processes that build models from a stand-in for the Hugging Face hub."""

import os
import subprocess
import sys

import conftest


def start(hub, home, *specs, **environment):
    """A process that builds models (with --check: checks them) from the stand-in, with a cache of its own."""
    program = conftest.ROOT / "tests" / "programs" / "build_models.py"
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_TOKEN": "", "PYTHONPATH": str(conftest.ROOT)}
    return subprocess.Popen(
        [sys.executable, str(program), *specs],
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(process):
    """What it printed, by line."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.splitlines()
