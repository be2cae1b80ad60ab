"""Dies while it writes a file: `half_written_file.py FILE`"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vtabjax.runtime import files

files.replacing(sys.argv[1]).__enter__().write_text("half")
os._exit(1)
