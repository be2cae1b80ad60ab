"""The texts of a saved program, looked at one by one: torch makes Python of them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

# What graphs of image models call. Anything else under torch is reachable by a name, and some of it does things.
_TARGET = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum|sqrt)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_FILES = ("from_file", "save")  # operators of ATen that open files
_NAME = re.compile(r"[\w.-]*")
_VERSION = re.compile(r"[\w.+-]*")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_SYMBOL = re.compile(r"[a-z]+\d+")
_EXPRESSIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Abs Mod PythonMod FloorDiv CleanDiv CeilDiv ModularIndexing "
    "PowByNatural IntTrueDiv FloatTrueDiv TruncToInt FloorToInt CeilToInt RoundToInt ToFloat Identity Where Eq Ne Lt "
    "Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not".split()
)
_SYNTAX = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop, ast.Compare, ast.cmpop,
)  # fmt: skip


class UnsafeError(ValueError):
    """Something in a program that has no place in an image model's graph; the message says what."""


def checked_program(program: Any) -> dict[str, Any]:
    """The program's JSON without what is not needed; raises UnsafeError for what could become code."""
    module = program["graph_module"]
    root = next(entry for entry in module["module_call_graph"] if entry["fqn"] == "")
    signature = root["signature"]
    for side in ("in_spec", "out_spec"):
        _check_containers(signature[side])
    kept = {
        **program,
        "guards_code": [],
        "graph_module": {
            **module,
            "metadata": {},
            "treespec_namedtuple_fields": {},
            "module_call_graph": [
                {"fqn": "", "signature": {**signature, "in_spec": "", "out_spec": ""}},
            ],
        },
    }
    _check(kept, "")
    kept["graph_module"]["module_call_graph"] = [{"fqn": "", "signature": signature}]
    _check(signature.get("forward_arg_names"), "forward_arg_names")
    return kept


def checked_payload(payload: Any) -> dict[str, Any]:
    """The table of weights or constants; raises UnsafeError for one that is pickled."""
    for name, meta in payload["config"].items():
        if meta["use_pickle"]:
            raise UnsafeError(f"{name!r} is pickled")
        if not re.fullmatch(r"(weight|tensor)_\d+", meta["path_name"]):
            raise UnsafeError(f"{name!r} lies in {meta['path_name']!r}")
    _check(payload, "")
    return payload


def _check(value: Any, key: str) -> None:
    """Looks at all texts below `value`, and drops the notes of nodes but the modules they are in."""
    if isinstance(value, dict):
        for name, child in value.items():
            if not _NAME.fullmatch(name):
                raise UnsafeError(f"the name {name[:80]!r}")
            if name == "metadata" and isinstance(child, dict):
                value[name] = (
                    {"nn_module_stack": _modules(child["nn_module_stack"])}
                    if child.get("nn_module_stack")
                    else {}
                )
            else:
                _check(child, name)
    elif isinstance(value, list):
        for child in value:
            _check(child, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _modules(text: Any) -> str:
    if not isinstance(text, str) or re.search(r"[\n\r\\]", text):
        raise UnsafeError("a module's name with a line break")
    return text


def _check_text(text: str, key: str) -> None:
    if key == "expr_str":
        _check_expression(text)
    elif key == "target":
        if not _TARGET.fullmatch(text) or text.split(".")[-2] in _FILES:
            raise UnsafeError(f"a call of {text[:80]!r}")
    elif key == "as_string":
        return  # an argument such as "tanh", which is only ever written as a quoted text
    elif not (_VERSION if key == "torch_version" else _NAME).fullmatch(text):
        raise UnsafeError(f"the name {text[:80]!r}")


def _check_expression(text: str) -> None:
    """Shapes such as ``Add(Symbol('s77', positive=True, integer=True), Integer(1))``; sympy evaluates them."""
    try:
        tree = ast.parse(text, mode="eval") if len(text) < 10_000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None:
        raise UnsafeError(f"the shape {text[:80]!r}")
    symbols = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Symbol"
        and node.args
    }
    for node in ast.walk(tree):
        fine = isinstance(node, _SYNTAX)
        if isinstance(node, ast.Name):
            fine = node.id in _EXPRESSIONS or bool(_SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float):
            is_name = isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value))
            fine = is_name and id(node) in symbols
        if not fine:
            raise UnsafeError(f"the shape {text[:80]!r}")


def _check_containers(text: Any) -> None:
    """How inputs or outputs are packed: tuples, lists, dicts. Other types import what they name."""
    protocol, tree = json.loads(text)
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        known = node["type"] in _CONTAINERS
        context = json.loads(node["context"]) if known and node["context"] is not None else None
        plain = context is None or (isinstance(context, list) and all(isinstance(k, str) for k in context))
        if not known or not plain:
            raise UnsafeError(f"inputs or outputs of type {str(node['type'])[:80]!r}")
        waiting += node["children_spec"]
    if protocol != 1:
        raise UnsafeError("inputs or outputs packed in an unknown way")
