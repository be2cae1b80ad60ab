"""Classes as text."""

from __future__ import annotations

import ast
import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtabjax.graph import DType, Ref
from vtabjax.model.eject import _operators
from vtabjax.model.eject._classes import Class, Classes
from vtabjax.model.eject._layout import wrapped
from vtabjax.model.eject._structure import MULTIPLE, EjectError, Statement
from vtabjax.ops import split_name

_KINDS = {"parameter": "Param", "batch_stat": "BatchStat", "buffer": "Variable", "constant": "Variable"}
_NAMES = ("x", "y", "z", "u", "v", "w")
_ITEMS = {3: ("q", "k", "v"), 2: ("a", "b")}


def class_text(made: Class, classes: Classes, outputs: Mapping[str, Ref] | None) -> str:
    """A class: its constructor, and its call.

    Args:
      made: the class.
      classes: all of them.
      outputs: name -> value, of the model itself; None of its parts.
    """
    writer = _Writer(made, classes)
    own, call = writer.body(outputs), writer.signature(outputs)
    init = ["weights", *made.parameters]
    lines = [
        *wrapped(f"def __init__(self, {', '.join(init)}):", 4),
        *(part for line in writer.constructor() for part in wrapped(line, 8)),
        "",
        *wrapped(call, 4),
        *(" " * 8 + part for line in own for part in _in_loop(line)),
    ]
    return "\n".join([f"class {made.name}(nnx.Module):", *lines])


def _in_loop(line: str) -> list[str]:
    """A line of a call, which may be indented, divided."""
    depth = len(line) - len(line.lstrip())
    return [part[8:] for part in wrapped(line.lstrip(), 8 + depth)]


class _Writer:
    """Writes one class, after its first module."""

    def __init__(self, made: Class, classes: Classes):
        self.made = made
        self.classes = classes
        self.module = made.modules[0]
        self.names: dict[Ref, str] = {}
        self.kept: set[str] = set()  # arguments of the constructor that the call reads

    # Where things are.

    def attribute(self, below: str) -> str:
        """The expression for what is at a path below the module: self.layer1[0].conv1."""
        text, parts = "self", below.split(".")
        for i, part in enumerate(parts):
            if part.isdecimal():
                text += f"[{part}]" if self._is_list(".".join(parts[:i])) else f'["{part}"]'
            else:
                text += f'["{part}"]' if i and self._is_dict(".".join(parts[:i])) else f".{part}"
        return text

    def _below(self, prefix: str) -> list[str]:
        """The next parts of the paths under a prefix."""
        paths = [*self.module.children, *self.module.variables]
        inside = [p.removeprefix(prefix + ".") for p in paths if p.startswith(prefix + ".")]
        return list(dict.fromkeys(p.partition(".")[0] for p in inside))

    def _is_list(self, prefix: str) -> bool:
        found = self._below(prefix)
        variables = any(name.rpartition(".")[0] == prefix for name in self.module.variables)
        return found == [str(i) for i in range(len(found))] and not variables

    def _is_dict(self, prefix: str) -> bool:
        """Whether it is neither a module of a class nor a list."""
        return prefix not in self.module.children and not self._is_list(prefix)

    # The constructor.

    def constructor(self) -> list[str]:
        """Its lines: the numbers that the call reads, then variables and children by their names."""
        lines = [f"self.{name} = {name}" for name in self.made.parameters if name in self.kept]
        paths = [*self.module.variables, *self.module.children]
        for name in dict.fromkeys(path.partition(".")[0] for path in paths):
            lines.append(f"self.{name} = {self._value(name)}")
        return lines or ['"""It has no variables."""']

    def _value(self, path: str) -> str:
        """The expression for what is at a path."""
        if path in self.module.variables:
            return f'nnx.{_KINDS[self.module.variables[path]]}(weights["{path}"])'
        if path in self.module.children:
            return self._child(path, f'"{path}"')
        parts = [(part, self._value(f"{path}.{part}")) for part in self._below(path)]
        if not self._is_list(path):
            pairs = ", ".join(f'"{part}": {value}' for part, value in parts)
            return f"nnx.Dict({{{pairs}}})"
        children = [f"{path}.{part}" for part, _ in parts]
        if len(parts) > 1 and all(child in self.module.children for child in children):
            equal = {self._child(child, f'f"{path}.{{i}}"') for child in children}
            if len(equal) == 1:
                return f"nnx.List({equal.pop()} for i in range({len(parts)}))"
        return f"nnx.List([{', '.join(value for _, value in parts)}])"

    def _child(self, path: str, name: str) -> str:
        """The constructor of a child, whose weights are under a name."""
        child = self.module.children[path]
        made = self.classes.of[id(child)]
        given = made.arguments(child)
        texts = [f"{n}={self.made.parameter((path, n)) or repr(given[n])}" for n in made.parameters]
        return f"{made.name}({', '.join([f'under(weights, {name})', *texts])})"

    # The call.

    def signature(self, outputs: Mapping[str, Ref] | None) -> str:
        """Its first line."""
        if outputs is not None:
            return "def outputs(self, images):"
        return f"def __call__(self, {', '.join(self.names[ref] for ref in self.module.inputs)}):"

    def body(self, outputs: Mapping[str, Ref] | None) -> list[str]:
        """Its lines."""
        statements = self.module.statements
        results = (
            [Ref("value", name) for name in self.module.outputs]
            if outputs is None
            else list(outputs.values())
        )
        last: dict[Ref, int] = {ref: len(statements) for ref in results}
        for i, statement in reversed(list(enumerate(statements))):
            for ref in statement.used():
                last.setdefault(ref, i)
        lines = []
        for ref in self.module.inputs:
            self.names[ref] = self._free_name(last, -1, set())
        if outputs is not None:
            lines = [
                "x = images - jnp.asarray(MEAN, images.dtype)",
                "x = x / jnp.asarray(STD, images.dtype)",
                "x = x.transpose(0, 3, 1, 2)",
            ]
        i = 0
        while i < len(statements):
            n, loop = self._loop(i)
            if n:
                end = statements[i + n - 1]
                before = self.names[statements[i].args[0]]
                name = self._free_name(
                    last, i + n - 1, {before} if last[statements[i].args[0]] >= i + n else set()
                )
                self.names[Ref("value", str(end.outputs[0]))] = name
                lines += ([] if name == before else [f"{name} = {before}"]) + [
                    line.replace("$", name) for line in loop
                ]
                i += n
                continue
            lines.append(self._line(statements[i], i, last))
            i += 1
        if outputs is None:
            returned = ", ".join(self.names[ref] for ref in results)
            if lines and lines[-1].startswith(f"{returned} = ") and len(results) == 1:
                return [*lines[:-1], lines[-1].replace(f"{returned} =", "return", 1)]
            return [*lines, f"return {returned}"]
        pairs = [f'"{name}": {self.names[ref]}' for name, ref in outputs.items()]
        return [*lines, f"return {{{', '.join(pairs)}}}"]

    def _free_name(
        self, last: Mapping[Ref, int], at: int, avoid: set[str], wanted: Sequence[str] = _NAMES
    ) -> str:
        """A name whose value nobody needs after statement `at`."""
        busy = {self.names[ref] for ref in self.names if last.get(ref, -1) > at} | avoid
        for n in range(1, 100):
            for name in wanted:
                text = name if n == 1 else f"{name}{n}"
                if text not in busy:
                    return text
        raise EjectError(f"{self.module.path} keeps too many values at once")

    def _line(self, statement: Statement, i: int, last: Mapping[Ref, int]) -> str:
        if statement.child is not None:
            function = self.attribute(str(self.module.below(statement.child.path)))
            right = f"{function}({', '.join(self._shown(arg) for arg in statement.args)})"
        else:
            bound = self.classes.bound(statement)
            line = _operators.Line(
                bound, lambda name, value: self._argument(i, name, value), len(statement.outputs)
            )
            right = _operators.expression(statement.op, line)
        several = statement.op and split_name(statement.op)[0] in MULTIPLE
        wanted = _ITEMS.get(len(statement.outputs), _NAMES) if several else _NAMES
        if statement.op == "aten.sym_size.int":
            wanted = ("batch",)
        made: list[str] = []
        for output in statement.outputs:
            made.append(self._free_name(last, i, set(made), wanted) if output else "_")
        for output, name in zip(statement.outputs, made, strict=True):
            if output:
                self.names[Ref("value", output)] = name
        return f"{', '.join(made)} = {right}"

    def _argument(self, i: int, name: str, value: Any) -> str:
        parameter = self.made.parameter((i, name))
        if parameter:
            self.kept.add(parameter)
            return f"self.{parameter}"
        return self._shown(value)

    def _shown(self, value: Any) -> str:
        if isinstance(value, Ref):
            below = self.module.below(value.name) if value.kind == "variable" else None
            return f"{self.attribute(below)}[...]" if below else self.names[value]
        if isinstance(value, DType):
            return f"jnp.{value.name}" if value.name != "bool" else "bool"
        if isinstance(value, tuple):
            return f"({', '.join(self._shown(v) for v in value)}{',' if len(value) == 1 else ''})"
        return repr(value)

    def _loop(self, start: int) -> tuple[int, list[str]]:
        """(how many statements from `start` call all elements of a list one after the other, the lines for it)."""
        statements, first = self.module.statements, self.module.statements[start]
        if first.child is None:
            return 0, []
        path = str(self.module.below(first.child.path))
        top = path.partition(".")[0]
        while top != path and not self._is_list(top):
            top = path[: path.find(".", len(top) + 1)] if "." in path[len(top) + 1 :] else path
        inside = [p for p in self.module.children if p.startswith(top + ".")]
        if top == path or len(inside) < 2 or not self._nested_lists(top):
            return 0, []
        chain = statements[start : start + len(inside)]
        calls = [str(self.module.below(s.child.path)) if s.child is not None else "" for s in chain]
        chained = all(
            len(s.args) == len(s.outputs) == 1
            and (k == 0 or s.args[0] == Ref("value", str(chain[k - 1].outputs[0])))
            for k, s in enumerate(chain)
        )
        counts = collections.Counter(ref for s in statements for ref in s.used())
        between = [Ref("value", str(s.outputs[0])) for s in chain[:-1]]
        escapes = any(counts[ref] > 1 or ref.name in self.module.outputs for ref in between)
        if calls != sorted(inside, key=_natural) or not chained or escapes:
            return 0, []
        depth = inside[0].removeprefix(top).count(".")
        names = ["block"] if depth == 1 else ["stage", *(["group"] * (depth - 2)), "block"]
        lines, over = [], self.attribute(top)
        for level, name in enumerate(names):
            lines.append(f"{'    ' * level}for {name} in {over}:")
            over = name
        return len(chain), [*lines, f"{'    ' * depth}$ = block($)"]

    def _nested_lists(self, prefix: str) -> bool:
        """Whether it is a list of modules, or of such lists, all of one depth."""
        inside = [p.removeprefix(prefix + ".") for p in self.module.children if p.startswith(prefix + ".")]
        same_depth = len({p.count(".") for p in inside}) == 1
        lists = all(self._is_list(prefix + "." + p.rpartition(".")[0]) for p in inside if "." in p)
        return (
            same_depth and lists and self._is_list(prefix) and all(re.fullmatch(r"[\d.]+", p) for p in inside)
        )


def _natural(path: str) -> list[Any]:
    return [int(part) if part.isdecimal() else -1 for part in path.split(".")]


def helpers(text: str) -> Iterator[str]:
    """The functions of helpers.py that a text calls, and those that they call, in their order there."""
    source = (Path(__file__).parent / "helpers.py").read_text(encoding="utf-8")
    functions = {f.name: ast.get_source_segment(source, f) or "" for f in ast.parse(source).body
                 if isinstance(f, ast.FunctionDef)}  # fmt: skip
    needed = {name for name in functions if re.search(rf"(?<![\w.]){name}\(", text)}
    while True:
        more = {
            n for n in functions for used in needed if re.search(rf"(?<![\w.]){n}\b", functions[used])
        } | needed
        if more == needed:
            break
        needed = more
    return (functions[name] for name in functions if name in needed)
