"""main.py where nothing that only extras bring is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vtabjax import cli, installation

installation._EXTRAS = {extra: ("no_such_module",) for extra in installation._EXTRAS}
sys.argv[0] = "main.py"
cli.run()
