"""Singular values and vectors from the smaller Gram matrix, and where that would lose too many digits."""

import numpy as np
import pytest

from vtabjax.protocols import _factors


def centred(n, d, spectrum=None, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    if spectrum is not None:
        u, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
        x = (u[:, : len(spectrum)] * spectrum) @ vt[: len(spectrum)]
    return _factors.centred(x)


def with_dead(x):
    x = x.copy()
    x[:, ::5] = 0
    return x


CASES = {
    "wide": centred(30, 80),
    "tall": centred(80, 30),
    "one row more than columns": centred(31, 30),
    "wide with dead columns": with_dead(centred(30, 80)),
    "tall with dead columns": with_dead(centred(80, 30)),
    "two rows": centred(2, 9),
    "one column": centred(20, 1),
    "steep": centred(30, 80, np.logspace(0, -3, 29)),
    "steeper": centred(30, 80, np.logspace(0, -9, 29)),
    "deficient": centred(30, 80, np.ones(7)),
    "equal rows": np.repeat(centred(10, 40), 3, axis=0),
}
BY_SVD = ("steeper", "deficient", "equal rows")


@pytest.mark.parametrize("name", CASES)
def test_a_decomposition(name, monkeypatch):
    x, used = CASES[name], []
    monkeypatch.setattr(_factors, "_svd", lambda x, svd=_factors._svd: used.append(x) or svd(x))
    found = _factors.factors(x, 1.0)
    assert bool(used) == (name in BY_SVD)
    r = np.linalg.matrix_rank(x)
    vt = found.right(len(found.s))
    assert found.u.shape == (len(x), r) and vt.shape == (r, x.shape[1])
    np.testing.assert_allclose(found.s, np.linalg.svd(x, compute_uv=False)[:r], rtol=1e-8)
    np.testing.assert_allclose((found.u * found.s) @ vt, x, atol=1e-12)
    np.testing.assert_allclose(found.u.T @ found.u, np.eye(r), atol=1e-8)
    np.testing.assert_allclose(vt @ vt.T, np.eye(r), atol=1e-8)
    np.testing.assert_allclose(found.u.sum(0), 0, atol=1e-6)
    vector, coordinates = np.arange(x.shape[1]) / 7, np.arange(r) / 3
    np.testing.assert_allclose(found.along(vector), vt @ vector, atol=1e-7)
    np.testing.assert_allclose(found.combine(coordinates), vt.T @ coordinates, atol=1e-7)
    both = np.stack([coordinates, -coordinates], axis=1)
    np.testing.assert_allclose(found.combine(both), vt.T @ both, atol=1e-7)


def test_what_is_rounding_is_no_direction():
    assert len(_factors.factors(np.zeros((5, 3)), 1.0).s) == 0
    noise = _factors.centred(1e8 + 1e-9 * np.random.default_rng(0).normal(size=(20, 50)))
    assert len(_factors.factors(noise, 1e8).s) == 0
