"""What --help says, and short commands."""

import runpy
from pathlib import Path

import pytest

from vtabjax.cli import errors, help, shorthand

CONFIGS = errors.configs()
# Names that say everything.
PLAIN = {"tasks", "slurm.partition", "slurm.account"}


@pytest.mark.parametrize("path", CONFIGS)
def test_every_field_is_explained_with_the_default_that_it_has(path):
    found = {field.name: field for field in help.fields(path, "")}
    defaults = dict(errors.leaves(runpy.run_path(path)["get_config"](), ""))
    assert {name: field.default for name, field in found.items()} == {
        name: value for name, value in defaults.items() if name not in ("protocol", "suite")
    }
    unexplained = {n for n, f in found.items() if not f.meaning and not f.section} - PLAIN
    unexplained = {n for n in unexplained if not n.startswith("finetune.")}
    assert not unexplained


def test_comments_are_those_beside_and_above_a_field():
    found = {field.name: field for field in help.fields("configs/knn.py", "vtab")}
    assert found["k"].meaning == "neighbours that vote"
    assert found["resize"].meaning.startswith('"vtab": as in the benchmark\'s code')
    assert found["resize"].meaning.endswith("its crop).")
    assert found["image_size"].default == 224
    assert found["image_size"].section == "Images. These change the numbers."
    assert found["batch_size"].section == "How it runs. These do not change the numbers."
    assert found["slurm.jobs"].meaning == "in the job array; each takes its share of the cells"


def test_help_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for text in (help.overview(), help.everything()):
        assert max(map(len, text.splitlines())) <= 80, text
    fields = help.of_config("configs/finetune.py", "vtab").partition("Fields, with their defaults:")[2]
    assert max(map(len, fields.splitlines())) <= 80


def test_the_list_names_what_there_is():
    text = " ".join(help.everything().split())
    for part in (
        "knn mini, vtab, vtab_full",
        "report html, status, pack",
        "timm, torchvision, hf",
        "dtd, flowers102",
    ):
        assert part in text


FLAGS = ("config", "workdir", "cells", "executor", "verbosity")


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("knn", "--config=configs/knn.py"),
        ("knn:vtab --tasks=dtd", "--config=configs/knn.py:vtab --config.tasks=dtd"),
        ("knn --models timm/resnet*", "--config=configs/knn.py --config.models timm/resnet*"),
        ("finetune --scope=head", "--config=configs/finetune.py --config.finetune.scope=head"),
        ("finetune --finetune.scope=head", "--config=configs/finetune.py --config.finetune.scope=head"),
        ("--config=configs/knn.py --k=5", "--config=configs/knn.py --config.k=5"),
        ("--config configs/knn.py --dry_run", "--config configs/knn.py --config.dry_run"),
        ("report --nofigures", "--config=configs/report.py --noconfig.figures"),
        ("knn --cells=0/2 --verbosity=1", "--config=configs/knn.py --cells=0/2 --verbosity=1"),
        # `tasks` is a field of the sweep and one of slurm's: the one in no section is meant.
        (
            "knn --tasks=dtd --slurm.tasks=2",
            "--config=configs/knn.py --config.tasks=dtd --config.slurm.tasks=2",
        ),
        ("knn --config.k=3 --nonsense=1", "--config=configs/knn.py --config.k=3 --nonsense=1"),
        ("nothing --k=3", "nothing --k=3"),
    ],
)
def test_short_commands(short, full):
    assert shorthand.named_in_full(["main.py", *short.split()], FLAGS) == ["main.py", *full.split()]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "usage: python main.py CONFIG[:SUITE]"),
        (["knn", "--help"], 0, "neighbours that vote"),
        (["--config=configs/linear.py:vtab", "-h"], 0, "--image_size=224"),
        (["--version"], 0, "vtabjax 0."),
        (["list"], 0, "sources of models"),
        (["kn:vtab"], 2, "'kn:vtab' is neither a config nor a flag; did you mean knn?"),
        (["knn", "linear"], 2, "'linear': a config comes first, and there is one; leave this out"),
        (["knn", "--modls=x"], 2, "did you mean --config.models"),
        (["knn", "--models=baseline/pixels", "--tasks=digits", "--dry_run"], 0, "1 cell"),
    ],
)
def test_commands(run_main, tmp_path, arguments, status, said):
    if "--dry_run" in arguments:
        arguments = [*arguments, f"--workdir={tmp_path}"]
    found = run_main(*arguments)
    assert found.returncode == status, found.stderr
    assert said in found.stdout + found.stderr
    assert Path("configs/knn.py").is_file()  # the tests run where the configs are
