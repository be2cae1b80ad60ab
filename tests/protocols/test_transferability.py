"""Transferability scores against references written from their definitions, without their shortcuts."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from vtabjax.protocols import transferability as t


def blobs(n, d, classes, spread, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return spread * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)), y


def cases():
    easy, y = blobs(120, 12, 4, 3.0)
    hard, y5 = blobs(120, 12, 5, 0.4, 1)
    singleton = y.copy()
    singleton[17] = 9
    wide, y_wide = blobs(60, 90, 3, 1.0, 2)
    return {
        "easy": (easy, y),
        "overlapping": (hard, y5),
        "float32": (hard.astype(np.float32), y5),
        "more features than examples": (wide, y_wide),
        "duplicated": (np.repeat(hard[:40], 3, axis=0), np.repeat(y5[:40], 3)),
        "singleton class": (easy, singleton),
        "constant column": (np.c_[hard, np.full(120, 1e4 + 1 / 3)], y5),
        "two classes": (hard, y5 % 2),
        "hundred classes": blobs(300, 10, 100, 2.0, 3),
        "large mean": (1e4 + hard, y5),
        "zero row": (np.where(np.arange(120)[:, None] == 5, 0.0, easy), y),
        "label gaps": (hard, y5 * 10 - 7),
        "few features": (hard[:, :3], y5),
    }


CASES = cases()
each_case = pytest.mark.parametrize("name", CASES)


def reference_leep(p, y):
    total = 0.0
    for i in range(len(y)):
        inner = 0.0
        for z in range(p.shape[1]):
            if (mass := math.fsum(p[:, z])) > 0:
                inner += math.fsum(p[y == y[i], z]) / mass * p[i, z]
        total += math.log(inner)
    return total / len(y)


def distributions(n=80, z=6, seed=0):
    rng = np.random.default_rng(seed)
    return softmax(2 * rng.normal(size=(n, z)), axis=1), rng.integers(0, 3, n)


def test_leep():
    p, y = distributions()
    assert t.leep(p, y) == pytest.approx(reference_leep(p, y), abs=1e-12)
    assert t.leep(p.astype(np.float32), y) == pytest.approx(t.leep(p, y), abs=1e-6)
    assert t.leep(p, 100 - 7 * y) == pytest.approx(t.leep(p, y), abs=1e-12)
    entropy = stats.entropy(np.bincount(y))
    assert t.leep(np.full((80, 4), 0.25), y) == pytest.approx(-entropy)
    assert t.leep(np.eye(3)[y], y) == pytest.approx(0, abs=1e-15)
    # A source class without probability: 0/0 in published code.
    assert t.leep(np.c_[p, np.zeros(80)], y) == pytest.approx(t.leep(p, y), abs=1e-15)
    tiny = np.c_[1 - 1e-300 * np.ones(80), 1e-300 * np.ones(80)]
    assert t.leep(tiny, y) == pytest.approx(-entropy)


def test_leep_worked_out():
    p = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    # P(y=0, .) = (1.4, 0.6)/3, P(y=1, .) = (0.1, 0.9)/3, P(.) = (0.5, 0.5).
    first = math.log(14 / 15 * 0.8 + 0.4 * 0.2) + math.log(14 / 15 * 0.6 + 0.4 * 0.4)
    last = math.log(1 / 15 * 0.1 + 0.6 * 0.9)
    assert t.leep(p, [0, 0, 1]) == pytest.approx((first + last) / 3)


def test_nce():
    p, y = distributions()
    z = p.argmax(1)
    assert t.nce(p, y) == pytest.approx(mutual_info_score(y, z) - stats.entropy(np.bincount(y)))
    assert t.nce(np.eye(3)[y], y) == pytest.approx(0, abs=1e-15)
    # Never above LEEP of the hard labels, which is the same number.
    assert t.nce(p, y) == pytest.approx(t.leep(np.eye(6)[z], y))


def test_nleep_is_leep_of_a_mixture_on_principal_components():
    for x, y in (CASES["overlapping"], CASES["more features than examples"]):
        z = PCA(0.8, svd_solver="full").fit_transform(x)
        z /= np.sqrt((z**2).mean())
        k = 5 * len(set(y)) if len(x) >= 25 * len(set(y)) else len(x) // 5
        kind = "diag" if len(x) < k * z.shape[1] / 2 else "full"
        expected = [
            reference_leep(
                GaussianMixture(k, covariance_type=kind, random_state=s).fit(z).predict_proba(z), y
            )
            for s in (3, 4)
        ]
        assert t.nleep(x, y, seed=3, n_seeds=2) == pytest.approx(np.mean(expected), abs=1e-6)
    full = GaussianMixture(2, random_state=0).fit(z).predict_proba(z)
    assert t.nleep(x, y, n_components=2, n_seeds=1) == pytest.approx(reference_leep(full, y), abs=1e-6)


def test_nleep_does_not_depend_on_scale_and_place():
    x, y = CASES["overlapping"]
    expected = t.nleep(x, y)
    assert t.nleep(1e-3 * x, y) == pytest.approx(expected, abs=1e-4)
    assert t.nleep(x + 100, y) == pytest.approx(expected, abs=1e-4)
    assert t.nleep(np.ones((9, 2)), np.arange(9) % 3) == pytest.approx(-math.log(3))


def test_nleep_components():
    assert t.nleep_components(1000, 10) == 50  # five per class
    assert t.nleep_components(1000, 100) == 200  # five examples per component
    assert t.nleep_components(1000, 397) == 397  # one per class at least
    assert t.nleep_components(50, 80) == 50


def evidence(x, y, a, b):
    """log N(y; 0, I / b + XX' / a), directly."""
    covariance = np.eye(len(x)) / b + x @ x.T / a
    return -0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + y @ np.linalg.solve(covariance, y))


@pytest.mark.parametrize(
    "name", ["overlapping", "more features than examples", "duplicated", "two classes", "few features"]
)
def test_logme_is_the_largest_evidence(name):
    x, y = (v[:40] for v in CASES[name])
    expected = []
    for c in np.unique(y):
        target = (y == c).astype(float)
        runs = [
            minimize(
                lambda v, target=target: -evidence(x, target, *np.exp(v)),
                start,
                method="Nelder-Mead",
                options={"fatol": 1e-8},
            )
            for start in ([1.0, 1.0], [6.0, 2.0])
        ]
        expected.append(-min(r.fun for r in runs) / len(y))
    assert t.logme(x, y) == pytest.approx(np.mean(expected), abs=1e-6)


def test_logme_in_closed_form():
    # One feature, XX' = x x': at t = a/b the evidence is explicit; the score is its maximum on a fine grid.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 1)), np.arange(50) % 2
    s = (x**2).sum()
    values = []
    for c in (0, 1):
        target = (y == c).astype(float)
        v = np.exp(np.linspace(-8, 30, 400001))
        q = target @ target - (target @ x[:, 0]) ** 2 / (s + v)
        values.append(
            (25 * np.log(50 / q) - 25 * np.log(2 * np.pi * np.e) - 0.5 * np.log1p(s / v)).max() / 50
        )
    assert t.logme(x, y) == pytest.approx(np.mean(values), abs=1e-8)
    # Nothing to learn from: the evidence of noise around zero, variance 1/C.
    assert t.logme(np.zeros((50, 4)), y) == pytest.approx(0.5 * np.log(2) - 0.5 * np.log(2 * np.pi * np.e))


def test_logme_ignores_columns_of_zeros():
    """The published code gains (D - k)/(2N) log a from each direction without features."""
    x, y = CASES["more features than examples"]
    padded = np.c_[x, np.zeros((60, 500))]
    assert t.logme(padded, y) == pytest.approx(t.logme(x, y), abs=1e-10)
    assert np.isfinite(t.logme(np.eye(4)[y], y))  # an exact linear function


@each_case
def test_h_score_is_the_trace(name):
    x, y = CASES[name]
    x = x.astype(np.float64)
    c = x - x.mean(0)
    means = np.stack([c[y == v].mean(0) for v in y])
    if name == "constant column":
        c, means = c[:, :-1], means[:, :-1]
    cov, between = c.T @ c, means.T @ means
    if name == "more features than examples":
        expected = len(set(y)) - 1
    else:
        expected = np.trace(np.linalg.solve(cov, between))
    assert t.h_score(x, y) == pytest.approx(expected, rel=1e-6 if name == "float32" else 1e-8)


def test_h_score_counts_directions_not_columns():
    x, y = CASES["overlapping"]
    expected = t.h_score(x, y)
    for more in (x @ np.random.default_rng(0).normal(size=(12, 9)), np.full((120, 2), 1e3 / 3), x[:, :2] * 3):
        assert t.h_score(np.c_[x, more], y) == pytest.approx(expected, rel=1e-8)
        assert t.h_score(1e4 + np.c_[x, more], y) == pytest.approx(expected, rel=1e-6)


@each_case
def test_regularized_h_score_is_the_trace_with_ledoit_wolf(name):
    x, y = CASES[name]
    x = x.astype(np.float64)
    c = x - x.mean(0)
    shrunk = LedoitWolf().fit(c)
    means = np.stack([c[y == v].mean(0) for v in y])
    between = np.cov(means, rowvar=False)
    expected = (1 - shrunk.shrinkage_) * np.trace(np.linalg.solve(shrunk.covariance_, between))
    assert 0 < shrunk.shrinkage_ < 1
    assert t.regularized_h_score(x, y) == pytest.approx(expected, rel=1e-8)


@each_case
@pytest.mark.parametrize("weighted", [False, True])
def test_transrate_is_the_difference_of_rates(name, weighted):
    x, y = CASES[name]
    c = x.astype(np.float64)
    c = c - c.mean(0)

    def rate(z):
        return 0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * 1e-3))[1]

    classes, counts = np.unique(y, return_counts=True)
    conditional = np.average([rate(c[y == v]) for v in classes], weights=counts if weighted else None)
    got = t.transrate(x, y, eps=1e-3, weighted=weighted)
    assert got == pytest.approx(rate(c) - conditional, rel=1e-7)


@each_case
@pytest.mark.parametrize("covariance", ["spherical", "diagonal"])
def test_gbc_is_the_sum_over_pairs(name, covariance):
    x, y = CASES[name]
    z = PCA(min(8, x.shape[1]), svd_solver="full").fit_transform(x.astype(np.float64))
    gaussians = []
    for v in np.unique(y):
        variance = z[y == v].var(0)
        if covariance == "spherical":
            variance = np.full(z.shape[1], variance.mean())
        gaussians.append((z[y == v].mean(0), np.diag(np.maximum(variance, 1e-4))))
    expected = 0.0
    for i, (m, s) in enumerate(gaussians):
        for j, (n, r) in enumerate(gaussians):
            if i != j:
                mid = (s + r) / 2
                d = (m - n) @ np.linalg.solve(mid, m - n) / 8
                d += 0.5 * (
                    np.linalg.slogdet(mid)[1] - 0.5 * (np.linalg.slogdet(s)[1] + np.linalg.slogdet(r)[1])
                )
                expected -= np.exp(-d)
    assert t.gbc(x, y, covariance=covariance, n_components=8) == pytest.approx(expected, rel=1e-6)


def test_gbc_at_its_ends():
    y = np.arange(60) % 3
    same = np.repeat(np.random.default_rng(0).normal(size=(20, 5)), 3, axis=0)
    assert t.gbc(same, y) == pytest.approx(-6)
    apart = same + 100 * np.eye(5)[y]
    assert t.gbc(apart, y) == pytest.approx(0, abs=1e-12)


@each_case
def test_parc_is_a_rank_correlation_of_distances(name):
    x, y = CASES[name]
    d = min(32, x.shape[1] - (name == "constant column"))
    z = StandardScaler().fit_transform(PCA(d, svd_solver="full").fit_transform(x.astype(np.float64)))
    pairs = np.triu_indices(len(y), 1)
    distance = (1 - np.corrcoef(z))[pairs]
    onehot = (y[:, None] == np.unique(y)).astype(float)
    label_distance = np.round((1 - np.corrcoef(onehot))[pairs], 6)  # exact ties
    expected = 100 * stats.spearmanr(distance, label_distance).statistic
    got = t.parc(x, y)
    if name in ("duplicated", "float32", "large mean"):  # rounding orders equal distances, or differs itself
        assert got == pytest.approx(expected, abs=0.02)
    else:
        assert got == pytest.approx(expected, abs=1e-6)


def test_parc_without_correlations():
    y = np.arange(20) % 2
    assert math.isnan(t.parc(np.ones((20, 4)), y))
    assert math.isnan(t.parc(np.arange(20.0)[:, None], y))
    x, y = blobs(200, 10, 3, 2.0)
    assert t.parc(x, y, max_examples=100) == t.parc(x, y, max_examples=100) != t.parc(x, y)
    assert t.parc(x, y, max_examples=100) == pytest.approx(t.parc(x, y), abs=10)


def reference_sfda(x, y):
    """The published procedure, discriminants as log-densities of Gaussians."""
    x = x.astype(np.float64)
    classes, y = np.unique(y, return_inverse=True)
    n, d = x.shape

    def analysis(x, shrinkage):
        means = np.stack([x[y == c].mean(0) for c in range(len(classes))])
        priors = np.bincount(y) / n
        within = sum(priors[c] * np.atleast_2d(np.cov(x[y == c].T, bias=True)) for c in range(len(classes)))
        if shrinkage is None:
            v = within.sum(1)
            for _ in range(3):
                w = within @ v / np.linalg.norm(within @ v)
                v = within @ w / np.linalg.norm(within @ w)
            shrinkage = max(math.exp(-5 * (v @ within @ w)), 1e-10)
        s = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
        inverse = np.linalg.inv(s)
        logits = np.stack(
            [
                np.log(priors[c]) - 0.5 * np.einsum("nd,de,ne->n", x - m, inverse, x - m)
                for c, m in enumerate(means)
            ],
            1,
        )
        return softmax(logits, axis=1), shrinkage, means

    p, shrinkage, means = analysis(x, None)
    p = softmax(p, axis=1)
    mixed = x.copy()
    for i, c in enumerate(y):
        others = np.delete(means, c, axis=0).mean(0)
        mixed[i] = p[i, c] * x[i] + (1 - p[i, c]) * others
    return analysis(mixed, shrinkage)[0][np.arange(n), y].mean()


@each_case
@pytest.mark.parametrize("scale", [1.0, 0.2])  # shrinkage 1e-10, and well above it
def test_sfda(name, scale):
    x, y = CASES[name]
    if name == "large mean":
        x = x - 1e4 + 10  # the reference's inverse loses digits at 1e4; the next test does not
    if name == "constant column" or (name == "more features than examples" and scale == 1):
        pytest.skip("the reference inverts a matrix with condition 1e10 there")
    x = scale * x
    before = x.copy()
    assert t.sfda(x, y) == pytest.approx(reference_sfda(x, y), rel=1e-5)
    np.testing.assert_array_equal(x, before)


def test_sfda_far_from_the_origin_and_without_spread():
    x, y = CASES["overlapping"]
    expected = t.sfda(x, y)
    assert t.sfda(x + 1e4, y) == pytest.approx(expected, abs=1e-6)
    assert t.sfda(np.c_[x, np.full(120, 1 / 3)], y) == pytest.approx(expected, abs=0.02)
    assert t.sfda(np.ones((30, 4)), np.arange(30) % 3) == pytest.approx(1 / 3)
    assert t.sfda(np.eye(5)[np.arange(30) % 3], np.arange(30) % 3) == pytest.approx(1)
    assert 0.99 < t.sfda(*CASES["more features than examples"]) <= 1


ON_FEATURES = [t.nleep, t.logme, t.h_score, t.regularized_h_score, t.transrate, t.gbc, t.parc, t.sfda]
on_features = pytest.mark.parametrize("score", ON_FEATURES, ids=lambda f: f.__name__)


@on_features
def test_invariances(score):
    x, y = CASES["overlapping"]
    order = np.random.default_rng(0).permutation(len(y))
    options = dict(n_components=6, n_seeds=20) if score is t.nleep else {}
    expected = score(x, y, **options)
    assert isinstance(expected, float)
    loose = 0.1 if score is t.nleep else 1e-6
    assert score(x[order], y[order], **options) == pytest.approx(expected, rel=loose)
    assert score(x, 50 - 3 * y, **options) == pytest.approx(expected, rel=loose)
    # Information helps.
    easy, _ = blobs(120, 12, 5, 2.0, 1)
    y_easy = blobs(120, 12, 5, 2.0, 1)[1]
    assert score(easy, y_easy, **options) > expected


@pytest.mark.parametrize("score", [t.logme, t.regularized_h_score, t.parc], ids=lambda f: f.__name__)
def test_noise_does_not_beat_information(score):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y = np.arange(100) % 5
        informative = rng.normal(size=(5, 32))[y] + rng.normal(size=(100, 32))
        noise = rng.normal(size=(100, 240))
        assert score(informative, y) > score(noise, y)


def test_common_components_make_wide_features_comparable():
    rng = np.random.default_rng(0)
    y = np.arange(100) % 5
    informative = rng.normal(size=(5, 32))[y] + rng.normal(size=(100, 32))
    noise = rng.normal(size=(100, 240))
    for name in t.UNSAFE_WHEN_WIDE:
        score = getattr(t, name)
        assert score(noise, y) > score(informative, y)  # the trap
        assert score(t.pca(informative, 16), y) > score(t.pca(noise, 16), y)


def test_pca():
    x, _ = CASES["overlapping"]
    np.testing.assert_allclose(t.pca(x, 5), PCA(5, svd_solver="full").fit_transform(x), atol=1e-10)
    assert t.pca(x, 0.8).shape[1] == PCA(0.8, svd_solver="full").fit(x).n_components_
    assert t.pca(np.ones((9, 3))).shape == (9, 0)
    assert t.pca(x, 1000).shape == (120, 12)
    with pytest.raises(ValueError, match="n_components=0"):
        t.pca(x, 0)


@pytest.mark.parametrize("score", [t.leep, t.nce, *ON_FEATURES], ids=lambda f: f.__name__)
def test_bad_input(score):
    p, y = distributions(20)
    assert np.isfinite(score(p, y))
    bad = p.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 of 20 rows \(rows 3\)"):
        score(bad, y)
    with pytest.raises(ValueError, match=r"only one class \(7\)"):
        score(p, np.full(20, 7))
    with pytest.raises(ValueError, match="only one class"):
        score(p[:1], y[:1])
    with pytest.raises(ValueError, match=r"labels has shape \(19,\) for 20 examples"):
        score(p, y[:19])
    with pytest.raises(ValueError, match="labels has .*5 in row 0; a class number is a whole number"):
        score(p, y + 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: t.leep(np.log(p), y), "not a distribution in row 0"),
        (lambda p, y: t.leep(2 * p, y), r"sum 2\)"),
        (lambda p, y: t.nleep(p, y, n_components=21), "n_components=21 for 20"),
        (lambda p, y: t.nleep(p, y, n_seeds=0), "n_seeds=0"),
        (lambda p, y: t.transrate(p, y, eps=0), "eps=0"),
        (lambda p, y: t.gbc(p, y, covariance="full"), "'full' is unknown; choose 'spherical' or 'diagonal'"),
        (lambda p, y: t.gbc(p, y, n_components=0), "n_components=0"),
        (lambda p, y: t.parc(p, y, n_components=0), "n_components=0"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(*distributions(20))
