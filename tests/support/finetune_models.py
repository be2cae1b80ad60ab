"""Small models and data for the tests of fine-tuning, also in processes of their own."""

import numpy as np

from vtabjax.graph import Graph, Node, Ref, Variable
from vtabjax.model import SavedModel

SIZE = 8
INFO = {
    "spec": "tiny/conv",
    "input_size": [3, SIZE, SIZE],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "weight_hash": "0",
    "num_classes": 3,
}


def conv_parts(seed=0):
    """Convolution, batch norm, relu, global average: 6 features, and 3 source classes."""
    value, variable = (lambda n: Ref("value", n)), (lambda n: Ref("variable", n))
    norm = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    nodes = (
        Node("conv", "aten.conv2d.default", (value("input"), variable("conv.weight"), None, (2, 2)), {}),
        Node(
            "bn", "aten.batch_norm.default", (value("conv"), *map(variable, norm), False, 0.1, 1e-5, True), {}
        ),
        Node("relu", "aten.relu.default", (value("bn"),), {}),
        Node("mean", "aten.mean.dim", (value("relu"), (2, 3)), {}),
        Node("fc", "aten.linear.default", (value("mean"), variable("fc.weight"), variable("fc.bias")), {}),
    )
    variables = {
        "conv.weight": Variable((6, 3, 3, 3), "float32", "parameter"),
        "bn.weight": Variable((6,), "float32", "parameter"),
        "bn.bias": Variable((6,), "float32", "parameter"),
        "bn.running_mean": Variable((6,), "float32", "batch_stat"),
        "bn.running_var": Variable((6,), "float32", "batch_stat"),
        "bn.num_batches_tracked": Variable((), "int64", "buffer"),
        "fc.weight": Variable((3, 6), "float32", "parameter"),
        "fc.bias": Variable((3,), "float32", "parameter"),
    }
    outputs = {"features": value("mean"), "logits": value("fc")}
    rng = np.random.default_rng(seed)
    values = {
        k: (rng.uniform(0.5, 1.5, v.shape) if k.endswith("var") else 0.4 * rng.normal(size=v.shape)).astype(
            v.dtype
        )
        for k, v in variables.items()
    }
    values["bn.num_batches_tracked"] = np.asarray(7)
    return SavedModel(Graph(nodes, outputs, variables, {}, (3, SIZE, SIZE)), values, dict(INFO))


def examples(n, classes, seed=0):
    """Images whose colour and brightness tell the class, more or less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n).astype(np.int32)
    centre = 40 + 170 * np.stack([labels % 2, labels % 3 / 2, labels / max(classes - 1, 1)], axis=1)
    noise = rng.normal(0, 25, (n, SIZE, SIZE, 3))
    return np.clip(centre[:, None, None, :] + noise, 0, 255).astype(np.uint8), labels
