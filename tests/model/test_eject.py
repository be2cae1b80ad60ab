"""Ejected source: the same numbers without vtabjax, formatted, short functions, one class for equal modules."""

import ast
import re
import statistics
import subprocess
import sys

import conftest
import jax
import numpy as np
import pytest

from converters import from_torch, randomise
from vtabjax import ops
from vtabjax.graph import Node, Ref
from vtabjax.model import Model, apply, eject, normalise
from vtabjax.model.eject import _layout, helpers

# isort: split
import timm

MODELS = {
    "my_resnet": ("resnet10t", {"layers": (2, 1, 2, 1), "channels": (8, 16, 16, 24), "stem_width": 8}),
    "my_vit": ("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 3}),
    "my_convnext": ("test_convnext", {"depths": (1, 2, 2, 1)}),
    "my_efficientnet": ("test_efficientnet", {}),
    "my_swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (2, 4), "num_heads": (2, 4), "window_size": 2},
    ),
}
_SIZED = ("my_vit", "my_swin")
SIZE = 32


def made(name, architecture, options):
    """The model as `vtabjax.load` would give it, and images [2, H, W, 3] in float64."""
    options = options | ({"img_size": SIZE} if name in _SIZED else {})
    module = randomise.randomise(timm.create_model(architecture, num_classes=5, **options).eval(), seed=1)
    graph, variables = from_torch(module, (3, SIZE, SIZE))
    info = {"spec": f"timm/{architecture}@random", "architecture": architecture, "license": "apache-2.0"}
    info |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return Model(graph, variables, info), np.random.default_rng(0).random((2, SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def ejected(tmp_path_factory):
    """{name: (source, model, images, what the source gives in a process of its own)}."""
    folder = tmp_path_factory.mktemp("ejected")
    models = {name: made(name, *MODELS[name]) for name in MODELS}
    for name, (model, images) in models.items():
        assert model.eject(folder / f"{name}.py") == folder / f"{name}.safetensors"
        np.save(folder / f"{name}-images.npy", images)
    program = conftest.ROOT / "tests" / "programs" / "ejected_models.py"
    subprocess.run([sys.executable, program, folder, *models], cwd=folder, check=True)
    return {
        name: (folder / f"{name}.py", *models[name], np.load(folder / f"{name}-outputs.npz"))
        for name in models
    }


@pytest.mark.parametrize("name", MODELS)
def test_same_numbers_without_us(ejected, name):
    _, model, images, found = ejected[name]
    for output, value in model.outputs(images.astype(np.float32)).items():
        assert np.abs(found[f"32-{output}"] - value).max() < 1e-6 * max(1, np.abs(value).max())
    with jax.enable_x64(True):
        variables = {
            k: v.astype("float64") if v.dtype == np.float32 else v
            for k, v in ((k, np.asarray(v)) for k, v in model.variables.items())
        }
        wanted, _ = apply(model.graph, variables, normalise(images, model.info))
    for output, value in wanted.items():
        np.testing.assert_allclose(found[f"64-{output}"], value, rtol=1e-10, atol=1e-12)
    # Variables have their names; a constant is one more.
    assert {path for path in found["paths"].tolist() if ".constant" not in path} == set(model.variables)


@pytest.mark.parametrize("name", MODELS)
def test_source_is_readable(ejected, name):
    path = ejected[name][0]
    for command in (["format", "--check"], ["check", "--select=E,F,I,B,UP"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", path], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert statistics.median(f.end_lineno - f.lineno + 1 for f in functions) < 12
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"jax", "jax.numpy", "flax", "safetensors.numpy"}


def test_equal_modules_share_a_class(ejected):
    classes = {
        name: re.findall(r"^class (\w+)", path.read_text(), re.M) for name, (path, *_) in ejected.items()
    }
    assert classes["my_vit"] == [
        "BiasedConv2d", "PatchEmbed", "LayerNorm", "Linear", "Attn", "Mlp", "Block", "VitTinyPatch16224",
    ]  # fmt: skip
    assert [c for c in classes["my_convnext"] if c.startswith("Block")] == ["Block"]
    assert classes["my_resnet"].count("Conv2d") == 1 and len(classes["my_resnet"]) <= 8
    text = ejected["my_vit"][0].read_text()
    assert 'nnx.List(Block(under(weights, f"blocks.{i}")) for i in range(3))' in text
    assert "for block in self.blocks:\n            x = block(x)" in text
    assert "stride=2" in ejected["my_resnet"][0].read_text()


def test_the_page_shows_what_is_written(ejected):
    page = (conftest.ROOT / "docs" / "eject.md").read_text(encoding="utf-8")
    assert re.search(r"```python\n(class Block.*?)```", page, re.S)[1] in ejected["my_vit"][0].read_text()


def test_what_it_cannot_write(tmp_path):
    parts = conftest.tiny_parts()
    nodes = (*parts.graph.nodes, Node("odd", "aten.log1p.default", (parts.graph.outputs["features"],), {}))
    graph = type(parts.graph)(
        **{**vars(parts.graph), "nodes": nodes, "outputs": {"features": Ref("value", "odd")}}
    )
    with pytest.raises(eject.EjectError, match="aten.log1p.default cannot be written as source yet"):
        Model(graph, parts.variables, parts.info).eject(tmp_path / "x.py")
    with pytest.raises(ValueError, match="give a file whose name can be imported"):
        Model(*parts).eject(tmp_path / "my-model.py")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("arguments", [(3, 2, 1), (2, 2, 0), (3, 3, 1), ((2, 3), (3, 2), (1, 0))])
def test_pools(arguments, ceil_mode):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 8)).astype(np.float32)
    pairs = [(a, a) if isinstance(a, int) else a for a in arguments]
    np.testing.assert_array_equal(
        helpers.max_pool2d(x, *arguments, ceil_mode), ops.TABLE["max_pool2d"](x, *pairs, 1, ceil_mode)
    )
    for counted in (True, False):
        wanted = ops.TABLE["avg_pool2d"](x, *pairs, ceil_mode, counted)
        np.testing.assert_allclose(
            helpers.avg_pool2d(x, *arguments, ceil_mode, counted), wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("x = f(a, b)", ["x = f(a, b)"]),
        (f"x = f({'a' * 50}, {'b' * 50})", ["x = f(", f"    {'a' * 50},", f"    {'b' * 50},", ")"]),
        (f'x = f("{"," * 90}")', ["x = f(", f'    "{"," * 90}"', ")"]),
        (f"x = f([{'a' * 50}, {'b' * 50}])",
         ["x = f(", "    [", f"        {'a' * 50},", f"        {'b' * 50},", "    ]", ")"]),
    ],
)  # fmt: skip
def test_long_lines(line, lines):
    assert _layout.wrapped(line, 0) == lines
