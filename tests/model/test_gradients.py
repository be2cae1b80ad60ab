"""Gradients that are written by hand equal those that JAX derives, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from vtabjax.ops import _gradients, conv, linear_algebra, norm, pool

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
few = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def numbers(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


def same_gradients(function, reference, *arrays, atol=1e-10):
    """Values and gradients by every array, for a random gradient of the result."""
    out, gradients = jax.vjp(jax.jit(function), *arrays)
    wanted, wanted_gradients = jax.vjp(jax.jit(reference), *arrays)
    g = numbers(*wanted.shape)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=atol)
    for found, right in zip(gradients(g), wanted_gradients(g), strict=True):
        assert found.shape == right.shape and found.dtype == right.dtype
        np.testing.assert_allclose(found, right, rtol=0, atol=atol)


@few
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    pair,
    strides,
    pair,
    st.tuples(*[st.integers(0, 3)] * 2),
    st.integers(0, 3),
)
def test_convolution(height, width, kernel, stride, dilation, padding, kind):
    assume(height + 2 * padding[0] > dilation[0] * (kernel[0] - 1))
    assume(width + 2 * padding[1] > dilation[1] * (kernel[1] - 1))
    # Dense; in groups; depthwise; depthwise with two outputs for each channel.
    groups, outputs = [(1, 3), (2, 2), (4, 4), (4, 8)][kind]
    stride = (1, 1) if kind == 2 and sum(stride) % 2 else stride

    def reference(x, weight, bias):
        out = lax.conv_general_dilated(
            x,
            weight,
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=groups,
        )
        return out + bias

    def ours(x, weight, bias):
        return conv.conv_channels_last(x, weight, bias, stride, padding, dilation, groups)

    x, weight = numbers(2, height, width, 4), numbers(outputs, 4 // groups, *kernel)
    same_gradients(ours, reference, x, weight, numbers(outputs))


@pytest.mark.parametrize("kernel", [(3,), (3, 2, 2)])
def test_depthwise_convolution_of_signals_and_volumes(kernel):
    letters = "DHW"[-len(kernel) :]

    def reference(x, weight):
        return lax.conv_general_dilated(
            x,
            weight,
            (1,) * len(kernel),
            "SAME",
            dimension_numbers=(f"N{letters}C", f"OI{letters}", f"N{letters}C"),
            feature_group_count=2,
        )

    x, weight = numbers(2, *(4,) * len(kernel), 2), numbers(2, 1, *kernel)
    same_gradients(lambda x, w: conv.conv_channels_last(x, w, None, 1, "same", 1, 2), reference, x, weight)


@few
@given(st.integers(2, 7), st.integers(2, 7), pair, strides, st.booleans(), st.booleans())
def test_max_pooling(height, width, kernel, stride, ceil_mode, ties):
    padding = [k // 2 for k in kernel]
    assume(height + 2 * padding[0] >= kernel[0] and width + 2 * padding[1] >= kernel[1])

    def reference(x):
        pads = pool._geometry((height, width), kernel, stride, padding, (1, 1), ceil_mode)
        return pool._reduce(x, np.array(-np.inf), lax.max, kernel, stride, pads, (1, 1))

    x = numbers(2, height, width, 3)
    x = np.round(x) if ties else x  # the first of equal numbers takes the gradient
    same_gradients(
        lambda x: pool.max_pool_channels_last(x, kernel, stride, padding, 1, ceil_mode), reference, x
    )


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 5), (4, 3, 5)])
def test_batch_norm_in_training_mode(shape):
    """Of everything that it returns, mean and variance too."""

    def run(axis):
        def loss(x, weight, bias):
            x = x if axis == -1 else jnp.moveaxis(x, -1, 1)
            out, mean, var = norm.batch_norm(
                x, weight, bias, jnp.zeros(5), jnp.ones(5), True, 0.1, 1e-5, axis
            )
            out = out if axis == -1 else jnp.moveaxis(out, 1, -1)
            return jnp.concatenate([out.reshape(-1), mean, var])

        return loss

    if len(shape) == 2:  # there the last dimension is dimension 1
        expected = jax.vjp(lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5), numbers(*shape))
        out, gradient = jax.vjp(
            lambda x: norm.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, -1)[0], numbers(*shape)
        )
        np.testing.assert_allclose(out, expected[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(gradient(out**2)[0], expected[1](out**2)[0], rtol=0, atol=1e-10)
    else:
        same_gradients(run(-1), run(1), numbers(*shape), numbers(5), numbers(5))


@pytest.mark.parametrize("shape", [(3, 5), (32, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_biases_and_scales(shape):
    x, scale, shift = numbers(*shape), numbers(5), numbers(5) + 1
    same_gradients(_gradients.scale_and_shift, lambda x, a, b: x * a + b, x, scale, shift)
    weight = numbers(4, 5)
    same_gradients(linear_algebra.linear, lambda x, w, b: x @ w.T + b, x, weight, numbers(4))
    found = jax.grad(lambda x: _gradients.scale_and_shift(x, None, shift).sum())(x)
    np.testing.assert_array_equal(found, np.ones(shape))


def test_gradients_that_are_not_asked_for_are_not_computed():
    x, weight = numbers(2, 8, 8, 4), numbers(4, 1, 3, 3)

    def cost(argument):
        def loss(x, weight):
            return jnp.square(conv.conv_channels_last(x, weight, None, 1, 1, 1, 4)).sum()

        return jax.jit(jax.grad(loss, argument)).lower(x, weight).compile().cost_analysis()["flops"]

    assert cost(0) + cost(1) < 1.05 * cost((0, 1))


def test_half_precision_keeps_its_dtype():
    x, weight = jnp.asarray(numbers(2, 6, 6, 4), jnp.bfloat16), jnp.asarray(numbers(4, 1, 3, 3), jnp.bfloat16)

    def loss(x, weight, vector):
        out = conv.conv_channels_last(x, weight, vector, 1, 1, 1, 4)
        out = norm.batch_norm(out, vector, vector, None, None, True, 0.1, 1e-5, -1)[0]
        return pool.max_pool_channels_last(out, 3, 2, 1).astype(jnp.float32).sum()

    gradients = jax.grad(loss, (0, 1, 2))(x, weight, jnp.ones(4, jnp.bfloat16))
    assert all(g.dtype == jnp.bfloat16 and jnp.isfinite(g.astype(jnp.float32)).all() for g in gradients)
