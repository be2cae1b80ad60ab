"""The pack of small models that comes with the project: nearest neighbours on the embedded tasks.

    python benchmarks/small_models.py --workdir=runs/small

Half an hour on two cores; run again, it resumes. The models are those of the pack that is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vtabjax import bundled, results  # noqa: E402


def main() -> None:
    """Measures the models and writes the pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="runs/small")
    workdir = parser.parse_args().workdir
    models = dict.fromkeys(record["model"] for record in results.read_pack(bundled.PACK).records)
    command = [sys.executable, ROOT / "main.py", f"--config={ROOT}/configs/knn.py", f"--workdir={workdir}"]
    subprocess.run([*command, f"--config.models={','.join(models)}"], check=True)
    made = results.pack(workdir, bundled.PACK, who="the vtabjax developers", licence="Apache-2.0")
    print(f"{len(made.records)} results of {len(models)} models: {made.path}")


if __name__ == "__main__":
    main()
