"""Pre-trains embedded/sprites_resnet: python -m vtabjax.bundled.pretrain [--out=DIR] [--steps=N]

With the very program that fine-tunes (`vtabjax.protocols.finetune`), on a stream of rendered sprites instead of
1,000 images. configs/pretrain_sprites.py has the numbers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtabjax.specs import pooling

if TYPE_CHECKING:
    from vtabjax.model import SavedModel

SHAPES, SIZES, PLACES, TURNS = 3, 2, 2, 4
CLASSES = SHAPES * SIZES * PLACES * PLACES * TURNS
# The first states of the permutation are the embedded tasks' own pictures.
_TASKS = 3000


def label(factors: np.ndarray) -> np.ndarray:
    """Source classes int32 [N] of sprites with factors [N, 5]: shape, size, place and quarter of a turn, all coarse."""
    shape, scale, turn, x, y = np.asarray(factors).T
    size, across, down, quarter = scale // 3, x // 16, y // 16, turn // 10
    number = ((shape * SIZES + size) * PLACES + across) * PLACES + down
    return (number * TURNS + quarter).astype(np.int32)


def pictures(start: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `start` to `start + count` of the stream: uint8 [N, size, size, 3], labels int32 [N].

    Raises:
      ValueError: the stream is not that long.
    """
    from vtabjax.data import images
    from vtabjax.data.sources import bundled, sprites

    total = int(np.prod(sprites.FACTOR_SIZES))
    if start + count > total - _TASKS:
        raise ValueError(f"pictures up to {start + count}; there are {total - _TASKS}: choose fewer steps")
    states = bundled._states(total)[_TASKS + start : _TASKS + start + count]
    factors = sprites.all_factors(states)
    drawn = sprites.render(factors)[..., None] * np.uint8(255)
    return np.stack([images.resize(d, size, "vtab") for d in drawn]), label(factors)


def train(parts: SavedModel, config: Any, say: Callable[[str], None] = print) -> tuple[SavedModel, float]:
    """Trains a converted model on the stream.

    Args:
      parts: graph, variables and info of a model at `config.image_size`.
      config: see configs/pretrain_sprites.py.
      say: where a line per round goes.

    Returns:
      (the model with its source head, accuracy on `config.test` pictures that it was not trained on).
    """
    import jax

    from vtabjax.data.sources import sprites
    from vtabjax.protocols import finetune
    from vtabjax.protocols.finetune.head import with_head

    settings = finetune.Settings(
        learning_rates=(config.learning_rate,),
        steps=(config.steps,),
        batch_size=config.batch_size,
        warmup=config.warmup,
        decay_at=tuple(config.decay_at),
        seeds=(config.seed,),
    )
    parts = parts._replace(info={**parts.info, "mean": list(config.mean), "std": list(config.std)})
    trainer = finetune.Trainer(
        finetune.trainable(parts, settings), settings, classes=CLASSES, capacity=config.round, eval_batch=256
    )
    plan = finetune.plan(
        settings, learning_rate=config.learning_rate, steps=config.steps, classes=CLASSES, seed=config.seed
    )
    state, step = trainer.initial_state(), 0
    while step < config.steps:
        data = trainer.data(*pictures(step * config.batch_size, config.round, config.image_size))
        for _ in range(0, config.round // config.batch_size, 64):
            n = min(64, config.round // config.batch_size, config.steps - step)
            state, losses, hits = trainer.train_steps(state, data, plan, n)
            step += n
            say(f"step {step}/{config.steps}: loss {losses.mean():.4f}, accuracy {hits.mean():.4f}")
            if step >= config.steps:
                break
    total = int(np.prod(sprites.FACTOR_SIZES)) - _TASKS
    images, labels = pictures(total - config.test, config.test, config.image_size)
    accuracy = float(np.mean(trainer.predict(state, images, CLASSES) == labels))
    state = jax.device_get(state)
    model = with_head(
        parts, {**state.backbone, **state.buffers}, state.head["weight"], state.head["bias"]
    )  # fmt: skip
    return model, accuracy


def write(model: SavedModel, accuracy: float, config: Any, folder: Path) -> None:
    """Writes weights.safetensors (float16), graph.json and source.json, of which the bundled model is made."""
    from safetensors.numpy import save_file

    from vtabjax.model import to_state_dict

    state = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in to_state_dict(model).items()}
    source = {
        "architecture": config.architecture,
        "kwargs": {"num_classes": CLASSES},
        "num_features": model.info["num_features"],
        "info": {
            "family": model.info["family"],
            "weights": "vtabjax sprites_resnet (configs/pretrain_sprites.py)",
            "input_size": [3, config.image_size, config.image_size],
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": CLASSES,
            "license": "apache-2.0",
            "method": "supervised",
            "pretraining_data": "rendered sprites: shape x size x place x quarter of a turn",
            "feature_choices": model.info.get("feature_choices", pooling.NONE),
        },
        "source_accuracy": round(accuracy, 4),
        "config": config.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "weights.safetensors", metadata={"format": "pt"})
    (folder / "weights.safetensors").chmod(0o644)  # safetensors writes files for the owner alone
    (folder / "graph.json").write_text(model.graph.to_json(), encoding="utf-8")
    (folder / "source.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Converts the architecture in another process, trains it, writes the weights."""
    from vtabjax import installation, model, specs

    installation.provide_configs(str(installation.CONFIGS / "pretrain_sprites.py"))
    pretrain_sprites = importlib.import_module("configs.pretrain_sprites")

    config = pretrain_sprites.get_config()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sprites_resnet")
    parser.add_argument("--steps", type=int, default=config.steps)
    arguments = parser.parse_args()
    config.steps = arguments.steps
    spec = f"timm/{config.architecture}@random:{config.seed}"
    with tempfile.TemporaryDirectory() as folder:
        size = str(config.image_size)
        converting = ["convert", spec, "--input_size", size, "--out", folder]
        command = [sys.executable, "-m", installation.CONVERTERS_MODULE, *converting]
        subprocess.run(command, check=True)
        parts = model.load_parts(Path(folder) / f"{specs.file_stem(spec)}-{size}")
    trained, accuracy = train(parts, config, lambda line: print(line, flush=True))
    write(trained, accuracy, config, arguments.out)
    print(f"{accuracy:.4f} of {config.test} unseen pictures right -> {arguments.out}")


if __name__ == "__main__":
    main()
