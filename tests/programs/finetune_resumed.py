"""Goes on with a fine-tuning of tests/protocols/test_finetune_journal.py: `finetune_resumed.py FOLDER FILE`

FOLDER: its journal's; FILE: where to save which test examples were right. Prints the losses and the accuracy, as JSON.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "protocols"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import test_finetune_journal as test

from vtabjax.protocols import finetune

trainer = finetune.Trainer(
    finetune.trainable(test.conv_parts(), test.OWN), test.OWN, classes=3, capacity=40, eval_batch=16
)
found, said = test.resumed(sys.argv[1], trainer)
assert not said and trainer.mesh.size == 4
np.save(sys.argv[2], found.correct)
print(json.dumps([point["loss"] for point in found.curves]))
