"""The whole experiment on tiny models: what it runs, what it decides, what it writes, and that it does so once."""

import json
import os
import signal
import subprocess
import time

import conftest
import pytest
import submitit  # noqa: F401  (its log goes to the standard error of the moment it is imported)

from vtabjax import results
from vtabjax.options import UsageError
from vtabjax.sweep import runner
from vtabjax.sweep.select import run, settings, together
from vtabjax.sweep.shares import Share

MODELS = "baseline/pixels,embedded/sprites_resnet,tiny/a,tiny/bad"


@pytest.fixture
def select_config():
    """configs/select.py, shrunk: four models, one of which cannot be converted, on one embedded task."""
    from configs import select

    c = select.get_config("mini")
    c.models, c.tasks, c.image_size = MODELS, "digits", 16
    c.stages = "knn:2,linear:1,finetune"
    c.keep_chance = 1.0
    c.c_count = 2
    c.finetune.steps, c.finetune.learning_rates = "3", "0.01"
    return c


def selection(workdir):
    return json.loads((workdir / "select" / "selection.json").read_text())


def files_with_times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and "tables" not in p.parts}


def test_an_experiment_and_again(select_config, fake_converters, tmp_path, capsys):
    assert run.run(select_config, tmp_path / "all") == 1  # a model cannot be converted
    found = selection(tmp_path / "all")
    assert [s["protocol"] for s in found["stages"]] == ["knn", "linear", "finetune"] and found["finished"]
    knn, linear, last = found["stages"]
    assert knn["keep"] == 2 and len(knn["kept"]) == 2 and len(linear["kept"]) == 1
    rows = {row["model"]: row for row in knn["models"]}
    assert set(rows) == set(MODELS.split(",")) and rows["tiny/bad"]["reason"] == "no score"
    assert "operator aten.nonsense is not known" in rows["tiny/bad"]["why"]
    assert {d["model"] for d in knn["dropped"]} == set(MODELS.split(",")) - set(knn["kept"])
    assert [row["model"] for row in last["models"]] == linear["kept"]
    assert found["winner"] == found["leader"] == linear["kept"][0]
    assert set(found) >= {"chance_missed", "expected_regret", "hours", "verdict", "ranking"}
    out, err = capsys.readouterr()
    assert found["verdict"] in out and "knn:2: 2 of 4 models go on" in err

    # By hand: the same cells with the same numbers.
    for stage in found["stages"]:
        names = [row["model"] for row in stage["models"]]
        runner.run(settings.stage_config(select_config, stage["protocol"], names), tmp_path / "hand")
    mine, theirs = (
        {p.relative_to(tmp_path / place): r for p, r in results.records(tmp_path / place)}
        for place in ("all", "hand")
    )
    assert len(mine) == 3 + 2 + 1 and set(mine) == set(theirs)
    for path, record in mine.items():
        for key in ("metrics", "config_hash", "settings", "correct", "data", "weight_hash", "chosen"):
            assert record[key] == theirs[path][key], (path, key)
    for row in knn["models"][:3]:
        path = results.Cell("knn", row["model"], "digits", {}).folder(tmp_path / "hand") / "digits.json"
        assert row["score"] == results.read(path)["metrics"]["accuracy"]

    before = files_with_times(tmp_path / "all")
    fake_converters.forget()
    assert run.run(select_config, tmp_path / "all") == 1
    assert files_with_times(tmp_path / "all") == before and fake_converters.calls() == []


def test_always_and_audit(select_config, fake_converters, tmp_path):
    select_config.stages = "knn:1,finetune"
    select_config.models = "baseline/pixels,embedded/sprites_resnet,tiny/a"
    select_config.always, select_config.audit = "tiny/a", 5
    assert run.run(select_config, tmp_path) == 0
    found = selection(tmp_path)
    rows = {row["model"]: row for row in found["stages"][0]["models"]}
    assert rows["tiny/a"]["reason"] == "always" and rows["tiny/a"]["kept"]
    assert found["left_out"] == found["audit"]["drawn"]  # more were asked for than there are
    (drawn,) = found["audit"]["drawn"]
    assert rows[drawn]["reason"] == "behind"
    ranked = {row["model"]: row for row in found["ranking"]}
    assert set(ranked) == {"baseline/pixels", "embedded/sprites_resnet", "tiny/a"}
    assert [m for m, row in ranked.items() if row["audit"]] == [drawn]
    assert found["audit"]["bounds"]["n_left"] == found["audit"]["bounds"]["n_drawn"] == 1
    assert found["chance_missed"]["value"] == 0 and found["chance_missed"]["method"] == "nothing was left out"


def test_the_audit_is_a_seeded_draw():
    names = [f"tiny/{i}" for i in range(40)]
    drawn = run.drawn_for_audit(names, 5, seed=0)
    assert len(set(drawn)) == 5 and run.drawn_for_audit(names[::-1], 5, seed=0) == drawn
    assert run.drawn_for_audit(names, 5, seed=1) != drawn
    counts = {name: 0 for name in names}
    for seed in range(400):
        for name in run.drawn_for_audit(names, 5, seed):
            counts[name] += 1
    assert 25 <= min(counts.values()) and max(counts.values()) <= 80  # 50 of 400 expected


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("stages", "knn:2,finetoon", "did you mean finetune?"),
        ("stages", "linear:2,knn", ""),
        ("keep_chance", 1.5, "config.keep_chance=1.5 is too large"),
        ("always", "tiny/*", "config.always: 'tiny/*' is a pattern"),
        ("always", "nonsense", "config.always: "),
        ("folds", 5, "config.folds=5: an experiment would take the folds for tasks"),
        ("winner_on", "test", "config.winner_on='test' is not known; choose train or all"),
        ("models", "", "config.models is empty"),
        ("k", 1000, "config.k=1000 is too large for digits"),
        ("audit", -1, "config.audit=-1 is too small"),
    ],
)
def test_wrong_fields_are_found_before_anything_runs(
    select_config, fake_converters, tmp_path, field, value, message, extractions
):
    select_config[field] = value
    if not message:
        assert run.run(select_config, tmp_path) == 1
        return
    with pytest.raises(UsageError) as error:
        run.run(select_config, tmp_path)
    assert message in str(error.value) and not extractions and not (tmp_path / "select").exists()


def test_a_model_that_cannot_be_had_is_looked_for_where_it_was_named():
    said = "config.models: model 'a/x': no such\nconfig.models: model 'a/y': no such"
    assert run._of_always(said, ["a/y"], "a/x,b") == said.replace(
        "config.models: model 'a/y'", "config.always: model 'a/y'"
    )
    assert run._of_always(said, ["a/y"], "a/x,a/y") == said


def test_a_later_stage_is_checked_before_the_first_runs(
    select_config, fake_converters, tmp_path, extractions
):
    select_config.finetune.learning_rates = "-1"
    with pytest.raises(UsageError, match=r"config\.finetune\.learning_rates='-1'"):
        run.run(select_config, tmp_path)
    assert not extractions


def test_a_dry_run_writes_nothing(select_config, fake_converters, tmp_path, capsys):
    select_config.dry_run = True
    assert run.run(select_config, tmp_path / "new") == 0
    assert not (tmp_path / "new").exists()
    err = capsys.readouterr().err
    assert "knn:2: 4 models, of which 2 go on" in err and "dry run: nothing was done" in err


def test_no_model_has_a_score(select_config, fake_converters, tmp_path):
    select_config.models = "tiny/bad,tiny/bad2"
    with pytest.raises(UsageError, match="no model has a score in the stage knn:2"):
        run.run(select_config, tmp_path)


def start(fakes, workdir, share):
    arguments = [
        "--config=configs/select.py", f"--workdir={workdir}", f"--cells={share}", "--config.tasks=digits",
        "--config.models=tiny/a,tiny/b,tiny/slow1,tiny/slow2,baseline/pixels,tiny/slow3", "--config.image_size=16",
        "--config.stages=knn:3,linear", "--config.c_count=2",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*fakes.main, *arguments], cwd=conftest.ROOT, env=environment, stderr=subprocess.DEVNULL
    )


def test_two_workers_pass_the_stages_together_and_a_killed_one_is_replaced(fake_converters, tmp_path):
    """The second is killed as soon as it has written a result; the first ends with everything done, by one of them."""
    first, second = (start(fake_converters, tmp_path, f"{i}/2") for i in range(2))
    try:
        deadline = time.monotonic() + 240
        while len(results.paths(tmp_path)) < 2 and time.monotonic() < deadline:
            assert first.poll() is None
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        second.wait()
        assert first.wait(timeout=240) == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    found = selection(tmp_path)
    assert found["finished"] and len(found["stages"][0]["models"]) == 6
    assert all(row["score"] is not None for stage in found["stages"] for row in stage["models"])
    assert len(results.paths(tmp_path)) == 6 + len(found["stages"][0]["kept"])

    # The killed one resumes and finds the same.
    text = (tmp_path / "select" / "selection.json").read_text()
    again = start(fake_converters, tmp_path, "1/2")
    assert again.wait(timeout=240) == 0
    assert (tmp_path / "select" / "selection.json").read_text() == text


def test_who_is_at_work(tmp_path):
    """The lowest number among the living makes the winner; who has ended, or whose process is gone, does not count."""
    zero = together.worker(tmp_path, Share(0, 3, ""))
    (path,) = (tmp_path / "select" / "workers").glob("*.json")
    one = {**json.loads(path.read_text()), "share": "1/3"}
    other = path.with_name("other-1-1.json")
    other.write_text(json.dumps(one))
    assert together.is_first(tmp_path, None) and together.is_first(tmp_path, Share(0, 3, ""))
    assert not together.is_first(tmp_path, Share(1, 3, ""))
    zero.close("ended")
    assert together.is_first(tmp_path, Share(1, 3, "")) and not together.is_first(tmp_path, Share(2, 3, ""))
    for gone in ({"ended": one["seen"]}, {"seen": one["seen"] - 2 * together.GONE}, {"pid": 2**30}):
        other.write_text(json.dumps(one | gone))
        assert together.is_first(tmp_path, Share(2, 3, ""))


def test_slurm_gets_the_whole_experiment_once(select_config, fake_converters, tmp_path, monkeypatch, capsys):
    """A stand-in for sbatch: the array's jobs are shares of the experiment."""
    from vtabjax.sweep import slurm

    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (commands / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    calls = []
    submit = slurm._submit
    monkeypatch.setattr(slurm, "_submit", lambda jobs, *rest: calls.extend(jobs) or submit(jobs, *rest))
    select_config.slurm.jobs = 3
    assert slurm.submit(select_config, tmp_path / "w") == 0
    assert [job.share for job in calls] == ["0/3", "1/3", "2/3"]
    assert "submitted job 7: 3 share(s) of 4 models" in capsys.readouterr().out
    select_config.models, select_config.stages = "baseline/pixels", "knn"
    assert slurm.Job(select_config, str(tmp_path / "w"), "0/1")() == 0
    assert selection(tmp_path / "w")["winner"] == "baseline/pixels"
