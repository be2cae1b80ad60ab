"""The README and what CI runs are the same commands; what the pages point at is there."""

import re
from pathlib import Path

import pytest

import vtabjax

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ci_runs_the_two_commands():
    first, second = re.findall(r"^    python3 -m venv .*$", README, re.M)
    assert first.endswith("pip install -r requirements.txt && python main.py --config=configs/knn.py")
    assert second.endswith("pip install -r requirements-test.txt && pytest -n auto")
    assert "pip install -q -r requirements-test.txt\n" in CI
    assert (ROOT / "requirements-test.txt").read_text().splitlines()[0] == "-r requirements.txt"
    assert "\npython main.py --config=configs/knn.py " in CI
    assert "\npytest -n auto\n" in CI


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_configs_exist(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    made = set(
        re.findall(r"^New file `([^`]+)`:$", text, re.M)
    )  # by the worked examples of docs/extending.md
    for file in set(
        re.findall(r"\b(?:configs|tests|benchmarks|vtabjax|converters)/[\w/]+\.(?:py|csv|json)\b", text)
    ):
        assert (ROOT / file).is_file() or file in made, file
    for requirements in set(re.findall(r"requirements[\w-]*\.txt", text)):
        assert (ROOT / requirements).is_file(), requirements


def test_the_changelog_begins_with_this_version():
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert newest == vtabjax.__version__
    assert f'\nversion = "{newest}"\n' in (ROOT / "pyproject.toml").read_text()
