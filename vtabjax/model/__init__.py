"""Running, saving and loading converted models."""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vtabjax import installation, integrity, ops
from vtabjax.graph import DType, Graph, Node, Ref, map_refs, node_refs
from vtabjax.integrity import DamagedModelError
from vtabjax.ops import channels_last
from vtabjax.runtime import files, xla_cpu

Array = jax.Array | np.ndarray
_KEPT = frozenset({*channels_last.ELEMENTWISE, "batch_norm", "conv2d", "linear", "layer_norm", "group_norm"})


def apply(
    graph: Graph,
    variables: Mapping[str, Array],
    inputs: Array,
    *,
    train: bool = False,
    rng: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Runs a graph. A pure function: jit it, differentiate it, shard it.

    It computes in the dtype of `inputs`: float64 where jax's x64 mode is on, bfloat16 when the variables are
    bfloat16 too.

    Args:
      graph: the computation.
      variables: {state_dict name: array}.
      inputs: images [B, H, W, C], already normalised.
      train: batch norm normalises with the batch's statistics (under jit with a sharded batch: the global
        batch's), and the new running statistics come back.
      rng: a key that turns dropout and stochastic depth on under `train`; without one they are off.

    Returns:
      (outputs, updates): outputs has "features" [B, D] and, where the source has a classifier, "logits" [B, K];
      updates has the new value of every running statistic under `train`, nothing otherwise.

    Raises:
      ValueError: `inputs` has another size than the graph was made for, or a variable is missing.
      vtabjax.ops.UnknownOperatorError: the graph has an operator that is not in vtabjax.ops.
    """
    channels, height, width = graph.input_size
    if inputs.ndim != 4 or inputs.shape[1:] != (height, width, channels):
        raise ValueError(
            f"inputs have shape {tuple(inputs.shape)}; this graph takes [B, {height}, {width}, {channels}] "
            "(for another image size convert the model again with that input_size)"
        )
    dtype = jnp.dtype(inputs.dtype)
    values: dict[str, Any] = {"input": channels_last.ChannelsLast(jnp.asarray(inputs))}
    updates: dict[str, jax.Array] = {}
    shared = _shared(graph)

    def resolve(item: Ref | DType) -> Any:
        if isinstance(item, DType):
            return dtype if item.name == graph.dtype else jax.dtypes.canonicalize_dtype(item.name)
        if item.kind == "value":
            return values[item.name]
        if item.kind == "constant":
            constant = graph.constants[item.name]
            return jnp.asarray(constant, dtype if constant.dtype.name == graph.dtype else None)
        try:
            return updates.get(item.name, variables[item.name])
        except KeyError:
            raise ValueError(f"variables lack {item.name!r}, which the graph uses") from None

    for number, node in enumerate(graph.nodes):
        args = map_refs(node.args, resolve)
        kwargs = map_refs(node.kwargs, resolve)
        name, _ = ops.split_name(node.op)
        with jax.named_scope(node.module or name):
            if name == "batch_norm":
                values[node.name], new = _batch_norm(node, args, train)
                updates.update(new)
                if new:
                    _count_batch(node, graph, variables, updates)
            elif name in ops.STATEFUL:
                key = jax.random.fold_in(rng, number) if train and rng is not None else None
                values[node.name] = _drop(name, args, key)
            else:
                function = ops.lookup(node.op, node.module)
                values[node.name] = channels_last.call(name, function, args, kwargs)
        if node.name in shared:
            values[node.name] = jax.tree.map(xla_cpu.once, values[node.name])
    return {name: channels_last.plain(resolve(ref)) for name, ref in graph.outputs.items()}, updates


def _shared(graph: Graph) -> frozenset[str]:
    """Names of the nodes whose values are used more than once and are worth keeping: they are not mere views."""
    uses = collections.Counter(ref for node in graph.nodes for ref in node_refs(node) if ref.kind == "value")
    return frozenset(
        node.name
        for node in graph.nodes
        if uses[Ref("value", node.name)] > 1 and ops.split_name(node.op)[0] in _KEPT
    )


def _batch_norm(node: Node, args: tuple, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
    x, weight, bias, mean, var, training, momentum, eps = args[:8]
    # Recorded as training without running statistics: weight standardisation, always by its own statistics.
    out, new_mean, new_var = channels_last.batch_norm(
        x, weight, bias, mean, var, training or train, momentum, eps
    )
    if new_mean is None or new_var is None:
        return out, {}
    return out, {node.args[3].name: new_mean, node.args[4].name: new_var}


def _count_batch(
    node: Node, graph: Graph, variables: Mapping[str, Array], updates: dict[str, jax.Array]
) -> None:
    name = node.args[3].name.removesuffix("running_mean") + "num_batches_tracked"
    if name in graph.variables and name in variables:
        # A layer that is used twice counts twice.
        updates[name] = jnp.asarray(updates.get(name, variables[name])) + 1


def _drop(name: str, args: tuple, key: jax.Array | None) -> jax.Array:
    """Dropout, channel dropout and stochastic depth (row: an example at a time; batch: all at once)."""
    x, p = args[:2]
    if key is None or p == 0:
        return x
    x = channels_last.plain(x)
    scale = True
    if name == "dropout":
        shape = x.shape
    elif name == "feature_dropout":
        shape = x.shape[:2] + (1,) * (x.ndim - 2)
    else:
        mode, scale = args[2:4]
        shape = ((x.shape[0] if mode == "row" else 1),) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1 - p, shape)
    # Divided and multiplied apart: a mask of 0 and 1/(1-p) in bfloat16 would round.
    kept = x / (1 - p) if scale and p < 1 else x
    return jnp.where(keep, kept, jnp.zeros((), x.dtype))


def normalise(images: Array, info: Mapping[str, Any]) -> jax.Array:
    """Images [B, H, W, C] in [0, 1] less the model's mean, over its standard deviation."""
    images = jnp.asarray(images)
    mean = jnp.asarray(info["mean"], images.dtype)
    return (images - mean) / jnp.asarray(info["std"], images.dtype)


class _Info(dict):
    """A dict that may be a static attribute of a module: NNX hashes those."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict says that it has none
    __eq__ = object.__eq__


class Model(nnx.Module):
    """A converted model as an NNX module: ``model(images)`` takes images in [0, 1] to features.

    Parameters are `nnx.Param`, running statistics `nnx.BatchStat`, other buffers `nnx.Variable`, each under its
    PyTorch name: ``model.params["layer1.0.conv1.weight"]``.

    Attributes:
      graph: the computation.
      info: what model.json holds: spec, input_size, mean, std, num_features, num_classes, weight_hash, ...
    """

    def __init__(self, graph: Graph, variables: Mapping[str, Array], info: Mapping[str, Any]):
        self.graph = graph
        self.info = _Info(info)
        kinds = {"parameter": nnx.Param, "batch_stat": nnx.BatchStat, "buffer": nnx.Variable}
        made = {k: kinds[v.kind](jnp.asarray(variables[k])) for k, v in graph.variables.items()}
        self.params = nnx.Dict({k: v for k, v in made.items() if graph.variables[k].kind == "parameter"})
        self.buffers = nnx.Dict({k: v for k, v in made.items() if graph.variables[k].kind != "parameter"})

    @property
    def variables(self) -> dict[str, jax.Array]:
        """{state_dict name: array}, in the state_dict's order."""
        return {
            k: (self.params if v.kind == "parameter" else self.buffers)[k].get_value()
            for k, v in self.graph.variables.items()
        }

    def outputs(
        self, images: Array, *, train: bool = False, rng: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """ "features" [B, D] and, where there is a classifier, "logits" [B, K] of images [B, H, W, C] in [0, 1].

        Under `train` the running statistics are updated in place.

        Raises:
          ValueError: images of another shape or dtype, or with values far beyond [0, 1] (under jit nobody looks at
            values).
        """
        _check_images(images, self.graph.input_size)
        outputs, updates = apply(
            self.graph, self.variables, normalise(images, self.info), train=train, rng=rng
        )
        for name, value in updates.items():
            self.buffers[name].set_value(value)
        return outputs

    def __call__(self, images: Array, *, train: bool = False, rng: jax.Array | None = None) -> jax.Array:
        """Features [B, D] of images [B, H, W, C] in [0, 1]. Errors: those of `outputs`."""
        return self.outputs(images, train=train, rng=rng)["features"]


# Resampling overshoots [0, 1] a little; images of 0 to 255 and normalised ones are far beyond.
_LOWEST, _HIGHEST = -0.5, 1.5


def _check_images(images: Array, input_size: tuple[int, ...]) -> None:
    """Refuses what people pass by mistake: bytes, images that are normalised already, channels first."""
    images = images if hasattr(images, "dtype") else np.asarray(images)
    channels, height, width = input_size
    taken = f"this model takes [B, {height}, {width}, {channels}]"
    shape = tuple(images.shape)
    if shape[1:] == input_size and shape[1:] != (height, width, channels):
        raise ValueError(
            f"images have shape {list(shape)}, channels first; {taken}: np.moveaxis(images, 1, -1)"
        )
    if shape == (height, width, channels):
        raise ValueError(f"images have shape {list(shape)}, a single image; {taken}: images[None]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}; a model takes floating-point images in [0, 1]: divide by 255 (images / 255)"
        )
    if isinstance(images, jax.core.Tracer) or not images.size:
        return
    least, most = float(images.min()), float(images.max())
    if not (least >= _LOWEST and most <= _HIGHEST):
        raise ValueError(
            f"images range from {least:.4g} to {most:.4g}; a model takes images in [0, 1] and normalises them itself: "
            "divide 0 ... 255 by 255, and leave out any normalisation"
        )


class Parts(NamedTuple):
    """A saved model, not yet on a device: graph, {name: numpy array}, model.json."""

    graph: Graph
    variables: dict[str, np.ndarray]
    info: dict[str, Any]


def weight_hash(variables: Mapping[str, Array]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        array = np.ascontiguousarray(variables[name])
        digest.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # without a copy
    return digest.hexdigest()


def save(
    path: str | os.PathLike,
    graph: Graph,
    variables: Mapping[str, Array],
    info: Mapping[str, Any],
    *,
    replace: bool = True,
) -> Path:
    """Writes an artefact: a folder with graph.json, variables/ (orbax) and model.json.

    The folder appears complete or not at all. model.json gets the hashes that `load_parts` compares: weight_hash, and
    artefact_hash over graph.json and model.json itself.

    Args:
      path: the folder.
      graph: the computation.
      variables: {state_dict name: array}.
      info: what else model.json holds.
      replace: replaces an artefact that is there; otherwise that one stays.
    """
    import orbax.checkpoint as ocp

    variables = {name: np.asarray(value) for name, value in variables.items()}
    text = graph.to_json().encode()
    # As it will be read: a tuple comes back as a list.
    written = json.loads(json.dumps({**info, "weight_hash": weight_hash(variables)}))
    written[integrity.FIELD] = integrity.artefact_hash(text, written)
    with files.replacing_folder(path, unless="" if replace else "model.json") as temporary:
        (temporary / "graph.json").write_bytes(text)
        if variables:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(temporary / "variables", variables)
        (temporary / "model.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return Path(path).absolute()


def load_parts(path: str | os.PathLike) -> Parts:
    """Reads an artefact's graph, variables and model.json, and compares them with the hashes in model.json.

    Raises:
      FileNotFoundError: there is no artefact at `path`.
      DamagedModelError: it is not what was saved.
      ValueError: it was written in another format.
    """
    path = Path(path).absolute()
    if not (path / "model.json").is_file() or not (path / "graph.json").is_file():
        raise FileNotFoundError(
            f"{path} is not a converted model (it has no model.json and graph.json); make one with "
            f"`{installation.converters_command()} convert SPEC --out=DIR`"
        )
    text, info = integrity.read(path)
    graph = Graph.from_json(text.decode("utf-8"))
    variables = _restore(path, graph) if graph.variables else {}
    if weight_hash(variables) != info.get("weight_hash"):
        raise DamagedModelError(path, "the weights do not fit the weight_hash in model.json")
    return Parts(graph, variables, info)


def _restore(path: Path, graph: Graph) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    target = {k: np.empty(v.shape, v.dtype) for k, v in graph.variables.items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path / "variables", target)
    except MemoryError:
        raise
    except Exception as e:  # orbax and the libraries below it have errors of many kinds
        why = " ".join(str(e).split())[:200]
        raise DamagedModelError(path, f"its weights cannot be read: {type(e).__name__}: {why}") from e
    return {k: np.asarray(restored[k]) for k in graph.variables}


def load(path: str | os.PathLike) -> Model:
    """Opens an artefact as a `Model`. Errors: those of `load_parts`."""
    return Model(*load_parts(path))


def to_state_dict(
    model: Model | Parts, variables: Mapping[str, Array] | None = None
) -> dict[str, np.ndarray]:
    """The PyTorch state_dict as numpy arrays, with its names, order, shapes and dtypes.

    ``{k: torch.from_numpy(v) for k, v in ...}`` loads with ``strict=True``.

    Args:
      model: where names, shapes and dtypes come from.
      variables: values to write instead of the model's own, such as fine-tuned ones.

    Raises:
      ValueError: a value is missing or has another shape.
    """
    values = model.variables if variables is None else variables
    state = {}
    for name, wanted in model.graph.variables.items():
        if name not in values:
            raise ValueError(f"variables lack {name!r}")
        value = np.asarray(values[name])
        if value.shape != tuple(wanted.shape):
            raise ValueError(f"{name} has shape {value.shape}; the architecture's is {tuple(wanted.shape)}")
        state[name] = np.array(value, dtype=wanted.dtype)
    return state
