"""EPP against an independent solution in fifty digits: other code, match by match, from the definition."""

import warnings

import mpmath as mp
import numpy as np
import pytest

from vtabjax.ranking import epp
from vtabjax.report import published


def official(examples):
    rows = [r for r in published.read("vtab").rows if r.fields["examples"] == examples]
    models, tasks = (list(dict.fromkeys(r[i] for r in rows)) for i in (0, 1))
    scores = np.full((len(models), len(tasks)), np.nan)
    for r in rows:
        scores[models.index(r.model), tasks.index(r.task)] = r.accuracy
    return scores


def with_ties_and_gaps():
    rng = np.random.default_rng(4)
    scores = np.round(rng.normal(size=(6, 12)) + np.linspace(0, 1, 6)[:, None], 0)
    scores[rng.random(scores.shape) < 0.25] = np.nan
    return scores


def played(scores, margin):
    """Every match of every round: (round, i, j, share of the win that i gets)."""
    for r, column in enumerate(scores.T):
        for i in range(len(column)):
            for j in range(i):
                if np.isfinite(column[i]) and np.isfinite(column[j]):
                    d = mp.mpf(column[i]) - mp.mpf(column[j])
                    yield r, i, j, mp.mpf("0.5") if abs(d) <= margin else mp.mpf(int(d > 0))


def precise(scores, ridge=0, margin=0):
    """Strengths by damped Newton steps over single matches, the sandwich's errors, deviance and df.

    Without ridge the last model is left out of the system and the mean taken out afterwards.
    """
    m = len(scores)
    matches = list(played(scores, margin))
    b = [mp.mpf(0)] * m
    free = list(range(m if ridge else m - 1))

    def derivatives(b):
        gradient, hessian = [mp.mpf(ridge) * x for x in b], mp.eye(m) * ridge
        for _, i, j, y in matches:
            p = 1 / (1 + mp.exp(b[j] - b[i]))
            gradient[i] += p - y
            gradient[j] -= p - y
            w = p * (1 - p)
            for a, c, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                hessian[a, c] += sign * w
        return gradient, hessian

    for _ in range(60):
        gradient, hessian = derivatives(b)
        system = mp.matrix([[hessian[a, c] for c in free] for a in free])
        step = mp.lu_solve(system, mp.matrix([-gradient[a] for a in free]))
        size = mp.mpf(1) / max(1, max(abs(x) for x in step))  # never more than one unit: no overshooting
        for a, x in zip(free, step, strict=True):
            b[a] += size * x
        if max(abs(x) for x in step) < mp.mpf(10) ** -40:
            break
    mean = 0 if ridge else sum(b) / m
    b = [x - mean for x in b]

    # Errors: the generalised inverse on what is orthogonal to the mean, between the rounds' gradients.
    _, hessian = derivatives(b)
    ones = mp.ones(m) / m
    bread = mp.inverse(hessian) if ridge else mp.inverse(hessian + ones) - ones
    meat = mp.zeros(m)
    for r in range(scores.shape[1]):
        u = mp.zeros(m, 1)
        for round_, i, j, y in matches:
            if round_ == r:
                p = 1 / (1 + mp.exp(b[j] - b[i]))
                u[i] += y - p
                u[j] -= y - p
        meat += u * u.T
    covariance = bread * meat * bread
    deviance = mp.mpf(0)
    share = {}
    for _, i, j, y in matches:
        won, n = share.get((i, j), (mp.mpf(0), 0))
        share[i, j] = won + y, n + 1
    for (i, j), (won, n) in share.items():
        p = 1 / (1 + mp.exp(b[j] - b[i]))
        for k, q in ((won, p), (n - won, 1 - p)):
            if k:
                deviance += 2 * k * mp.log(k / n / q)
    return (
        np.array([float(x) for x in b]),
        np.array([float(mp.sqrt(covariance[i, i])) for i in range(m)]),
        float(deviance),
        len(share) - (m - 1),
    )


CASES = {
    "official, 1,000 examples": (official("1000"), {}),
    "official, full": (official("full"), {}),
    "official with a margin": (official("1000"), {"tie_margin": 0.01}),
    "ties and gaps": (with_ties_and_gaps(), {}),
    "ties and gaps, penalised": (with_ties_and_gaps(), {"ridge": 0.1}),
    "a model that always wins": (np.vstack([official("1000")[:5], np.full(19, 2.0)]), {"ridge": 0.1}),
    "one round": (np.array([[0.5], [0.7], [0.5], [0.9]]), {"ridge": 0.5}),
    "one round of ties": (np.array([[0.5], [0.5], [0.5]]), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_fifty_digits(name):
    scores, options = CASES[name]
    with mp.workdps(50), warnings.catch_warnings():
        warnings.simplefilter("error")
        got = epp(scores, **options)
        margin = options.get("tie_margin", 0)
        want, errors, deviance, df = precise(scores, options.get("ridge", 0), margin * (1 + 1e-9))
    np.testing.assert_allclose(got.scores, want, rtol=1e-9, atol=1e-10)
    if scores.shape[1] > 1:
        np.testing.assert_allclose(got.standard_errors, errors, rtol=1e-7)
    else:
        assert np.isnan(got.standard_errors).all()
    assert got.deviance == pytest.approx(deviance, rel=1e-8, abs=1e-8) and got.df == df


def test_what_is_not_finite_is_flagged_and_fitted_within():
    """A model that always wins, and two groups that never met: each component by itself."""
    scores = np.full((7, 12), np.nan)
    rng = np.random.default_rng(0)
    scores[:3, :6] = rng.normal(size=(3, 6))
    scores[3:6, 6:] = rng.normal(size=(3, 6))
    scores[6, :6] = 99
    with pytest.warns(UserWarning, match="3 groups"):
        got = epp(scores)
    assert not got.finite and len(set(got.components)) == 3
    assert got.components[6] < got.components[0] == got.components[1] != got.components[3]
    for rows in ([0, 1, 2], [3, 4, 5]):
        ran = np.isfinite(scores[rows[0]])
        with mp.workdps(50):
            want, errors, *_ = precise(scores[rows][:, ran])
        np.testing.assert_allclose(got.scores[rows], want, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(got.standard_errors[rows], errors, rtol=1e-7)
    assert got.scores[6] == 0 and np.isnan(got.standard_errors[6])
