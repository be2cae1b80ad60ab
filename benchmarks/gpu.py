"""What a GPU gives, against PyTorch on the same GPU, in one command of at most twelve minutes: python benchmarks/gpu.py

    pip install -r requirements-cuda.txt        # and a PyTorch built for the GPU
    python benchmarks/gpu.py                                       # all parts
    python benchmarks/gpu.py --parts=knn,scores --out=gpu.json     # some of them
    python benchmarks/gpu.py --device=cpu --small                  # whether it runs, on any machine

Nothing is downloaded: weights are random. Parts, each written to --out as soon as it is there:

    chip        a product of bfloat16 matrices and a copy, through PyTorch and through JAX: what the chip can do
    extraction  features of uint8 images on the GPU, bfloat16: vtabjax against torch.compile (channels_last)
    training    steps of fine-tuning, bfloat16 with float32 weights, against torch.compile under autocast
    knn         leave-one-out nearest neighbours of 100,000 x 2,048 features in the host's memory, against PyTorch
    scores      ten transferability scores and one SVD of 1,000 x 2,048 features
    sweep       six models on the embedded tasks through main.py: kNN, linear evaluation, all scores; seconds by stage

Sides get ready together, each in a process of its own, and then take turns. "start_seconds" is what a side needs until
its first round is done (imports, export, compilation), with the others beside it. --kernels adds, for extraction and
training, the kernels of one more round that took longest.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import _alternate
import _gpu_sides
from _gpu_sides import SIZES, size

PARTS = ("chip", "extraction", "training", "knn", "scores", "sweep")
MODELS = ("resnet50", "vit_small_patch16_224", "vit_base_patch16_224", "convnext_tiny", "efficientnet_b0")
SMALL_MODELS = ("test_resnet", "test_vit")
SIDES = {
    "chip": ("JAX", "PyTorch"),
    "extraction": ("vtabjax", "PyTorch compiled, autocast", "PyTorch compiled, bfloat16 weights"),
    "training": ("vtabjax", "PyTorch compiled, autocast"),
    "knn": ("vtabjax", "PyTorch float32", "faiss"),
    "scores": ("vtabjax",),
}


class Side:
    """A process that answers each line with a round."""

    def __init__(self, args: argparse.Namespace, key: tuple[str, str, str], folder: Path):
        self.key = key
        self._log = folder / f"{len(list(folder.iterdir()))}.log"
        options = [f"--device={args.device}", *(["--small"] if args.small else [])]
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if args.device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--side", "|".join(key), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        self.found: dict[str, Any] = {"rounds": []}

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def answer(self) -> dict[str, Any] | None:
        """The next line of JSON; None where the process has ended, and then its last words are kept."""
        for line in self._process.stdout or ():
            if line.startswith("{"):  # libraries print things of their own
                return json.loads(line)
        words = [line for line in self._log.read_text(encoding="utf-8").splitlines() if line.strip()]
        self.found["error"] = words[-1][:300] if words else f"ended with status {self._process.wait()}"
        return None

    def ask(self, what: str) -> dict[str, Any] | None:
        if "error" in self.found or self._process.stdin is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return self.answer()

    def round(self) -> None:
        answer = self.ask("round")
        if answer is not None:
            self.found["rounds"].append(answer)

    def end(self) -> dict[str, Any]:
        self.kill()
        self._process.wait()
        if self.found["rounds"]:
            rounds = sorted(self.found["rounds"], key=lambda r: r["wall"])
            self.found |= rounds[len(rounds) // 2]
        return self.found


def take_turns(
    args: argparse.Namespace, keys: list[tuple[str, str, str]], until: float
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Starts all sides at once, then lets them take turns; whoever is not done in time is ended."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(args, key, Path(folder)) for key in keys]
        alarm = threading.Timer(max(0.0, until - time.monotonic()), lambda: [s.kill() for s in sides])
        alarm.start()
        try:
            for side in sides:
                side.found |= side.answer() or {}
                print(f"{' | '.join(side.key)}: {said(side.found)}", flush=True)
            for _ in range(args.rounds):
                for side in sides:
                    side.round()
            if args.kernels:
                for side in sides:
                    side.found |= side.ask("kernels") or {}
        finally:
            alarm.cancel()
            found = {side.key: side.end() for side in sides}
    return found


def said(found: dict[str, Any]) -> str:
    return found.get("error") or f"ready after {found['start_seconds']:.0f} s"


def run_part(args: argparse.Namespace, part: str, until: float, record: dict[str, Any]) -> Any:
    if part == "sweep":
        return sweep(args, until)
    sides = [s for s in SIDES[part] if s != "faiss" or importlib.util.find_spec("faiss")]
    names = args.models.split(",") if part in ("extraction", "training") else [""]
    found = take_turns(args, [(part, name, side) for name in names for side in sides], until)
    rows: dict[str, Any] = {}
    for (_, name, side), row in found.items():
        batch = size(args, f"{part}_batch") if name else 0
        if name and "wall" in row:
            n = size(args, "extraction_batches") if part == "extraction" else size(args, "training_steps")
            row["images_per_second"] = batch * n / row["wall"]
        rows.setdefault(name, {})[side] = row
    for name in [n for n in names if n]:
        own = rows[name]["vtabjax"]
        for row in rows[name].values():
            if "images_per_second" in row and "images_per_second" in own:
                row["vtabjax_is_times_as_fast"] = own["images_per_second"] / row["images_per_second"]
            peak = max((r.get("teraflops", 0) for r in record.get("chip", {}).values()), default=0)
            if peak and "images_per_second" in row and "flops_per_image" in own:
                row["share_of_peak"] = row["images_per_second"] * own["flops_per_image"] / 1e12 / peak
    return rows if names != [""] else rows[""]


def sweep(args: argparse.Namespace, until: float) -> dict[str, Any]:
    """main.py as a person runs it, protocol after protocol, from an empty folder."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as workdir:
        for protocol in args.protocols.split(","):
            command = [sys.executable, "main.py", f"--config=configs/{protocol}.py", f"--workdir={workdir}"]
            if args.small:
                command += ["--config.models=baseline/pixels", "--config.tasks=digits"]
                if protocol == "transferability":
                    command += ["--config.scores=logme"]
            environment = {**os.environ, **({"JAX_PLATFORMS": "cpu"} if args.device == "cpu" else {})}
            begun = time.perf_counter()
            row: dict[str, Any] = {}
            try:
                done = subprocess.run(
                    command,
                    cwd=_alternate.ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=max(1.0, until - time.monotonic()),
                    check=False,
                )
                row["status"] = done.returncode
                if done.returncode:
                    row["error"] = (done.stderr.strip() or done.stdout.strip())[-300:]
            except subprocess.TimeoutExpired:
                row["error"] = "ended: the time was up"
            row["wall"] = time.perf_counter() - begun
            stages: dict[str, float] = {}
            for file in Path(workdir, "results", protocol).rglob("*.json"):
                for stage, seconds in json.loads(file.read_text(encoding="utf-8")).get("seconds", {}).items():
                    stages[stage] = stages.get(stage, 0.0) + seconds
            row["seconds_by_stage"] = stages
            found[protocol] = row
    return found


def chip_name(args: argparse.Namespace) -> str:
    if args.device == "cpu":
        return _alternate.processor()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def added_to(found: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """An earlier record that this run goes on with: of the same device, versions and settings."""
    for what in ("device", "versions", "settings"):
        if found[what] != now[what]:
            raise SystemExit(f"--add: --out is of another {what.rstrip('s')}: {found[what]}, now {now[what]}")
    return found | {"command": f"{found['command']}; {now['command']}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--models", default="")
    parser.add_argument("--protocols", default="knn,linear,transferability", help="of the sweep")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernels", action="store_true", help="which kernels took longest, too")
    parser.add_argument("--minutes", type=float, default=12, help="what is not done by then is left out")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--out", type=Path, default=_alternate.RESULTS / "gpu.json")
    parser.add_argument("--add", action="store_true", help="to what --out holds of other parts and models")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.models = args.models or ",".join(SMALL_MODELS if args.small else MODELS)
    if args.side:
        _gpu_sides.serve(args)
        return
    until = time.monotonic() + 60 * args.minutes
    record = {**_alternate.environment("jax", "torch", "timm"), "device": chip_name(args)}
    record["settings"] = {"rounds": args.rounds} | {what: size(args, what) for what in SIZES}
    record["seconds"] = {}
    if args.add:
        record = added_to(json.loads(args.out.read_text(encoding="utf-8")), record)
    for part in args.parts.split(","):
        begun = time.monotonic()
        before: dict[str, Any] = {}
        try:
            before = record.get(part, {}) if args.add and part in ("extraction", "training") else {}
            record[part] = {**before, **run_part(args, part, until, record)}
        except Exception as e:  # the parts after this one are worth having
            traceback.print_exc()
            record[part] = {"error": f"{type(e).__name__}: {e}"[:300]}
        seconds = time.monotonic() - begun + (record["seconds"].get(part, 0) if before else 0)
        record["seconds"][part] = round(seconds, 1)
        _alternate.write(args.out, record)


if __name__ == "__main__":
    main()
