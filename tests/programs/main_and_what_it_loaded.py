"""main.py, and then a line with its exit status and one with the heavy libraries that it loaded."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from absl import app

from vtabjax import cli

try:
    app.run(cli.main, flags_parser=cli.parse_flags)
except SystemExit as e:
    print("status", e.code)
print("loaded", *sorted({"jax", "torch", "tensorflow", "orbax", "timm"} & set(sys.modules)))
