import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vtabjax import model
from vtabjax.graph import Graph, Node, Ref
from vtabjax.model import compiling, hoist
from vtabjax.ops import conv, norm

WEIGHTS = {
    "kernel": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
    "bias": np.arange(4, dtype=np.float32),
    "unused": np.ones(3, np.float32),
}
X = np.linspace(0, 2, 30, dtype=np.float32).reshape(5, 6)


def standardised(weights, x):
    """A product with standardised weights: all but the product and the last sum depend on the weights alone."""
    w = weights["kernel"]
    w = (w - w.mean(1, keepdims=True)) * lax.rsqrt(w.var(1, keepdims=True) + 1e-5)
    return {"out": x @ w.T + weights["bias"], "weight": weights["bias"], "number": jnp.float32(2)}


def primitives(function, *args):
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*args).eqns]


def test_two_parts_make_the_whole():
    first, rest = hoist.split(standardised, WEIGHTS, X)
    found, expected = jax.jit(rest)(jax.jit(first)(WEIGHTS), X), standardised(WEIGHTS, X)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    doubled = {name: 2 * value for name, value in WEIGHTS.items()}
    np.testing.assert_allclose(rest(first(doubled), X)["out"], standardised(doubled, X)["out"], rtol=1e-5)


def test_only_shapes_are_needed():
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (WEIGHTS, X))
    first, rest = hoist.split(standardised, *shapes)
    np.testing.assert_allclose(rest(first(WEIGHTS), X)["out"], standardised(WEIGHTS, X)["out"], rtol=1e-6)


def test_work_on_weights_is_done_first():
    first, rest = hoist.split(standardised, WEIGHTS, X)
    prepared = first(WEIGHTS)
    assert "rsqrt" in primitives(first, WEIGHTS) and "dot_general" not in primitives(first, WEIGHTS)
    assert not {"rsqrt", "transpose", "div"} & set(primitives(rest, prepared, X))
    assert sum(v.size for v in prepared) <= 24 + 2 * 4  # nothing of what is not used


def test_what_would_grow_much_is_left():
    def function(weights, x):
        return x + jnp.broadcast_to(weights["bias"][:, None, None], x.shape)

    first, rest = hoist.split(function, WEIGHTS, np.zeros((4, 50, 50), np.float32))
    assert sum(v.size for v in first(WEIGHTS)) == 4
    assert "broadcast_in_dim" in primitives(rest, first(WEIGHTS), np.zeros((4, 50, 50), np.float32))


def program(function, *args, options):
    return jax.jit(function, compiler_options=options).lower(*args).compile().as_text()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_depthwise_convolution_before_layer_norm_is_computed_once():
    x, kernel, bias = jnp.ones((2, 8, 8, 16)), jnp.ones((16, 1, 3, 3)), jnp.ones(16)

    def convolved(x):
        return conv.conv_channels_last(x, kernel, bias, 1, 1, 1, 16)

    options = compiling.compiler_options(Graph((), {}, {}, {}, (3, 8, 8)))
    alone = program(convolved, x, options=options)
    both = program(lambda x: norm.layer_norm(convolved(x), (16,)), x, options=options)
    assert both.count(" slice(") == alone.count(" slice(") >= 9


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_sums_of_residual_blocks_are_computed_once():
    nodes, blocks, before = [], 4, Ref("value", "input")
    for i in range(blocks):
        down, up = Ref("variable", "down"), Ref("variable", "up")
        nodes += [
            Node(f"a{i}", "aten.conv2d.default", (before, down), {}),
            Node(f"b{i}", "aten.relu.default", (Ref("value", f"a{i}"),), {}),
            Node(f"c{i}", "aten.conv2d.default", (Ref("value", f"b{i}"), up), {}),
            Node(f"d{i}", "aten.add.Tensor", (Ref("value", f"c{i}"), before), {}),
            Node(f"e{i}", "aten.relu.default", (Ref("value", f"d{i}"),), {}),
        ]
        before = Ref("value", f"e{i}")
    nodes.append(Node("mean", "aten.mean.dim", (before, (2, 3)), {}))
    graph = Graph(tuple(nodes), {"features": Ref("value", "mean")}, {}, {}, (8, 16, 16))
    rng = np.random.default_rng(0)
    down, up, x = (rng.standard_normal(s) for s in ((2, 8, 1, 1), (8, 2, 1, 1), (2, 16, 16, 8)))

    def run(down, up, x):
        return model.apply(graph, {"down": down, "up": up}, x)[0]["features"]

    args = [jnp.asarray(v, jnp.float32) for v in (down, up, x)]
    options = compiling.compiler_options(graph)
    assert program(run, *args, options=options).count(" maximum(") == 2 * blocks
    for _ in range(blocks):
        x = np.maximum(np.maximum(x @ down[:, :, 0, 0].T, 0) @ up[:, :, 0, 0].T + x, 0)
    np.testing.assert_allclose(jax.jit(run, compiler_options=options)(*args), x.mean((1, 2)), rtol=1e-4)
