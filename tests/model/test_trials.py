"""Ways of writing an operator: equal in value, and chosen by trial."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from vtabjax import features, model
from vtabjax.ops import _depthwise, _grouped, trials


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of compiled programs, and trials as they are for people."""
    monkeypatch.setenv(trials.ENVIRONMENT, "1")
    monkeypatch.setattr(trials, "_chosen", {})
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


def taking(monkeypatch, **seconds):
    """Trials that find these times, and count how often they are asked."""
    asked = []
    monkeypatch.setattr(trials, "_seconds", lambda ways, *_: asked.append(list(ways)) or seconds)
    return asked


WAYS = {"plus": trials.Way(lambda x, w: x + w), "minus": trials.Way(lambda x, w: w + x)}
NUMBERS = jnp.zeros(3), jnp.zeros(3)


def ask(kind="a kind", work=1e9):
    with trials.measured({}):
        return trials.fastest(kind, WAYS, *NUMBERS, work)


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from([(4, 2, 3), (6, 3, 2), (6, 2, 6)]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
)
def test_groups_at_once_and_one_by_one_are_torchs_convolution(channels, stride, padding, dilation):
    inputs, groups, outputs = channels[0], channels[1], channels[1] * channels[2]
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 9, 8, inputs)), rng.normal(size=(outputs, inputs // groups, 3, 2))
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(weight),
        None,
        stride,
        padding,
        dilation,
        groups,
    ).permute(0, 2, 3, 1)
    with jax.enable_x64(True):
        ways = _grouped.ways((stride,) * 2, ((padding, padding),) * 2, (dilation,) * 2, groups)
        assert list(ways) == ["at_once", "one_by_one"]
        for way in ways.values():
            found = way(jnp.asarray(x), jnp.asarray(weight))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_depthwise_by_rows_and_by_pixels_are_torchs_convolution(padding):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 7, 6, 5)), rng.normal(size=(5, 1, 3, 3))
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight), None, 1, padding, 1, 5
    ).permute(0, 2, 3, 1)
    with jax.enable_x64(True):
        ways = _depthwise.ways(6, ((padding, padding),) * 2, (1, 1))
        assert list(ways) == ["by_rows", "by_pixels"]
        for way in ways.values():
            found = way(jnp.asarray(x), jnp.moveaxis(jnp.asarray(weight[:, 0]), 0, -1))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_first_way_unless_another_is_clearly_faster():
    assert trials.choice({"a": 1.0, "b": 0.95}) == "a"
    assert trials.choice({"a": 1.0, "b": 0.8, "c": 0.7}) == "c"
    assert trials.choice({"a": 0.5, "b": 0.8}) == "a"


def test_a_real_trial_runs_each_way_while_another_function_is_traced(folder):
    """The ways see arrays of the tracers' shapes, up to eight images; the choice is one of theirs."""
    seen = []

    def run(x, weight):
        seen.append((x.shape, weight.shape))
        return x * weight

    ways = dict.fromkeys("ab", trials.Way(run, lambda weight: 2 * weight))

    def traced(x):
        with trials.measured({}):
            weight = jnp.ones(3)
            return trials.fastest("traced", ways, x, weight, 1e9)(x, weight)

    assert jax.jit(traced)(jnp.ones((9, 3))).tolist() == [[2, 2, 2]] * 9
    assert set(seen) == {((8, 3), (3,)), ((9, 3), (3,))}
    (file,) = folder.rglob("*.txt")
    assert file.read_text().strip() in ("a", "b")


def test_a_choice_is_tried_once_and_remembered_for_other_processes(folder, monkeypatch):
    asked = taking(monkeypatch, plus=1.0, minus=0.5)
    assert ask() is WAYS["minus"]
    assert ask() is WAYS["minus"]
    trials._chosen.clear()  # as another process
    assert ask() is WAYS["minus"]
    assert len(asked) == 1
    ask("another")
    assert len(asked) == 2


def test_of_two_workers_the_first_ones_choice_is_that_of_both(folder, monkeypatch):
    taking(monkeypatch, plus=1.0, minus=0.5)
    ask()
    (file,) = folder.rglob("*.txt")
    name = file.stem
    assert trials._remember(name, "plus") == "minus"


def test_a_choice_of_an_earlier_version_that_is_no_more_gives_the_first_way(folder, monkeypatch):
    taking(monkeypatch, plus=1.0, minus=0.5)
    ask()
    (file,) = folder.rglob("*.txt")
    pathlib.Path(file).write_text("by_magic\n")
    trials._chosen.clear()
    assert ask() is WAYS["plus"]


def test_without_a_folder_a_choice_holds_for_the_process(folder, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", None)
    asked = taking(monkeypatch, plus=1.0, minus=0.5)
    assert ask() is ask() is WAYS["minus"]
    assert len(asked) == 1


@pytest.mark.parametrize("reason", ["off", "outside", "small", "late"])
def test_where_nothing_is_tried_it_is_the_first_way(reason, folder, monkeypatch):
    asked = taking(monkeypatch, plus=1.0, minus=0.5)
    if reason == "off":
        monkeypatch.setenv(trials.ENVIRONMENT, "0")
    if reason == "late":
        monkeypatch.setattr(trials, "_SECONDS", 0.0)
    if reason == "outside":
        found = trials.fastest("a kind", WAYS, *NUMBERS, 1e9)
    else:
        found = ask(work=1e3 if reason == "small" else 1e9)
    assert found is WAYS["plus"] and not asked and not folder.exists()


def test_extraction_tries_and_takes_the_ways_of_a_model(folder, monkeypatch):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3, 2, 1, groups=2), torch.nn.Conv2d(8, 8, 3, groups=8)
    )
    module.append(torch.nn.Flatten())
    graph, variables = converters.from_torch(module.eval(), (3, 12, 12))
    info = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 12, 12]}
    parts = model.SavedModel(graph, variables, info)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    usual = features.extract(parts, images, batch_size=4)["features"]  # too little work for a trial
    assert not trials._chosen
    monkeypatch.setattr(trials, "_WORK", 0)
    asked = []
    monkeypatch.setattr(
        trials,
        "_seconds",
        lambda ways, *_: asked.append(list(ways)) or {name: -i for i, name in enumerate(ways)},
    )
    found = features.extract(parts, images, batch_size=4)["features"]
    assert asked == [["at_once", "one_by_one"], ["by_rows", "by_pixels"]]
    assert sorted(trials._chosen.values()) == ["by_pixels", "one_by_one"]
    np.testing.assert_allclose(found, usual, rtol=1e-5, atol=1e-6)
