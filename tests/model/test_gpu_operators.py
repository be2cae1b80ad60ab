"""What only a GPU chooses, against what every machine computes: the arithmetic of both, without the GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtabjax.ops import attention, conv, norm


@pytest.mark.parametrize(("image", "kernel"), [((16, 16), (4, 4)), ((17, 14), (4, 2)), ((6,), (3,))])
def test_patches_convolve(image, kernel):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *image, 3))
    weight = rng.normal(size=(5, 3, *kernel))
    with jax.enable_x64():
        found = conv._by_patches(jnp.asarray(x), jnp.asarray(weight))
        wanted = conv.conv_channels_last(jnp.asarray(x), jnp.asarray(weight), stride=kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_only_windows_that_touch_are_patches(monkeypatch):
    monkeypatch.setattr(conv.jax, "default_backend", lambda: "gpu")
    patch = jnp.zeros((8, 3, 4, 4))
    fits = functools.partial(conv._is_patch_embedding, patch)
    assert fits((4, 4), [(0, 0)] * 2, (1, 1), 1)
    assert not fits((2, 2), [(0, 0)] * 2, (1, 1), 1)
    assert not fits((4, 4), [(1, 1), (0, 0)], (1, 1), 1)
    assert not fits((4, 4), [(0, 0)] * 2, (2, 1), 1)
    assert not fits((4, 4), [(0, 0)] * 2, (1, 1), 3)
    assert not conv._is_patch_embedding(jnp.zeros((8, 3, 1, 1)), (1, 1), [(0, 0)] * 2, (1, 1), 1)
    assert not conv._is_patch_embedding(jnp.zeros((8, 64, 4, 4)), (4, 4), [(0, 0)] * 2, (1, 1), 1)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_in_one_pass_is_as_right_as_in_two(monkeypatch, offset):
    """Also where the mean is thirty deviations: rounding to bfloat16 has taken more by then."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(6, 384)) + offset, jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-6)
    two = norm.layer_norm(x, (384,), eps=1e-6)
    monkeypatch.setattr(norm, "_in_one_pass", lambda x, axes: True)
    one = norm.layer_norm(x, (384,), eps=1e-6)
    error = [np.abs(np.asarray(found, np.float64) - exact).max() for found in (one, two)]
    assert error[0] <= 1.01 * error[1]


def test_one_pass_is_for_wide_rows_of_half_precision_on_gpus(monkeypatch):
    wide = jnp.zeros((2, 256), jnp.bfloat16)
    assert not norm._in_one_pass(wide, (1,))
    monkeypatch.setattr(norm.jax, "default_backend", lambda: "gpu")
    assert norm._in_one_pass(wide, (1,))
    assert not norm._in_one_pass(wide.astype(jnp.float32), (1,))
    assert not norm._in_one_pass(wide[:, :96], (1,))


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 6), (6, 9)])
def test_a_token_that_does_not_count_changes_nothing(monkeypatch, n, m):
    """cuDNN's arguments given to JAX's own attention, whose products are float32 at most."""
    rng = np.random.default_rng(2)
    monkeypatch.setattr(
        attention.jax.nn,
        "dot_product_attention",
        functools.partial(_without_cudnn, jax.nn.dot_product_attention),
    )
    with jax.enable_x64():
        q, k, v = (jnp.asarray(rng.normal(size=(2, 3, t, 8))) for t in (n, m, m))
        weight = jnp.asarray(rng.normal(size=(2, 3, n, 8)))

        def gradients(function):
            return jax.grad(lambda *x: (weight * function(*x, 0.3)).sum(), (0, 1, 2))(q, k, v)

        np.testing.assert_allclose(
            attention._flash_even(q, k, v, 0.3), attention._by_products(q, k, v, 0.3), rtol=1e-5, atol=1e-6
        )
        for found, wanted in zip(
            gradients(attention._flash_even), gradients(attention._by_products), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def _without_cudnn(original, query, key, value, *, implementation, **options):
    assert implementation == "cudnn"
    assert query.shape[1] % 2 == key.shape[1] % 2 == 0
    return original(query, key, value, implementation="xla", **options)


def test_no_kernel_where_cudnn_is_missing():
    x = jnp.zeros((1, 1, 5, 8), jnp.bfloat16)
    assert not attention._has_kernel(attention._flash, x, x, x)
    assert not attention._has_kernel(attention._flash_even, x, x, x)
