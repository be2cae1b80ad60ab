"""main.py, with fine-tuning that saves its state five times a second."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from absl import app

from vtabjax import cli
from vtabjax.protocols.finetune import journal

journal.CHECKPOINT_SECONDS = 0.2
app.run(cli.main, flags_parser=cli.parse_flags)
