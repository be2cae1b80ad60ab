"""What a change did to speed: a short set of work by an old commit and by this working tree, in turn.

    python benchmarks/compare.py main
    python benchmarks/compare.py HEAD~3 --parts=scores,linear --rounds=9

Each part runs in a process for either side, which take turns, so that both see the same machine. Printed: how many
times as fast the working tree is, the median over rounds with the smallest and largest; below 1 it is slower. Ratios
within the spread of a comparison with HEAD say nothing. The exit status says nothing either: a person decides.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import _alternate

Work = Callable[[], object]


def scores(root: Path) -> Work:
    """The ten transferability scores of 1,000 x 2,048 features of 47 classes."""
    import linear as linear_benchmark
    import numpy as np

    from vtabjax import options
    from vtabjax.protocols import transferability

    x, y = linear_benchmark.features(1000, 2048, 47)
    source = np.random.default_rng(0).dirichlet(np.ones(100), len(x))

    def run() -> None:
        shared = transferability.Decomposed(x) if hasattr(transferability, "Decomposed") else x
        for score in options.SCORES:
            first = {"leep": source, "nce": source}.get(score, shared)
            if score in transferability.UNSAFE_WHEN_WIDE:
                first = transferability.pca(shared, 64)
            getattr(transferability, score)(first, y)

    return run


def linear(root: Path) -> Work:
    """Linear evaluation of as many, 45 values of C."""
    import linear as linear_benchmark

    from vtabjax.protocols import linear as protocol

    x, y = linear_benchmark.features(1000, 2048, 47)
    return lambda: protocol.evaluate((x[:800], y[:800]), (x[800:], y[800:]), (x, y))


def knn(root: Path) -> Work:
    """Leave-one-out nearest neighbours of 5,000 x 1,024."""
    import linear as linear_benchmark

    from vtabjax.protocols import knn as protocol

    x, y = linear_benchmark.features(5000, 1024, 10)
    return lambda: protocol.leave_one_out(x, y)


def _bundled() -> object:
    from vtabjax import bundled, model

    with tempfile.TemporaryDirectory() as folder:
        return model.load_parts(bundled.write("embedded/sprites_resnet", folder, 64))


def extraction(root: Path) -> Work:
    """Features of 512 images of 64 x 64 by the bundled model."""
    import numpy as np

    from vtabjax import features

    extract = features.extractor(_bundled(), batch_size=16)
    images = np.random.default_rng(0).integers(0, 256, (512, 64, 64, 3), dtype=np.uint8)
    return lambda: extract(images)


def finetune(root: Path) -> Work:
    """Twenty steps of fine-tuning the bundled model on batches of 32."""
    import jax
    import numpy as np

    from vtabjax.protocols import finetune as protocol

    own = protocol.Settings(learning_rates=(0.01,), steps=(2500,), batch_size=32)
    trainer = protocol.Trainer(protocol.trainable(_bundled(), own), own, classes=10, capacity=320)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (320, 64, 64, 3), dtype=np.uint8)
    data = trainer.data(images, np.arange(320, dtype=np.int32) % 10)
    plan = protocol.plan(own, learning_rate=0.01, steps=2500, classes=10, seed=0)
    state = [trainer.initial_state()]

    def run() -> None:
        state[0], *_ = trainer.train_steps(state[0], data, plan, 20)
        jax.block_until_ready(state[0])

    return run


def start(root: Path) -> Work:
    """The command for nearest neighbours of two models on one task, in an empty folder."""
    command = [sys.executable, "main.py", "--config=configs/knn.py", "--config.tasks=digits"]
    command.append("--config.models=baseline/pixels,embedded/sprites_resnet")

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [*command, f"--workdir={folder}"], cwd=root, check=True, capture_output=True, timeout=600
            )

    return run


PARTS = {part.__name__: part for part in (scores, linear, knn, extraction, finetune, start)}


def serve(part: str, root: Path) -> None:
    """One side of a part, with the packages of a commit."""
    sys.path.insert(0, str(root))
    import vtabjax  # before anything that would find another one

    if Path(vtabjax.__file__).resolve().parent.parent != root.resolve():
        sys.exit(f"{vtabjax.__file__} is not of {root}")
    _alternate.serve(functools.partial(PARTS[part], root))


def compared(part: str, roots: Sequence[Path], rounds: int) -> dict[str, float]:
    """How many times as fast the second root's code is: median, smallest and largest over rounds; its seconds."""
    command = [sys.executable, __file__, "HEAD", "--serve", part, "--root"]
    old, new = _alternate.take_turns([([*command, str(r)], _alternate.HUGE_PAGES) for r in roots], rounds)
    ratios = [a["wall"] / b["wall"] for a, b in zip(old["rounds"], new["rounds"], strict=True)]
    return {
        "times": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "old_seconds": old["wall"],
        "new_seconds": new["wall"],
    }


def line(part: str, found: dict[str, float]) -> str:
    """What is printed of a part."""
    return (
        f"{part}: {found['times']:.2f} times as fast ({found['least']:.2f} to {found['most']:.2f}); "
        f"{found['old_seconds']:.3g} s before, {found['new_seconds']:.3g} s now"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="the old one: a commit, branch or tag")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.root)
        return
    parts = args.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)} is not known; choose from {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        git = ["git", "-C", str(_alternate.ROOT), "worktree"]
        if subprocess.run([*git, "add", "--detach", str(old), args.commit], capture_output=True).returncode:
            sys.exit(f"{args.commit} is no commit of {_alternate.ROOT}; git log names them")
        try:
            print(f"{_alternate.processor()}; the working tree against {args.commit}", flush=True)
            for part in parts:
                try:
                    print(line(part, compared(part, (old, _alternate.ROOT), args.rounds)), flush=True)
                except RuntimeError as e:  # the old commit may lack what a part calls
                    print(f"{part}: not comparable ({e})", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], capture_output=True, check=False)


if __name__ == "__main__":
    main()
