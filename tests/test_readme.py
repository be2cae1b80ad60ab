"""The README and what CI runs are the same commands; what the README points at is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ci_runs_the_two_commands():
    first, second = re.findall(r"^    python3 -m venv .*$", README, re.M)
    assert first.endswith("pip install -r requirements.txt && python main.py --config=configs/knn.py")
    assert second.endswith("pip install -r requirements-test.txt && pytest -n auto")
    assert "pip install -q -r requirements-test.txt\n" in CI
    assert (ROOT / "requirements-test.txt").read_text().splitlines()[0] == "-r requirements.txt"
    assert "\npython main.py --config=configs/knn.py " in CI
    assert CI.rstrip().endswith("pytest -n auto")


def test_links_and_configs_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for config in set(re.findall(r"configs/\w+\.py", README)):
        assert (ROOT / config).is_file(), config
    for requirements in set(re.findall(r"requirements[\w-]*\.txt", README)):
        assert (ROOT / requirements).is_file(), requirements
