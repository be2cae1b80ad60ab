"""The documentation's site: every page has a place, and what is made from code can be made. `.ci/run` builds it."""

import importlib
import importlib.util
import re

import conftest
import yaml

SITE = yaml.safe_load((conftest.ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GENERATED = {"index.md", "fields.md", "api.md"}


def pages(nav):
    for entry in nav:
        (value,) = entry.values()
        yield from [value] if isinstance(value, str) else pages(value)


def test_every_page_has_one_place():
    named = list(pages(SITE["nav"]))
    there = {page.name for page in (conftest.ROOT / "docs").glob("*.md")}
    assert sorted(named) == sorted(there | GENERATED)


def test_what_a_person_calls_is_there():
    text = (conftest.ROOT / "docs" / "hooks.py").read_text(encoding="utf-8")
    names = re.findall(r'"(vtabjax\.[\w.]+)"', text)
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert importlib.util.find_spec(module) is not None
        assert hasattr(importlib.import_module(module), attribute), name


def test_ci_builds_it():
    ci = (conftest.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -q -r requirements-docs.txt\n" in ci and "\nmkdocs build --strict" in ci
