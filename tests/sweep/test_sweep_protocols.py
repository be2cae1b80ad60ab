"""Several protocols in one workdir, and what a protocol gets from the sweep."""

import numpy as np
import pytest

from configs import finetune as tuning
from configs import knn, linear, transferability
from vtabjax import protocols, results
from vtabjax.sweep import adapters, plan, runner


def test_protocols_share_features(config, fake_converters, extractions, tmp_path, monkeypatch):
    config.models = "tiny/head"
    assert runner.run(config, tmp_path) == 0
    assert len(extractions) == 2

    def take(name, logits):
        def run(given, settings):
            found = given.split(name, logits=logits)
            assert (found.logits is not None) == logits
            return protocols.Outcome({"accuracy": len(found.features) / 1000})

        return run

    for i, (split, logits, passes) in enumerate(
        [("train800", False, 2), ("train800val200", True, 2), ("val200", False, 2), ("test", True, 3)]
    ):
        protocol = adapters.Protocol(lambda _, split=split: {"splits": [split]}, take(split, logits))
        monkeypatch.setitem(adapters.PROTOCOLS, f"p{i}", protocol)
        config.protocol = f"p{i}"
        assert runner.run(config, tmp_path) == 0
        assert len(extractions) == passes
    converted = [c for c in fake_converters.calls() if c[0] == "convert"]
    assert len(converted) == 1


def test_one_compilation_for_each_protocol_that_needs_one(config, fake_converters, tmp_path, monkeypatch):
    """All tasks of a model share one; protocols that find their features need none."""
    from vtabjax import model
    from vtabjax.protocols import finetune

    traced, trainers = [], []
    apply, trainer = model.apply, finetune.Trainer
    monkeypatch.setattr(
        model, "apply", lambda *a, **k: traced.append(k.get("train", False)) or apply(*a, **k)
    )
    monkeypatch.setattr(
        finetune, "Trainer", lambda *a, **k: trainers.append(trainer(*a, **k)) or trainers[-1]
    )
    tasks = "digits,sprites_location,sprites_orientation"
    counts = {}
    for module in (knn, transferability, linear, tuning):
        c = module.get_config()
        c.models, c.tasks, c.image_size = "tiny/head", tasks, 16
        c.update({"scores": "leep"} if module is transferability else {})
        c.update({"c_count": 2} if module is linear else {})
        if module is tuning:
            c.finetune.update({"steps": "4,8", "batch_size": 8})
        traced.clear()
        assert runner.run(c, tmp_path) == 0
        counts[module] = list(traced)
    assert counts[knn] == [False]
    assert counts[transferability] == []  # on features that are there
    assert counts[linear] == [False]  # of the test splits
    (one,) = trainers  # for all tasks and grid points
    # A training and an evaluation program (and a look at the shapes, which compiles nothing).
    assert one.traces == 1 and sorted(counts[tuning]) == [False, False, True]


def test_linear_config_needs_no_knn_fields(fake_converters, tmp_path):
    config = linear.get_config()
    config.dry_run = True
    assert runner.run(config, tmp_path) == 0


def test_all_protocols_on_one_pass(config, fake_converters, extractions, tmp_path, capsys):
    config.models = "tiny/a,tiny/head"
    assert runner.run(config, tmp_path) == 0 and len(extractions) == 4
    for module, passes in ((transferability, 4), (linear, 6)):  # linear evaluation adds the test split
        c = module.get_config()
        c.models, c.tasks, c.image_size = config.models, config.tasks, config.image_size
        if module is linear:
            c.c_count = 3
        else:
            c.scores = "leep,nce,logme,parc"
        assert runner.run(c, tmp_path) == 0
        assert len(extractions) == passes
    table = results.collect(tmp_path).set_index(["protocol", "model"])
    assert len(table) == 6
    assert np.isnan(table.loc[("transferability", "tiny/a"), "leep"])
    assert table.loc[("transferability", "tiny/head"), "leep"] < 0
    assert table.loc[("linear", "tiny/a"), "accuracy"] > 0.7
    assert table.loc[("linear", "tiny/a"), "n_examples"] == 797
    out = capsys.readouterr().out
    assert "not applicable or undefined" in out


def test_what_a_protocol_gets(config, fake_converters, tmp_path, monkeypatch, capsys):
    """The hooks that training needs: images, parameters, one trainer per model, a folder, a word in between."""
    made, folders = [], set()

    def run(given, settings):
        examples = given.examples("val200")
        trainer = given.model.memo("trainer", lambda: made.append(given.model.spec) or len(made))
        given.folder.mkdir(parents=True)
        folders.add(given.folder)
        with given.stages("train"):
            given.say(f"training {given.task}")
        assert examples.images.shape == (200, 16, 16, 3) and given.model.parts.variables["w"].shape == (
            24,
            48,
        )
        return protocols.Outcome({"accuracy": 0.5}, examples.labels == 1, {"learning_rate": 0.1 * trainer})

    monkeypatch.setitem(adapters.PROTOCOLS, "train", adapters.Protocol(lambda _: {"splits": ["val200"]}, run))
    config.protocol, config.tasks = "train", "digits,sprites_location"
    assert runner.run(config, tmp_path) == 0
    assert made == ["tiny/a", "tiny/b"] and len(folders) == 4
    assert all(tmp_path / "cells" / "train" in folder.parents for folder in folders)
    assert "training sprites_location" in capsys.readouterr().err
    table = results.collect(tmp_path)
    assert "seconds.train" in table and set(table["chosen.learning_rate"]) == {0.1, 0.2}


def test_a_protocol_with_another_protocols_config(config, tmp_path):
    config.protocol = "linear"
    with pytest.raises(plan.UsageError, match="config.protocol='linear' needs fields .*configs/linear.py"):
        runner.run(config, tmp_path)
