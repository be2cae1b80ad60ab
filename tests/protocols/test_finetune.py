"""Fine-tuning: schedule, sampling, the step, grid and choice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetune_models import SIZE, conv_parts, examples

from vtabjax.protocols import finetune
from vtabjax.runtime import devices


def settings(**changes):
    given = {"learning_rates": (0.1,), "steps": (12,), "batch_size": 8, **changes}
    return finetune.Settings(**given)


def trainer(own, *, parts=None, classes=5, capacity=40, **options):
    mesh = devices.data_mesh(jax.devices()[:1])
    below = finetune.trainable(conv_parts() if parts is None else parts, own)
    return finetune.Trainer(
        below, own, classes=classes, capacity=capacity, mesh=mesh, eval_batch=16, **options
    )


def fit(made, steps=12, classes=3, n=30, seed=0):
    """(state, losses) of a run with the settings' first learning rate."""
    run = finetune.plan(
        made.settings, learning_rate=made.settings.learning_rates[0], steps=steps, classes=classes, seed=seed
    )
    state, losses, _ = made.train_steps(made.initial_state(), made.data(*examples(n, classes)), run, steps)
    return jax.device_get(state), losses


# The schedule.


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (2500, {0: 0, 750: 0, 751: 1, 1500: 1, 1501: 2, 2250: 2, 2251: 3, 2499: 3}),
        (10000, {0: 0, 3000: 0, 3001: 1, 6000: 1, 6001: 2, 9000: 2, 9001: 3, 9999: 3}),
        (1000, {299: 0, 300: 0, 301: 1, 600: 1, 601: 2, 900: 2, 901: 3}),
        (90, {27: 0, 28: 1, 54: 1, 55: 2, 81: 2, 82: 3}),  # 0.3 x 90 is 27 whatever floating point says
    ],
)
def test_schedule_at_every_boundary(total, expected):
    boundaries = settings(steps=(total,)).boundaries(total)
    for step, drops in expected.items():
        rate = finetune.schedule(step, np.float32(0.1), boundaries)
        np.testing.assert_allclose(rate, 0.1 * 0.1**drops, rtol=1e-6, err_msg=str(step))


def test_schedule_in_the_warm_up():
    boundaries = np.asarray([300, 600, 900])
    wanted = {0: 0.0, 1: 0.01 / 80, 40: 0.005, 79: 0.01 * 79 / 80, 80: 0.01, 300: 0.01, 301: 0.001}
    for step, rate in wanted.items():  # the boundaries do not move
        np.testing.assert_allclose(finetune.schedule(step, np.float32(0.01), boundaries, 80), rate, rtol=1e-6)
    # A warm-up beyond the first boundary knows of no decay.
    np.testing.assert_allclose(finetune.schedule(350, np.float32(1), boundaries, 400), 350 / 400, rtol=1e-6)


# Sampling.


def stream(count, batch, steps, seed=0, sampling="epoch", size=None):
    key = finetune.plan(settings(), learning_rate=1, steps=1, classes=2, seed=seed).key
    draw = jax.jit(
        lambda step: finetune.sample(
            key, step, jnp.int32(count), size=size or count, batch=batch, sampling=sampling
        )
    )
    return np.concatenate([np.asarray(draw(step)) for step in range(steps)])


@pytest.mark.parametrize(("count", "batch"), [(12, 5), (12, 12), (5, 12), (7, 1)])
def test_epochs_are_permutations(count, batch):
    drawn = stream(count, batch, 24)
    epochs = drawn[: len(drawn) // count * count].reshape(-1, count)
    assert len(epochs) > 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert len({tuple(epoch) for epoch in epochs}) > 1  # another order every time


def test_room_for_more_examples_changes_nothing():
    np.testing.assert_array_equal(stream(12, 5, 10), stream(12, 5, 10, size=31))


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_the_seed_decides(sampling):
    first, again, other = (stream(50, 10, 5, seed, sampling) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_with_replacement():
    drawn = stream(6, 64, 20, sampling="replacement", size=9)
    counts = np.bincount(drawn, minlength=9)
    assert not counts[6:].any()
    assert np.all(np.abs(counts[:6] - 1280 / 6) < 70)  # 5 standard deviations
    # An epoch-wise batch of 64 would hold every one 10 or 11 times.
    assert any(np.ptp(np.bincount(b, minlength=6)) > 2 for b in drawn.reshape(20, 64))


# The step.


def test_two_steps_by_hand():
    """A linear layer from zero: the loss is log K, the gradient (softmax - one hot) x / N, momentum adds up."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype(np.float32), np.asarray([0, 1, 2, 2, 1, 0], np.int32)
    own = settings(batch_size=6, scope="head", learning_rates=(0.5,), steps=(1000,))
    made = finetune.Trainer(
        finetune.precomputed(4, own), own, classes=7, capacity=6, mesh=devices.data_mesh(jax.devices()[:1])
    )
    run = finetune.plan(own, learning_rate=0.5, steps=1000, classes=3, seed=0)
    state, losses, hits = made.train_steps(made.initial_state(), made.data(x, y), run, 2)

    weight, velocity, wanted = np.zeros((3, 4)), 0.0, []
    for _ in range(2):  # the batch is all examples in some order
        logits = x @ weight.T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        wanted.append(-np.log(p[np.arange(6), y]).mean())
        velocity = 0.9 * velocity + (p - np.eye(3)[y]).T @ x / 6
        weight = weight - 0.5 * velocity
        if len(wanted) == 1:  # biases: the classes are equally frequent, so the first gradient is zero
            assert np.allclose((p - np.eye(3)[y]).sum(0), 0)
    np.testing.assert_allclose(losses[0], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    np.testing.assert_allclose(hits[0], 2 / 6, rtol=1e-6)  # all logits equal: class 0
    moved = np.asarray(state.head["weight"])
    assert (
        np.abs(moved[:3] - weight).max() < 0.03 * np.abs(weight).max()
    )  # the bias moved in the second step, too
    assert not moved[3:].any()


def test_surplus_classes_change_nothing():
    (a, losses), (b, wide) = (fit(trainer(settings(), classes=k)) for k in (3, 50))
    np.testing.assert_allclose(losses, wide, rtol=1e-5)
    np.testing.assert_allclose(a.backbone["conv.weight"], b.backbone["conv.weight"], rtol=1e-4, atol=1e-6)
    assert losses[-1] < 0.8 * losses[0]


def test_running_statistics_move_and_the_source_classifier_does_not():
    parts = conv_parts()
    state, _ = fit(trainer(settings(), parts=parts))
    assert set(state.backbone) == {"conv.weight", "bn.weight", "bn.bias"}
    assert set(state.buffers) == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    for name in ("bn.running_mean", "bn.running_var"):
        assert np.abs(state.buffers[name] - parts.variables[name]).min() > 1e-4
    assert state.buffers["bn.num_batches_tracked"] == 7 + 12


def test_loop_on_the_device_and_in_python_agree():
    (a, losses), (b, again) = (fit(trainer(settings(), loop=loop)) for loop in (False, True))
    np.testing.assert_allclose(losses, again, rtol=1e-6)
    np.testing.assert_allclose(a.backbone["conv.weight"], b.backbone["conv.weight"], rtol=1e-5, atol=1e-7)


def test_micro_batches():
    whole, _ = fit(trainer(settings()))
    # With statistics that do not depend on the batch a micro-batched step is the batch's step.
    features = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    found = []
    for micro in (0, 2):
        own = settings(micro_batch=micro, scope="head")
        made = finetune.Trainer(
            finetune.precomputed(6, own),
            own,
            classes=3,
            capacity=30,
            mesh=devices.data_mesh(jax.devices()[:1]),
        )
        run = finetune.plan(own, learning_rate=0.1, steps=12, classes=3, seed=0)
        found.append(made.train_steps(made.initial_state(), made.data(features, examples(30, 3)[1]), run, 12))
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)
    np.testing.assert_allclose(found[0][0].head["weight"], found[1][0].head["weight"], rtol=1e-4, atol=1e-6)
    # Batch norm sees micro-batches.
    parted, losses = fit(trainer(settings(micro_batch=2)))
    assert np.isfinite(losses).all()
    assert parted.buffers["bn.num_batches_tracked"] == 7 + 4 * 12
    assert np.abs(parted.backbone["conv.weight"] - whole.backbone["conv.weight"]).max() > 1e-4


def test_rematerialisation_changes_nothing():
    (a, losses), (b, again) = (fit(trainer(settings(remat=r))) for r in (False, True))
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    np.testing.assert_allclose(a.buffers["bn.running_var"], b.buffers["bn.running_var"], rtol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_statistics():
    (a, losses), (b, half) = (fit(trainer(settings(dtype=d))) for d in ("float32", "bfloat16"))
    assert {
        v.dtype.name for v in [*b.backbone.values(), *b.head.values(), *jax.tree.leaves(b.optimizer)]
    } == {"float32"}
    assert b.buffers["bn.running_mean"].dtype == np.float32
    np.testing.assert_allclose(losses, half, rtol=0.05)
    assert np.any(losses != half)


def test_predictions_of_a_ragged_number_of_images():
    made = trainer(settings())
    data = examples(30, 3)
    run = finetune.plan(made.settings, learning_rate=0.1, steps=60, classes=3, seed=0)
    state, _, _ = made.train_steps(made.initial_state(), made.data(*data), run, 60)
    images, labels = examples(37, 3, seed=1)
    found = made.predict(state, images, 3)
    assert found.shape == (37,) and np.mean(found == labels) > 0.8
    np.testing.assert_array_equal(found[:5], made.predict(state, images[:5], 3))
    assert made.predict(state, images, 1).max() == 0  # masked


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((41, SIZE, SIZE, 3), np.uint8), np.zeros(41, int), "1 to 40"),
        (np.zeros((4, SIZE + 1, SIZE, 3), np.uint8), np.zeros(4, int), "9, 8, 3"),
        (np.zeros((4, SIZE, SIZE, 3), np.uint8), np.asarray([0, 1, 2, 5]), "0 to 5"),
        (np.zeros((4, SIZE, SIZE, 3), np.uint8), np.asarray([0, 1, 2, -1]), "-1 to 2"),
    ],
)
def test_examples_that_do_not_fit(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        trainer(settings()).data(inputs, labels)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rates", ()), ("learning_rates", (0.1, -1.0)), ("learning_rates", (float("nan"),)), ("steps", (0,)),
        ("batch_size", 0), ("momentum", 1.0), ("decay_at", (0.6, 0.3)), ("decay_at", (1.0,)), ("decay_factor", 0.0),
        ("warmup", 13), ("sampling", "random"), ("scope", "trunk"), ("seeds", ()), ("seeds", (1, 1)), ("dtype", "int8"),
        ("micro_batch", 3), ("steps", (2**29,)),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=f"finetune.{field}="):
        settings(**{field: value})


# The protocol.


def test_one_compilation_for_all_tasks_grid_points_stages_and_seeds():
    own = settings(learning_rates=(0.1, 0.01), steps=(4, 9), seeds=(0, 1))
    made = trainer(own)
    for classes, n in ((2, 20), (3, 30), (5, 24)):
        train, val, test = examples(n, classes), examples(10, classes, 1), examples(33, classes, 2)
        found = finetune.evaluate(made, train, val, test, classes=classes)
        assert len(found.grid) == 4 and len(found.finals) == 2
    assert made.traces == 1


def test_chooses_on_validation_and_retrains_on_both():
    own = settings(learning_rates=(1e-6, 0.1), steps=(3, 40), seeds=(5, 6, 7))
    made = trainer(own)
    train, val, test = examples(30, 3), examples(10, 3, 1), examples(200, 3, 2)
    kept, asked = {}, []

    def keep(seed, state):
        kept[seed] = jax.device_get(state)

    def give():
        asked.append(1)
        return test

    found = finetune.evaluate(made, train, val, give, classes=3, keep=keep)
    assert [(p.learning_rate, p.steps) for p in found.grid] == [(1e-6, 3), (1e-6, 40), (0.1, 3), (0.1, 40)]
    assert found.val_accuracy == max(p.val_accuracy for p in found.grid)
    assert found.learning_rate == 0.1 and asked == [1]
    # The first grid point is what it would be alone; a retrained model saw all 40 examples.
    run = finetune.plan(own, learning_rate=found.learning_rate, steps=found.steps, classes=3, seed=6)
    both = [np.concatenate(pair) for pair in zip(train, val, strict=True)]
    state, _, _ = made.train_steps(made.initial_state(), made.data(*both), run, found.steps)
    np.testing.assert_allclose(kept[6].backbone["conv.weight"], state.backbone["conv.weight"], rtol=1e-6)
    correct = made.predict(state, test[0], 3) == test[1]
    np.testing.assert_array_equal(found.finals[1].correct, correct)
    # The median over the seeds, with its own examples.
    assert found.accuracy == sorted(f.accuracy for f in found.finals)[1] == np.mean(found.correct)
    assert found.accuracy > 0.5  # chance is a third
    # Curves: every run, all of its steps, the rates of the schedule.
    runs = {p["run"] for p in found.curves}
    assert len(runs) == 4 + 3
    long = [p for p in found.curves if p["run"] == "grid learning_rate=0.1 steps=40"]
    assert [p["step"] for p in long] == list(range(1, 41))
    np.testing.assert_allclose([long[12]["learning_rate"], long[13]["learning_rate"]], [0.1, 0.01], rtol=1e-6)
    assert long[-1]["loss"] < long[0]["loss"] == pytest.approx(np.log(3), rel=1e-6)


def test_ties_go_to_the_first_grid_point():
    own = settings(learning_rates=(1e-9, 1e-10), steps=(2, 3))
    found = finetune.evaluate(trainer(own), examples(30, 3), examples(9, 3), examples(9, 3), classes=3)
    assert len({p.val_accuracy for p in found.grid}) == 1
    assert (found.learning_rate, found.steps) == (1e-9, 2)


@pytest.mark.parametrize("loop", [False, True])
def test_a_diverged_grid_point_is_recorded_and_loses(loop):
    own = settings(learning_rates=(1e30, 0.1), steps=(20,))
    made = trainer(own, loop=loop)
    found = finetune.evaluate(made, examples(30, 3), examples(10, 3, 1), examples(50, 3, 2), classes=3)
    bad, good = found.grid
    assert bad.val_accuracy is None and 0 < bad.diverged_at < 5
    assert good.diverged_at is None and found.learning_rate == 0.1
    assert all(np.isfinite(p["loss"]) for p in found.curves)


def test_everything_diverges():
    own = settings(learning_rates=(1e30,), steps=(20,))
    with pytest.raises(finetune.DivergedError, match="1e.30 at step .*learning_rates"):
        finetune.evaluate(trainer(own), examples(30, 3), examples(10, 3), examples(9, 3), classes=3)


def test_a_diverged_retraining_falls_back_on_the_next_point(monkeypatch):
    own = settings(learning_rates=(0.1, 0.05), steps=(20,))
    made = trainer(own)
    advance = made.train_steps

    def diverging(state, data, run, n):
        state, losses, hits = advance(state, data, run, n)
        if run.learning_rate == np.float32(best) and int(data.n_examples) == 40:
            losses[-1] = np.inf
        return state, losses, hits

    splits = examples(30, 3), examples(10, 3, 1), examples(50, 3, 2)
    best = finetune.evaluate(made, *splits, classes=3).learning_rate
    monkeypatch.setattr(made, "train_steps", diverging)
    found = finetune.evaluate(made, *splits, classes=3)
    assert found.learning_rate == best and found.finals[0].learning_rate != best


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")


def test_out_of_memory_halves_the_micro_batch(monkeypatch):
    made = trainer(settings(batch_size=24))
    advance, put_batch = made.train_steps, devices.put_batch

    def small(state, data, run, n):
        if made.micro_batch > 8:
            raise out_of_memory()
        return advance(state, data, run, n)

    def few(inputs, start, size, *args):
        if size > 4:
            raise out_of_memory()
        return put_batch(inputs, start, size, *args)

    monkeypatch.setattr(made, "train_steps", small)
    monkeypatch.setattr(devices, "put_batch", few)
    splits = examples(30, 3), examples(10, 3, 1), examples(20, 3, 2)
    found = finetune.evaluate(made, *splits, classes=3)
    assert found.grid[0].micro_batch == found.finals[0].micro_batch == 6  # 24, 12, 6
    wanted = finetune.evaluate(trainer(settings(batch_size=24, micro_batch=6)), *splits, classes=3)
    np.testing.assert_array_equal(found.correct, wanted.correct)
    assert found.curves == wanted.curves and made.eval_batch == 4


def test_out_of_memory_with_one_example(monkeypatch):
    made = trainer(settings())

    def never(*_):
        raise out_of_memory()

    monkeypatch.setattr(made, "train_steps", never)
    with pytest.raises(ValueError, match="remat"):
        finetune.evaluate(made, examples(30, 3), examples(10, 3), examples(9, 3), classes=3)
    assert made.micro_batch == 1


def test_settings_are_the_published_sweep():
    published = dataclasses.asdict(finetune.Settings())
    wanted = {"learning_rates": (0.1, 0.01), "steps": (2500, 10000), "batch_size": 512, "momentum": 0.9}
    assert wanted.items() <= published.items()
    assert (published["decay_at"], published["decay_factor"]) == ((0.3, 0.6, 0.9), 0.1)


def saved_after_each_call(monkeypatch, folder):
    from vtabjax.protocols.finetune import journal

    monkeypatch.setattr(journal, "CHECKPOINT_SECONDS", 0.0)
    return finetune.Journal(folder, {"weights": "a"})


@pytest.mark.parametrize("on_disk", [False, True])
def test_out_of_memory_after_a_checkpoint_ends(on_disk, monkeypatch, tmp_path):
    """Memory that another process takes in the middle of a run: what was saved does not set the micro-batch back."""
    made = trainer(settings(batch_size=24, steps=(6,)))
    advance, calls = made.train_steps, []

    def small(state, data, run, n):
        calls.append(made.micro_batch)
        assert len(calls) < 60
        if len(calls) > 2 and made.micro_batch > 6:
            raise out_of_memory()
        return advance(state, data, run, n)

    monkeypatch.setattr(made, "train_steps", small)
    journal = saved_after_each_call(monkeypatch, tmp_path / "cell" if on_disk else None)
    splits = examples(30, 3), examples(10, 3, 1), examples(20, 3, 2)
    found = finetune.evaluate(made, *splits, classes=3, journal=journal)
    assert calls[:5] == [24, 24, 24, 12, 6] and set(calls[5:]) == {6}
    assert found.grid[0].micro_batch == 6
    assert [p.name for p in tmp_path.glob("cell/*")] == ["progress.json"] * on_disk


def test_memory_that_runs_out_without_end(monkeypatch, tmp_path):
    made = trainer(settings(batch_size=24, steps=(6,)))
    advance, calls = made.train_steps, []

    def never_again(state, data, run, n):
        calls.append(made.micro_batch)
        if len(calls) > 1:
            raise MemoryError("cannot allocate")
        return advance(state, data, run, n)

    monkeypatch.setattr(made, "train_steps", never_again)
    with pytest.raises(ValueError, match="the fewest that 1 device"):
        journal = saved_after_each_call(monkeypatch, tmp_path / "cell")
        finetune.evaluate(made, examples(30, 3), examples(10, 3), examples(9, 3), classes=3, journal=journal)
    assert calls == [24, 24, 12, 6, 3, 1]


def test_rates_that_agree_in_six_digits_are_told_apart():
    own = settings(learning_rates=(0.1, 0.1000001), steps=(3,))
    found = finetune.evaluate(
        trainer(own), examples(30, 3), examples(10, 3, 1), examples(20, 3, 2), classes=3
    )
    assert [p.learning_rate for p in found.grid] == [0.1, 0.1000001]
    assert len({p["run"] for p in found.curves}) == 3
