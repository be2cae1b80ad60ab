"""The pack of small models that comes along: the embedded tasks by nearest neighbours and linear evaluation.

    python benchmarks/small_models.py --workdir=runs/small

An hour on two cores; run again, it resumes. The models are those of the pack that is there; linear evaluation, which
takes longer, has those of them with fewer than five million parameters.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vtabjax import bundled, results  # noqa: E402

SMALL = 5_000_000  # parameters of models that linear evaluation has


def main() -> None:
    """Measures the models and writes the pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="runs/small")
    workdir = parser.parse_args().workdir
    records = results.read_pack(bundled.PACK).records
    models = {record["model"]: record["source"].get("parameters") or 0 for record in records}
    small = [model for model, parameters in models.items() if parameters < SMALL]
    for protocol, measured in (("knn", list(models)), ("linear", small)):
        config = f"--config={ROOT}/configs/{protocol}.py"
        command = [sys.executable, ROOT / "main.py", config, f"--workdir={workdir}"]
        subprocess.run([*command, f"--config.models={','.join(measured)}"], check=True)
    made = results.pack(workdir, bundled.PACK, who="the vtabjax developers", licence="Apache-2.0")
    print(f"{len(made.records)} results of {len(models)} models: {made.path}")


if __name__ == "__main__":
    main()
