"""What imports what: layers, one above the other; no torch under vtabjax; TensorFlow for preparing data only."""

import ast
import re
import statistics
import subprocess
import sys

import conftest
import pytest

_HEAVY = (
    "print(*sorted({'torch', 'torchvision', 'timm', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
)


def loaded(code):
    """Which of the heavy libraries a fresh interpreter has loaded after running `code`."""
    command = [sys.executable, "-c", f"import sys; {code}; {_HEAVY}"]
    return subprocess.run(
        command, cwd=conftest.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import vtabjax.model, vtabjax.features, vtabjax.protocols.knn",
        "import vtabjax.sweep.runner, vtabjax.sweep.tables, vtabjax.sweep.adapters, vtabjax.sweep.artefacts, main",
        "import vtabjax.tasks, vtabjax.data; vtabjax.data.load('digits', 'val200', image_size=16)",
        "from configs import knn, linear, transferability; knn.get_config('vtab')",
        "import converters",
    ],
)
def test_neither_torch_nor_tensorflow(code):
    assert loaded(code) == []


def test_the_test_can_fail():
    assert "torch" in loaded("import torch")


def test_torchvision_is_mended_by_whoever_imports_it_after_the_converters():
    code = "import converters, torchvision; assert 'converters._compat' in sys.modules"
    assert "torchvision" in loaded(code)


def test_a_saved_model_runs_without_torch(tmp_path):
    from vtabjax import model

    model.save(tmp_path / "m", *conftest.tiny_parts())
    code = "sys.modules['torch'] = None; import numpy as np; from vtabjax import features, model; "
    code += f"f = features.extract(model.load_parts({str(tmp_path / 'm')!r}), np.zeros((3, 16, 16, 3), np.uint8)); "
    code += "assert f['features'].shape == (3, 24); del sys.modules['torch']"
    assert loaded(code) == []


def layers():
    """{package or module: rank} of docs/architecture.md, where a package's name stands for all of it; 0 is lowest."""
    page = (conftest.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"^## Layers$.*?^```text\n(.*?)^```$", page, re.M | re.S)[1]
    rows = [line.split("|")[1].split() for line in reversed(block.splitlines())]
    apart = {"main", "configs"}
    return {n if n in apart else f"vtabjax.{n}": rank for rank, row in enumerate(rows) for n in row}


RANKS = layers()
# What those beside the layers may use, and nothing else.
ONLY = {
    "configs": {"configs", "vtabjax.tasks"},
    "converters": {
        "converters", "vtabjax.bundled", "vtabjax.data", "vtabjax.graph", "vtabjax.installation", "vtabjax.integrity",
        "vtabjax.model", "vtabjax.ops", "vtabjax.protocols", "vtabjax.runtime", "vtabjax.specs",
        "vtabjax.sweep.artefacts",
    },
}  # fmt: skip


def module_names():
    """{module's name: its file} of everything that is not a test or a benchmark."""
    found = [conftest.ROOT / "main.py"]
    for package in ("vtabjax", "converters", "configs"):
        found += (conftest.ROOT / package).rglob("*.py")
    names = {path: ".".join(path.relative_to(conftest.ROOT).with_suffix("").parts) for path in found}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(name, text, modules):
    """The modules that a module's text imports anywhere: at the top, within functions, for the type checker."""
    is_package = name in modules and modules[name].name == "__init__.py"
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = [f"{source}.{a.name}" for a in node.names]
            yield from (name if name in modules else source for name in names)


def place(module, table):
    """The entry of a table that a module belongs to: its own name or its nearest package's; None without."""
    while module not in table and "." in module:
        module = module.rpartition(".")[0]
    return module if module in table else None


def wrong_imports(name, text, modules):
    """Which of ours a module imports and should not."""
    package = name.partition(".")[0]
    for other in imported(name, text, modules):
        if other.partition(".")[0] not in ("vtabjax", "converters", "configs", "main") or other == "vtabjax":
            continue  # a library; or the version, which everyone may read
        if package in ONLY and place(other, ONLY[package]) is None:
            yield other
        elif package != "converters":
            rank = RANKS.get(place(other, RANKS))
            if rank is None or rank > RANKS[place(name, RANKS)]:
                yield other


def test_no_module_imports_a_higher_layer():
    modules = module_names()
    wrong = {
        n: list(wrong_imports(n, p.read_text(encoding="utf-8"), modules))
        for n, p in modules.items()
        if n != "vtabjax"
    }
    assert {name: found for name, found in wrong.items() if found} == {}
    # What the package offers is imported when it is asked for.
    assert list(imported("vtabjax", modules["vtabjax"].read_text(encoding="utf-8"), modules)) == ["importlib"]


def test_every_module_has_a_place():
    modules = set(module_names()) - {"vtabjax"}
    lost = {n for n in modules if place(n, RANKS) is None and n.partition(".")[0] != "converters"}
    assert not lost, f"give {lost} a layer in docs/architecture.md"
    assert set(RANKS) <= modules, "a layer names what is not there"


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("vtabjax.model", "from vtabjax import features, graph", ["vtabjax.features"]),
        (
            "vtabjax.protocols.knn",
            "def f():\n    from vtabjax.sweep.adapters import PROTOCOLS",
            ["vtabjax.sweep.adapters"],
        ),
        ("vtabjax.sweep.runner", "import numpy, vtabjax.report", ["vtabjax.report"]),
        ("vtabjax.report.page", "from converters import conversion", ["converters.conversion"]),
        ("configs.knn", "from vtabjax import sweep, tasks", ["vtabjax.sweep"]),
        ("converters.export", "from vtabjax.sweep import runner", ["vtabjax.sweep.runner"]),
        (
            "converters.audit",
            "from vtabjax import __version__, graph; from vtabjax.runtime import memory",
            [],
        ),
        ("vtabjax.ops", "from ..report import page", ["vtabjax.report.page"]),
        ("converters.sources.timm", "from . import size; from ..export import from_torch", []),
    ],
)
def test_a_wrong_import_is_found(name, text, found):
    assert list(wrong_imports(name, text, module_names())) == found


def unit(module):
    """The top-level package or module under vtabjax that a module belongs to."""
    return ".".join(module.split(".")[:2])


def test_no_two_packages_import_each_other():
    modules = {n: p for n, p in module_names().items() if n.startswith("vtabjax.")}
    uses = {}
    for name, path in modules.items():
        others = {unit(m) for m in imported(name, path.read_text(encoding="utf-8"), modules)}
        uses.setdefault(unit(name), set()).update(o for o in others if o in map(unit, modules))

    def reached(start):
        found, waiting = set(), [start]
        while waiting:
            new = uses.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    circles = {a: b for a in uses for b in uses[a] - {a} if a in reached(b)}
    assert circles == {}
    assert len(uses) <= 20


def code_lines(function, lines):
    """Lines of a function that are neither empty nor comments nor its docstring."""
    body = [n for n, line in enumerate(lines[function.lineno - 1 : function.end_lineno]) if line.strip(" \n")]
    body = [n for n in body if not lines[function.lineno - 1 + n].lstrip().startswith("#")]
    doc = function.body[0] if ast.get_docstring(function) is not None else None
    return len(body) - (doc.end_lineno - doc.lineno + 1 if doc else 0)


def test_files_and_functions_stay_small():
    sizes, long = {}, {}
    for name, path in module_names().items():
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        sizes[name] = len(lines)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node, lines) > 60:
                long[f"{name}.{node.name}"] = code_lines(node, lines)
    assert statistics.median(sizes.values()) < 150
    assert {name: n for name, n in sizes.items() if n > 400} == {}
    assert long == {}


def test_only_converters_import_torch():
    for path in [*(conftest.ROOT / "vtabjax").rglob("*.py"), *(conftest.ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = {n.split(".")[0] for n in names} & {"torch", "torchvision", "timm", "converters"}
            assert not wrong, f"{path} imports {wrong}"
