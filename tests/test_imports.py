"""What importing costs: nothing under vtabjax needs torch, and TensorFlow is for preparing data only."""

import ast
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
        "import vtabjax.sweep, vtabjax.results, vtabjax.tables, vtabjax.cells, vtabjax.artefacts, main",
        "import vtabjax.tasks, vtabjax.data; vtabjax.data.load('digits', 'val200', image_size=16)",
        "from configs import knn, linear, transferability; knn.get_config('vtab')",
    ],
)
def test_neither_torch_nor_tensorflow(code):
    assert loaded(code) == []


def test_the_test_can_fail():
    assert "torch" in loaded("import torch")


def test_a_saved_model_runs_without_torch(tmp_path):
    from vtabjax import model

    model.save(tmp_path / "m", *conftest.tiny_parts())
    code = "sys.modules['torch'] = None; import numpy as np; from vtabjax import features, model; "
    code += f"f = features.extract(model.load_parts({str(tmp_path / 'm')!r}), np.zeros((3, 16, 16, 3), np.uint8)); "
    code += "assert f['features'].shape == (3, 24); del sys.modules['torch']"
    assert loaded(code) == []


def test_only_converters_import_torch():
    for path in [*(conftest.ROOT / "vtabjax").rglob("*.py"), *(conftest.ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = {n.split(".")[0] for n in names} & {"torch", "torchvision", "timm", "converters"}
            assert not wrong, f"{path} imports {wrong}"
