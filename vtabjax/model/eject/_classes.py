"""Modules of the same structure become one class, whose constructor takes the numbers in which they differ."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vtabjax import ops
from vtabjax.graph import DType, Ref
from vtabjax.model.eject import _operators
from vtabjax.model.eject._structure import Module, Statement

# A place of a number within a module: (number of the statement, name of the argument), or (path of a child, name of
# the argument of its constructor).
Place = tuple[int | str, str]

_LEAVES = {"conv2d": "Conv2d", "linear": "Linear", "layer_norm": "LayerNorm", "batch_norm": "BatchNorm",
           "group_norm": "GroupNorm"}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Class:
    """What modules of the same structure share.

    Attributes:
      name: of the class.
      modules: those of it.
      values: place -> its value in each of the modules.
      parameters: argument of the constructor -> the places that hold its value.
    """

    name: str
    modules: list[Module]
    values: dict[Place, list[Any]]
    parameters: dict[str, list[Place]]

    def arguments(self, module: Module) -> dict[str, Any]:
        """What the constructor is called with for one of the modules."""
        i = self.modules.index(module)
        return {name: self.values[places[0]][i] for name, places in self.parameters.items()}

    def parameter(self, place: Place) -> str | None:
        """The argument whose value stands at a place; None where all modules have the same there."""
        return next((name for name, places in self.parameters.items() if place in places), None)


class Classes:
    """The classes of a tree of modules, those that others use first.

    Attributes:
      all: in the order in which they have to stand in a file.
      of: id of a module -> its class.
    """

    def __init__(self, root: Module, root_name: str):
        self.all: list[Class] = []
        self.of: dict[int, Class] = {}
        self._bound: dict[int, dict[str, Any]] = {}
        groups: dict[str, list[Module]] = {}
        for module in _children_first(root):
            groups.setdefault(self.skeleton(module), []).append(module)
        self._skeletons = {id(m): key for key, group in groups.items() for m in group}
        taken = {root_name}
        for group in groups.values():
            name = root_name if group[0] is root else _unique(_class_name(group[0]), taken)
            self._add(name, group)

    def bound(self, statement: Statement) -> dict[str, Any]:
        """An operator's arguments by their names."""
        if id(statement) not in self._bound:
            self._bound[id(statement)] = _operators.arguments(statement, statement.op)
        return self._bound[id(statement)]

    def skeleton(self, module: Module) -> str:
        """Equal for modules of one class: everything but the numbers that may vary."""
        numbers: dict[Any, str] = {}

        def shown(value: Any) -> Any:
            if isinstance(value, Ref):
                below = module.below(value.name) if value.kind == "variable" else None
                return f"self.{below}" if below else numbers.setdefault(value, f"value {len(numbers)}")
            if isinstance(value, tuple) and not isinstance(value, DType):
                return [shown(v) for v in value]
            return repr(value)

        lines: list[Any] = [[shown(ref) for ref in module.inputs]]
        for s in module.statements:
            if s.child is not None:
                below = module.below(s.child.path)
                what: list[Any] = [below, self.skeleton(s.child), [shown(a) for a in s.args]]
            else:
                varying = _varying(s, self.bound(s))
                what = [s.op] + [(k, "?" if k in varying else shown(v)) for k, v in self.bound(s).items()]
            lines.append([what, [name and shown(Ref("value", name)) for name in s.outputs]])
        lines += [[shown(Ref("value", name)) for name in module.outputs], sorted(module.variables.items())]
        return repr(lines)

    def _add(self, name: str, group: list[Module]) -> None:
        values: dict[Place, list[Any]] = {}
        for i, s in enumerate(group[0].statements):
            if s.child is None:
                for argument in _varying(s, self.bound(s)):
                    values[i, argument] = [self.bound(m.statements[i])[argument] for m in group]
        for below in group[0].children:
            classes = [self.of[id(m.children[below])] for m in group]
            for argument in classes[0].parameters:
                given = [c.arguments(m.children[below]) for c, m in zip(classes, group, strict=True)]
                values[below, argument] = [arguments[argument] for arguments in given]
        parameters: dict[str, list[Place]] = {}
        by_values: dict[str, str] = {}
        for place, found in values.items():
            if len({repr(value) for value in found}) == 1:
                continue
            text = repr(found)
            if text not in by_values:
                by_values[text] = _unique(_argument_name(group[0], place), set(parameters), "_{}")
                parameters[by_values[text]] = []
            parameters[by_values[text]].append(place)
        made = Class(name, group, values, parameters)
        self.all.append(made)
        self.of |= {id(m): made for m in group}


def _children_first(module: Module) -> Iterator[Module]:
    for child in module.children.values():
        yield from _children_first(child)
    yield module


def _varying(statement: Statement, bound: Mapping[str, Any]) -> list[str]:
    """Arguments of an operator that may differ between the modules of a class."""
    names = _operators.VARYING.get(ops.split_name(statement.op)[0], ())
    return [name for name in names if name in bound and _is_number(bound[name])]


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple) and not isinstance(value, Ref | DType):
        # The way in which a shape is written depends on how many -1 it has.
        return all(isinstance(v, int) for v in value) and bool(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _argument_name(module: Module, place: Place) -> str:
    where, argument = place
    names = {"other": "scale", "size": "shape", "split_size": "sizes", "pad": "widths"}
    if isinstance(where, int):
        return names.get(argument, argument)
    return f"{re.sub(r'[^0-9a-zA-Z]+', '_', where)}_{argument}".lstrip("_0123456789")


def _class_name(module: Module) -> str:
    """A leaf is called by its operator; others by what their own is called in the model: "blocks.0" is a Block."""
    own = [ops.split_name(s.op)[0] for s in module.statements if s.op]
    norms = [name for name in own if name in _LEAVES]
    if not module.children and len(norms) == 1:
        name = _LEAVES[norms[0]]
        if name == "Conv2d" and "bias" in module.variables:
            name = "BiasedConv2d"
        return name if len(own) == 1 else f"{name}Act" if norms[0] == "batch_norm" else f"{name}2d"
    parts = module.path.split(".")
    name = next((part for part in reversed(parts) if not part.isdecimal()), "module")
    plain = re.sub(r"_?\d+$", "", name) or name
    if parts[-1].isdecimal():
        single = re.sub(r"s$", "", plain)
        plain = single if single != plain else f"{plain}_block"
    return camel(plain)


def camel(name: str) -> str:
    """A name as that of a class: patch_embed -> PatchEmbed."""
    text = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9a-zA-Z]+", name) if part)
    return text if text[:1].isalpha() else f"Model{text}"


def _unique(name: str, taken: set[str], form: str = "{}") -> str:
    made, n = name, 1
    while made in taken:
        n += 1
        made = name + form.format(n)
    taken.add(made)
    return made
