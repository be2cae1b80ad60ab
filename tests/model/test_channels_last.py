"""Operators on images that lie channels-last give what they give on ordinary ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_ops

from vtabjax import model, ops
from vtabjax.graph import Graph, Node, Ref
from vtabjax.model import hoist
from vtabjax.ops import channels_last


def as_image(array):
    return channels_last.ChannelsLast(jnp.transpose(array, (0, 2, 3, 1)))


def wrapped(tree):
    """Arrays of rank 4 as Images, others as they are."""
    if isinstance(tree, np.ndarray):
        return as_image(tree) if tree.ndim == 4 else jnp.asarray(tree)
    if isinstance(tree, (list, tuple)):
        return tuple(map(wrapped, tree))
    return tree


def leaves(tree):
    return jax.tree.leaves(channels_last.plain(tree))


def rank_4(tree):
    return any(getattr(x, "ndim", 0) == 4 for x in jax.tree.leaves(tree))


X, Y = test_ops.r(2, 6, 4, 5), test_ops.r(2, 6, 4, 5)
MORE = [
    ("aten.add.Tensor", (X, test_ops.r(6, 1, 1))),
    ("aten.mul.Tensor", (X, test_ops.r(1, 6, 1, 1))),
    ("aten.mul.Tensor", (test_ops.r(2, 6, 1, 1), X)),
    ("aten.sub.Tensor", (X, test_ops.r(5))),
    ("aten.add.Tensor", (X, Y), {"alpha": 2}),
    ("aten.div.Tensor", (X, 3.0)),
    ("aten.mean.dim", (X, [2, 3])),
    ("aten.mean.dim", (X, [2, 3], True)),
    ("aten.mean.dim", (X, [1], True)),
    ("aten.mean.dim", (X, [-3])),
    ("aten.mean.dim", (X, [3])),
    ("aten.mean.default", (X,)),
    ("aten.sum.dim_IntList", (X, [1, 2])),
    ("aten.amax.default", (X, [2, 3])),
    ("aten.cat.default", ((X, Y), 1)),
    ("aten.cat.default", ((X, Y), -1)),
    ("aten.chunk.default", (X, 3, 1)),
    ("aten.split.Tensor", (X, 2, 1)),
    ("aten.split_with_sizes.default", (X, [1, 2, 3], 1)),
    ("aten.permute.default", (X, [0, 2, 3, 1])),
    ("aten.permute.default", (X, [0, 3, 1, 2])),
    ("aten.permute.default", (X, [1, 0, 3, -2])),
    ("aten.pad.default", (X, [1, 2, 3, 0])),
    ("aten.pad.default", (X, [1, 1], "reflect")),
    ("aten.pad.default", (X, [0, 0, 0, 0, 1, 1])),
    ("aten.group_norm.default", (X, 3, test_ops.r(6), test_ops.r(6))),
    ("aten.group_norm.default", (X, 1)),
    ("aten.sym_size.int", (X, 1)),
]
CASES = [
    (op, args, kwargs)
    for op, args, *rest in [*test_ops.CASES, *MORE]
    for kwargs in [rest[0] if rest and isinstance(rest[0], dict) else {}]
    if ops.split_name(op)[0] in channels_last._RULES and rank_4(args)
]


def test_every_kind_of_rule_has_a_case():
    names = {ops.split_name(op)[0] for op, *_ in CASES}
    by_rule = {}
    for name, rule in channels_last._RULES.items():
        by_rule.setdefault(getattr(rule, "__qualname__", name), set()).add(name)
    for rule, names_of_rule in by_rule.items():
        assert names & names_of_rule or "getitem" in rule, rule


@pytest.mark.parametrize("op, args, kwargs", CASES)
def test_as_on_ordinary_arrays(op, args, kwargs):
    with jax.enable_x64(True):
        name, _ = ops.split_name(op)
        function = ops.lookup(op)
        plain_args = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, tuple(args))
        expected = jax.tree.leaves(function(*plain_args, **kwargs))
        found = leaves(channels_last.call(name, function, wrapped(tuple(args)), wrapped(dict(kwargs))))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert np.shape(a) == np.shape(b)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(training):
    with jax.enable_x64(True):
        args = [*(jnp.asarray(test_ops.p(6)) for _ in range(4)), training, 0.1, 1e-5]
        expected = channels_last.batch_norm(jnp.asarray(X), *args)
        found = channels_last.batch_norm(as_image(X), *args)
        assert isinstance(found[0], channels_last.ChannelsLast) and found[0].shape == X.shape
        for a, b in zip(channels_last.plain(found), expected, strict=True):
            if b is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12)


def test_convolutions_hand_images_on_without_a_transpose():
    """conv, relu, add, pooling, conv: nothing but convolutions, element-wise work and the pool in the program."""
    w = Ref("variable", "w")
    nodes = (
        Node("a", "aten.conv2d.default", (Ref("value", "input"), w, None, (1, 1), (1, 1)), {}),
        Node("b", "aten.relu.default", (Ref("value", "a"),), {}),
        Node("c", "aten.add.Tensor", (Ref("value", "b"), Ref("value", "a")), {}),
        Node("d", "aten.max_pool2d.default", (Ref("value", "c"), (2, 2)), {}),
        Node("e", "aten.conv2d.default", (Ref("value", "d"), w, None, (1, 1), (1, 1)), {}),
        Node("f", "aten.mean.dim", (Ref("value", "e"), (2, 3)), {}),
    )
    graph = Graph(nodes, {"features": Ref("value", "f")}, {}, {}, (3, 8, 8))
    w, x = jnp.ones((3, 3, 3, 3)), jnp.ones((2, 8, 8, 3))
    first, rest = hoist.split(
        lambda w, x: model.apply(graph, {"w": w}, x)[0], w, x
    )  # kernels may be reordered
    text = str(jax.make_jaxpr(rest)(first(w), x))
    assert "conv_general_dilated" in text and "transpose" not in text
