"""The command line as a user meets it: messages, exit statuses, and a real run from one end to the other."""

import json
import os
import stat
import subprocess
import sys

import conftest
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vtabjax import results

KNN = "--config=configs/knn.py"
FINETUNE, REPORT = "--config=configs/finetune.py", "--config=configs/report.py"
TINY = ("--config.models=tiny/a", "--config.tasks=digits", "--config.image_size=16")


def said(process, status):
    """What was written, after a look at the exit status; and never a traceback."""
    text = process.stdout + process.stderr
    assert process.returncode == status, text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "error: no config given; start with --config=configs/knn.py"),
        (
            ["--config=configs/nope.py"],
            "error: --config=configs/nope.py: there is no such file; choose from ",
        ),
        ([f"{KNN}:vtab2"], "error: suite 'vtab2' is not known; choose from mini, vtab, vtab_full"),
        (
            [KNN, "--config.modles=x"],
            "error: --config.modles: configs/knn.py has no such field; did you mean models",
        ),
        ([KNN, "--config.k=many"], "error: flag --config.k=many: invalid literal for int()"),
        ([KNN, "--config.k=0"], "error: config.k=0 is too small: it must be at least 1"),
        (
            [KNN, "--config.metric=l1"],
            "error: config.metric='l1': 'l1' is not known; choose from euclidean, cosine",
        ),
        ([KNN, "--config.image_size=3"], "error: config.image_size=3: it must be 8 to 2048 pixels, or 0 for"),
        ([KNN, "--config.image_size=big"], "error: flag --config.image_size=big: invalid literal"),
        ([KNN, "--config.batch_size=0"], "error: config.batch_size=0 is too small: it must be at least 1"),
        (
            [KNN, "--config.dtype=float16"],
            "error: config.dtype='float16' is not known; choose float32 or bfloat16",
        ),
        ([KNN, "--config.resize=cubic"], "error: config.resize='cubic'"),
        ([KNN, "--config.models=resnet50"], "error: config.models: model 'resnet50' has no source"),
        ([KNN, "--config.models="], "error: config.models is empty; for example"),
        (
            [KNN, "--config.models=tiny/unknown,tiny/a"],
            "error: config.models: model 'tiny/unknown' does not exist; near",
        ),
        ([KNN, "--config.models=timm/resnet18@/no/such.pth"], "there is no weight file /no/such.pth"),
        ([KNN, "--config.tasks=digit"], "error: config.tasks: unknown task 'digit'; did you mean digits"),
        ([KNN, "--config.tasks="], "error: config.tasks is empty"),
        ([KNN, "--config.tasks=folder:/no/such/folder"], "/no/such/folder"),
        ([KNN, "--config.tasks=caltech101", "--config.data_dir=/no/such"], "configs/prepare.py"),
        ([KNN, "--cells=2/2"], "error: --cells='2/2' is not i/n with 0 <= i < n"),
        (
            [KNN, "--executor=slurm", "--cells=0/2"],
            "error: --executor=slurm gives each job its share; leave --cells out",
        ),
        (
            [KNN, "--executor=slurm", "--config.slurm.jobs=0"],
            "error: config.slurm.jobs=0 is too small: it must be",
        ),
        (
            [KNN, "--executor=slurm", "--config.slurm.extra=a100"],
            "'a100' is not option=value, such as constraint=",
        ),
        (["--config=configs/report.py:status"], "holds no sweep; name the workdir of a sweep"),
        (["--config=configs/report.py:stat"], "error: suite 'stat' is not known; choose from html, status"),
        ([KNN, "--executor=cloud"], "error: flag --executor=cloud"),
        ([KNN, "--workers=3"], "error: Unknown command line flag 'workers'"),
        (
            [KNN, "config.k=3"],
            "error: 'config.k=3' is neither a config nor a flag; configs: data, finetune, knn",
        ),
        (["--models=tiny/a"], "error: Unknown command line flag 'models'; did you mean --config.models?"),
        ([KNN, "--modles=2"], "'modles'; did you mean --config.models"),
        ([KNN, "--nodry_ran"], "'nodry_ran'; did you mean --config.dry_run?"),
        (
            [KNN, "--config.slurm.jobs=2", "--config.modles=x"],
            "error: --config.modles: configs/knn.py has no such field; did you mean models",
        ),
        (
            [FINETUNE, "--config.finetune.steps=2", "--config.finetune.sceds=1"],
            "error: --config.finetune.sceds: configs/finetune.py has no such field; did you mean finetune.seeds",
        ),
        (
            [KNN, "--config.finetune.steps=2"],
            "has no such field; configs/finetune.py has it.",
        ),
        ([KNN, "--config.k.x=1"], "error: --config.k.x: configs/knn.py has no such field; did you mean k?"),
        ([KNN, "--config.slurm=3"], "error: --config.slurm: give one of its fields: slurm.account, "),
        (["--config=configs/common.py"], "error: --config=configs/common.py: "),
        (["--config=configs/pretrain_sprites.py"], "has no field `protocol`, so there is nothing to run"),
        (["--config="], "error: --config=: there is no such file; choose from "),
        (
            [KNN, "--config.protocol=prepare"],
            "error: config.protocol='prepare' needs fields that this config lacks (check, manual_dir, file_format); "
            "use --config=configs/prepare.py",
        ),
        (
            [KNN, "--config.suite=foo"],
            "error: config.suite='foo' is not known; choose mini, vtab or vtab_full",
        ),
        ([KNN, "--config.convert_ahead=-100"], "error: config.convert_ahead=-100 is too small"),
        (
            [KNN, "--config.device_images_gb=nan"],
            "error: config.device_images_gb=nan: it must be 0 to 10000 GB",
        ),
        (
            [KNN, "--config.slurm.jobs=-1", "--config.dry_run=true"],
            "error: config.slurm.jobs=-1 is too small",
        ),
        (
            [KNN, "--config.k=1000"],
            "error: config.k=1000 is too large for digits: each of its 1000 examples has 999 others",
        ),
        (
            [REPORT, "--executor=slurm"],
            "error: --executor=slurm is for sweeps; configs/report.py always runs here and as a whole",
        ),
        (["--config=configs/prepare.py", "--cells=0/2"], "error: --cells=0/2 is for sweeps"),
        (
            [REPORT, "--config.suite=foo"],
            "error: config.suite='foo' is not known; choose html, status or pack",
        ),
        ([REPORT, "--config.tie_margin=nan"], "error: config.tie_margin=nan: it must be 0 to 99"),
    ],
)
def test_what_bad_input_gets(run_main, fake_converters, tmp_path, arguments, message):
    process = run_main(*arguments, f"--workdir={tmp_path / 'w'}")
    text = said(process, 2)
    assert message in text
    assert not any(call[0] == "convert" for call in fake_converters.calls())  # before any long work
    assert not (tmp_path / "w" / "results").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_there", "line 1: ModuleNotFoundError: No module named 'nothing_there'"),
        ("def get_config():\n    return {", "line 2: '{' was never closed"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError"),
        ("def get_config():\n    return 1", ""),
        ("x = 1", "get_config"),
    ],
)
def test_a_config_of_ones_own_that_is_broken(run_main, tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    told = said(run_main(f"--config={path}", f"--workdir={tmp_path / 'w'}"), 2)
    assert (
        told.startswith("error: ") and str(path) in told and message in told and len(told.splitlines()) == 1
    )


def test_workdir_that_cannot_be_written(run_main, tmp_path):
    (tmp_path / "file").write_text("")
    text = said(run_main(KNN, *TINY, f"--workdir={tmp_path / 'file' / 'w'}"), 2)
    assert (
        f"error: --workdir={tmp_path / 'file' / 'w'} cannot be written to" in text and "name another" in text
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_workdir_without_permission(run_main, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert "cannot be written to (Permission denied)" in said(
            run_main(KNN, *TINY, f"--workdir={tmp_path}/w"), 2
        )
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_workdir_with_a_foreign_result(run_main, tmp_path):
    said(run_main(KNN, *TINY, f"--workdir={tmp_path}"), 0)
    path = tmp_path / "results" / "knn" / "tiny--a" / "digits.json"
    path.write_text(path.read_text()[:100])
    text = said(run_main(KNN, *TINY, f"--workdir={tmp_path}"), 2)
    assert f"error: {path} is not a result of this version" in text and "move it away" in text


def test_exit_statuses_and_a_second_run(run_main, fake_converters, tmp_path):
    arguments = (KNN, *TINY[1:], "--config.models=tiny/a,tiny/bad", f"--workdir={tmp_path}")
    first = said(run_main(*arguments), 1)
    assert "FAILED in convert: operator aten.nonsense is not known" in first and "1 cell failed:" in first
    fake_converters.forget()
    assert "nothing to do" in said(run_main(*arguments), 1) and fake_converters.calls() == []
    assert "every cell has a result" in said(run_main(KNN, *TINY, f"--workdir={tmp_path}"), 0)


def test_four_devices_give_the_same_results(run_main, tmp_path, monkeypatch):
    found = {}
    for n in (1, 4):
        monkeypatch.setenv("XLA_FLAGS", conftest.on_devices(n)["XLA_FLAGS"])
        said(run_main(KNN, *TINY, "--config.batch_size=30", f"--workdir={tmp_path / str(n)}"), 0)
        ((_, found[n]),) = results.records(tmp_path / str(n))
        assert found[n]["device"]["count"] == n
    assert found[1]["metrics"] == found[4]["metrics"] and found[1]["correct"] == found[4]["correct"]
    assert found[1]["config_hash"] == found[4]["config_hash"]


def test_a_finished_sweep_is_looked_at_without_loading_anything_heavy(run_main, tmp_path):
    said(run_main(KNN, *TINY, f"--workdir={tmp_path}"), 0)
    program = conftest.PROGRAMS / "main_and_what_it_loaded.py"
    look = [sys.executable, str(program), KNN, *TINY, f"--workdir={tmp_path}"]
    out = subprocess.run(look, cwd=conftest.ROOT, capture_output=True, text=True)
    assert "nothing to do" in out.stderr, out.stderr
    assert out.stdout.splitlines()[-2:] == ["status 0", "loaded"]


def test_pixels_on_digits_are_scikit_learns_leave_one_out(tmp_path):
    """The real thing: real converters, main.py as written; the floor agrees with scikit-learn one by one."""
    from vtabjax import data

    command = [
        sys.executable,
        "main.py",
        KNN,
        "--config.models=baseline/pixels,timm/test_vit@random",
    ]
    command += ["--config.tasks=digits", "--config.image_size=64", f"--workdir={tmp_path}"]
    process = subprocess.run(command, cwd=conftest.ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "timm/test_vit@random" in process.stdout and "(chance)" in process.stdout

    examples = data.load("digits", "train800val200", image_size=64)
    # baseline/pixels: the image in [0, 1], average-pooled to 16 x 16 x 3, in rows
    x = examples.images.reshape(1000, 16, 4, 16, 4, 3).mean((2, 4), dtype=np.float64).reshape(1000, -1) / 255
    y = np.asarray(examples.labels)
    record = json.loads((tmp_path / "results" / "knn" / "baseline--pixels" / "digits.json").read_text())
    neighbours = KNeighborsClassifier(1, algorithm="brute").fit(x, y).kneighbors(n_neighbors=1)[1][:, 0]
    assert results.unpack(record["correct"]).tolist() == (y[neighbours] == y).tolist()
    assert record["metrics"]["accuracy"] == (y[neighbours] == y).mean() > 0.9


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Tiny versions of VTAB's data sets, prepared by tfds itself in a process of its own."""
    folder = tmp_path_factory.mktemp("tfds")
    code = "import sys; sys.path[:0] = ['tests/support', '.']; import tfds_tiny; tfds_tiny.prepare_all(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=conftest.ROOT, check=True, capture_output=True
    )
    return folder


@pytest.mark.xdist_group("vtab")
def test_vtab(run_main, prepared, tmp_path):
    shrunk = ("--config.models=tiny/head", "--config.image_size=16")
    config, there = f"{KNN}:vtab", f"--config.data_dir={prepared}"
    text = said(run_main(config, *shrunk, there, f"--workdir={tmp_path}"), 0)
    assert "1 model x 19 tasks = 19 cells" in text
    header = next(line for line in text.splitlines() if line.startswith("model"))
    assert header.split()[-9:] == "Natural Specialized Structured mean mean of groups mean (cosine)".split()
    table = results.collect(tmp_path)
    assert len(table) == 19 and table["n_examples"].gt(0).all()


@pytest.mark.xdist_group("vtab")
def test_data_sets_that_are_not_prepared(run_main, prepared, tmp_path):
    config, w = (f"{KNN}:vtab", "--config.models=tiny/a", "--config.image_size=16"), f"--workdir={tmp_path}/w"
    text = said(run_main(*config, f"--config.data_dir={tmp_path}", w), 2)
    assert "error: 19 of 19 tasks have no prepared data set: caltech101, cifar100" in text
    assert f"--config=configs/prepare.py:vtab --config.data_dir={tmp_path} (add" in text
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "dtd").symlink_to(prepared / "dtd")
    text = said(run_main(*config, f"--config.data_dir={tmp_path / 'some'}", w), 2)
    assert "error: 18 of 19 tasks" in text and "prepare.py --config.tasks=caltech101,cifar100" in text
    assert "Or run the others: --config.tasks=dtd" in text
    said(run_main(*config, f"--config.data_dir={tmp_path / 'some'}", "--config.tasks=dtd", w), 0)


def test_scores_of_pictures_that_are_all_alike(run_main, tmp_path):
    """Constant pictures, and features that are all the same: the scores are null with a reason, other tasks go on."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (9, 9), (99, 99, 99)).save(tmp_path / "grey" / name / f"{i}.png")
    process = run_main(
        "--config=configs/transferability.py", "--config.models=tiny/a",
        f"--config.tasks=folder:{tmp_path}/grey,digits",
        "--config.image_size=16", "--config.scores=logme,h_score,parc,gbc", f"--workdir={tmp_path / 'w'}",
    )  # fmt: skip
    text = said(process, 0)
    assert "pictures are copies of others there" in text or "pictures are in more than one class" in text
    found = {r["task"]: r for _, r in results.records(tmp_path / "w")}
    grey = found[f"folder:{tmp_path}/grey"]
    assert {k for k, v in grey["metrics"].items() if v is None} == {"h_score", "parc"}
    assert grey["notes"]["h_score"] == "undefined: all examples have the same features"
    assert grey["notes"]["parc"].startswith("undefined: ")
    assert all(v is not None for v in found["digits"]["metrics"].values())
