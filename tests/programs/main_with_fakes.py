"""main.py with converters that only copy: `main_with_fakes.py TEMPLATES --config=...`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from absl import app

from vtabjax import cli
from vtabjax.sweep import converters_client

fakes = Path(__file__).with_name("fake_converters.py")
converters_client.COMMAND = [sys.executable, str(fakes), sys.argv.pop(1)]
app.run(cli.main, flags_parser=cli.parse_flags)
