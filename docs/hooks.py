"""What mkdocs.yml adds to the pages: the first page, the fields of every config and the Python interface, made anew at
each build, and links to files outside of docs/ as the names of those files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vtabjax.cli import errors, help  # noqa: E402

# What a person calls, by its place.
API = {
    "Models and features": ("vtabjax.sweep.people._embedding.load", "vtabjax.sweep.people._embedding.embed",
                            "vtabjax.sweep.people._embedding.Embedding", "vtabjax.model.module.Model"),
    "Comparing": ("vtabjax.sweep.people._ranking.rank", "vtabjax.sweep.people._selection.select"),
    "Results": ("vtabjax.results.collect", "vtabjax.results._pack.pack", "vtabjax.results._pack.read_pack",
                "vtabjax.results.read", "vtabjax.results.records"),
    "Converted models": ("vtabjax.model.running.apply", "vtabjax.model.saving.load_parts", "vtabjax.model.saving.save",
                         "vtabjax.model.saving.to_state_dict"),
    "Ranking": ("vtabjax.ranking.epp", "vtabjax.ranking.agreement"),
}  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from code."""
    for name, text in {"index.md": _start(), "fields.md": _fields(), "api.md": _api()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository that are no pages become the files' names."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", _named, markdown)


def _named(match: re.Match[str]) -> str:
    text, path = match.groups()
    return f"`{path}`" if path.strip("/") in text else f"{text} (`{path}`)"


def _start() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", re.sub(r"\]\((?!docs/|https?:|#)([^)]+)\)", r"](../\1)", text))


def _fields() -> str:
    lines = [
        "# Fields of every config",
        "",
        "Made from the comments in `configs/`; `--help` prints the same.",
    ]
    for path in errors.configs():
        file = errors.file_of(path)
        lines += ["", f"## {Path(path).stem}", "", "| field | default | meaning |", "|---|---|---|"]
        for field in help.fields(file, ""):
            cells = [f"`{field.name}`", f"`{field.default!r}`", field.meaning or field.section]
            lines.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _api() -> str:
    lines = [
        "# Python",
        "",
        "`import vtabjax` is enough for `load`, `embed`, `rank`, `select` and `collect`.",
    ]
    for title, names in API.items():
        lines += ["", f"## {title}", *(f"\n::: {name}" for name in names)]
    return "\n".join(lines) + "\n"
