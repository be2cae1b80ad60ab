"""More seeds after fewer: a cell takes over what one with the first of its seeds has found."""

import json
import shutil

import pytest

from configs import finetune as config_file
from vtabjax import model, results
from vtabjax.protocols import finetune
from vtabjax.sweep import runner


@pytest.fixture
def config(fake_converters):
    c = config_file.get_config("mini")
    c.models, c.tasks, c.image_size = "tiny/a", "digits", 16
    c.finetune.steps, c.finetune.learning_rates = "4,6", "0.1"
    return c


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained."""
    names, fit = [], finetune.protocol.fit

    def counted(run, *arguments, **options):
        names.append(run.name)
        return fit(run, *arguments, **options)

    monkeypatch.setattr(finetune.protocol, "fit", counted)
    return names


def run(config, workdir, seeds):
    """The record of a sweep with these seeds."""
    config.finetune.seeds = seeds
    assert runner.run(config, workdir) == 0
    wanted = [int(s) for s in seeds.split(",")]
    (record,) = (r for _, r in results.records(workdir, "finetune") if r["settings"]["seeds"] == wanted)
    return record


def lasting(record):
    """A record without what depends on the clock."""
    return {k: v for k, v in record.items() if k not in ("seconds", "finished", "passes")}


def test_the_record_is_the_one_from_scratch(config, tmp_path, trained):
    scratch = run(config, tmp_path / "scratch", "3,1,2")
    assert len(trained) == 2 + 3
    before = {}
    for seeds, new in (("3", 2 + 1), ("3,1", 1), ("3,1,2", 1)):
        trained.clear()
        found = run(config, tmp_path / "again", seeds)
        assert len(trained) == new
        # What the others took counts: all of it was needed for this result.
        assert found["seconds"]["finetune"] > before.get("finetune", 0.0)
        before = found["seconds"]
    assert trained == [f"{trained[0].rpartition('seed=')[0]}seed=2"]
    assert lasting(found) == lasting(scratch)
    of_scratch, of_this = (
        (tmp_path / place / record["chosen"]["curves"]).read_text()
        for place, record in (("scratch", scratch), ("again", found))
    )
    assert of_scratch == of_this
    # Which examples were right is known of every seed.
    for seed in found["chosen"]["seeds"]:
        assert results.unpack(seed["correct"]).mean() == seed["accuracy"]
    assert "correct" not in run(config, tmp_path / "again", "3")["chosen"]["seeds"][0]


@pytest.mark.parametrize("what", ["other seeds", "other steps", "no journal", "damaged", "other weights"])
def test_what_is_not_taken_over(what, config, tmp_path, trained):
    run(config, tmp_path, "3")
    (journal,) = tmp_path.glob("cells/finetune/*/*/progress.json")
    if what == "other steps":
        config.finetune.steps = "4,7"
    elif what == "no journal":
        journal.unlink()
    elif what == "damaged":
        journal.write_text(journal.read_text().replace("val_accuracy", "val_accuracx", 1))
    elif what == "other weights":
        content = json.loads(journal.read_text())
        content.pop("digest")
        content["identity"]["weights"] = "others"
        journal.write_text(json.dumps({**content, "digest": finetune.journal._digest(content)}))
    trained.clear()
    run(config, tmp_path, "1,3" if what == "other seeds" else "3,1")
    assert len(trained) == 2 + 2


def test_killed_after_taking_over(config, tmp_path, trained, monkeypatch):
    """The seconds of what was taken over are remembered; it is not asked for again."""
    first = run(config, tmp_path, "3")
    config.finetune.seeds = "3,1"
    with monkeypatch.context() as patch:
        patch.setattr(finetune.protocol, "fit", lambda *_, **__: 1 / 0)
        assert runner.run(config, tmp_path) == 1
    (journal,) = (p for p in tmp_path.glob("cells/finetune/*/*/progress.json") if '"before"' in p.read_text())
    assert json.loads(journal.read_text())["before"] == first["seconds"]
    shutil.rmtree(tmp_path / first["chosen"]["curves"].rpartition("/")[0])
    trained.clear()
    config.retry_failed = True
    found = run(config, tmp_path, "3,1")
    assert len(trained) == 1 and found["seconds"]["finetune"] > first["seconds"]["finetune"]


@pytest.mark.parametrize("there", [True, False])
def test_kept_models(there, config, tmp_path, trained):
    """They are beside each result; where one is gone, all is trained again."""
    config.models, config.finetune.save = "tiny/head", True
    first = run(config, tmp_path, "3")
    (kept,) = first["chosen"]["models"]
    if not there:
        shutil.rmtree(tmp_path / kept)
    trained.clear()
    more = run(config, tmp_path, "3,1")
    assert len(trained) == (1 if there else 2 + 2)
    paths = [tmp_path / path for path in more["chosen"]["models"]]
    assert [path.name for path in paths] == ["seed3", "seed1"] and paths[0] != tmp_path / kept
    weights = [model.load_parts(path).info["weight_hash"] for path in paths]
    assert weights[0] != weights[1]
    if there:
        assert weights[0] == model.load_parts(tmp_path / kept).info["weight_hash"]
