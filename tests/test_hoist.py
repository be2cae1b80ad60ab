import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vtabjax import cpu, hoist, model
from vtabjax.graph import Graph, Node, Ref
from vtabjax.ops import norm

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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_input_of_layer_norm_is_computed_once():
    def function(x):
        return norm.layer_norm(x * 2.75 + jnp.roll(x, 1, 0), (64,))

    options = cpu.compiler_options(Graph((), {}, {}, {}, (3, 8, 8)))
    text = jax.jit(function, compiler_options=options).lower(jnp.ones((64, 64))).compile().as_text()
    assert text.count("constant(2.75)") == 1


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_what_two_operators_use_is_computed_once():
    a, b, c = (Ref("value", name) for name in "abc")
    nodes = (
        Node("a", "aten.mul.Tensor", (Ref("value", "input"), 2.75), {}),
        Node("b", "aten.sum.dim_IntList", (a, (2, 3)), {}),
        Node("c", "aten.amax.default", (a, (2, 3)), {}),
        Node("d", "aten.cat.default", ((b, c), 1), {}),
    )
    graph = Graph(nodes, {"features": Ref("value", "d")}, {}, {}, (3, 32, 32))

    def run(x):
        return model.apply(graph, {}, x)[0]["features"]

    x = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    compiled = jax.jit(run, compiler_options=cpu.compiler_options(graph)).lower(x).compile()
    assert compiled.as_text().count("constant(2.75)") == 1
    expected = np.concatenate([2.75 * x.sum((1, 2)), 2.75 * x.max((1, 2))], 1)
    np.testing.assert_allclose(compiled(x), expected, rtol=1e-5)
