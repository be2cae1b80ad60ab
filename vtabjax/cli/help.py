"""What --help and `list` print: what there is to run, and the fields of a config with what its comments say of them."""

from __future__ import annotations

import ast
import io
import re
import runpy
import shutil
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import installation
from vtabjax.cli import errors

_FLAGS = {
    "--workdir=DIR": "where results, features and converted models go [runs/SUITE]",
    "--cells=i/n": "only the i-th of n shares of the work, counted from 0",
    "--executor=slurm": "submit to a cluster instead of running here",
    "--help, --version": "with a config, --help explains its fields",
}


class Field(NamedTuple):
    """A field of a config: its dotted name, what it is set to, what the comments beside and above it say."""

    name: str
    default: Any
    meaning: str
    section: str


def overview() -> str:
    """What there is to run, and the flags of every command."""
    command = installation.command()
    lines = [f"usage: {command} CONFIG[:SUITE] [--FIELD=VALUE ...] [--workdir=DIR]", ""]
    lines += [f"  {command} knn"]
    lines += [f"  {command} knn:vtab --models='timm/resnet*' --tasks=dtd", f"  {command} knn --help", ""]
    lines += ["Configs", *_table(_configs()), "", "Flags of all commands", *_table(_FLAGS), ""]
    lines += ["Models", *_table(_CONVERTERS), ""]
    lines += [
        "The long form of a command names the file and each field in full:",
        f"  {command} --config=configs/knn.py:vtab --config.models='timm/resnet*'",
        "",
        *textwrap.wrap(
            "Exit status: 0 done; 1 some cells failed (a list says which and why); 2 something has to be changed first "
            "(one line says what); 130 interrupted. The same command resumes where it stopped.",
            _columns(),
        ),
    ]
    return "\n".join(lines)


_CONVERTERS = {
    "convert SPEC": "convert one model, verify it, save it",
    "list [PATTERN]": "the models of a pattern; without one: configs, suites, sources of models, tasks",
    "check FILE": "what a checkpoint file holds",
    "verify, export, audit": "compare with PyTorch again; back to PyTorch; whole libraries",
}


def everything() -> str:
    """Configs with their suites, sources of models, tasks."""
    from vtabjax import tasks

    sources = ast.literal_eval(_assigned(installation.CONVERTERS / "sources" / "__init__.py", "SOURCES"))
    named = {"embedded": tasks.EMBEDDED, "VTAB": tasks.VTAB}
    own = "folder:/pictures, table:/list.csv, hf:OWNER/NAME, tfds:name"
    parts = [["configs and their suites", *_table(_configs(suites=True))]]
    parts += [["sources of models", *_table({", ".join(sources): ""})]]
    parts += [["tasks", *_table({k: ", ".join(v) for k, v in named.items()} | {"your own": own})]]
    return "\n\n".join("\n".join(part) for part in parts)


def _assigned(path: Path, name: str) -> str:
    """The source of what a module assigns to a name, without importing the module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            return ast.get_source_segment(source, node.value) or "()"
    return "()"


def _configs(suites: bool = False) -> dict[str, str]:
    found = {}
    for path in errors.configs():
        file = Path(errors.file_of(path))
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = text.partition("\n\n")[0].replace("\n", " ")
        if suites:
            first = ", ".join(_suites(str(file)))
        found[file.stem] = first
    return found


def _suites(file: str) -> list[str]:
    """The suites of a config, read from what it says of one that does not exist."""
    try:
        runpy.run_path(file)["get_config"]("?")
    except ValueError as e:
        listed = re.search(r"choose from ([\w, -]+)", str(e))
        return [s.strip() for s in listed.group(1).split(",")] if listed else []
    except Exception:  # a config of the user's own
        return []
    return []


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, 60)


def _table(rows: Mapping[str, str]) -> list[str]:
    """Aligned, with long texts continued below themselves."""
    columns = _columns()
    width = min(max(map(len, rows)), 30)
    lines = []
    for name, text in rows.items():
        indent = " " * (width + 4)
        wrapped = textwrap.wrap(text, columns - len(indent)) or [""]
        head = f"  {name:<{width}}  "
        if len(name) > width:
            lines += textwrap.wrap(name, columns - 4, initial_indent="  ", subsequent_indent="  ")
            head = indent
            if not text:
                continue
        lines += [(head + wrapped[0]).rstrip(), *(indent + line for line in wrapped[1:])]
    return lines


def of_config(path: str, suite: str) -> str:
    """What a config is for, and its fields: default and meaning of each.

    Args:
      path: the config file.
      suite: whose defaults are shown; "" for the config's own.

    Raises:
      Exception: whatever the config file raises.
    """
    text = (ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or "").strip()
    columns = _columns()
    lines = [text.replace("python main.py", installation.command()), "", "Fields, with their defaults:"]
    section = None
    for field in fields(path, suite):
        if field.section != section:
            section = field.section
            lines += ["", *textwrap.wrap(section, columns)]
        line = f"  --{field.name}={_shown(field.default)}"
        lines.append(line if len(line) <= columns else f"{line[: columns - 3]}...")
        indent = " " * 8
        lines += textwrap.wrap(field.meaning, columns, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) and (" " in value or not value) else str(value)


def fields(path: str, suite: str) -> list[Field]:
    """The fields of a config, with the comments from its file and from those it takes fields from."""
    installation.provide_configs(path)
    config = runpy.run_path(path)["get_config"](*[suite] * bool(suite))
    described: dict[str, tuple[str, str]] = {}
    for file in [Path(path), *_used_by(Path(path))]:  # what is the config's own comes first
        for name, meaning, section in _comments(file):
            if meaning or name not in described:
                described[name] = meaning, section
    values = dict(errors.leaves(config, ""))
    order = [
        *(name for name in described if name in values),
        *(name for name in values if name not in described),
    ]
    none = ("", "")
    return [
        Field(name, values[name], *described.get(name, none))
        for name in order
        if name not in ("protocol", "suite")
    ]


def _used_by(path: Path) -> list[Path]:
    """The configs that a config takes fields from, and `common`, which they begin with."""
    names = [
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "configs"
        for alias in node.names
    ]
    ordered = sorted(dict.fromkeys([*names, "common"]), key=lambda name: name == "common")
    return [Path(errors.file_of(f"configs/{name}.py")) for name in ordered]


def _comments(path: Path) -> Iterator[tuple[str, str, str]]:
    """(field, what the comment says of it, heading of its block) of a config file.

    A comment at the end of a line, or on lines of its own right above, speaks of the field; above the first field after
    an empty line it is the block's heading, and speaks of that field, too, where nothing else does.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    sections = {"c": ""}
    heading = ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for statement in ast.walk(node):
                if isinstance(statement, ast.Assign) and len(statement.targets) == 2:
                    name, owner = statement.targets
                    if isinstance(name, ast.Name) and isinstance(owner, ast.Attribute):
                        sections[name.id] = f"{owner.attr}."
    assignments = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign) and len(n.targets) == 1
    ]
    for node in sorted(assignments, key=lambda n: n.lineno):
        target = node.targets[0]
        if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
            continue
        if target.value.id not in sections:
            continue
        above: list[str] = []
        line = node.lineno - 1
        while line >= 1 and lines[line - 1].lstrip().startswith("#"):
            above.insert(0, comments[line])
            line -= 1
        opens_block = line < 1 or not lines[line - 1].strip()
        own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        beside = " ".join(comments[n] for n in own if n in comments)
        if opens_block:
            heading = " ".join(above) if beside else ""
        meaning = beside if opens_block and beside else " ".join([*above, beside]).strip()
        yield sections[target.value.id] + target.attr, meaning, heading
