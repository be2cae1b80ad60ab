import types

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from configs import knn, linear, transferability
from vtabjax import options
from vtabjax.runtime import devices
from vtabjax.sweep import adapters, inputs
from vtabjax.sweep.adapters import transferability as adapter


class Given:
    """Inputs with made-up features instead of a model."""

    task = "digits"

    def __init__(self, logits=None, n=60):
        rng = np.random.default_rng(0)
        self.labels = np.arange(n) % 3
        self.features = (rng.normal(size=(n, 8)) + self.labels[:, None]).astype(np.float32)
        self.logits, self.asked = logits, []
        self.stages, self.own_mesh = inputs.Stages(), devices.data_mesh()

    def split(self, name, *, logits=False):
        self.asked.append((name, logits))
        return inputs.SplitFeatures(self.features, self.labels, self.logits if logits else None)


def run(config, given):
    protocol = adapters.PROTOCOLS[config.protocol]
    settings = protocol.settings(config)
    return settings, protocol.run(given, settings)


def reference(x, y, k):
    found = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        found.append(
            KNeighborsClassifier(k, algorithm="brute").fit(x[rest], y[rest]).predict(x[i : i + 1])[0] == y[i]
        )
    return np.array(found)


def test_knn():
    config, given = knn.get_config(), Given()
    config.k = 3
    settings, found = run(config, given)
    assert settings == {"splits": ["train800val200"], "k": 3, "metric": ["euclidean", "cosine"]}
    correct = reference(given.features.astype(np.float64), given.labels, 3)
    assert found.correct.tolist() == correct.tolist()
    assert found.metrics["accuracy"] == pytest.approx(correct.mean())
    unit = given.features / np.linalg.norm(given.features, axis=1, keepdims=True)
    assert found.metrics["accuracy_cosine"] == pytest.approx(reference(unit, given.labels, 3).mean())
    assert found.metrics["n_tied"] == 0
    assert given.asked == [("train800val200", False)]


def test_knn_metric_order():
    config = knn.get_config("vtab_full")
    config.metric = "cosine"
    settings, found = run(config, Given())
    assert settings["splits"] == ["trainval"]
    assert set(found.metrics) == {"accuracy", "n_tied", "balanced_accuracy", "interval"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"k": 0}, r"config\.k=0 is too small: it must be at least 1"),
        ({"metric": "l1"}, r"config\.metric='l1': 'l1' is not known; choose from euclidean, cosine"),
        ({"metric": " , "}, r"config\.metric is empty"),
    ],
)
def test_knn_settings_are_checked(changes, message):
    config = knn.get_config()
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        adapters.PROTOCOLS["knn"].settings(config)


def test_linear():
    config, given = linear.get_config(), Given()
    config.c_count = 5
    settings, found = run(config, given)
    assert settings["splits"] == ["train800", "val200", "test"]
    assert [name for name, _ in given.asked] == settings["splits"]
    assert found.correct.shape == (60,) and found.metrics["accuracy"] == pytest.approx(found.correct.mean())
    assert np.diag(found.confusion).sum() == found.correct.sum() and found.confusion.shape == (10, 10)
    assert 0 <= found.metrics["calibration_error"] <= 1
    low, high = found.metrics["interval"]
    assert low <= found.metrics["accuracy"] <= high and low < high
    grid = np.logspace(-6, 5, 5)
    assert np.isclose(grid, found.chosen["c"]).any()
    assert found.chosen["at_grid_end"] is bool(np.isclose(found.chosen["c"], grid[[0, -1]]).any())
    assert 0.6 < found.metrics["accuracy"] <= 1


def test_linear_settings():
    assert adapters.PROTOCOLS["linear"].settings(linear.get_config("vtab_full"))["splits"] == [
        "train",
        "val",
        "test",
    ]
    config = linear.get_config()
    config.c_min = 1e6
    with pytest.raises(ValueError, match=r"config\.c_min=1e\+06 .* need 0 < c_min <= c_max"):
        adapters.PROTOCOLS["linear"].settings(config)


def test_transferability_without_a_head_is_not_applicable():
    given = Given()
    settings, found = run(transferability.get_config(), given)
    assert list(found.metrics) == list(options.SCORES)
    assert found.metrics["leep"] is None and found.metrics["nce"] is None
    assert "no source classifier" in found.notes["leep"]
    others = [v for name, v in found.metrics.items() if name not in ("leep", "nce")]
    assert all(isinstance(v, float) and np.isfinite(v) for v in others)
    assert found.correct is None
    assert {"logme", "nleep"} <= set(given.stages.seconds)  # what each one costs


def test_scores_that_fail_on_wide_features_see_principal_components():
    from vtabjax.protocols import transferability as scores

    assert adapter._UNSAFE_WHEN_WIDE == scores.UNSAFE_WHEN_WIDE
    given = Given(n=60)
    noise = np.random.default_rng(1).normal(size=(60, 100)).astype(np.float32)
    informed, given.features = Given(n=60), noise
    config = transferability.get_config()
    config.scores, config.pca_components = "h_score,transrate,sfda,logme,nleep", 6
    settings, found = run(config, given)
    assert settings["pca_components"] == 6
    _, better = run(config, informed)
    assert found.metrics["h_score"] == pytest.approx(scores.h_score(scores.pca(noise, 6), given.labels))
    assert scores.h_score(noise, given.labels) == pytest.approx(2)  # C - 1, whatever the features
    assert better.metrics["h_score"] > found.metrics["h_score"]
    assert found.notes["h_score"] == "of 6 principal components"
    assert found.notes["nleep"] == "12 mixture components" and "logme" not in found.notes


def test_transferability_with_a_head():
    # A head that knows the classes: LEEP = mean log p(y|z) -> 0; one that says nothing: -H(y) = -log 3.
    n = 60
    knowing = np.full((n, 4), -20.0, np.float32)
    knowing[np.arange(n), np.arange(n) % 3] = 20
    config = transferability.get_config()
    config.scores = "leep,nce"
    settings, found = run(config, Given(logits=knowing))
    assert "seed" not in settings  # only nleep draws random numbers
    assert found.metrics["leep"] == pytest.approx(0, abs=1e-6)
    _, silent = run(config, Given(logits=np.zeros((n, 4), np.float32)))
    assert silent.metrics["leep"] == pytest.approx(-np.log(3))


def test_large_logits_are_probabilities():
    """exp(1e4) is beyond every float: the two probabilities of each example are those of their difference."""
    config = transferability.get_config()
    config.scores = "leep"
    n = len(Given().split("train800val200").labels)
    large = np.where(np.arange(n)[:, None] % 2 == [0, 1], 1e4, 1e4 - 1).astype(np.float32)
    _, found = run(config, Given(logits=large))
    _, shifted = run(config, Given(logits=large - 1e4))
    assert np.isfinite(found.metrics["leep"])
    assert found.metrics["leep"] == pytest.approx(shifted.metrics["leep"], abs=1e-12)


def test_a_score_that_is_undefined_is_noted(monkeypatch):
    from vtabjax.protocols import transferability as scores

    def undefined(*_):
        raise ValueError("one class only")

    monkeypatch.setattr(scores, "parc", undefined)
    config, given = transferability.get_config(), Given()
    config.scores = "parc,h_score"
    _, found = run(config, given)
    assert found.metrics["parc"] is None and found.notes["parc"] == "undefined: one class only"
    assert found.metrics["h_score"] > 0
    assert given.stages.failed is None


@pytest.mark.parametrize(
    "rows", ["constant", "zero", "one per class", "constant, one per class", "dead columns"]
)
def test_scores_of_features_that_say_nothing(rows):
    """A number as docs/scores.md has it, or None with a reason; a sweep goes on."""
    given = Given(logits=np.zeros((60, 4), np.float32))
    if "per class" in rows:
        given.labels = np.arange(60)
    if "constant" in rows or rows == "zero":
        given.features = np.full((60, 8), 0.5 if "constant" in rows else 0, np.float32)
    if rows == "dead columns":
        given.features[:, 3:] = 0
    config = transferability.get_config()
    config.nleep_seeds = 1
    _, found = run(config, given)
    same = "undefined: all examples have the same features"
    none = {name: found.notes[name] for name, value in found.metrics.items() if value is None}
    if "constant" in rows or rows == "zero":
        assert none == {
            "h_score": same,
            "transrate": same,
            "sfda": same,
            "parc": adapter._UNDEFINED["parc"],
        }
        assert found.metrics["regularized_h_score"] == 0
        classes = len(np.unique(given.labels))
        # One Gaussian for all, and every class gets its share of it.
        assert found.metrics["nleep"] == pytest.approx(-np.log(classes))
        assert found.metrics["gbc"] == pytest.approx(-classes * (classes - 1))  # every pair overlaps in full
    else:
        assert list(none) == (["parc"] if "per class" in rows else [])
    assert all(v is None or np.isfinite(v) for v in found.metrics.values())
    assert given.stages.failed is None


def test_nearest_neighbours_of_features_that_say_nothing():
    given = Given()
    given.features = np.zeros((60, 8), np.float32)
    _, found = run(knn.get_config(), given)
    # All are equally far away, so the first other one is the neighbour: of class 0, and of class 1 for the first.
    assert found.metrics["accuracy"] == pytest.approx(19 / 60) and found.metrics["n_tied"] == 60
    assert found.notes["distance_zero"] == (
        "60 of 60 examples have the same features as their nearest neighbour: 19 a neighbour of their own class, "
        "41 one of another class"
    )


def test_settings_change_with_what_changes_numbers():
    config = transferability.get_config()
    before = adapters.PROTOCOLS["transferability"].settings(config)
    config.seed = 1
    assert adapters.PROTOCOLS["transferability"].settings(config) != before
    config = knn.get_config()
    before = adapters.PROTOCOLS["knn"].settings(config)
    config.seed, config.batch_size = 1, 7
    assert adapters.PROTOCOLS["knn"].settings(config) == before


def test_stages(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 7.5])
    monkeypatch.setattr(inputs, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    stages = inputs.Stages()
    with pytest.raises(KeyError), stages("outer"):  # from 0
        with stages("inner"):  # 1 to 3
            pass
        with stages("data"):  # 7 to 7.5; outer has 0-1 and 3-7
            next_tick = iter([7.5])
            monkeypatch.setattr(inputs.time, "monotonic", lambda: next(next_tick, 7.5))
            raise KeyError
    assert stages.seconds == {"outer": 5.0, "inner": 2.0, "data": 0.5}
    assert stages.failed == "data"
