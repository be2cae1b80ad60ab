"""The grid: lengths in epochs, points that are given up early, and an end in time."""

import jax
import numpy as np
import pytest

from vtabjax.protocols import finetune
from vtabjax.protocols.finetune import protocol
from vtabjax.runtime import devices

WIDTH, CLASSES = 4, 3
RATES = (1e-6, 0.5, 1e-5, 0.1, 1e-4, 0.2)


def split(n, seed):
    """Features [N, D] around their classes' centres."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    return (np.eye(CLASSES, WIDTH)[labels] + rng.normal(0, 0.4, (n, WIDTH))).astype(np.float32), labels


SPLITS = split(30, 0), split(12, 1), split(60, 2)


def trainer(**changes):
    given = {"learning_rates": RATES, "steps": (9,), "batch_size": 10, **changes}
    own = finetune.Settings(scope="head", **given)
    mesh = devices.data_mesh(jax.devices()[:1])
    return finetune.Trainer(finetune.precomputed(WIDTH, own), own, classes=CLASSES, capacity=42, mesh=mesh)


def evaluate(made, **options):
    return finetune.evaluate(made, *SPLITS, classes=CLASSES, **options)


def test_epochs_are_passes_over_the_examples_of_the_stage():
    made = trainer(learning_rates=(0.1, 0.2), steps=(), epochs=(1.0, 2.5), warmup_epochs=1.0, seeds=(0, 1))
    found = evaluate(made)
    # Batches of 10: 30 examples in the grid, 42 in the retraining.
    assert [(p.learning_rate, p.epochs, p.steps) for p in found.grid] == [
        (0.1, 1.0, 3), (0.1, 2.5, 8), (0.2, 1.0, 3), (0.2, 2.5, 8),
    ]  # fmt: skip
    assert found.epochs in (1.0, 2.5)
    assert {f.steps for f in found.finals} == {4 if found.epochs == 1 else 10}
    # The warm-up likewise: three steps in the grid, four in the retraining.
    rising = {run: [p["learning_rate"] for p in found.curves if p["run"] == run] for run in runs(found)}
    chosen = found.learning_rate
    np.testing.assert_allclose(rising["grid learning_rate=0.1 steps=3"], [0, 0.1 / 3, 0.2 / 3], rtol=1e-5)
    final = next(rates for run, rates in rising.items() if run.startswith("final"))
    np.testing.assert_allclose(final[:4], np.arange(4) / 4 * chosen, rtol=1e-5)


def test_weight_decays_span_the_grid_and_are_inputs_of_one_program():
    given = {"learning_rates": (0.5, 0.1), "optimizer": "adamw"}
    made = trainer(weight_decay=(0.0, 2.0), **given)
    found = evaluate(made)
    assert made.traces == 1
    assert [(p.learning_rate, p.weight_decay) for p in found.grid] == [(0.5, 0), (0.5, 2), (0.1, 0), (0.1, 2)]
    assert "grid learning_rate=0.5 weight_decay=2.0 steps=9" in runs(found)
    assert found.weight_decay == found.finals[0].weight_decay
    # Each as if it were alone.
    for decay in (0.0, 2.0):
        alone = evaluate(trainer(weight_decay=(decay,), **given))
        points = [
            p
            for p in found.curves
            if p["run"].startswith("grid") and (" weight_decay=2.0 " in p["run"]) == bool(decay)
        ]
        assert points == [p for p in alone.curves if p["run"].startswith("grid")]


def runs(found):
    return list(dict.fromkeys(point["run"] for point in found.curves))


def test_halving_goes_on_with_the_best_after_a_third_of_the_steps():
    found, whole = evaluate(trainer(halving=3)), evaluate(trainer())
    assert all(p.early_val_accuracy is None and p.left_out == "" for p in whole.grid)
    early = [p.early_val_accuracy for p in found.grid]
    # What a point has after three of its nine steps.
    made = trainer()
    for point, accuracy in zip(found.grid, early, strict=True):
        plan = finetune.plan(
            made.settings, learning_rate=point.learning_rate, steps=9, classes=CLASSES, seed=0
        )
        state, _, _ = made.train_steps(made.initial_state(), made.data(*SPLITS[0]), plan, 3)
        assert accuracy == np.mean(made.predict(state, SPLITS[1][0], CLASSES) == SPLITS[1][1])
    best = sorted(range(6), key=lambda i: -early[i])[:2]  # ties: the first
    assert [i for i, p in enumerate(found.grid) if not p.left_out] == sorted(best)
    assert {p.left_out for p in found.grid} == {"", "halving"}
    for i, (point, other) in enumerate(zip(found.grid, whole.grid, strict=True)):
        assert point.learning_rate == other.learning_rate
        assert point.val_accuracy == (other.val_accuracy if i in best else None)
    # The survivors went on from where they were, to the numbers of an uninterrupted run.
    for i in best:
        name = f"grid learning_rate={RATES[i]!r} steps=9"
        assert [p for p in found.curves if p["run"] == name] == [p for p in whole.curves if p["run"] == name]


def test_of_points_that_diverge_early_none_goes_on():
    made = trainer(learning_rates=(3e38, 0.1, 2e38), steps=(15,), halving=3)
    found = evaluate(made)
    assert [p.diverged_at is not None for p in found.grid] == [True, False, True]
    assert found.learning_rate == 0.1 and found.grid[1].val_accuracy is not None


def test_halving_resumes(tmp_path):
    wanted = evaluate(trainer(halving=3))
    made = trainer(halving=3)
    advance, calls = made.train_steps, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return advance(*arguments)

    made.train_steps = interrupted
    for stop in (9, 7):  # noqa: B007  (among the first parts; when they are done)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            evaluate(made, journal=finetune.Journal(tmp_path, {"a": 1}))
    made.train_steps = advance
    found = evaluate(made, journal=finetune.Journal(tmp_path, {"a": 1}))
    assert found.grid == wanted.grid and found.curves == wanted.curves
    np.testing.assert_array_equal(found.correct, wanted.correct)


@pytest.fixture
def slow(monkeypatch):
    """Every step takes 100 seconds."""
    fit = protocol.fit

    def slowly(run, data, trainer, journal, meter, start):
        fitted = fit(run, data, trainer, journal, meter, start)
        taken = len(fitted.losses) - (len(start.losses) if start else 0)
        return fitted._replace(seconds=100.0 * taken)

    monkeypatch.setattr(protocol, "fit", slowly)


@pytest.mark.parametrize(("hours", "ended"), [(0.0, 6), (1e-3, 1), (1.01, 3), (100.0, 6)])
def test_the_grid_ends_in_time(slow, hours, ended):
    # 900 seconds for each point and for the retraining: three points and the retraining take an hour.
    found = evaluate(trainer(hours=hours))
    assert [p.left_out for p in found.grid] == [""] * ended + ["hours"] * (6 - ended)
    assert all((p.val_accuracy is None) == (p.left_out == "hours") for p in found.grid)
    assert found.val_accuracy == max(p.val_accuracy for p in found.grid[:ended])


def test_in_time_with_halving(slow):
    # First parts of 300 seconds: five of them, then one point to its end (600 more), and the retraining (900).
    found = evaluate(trainer(hours=2800 / 3600, halving=3))
    assert [p.left_out for p in found.grid].count("") == 1
    assert "hours" in {p.left_out for p in found.grid}
    assert len(found.finals) == 1
