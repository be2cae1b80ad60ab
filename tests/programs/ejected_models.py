"""Runs ejected source as if vtabjax were missing: `ejected_models.py FOLDER NAME ...`.

Reads NAME.py, NAME.safetensors and NAME-images.npy there; outputs in float32 and float64 go to NAME-outputs.npz.
"""

import importlib
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
sys.modules.update(dict.fromkeys(("vtabjax", "converters", "torch", "timm", "tensorflow")))  # not installed

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
for name in names:
    module = importlib.import_module(name)
    model = module.load(Path(folder, f"{name}.safetensors"))
    images = np.load(Path(folder, f"{name}-images.npy"))
    found = {f"32-{k}": v for k, v in model.outputs(images.astype(np.float32)).items()}
    assert {v.dtype for v in found.values()} == {jnp.dtype("float32")}

    def wide(value):
        return value.astype("float64") if jnp.issubdtype(value.dtype, jnp.floating) else value

    definition, state = nnx.split(model)
    model = nnx.merge(definition, jax.tree.map(wide, state))
    found |= {f"64-{k}": v for k, v in model.outputs(images).items()}
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}
    np.savez(Path(folder, f"{name}-outputs.npz"), paths=sorted(paths), **found)
