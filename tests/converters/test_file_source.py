"""``file//path``: programs of torch.export, of which nothing runs while they are opened, and converted models."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import conftest
import numpy as np
import pytest
import torch
from torch import nn

import converters
from converters import programs, sources, verify
from vtabjax import model
from vtabjax.specs import SpecError
from vtabjax.sweep import artefacts, converters_client

_BATCH = ({0: torch.export.Dim("batch", min=1, max=64)},)


class Net(nn.Module):
    def __init__(self, kind="scores"):
        super().__init__()
        self.kind = kind
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.register_buffer("grid", torch.arange(6.0), persistent=False)

    def forward(self, x):
        features = torch.relu(self.norm(self.conv(x))).mean((2, 3)) + self.grid
        if self.kind == "dict":
            return {"logits": self.fc(features), "features": features, "other": features + 1}
        if self.kind == "strange":
            return {"scores": features}
        if self.kind == "pair":
            return features, features
        return features if self.kind == "features" else self.fc(features)


def net(kind="scores"):
    torch.manual_seed(0)
    module = Net(kind)
    nn.init.normal_(module.norm.bias)
    nn.init.normal_(module.norm.running_mean)
    return module.eval()


def export(module, path, size=(16, 16), batch=_BATCH, dtype=torch.float32, **options):
    program = torch.export.export(module, (torch.zeros(2, 3, *size, dtype=dtype),), dynamic_shapes=batch)
    torch.export.save(program, path, **options)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export(net(), tmp_path_factory.mktemp("saved") / "net.pt2")


@pytest.mark.parametrize(
    "kind, outputs",
    [("scores", {"features", "logits"}), ("dict", {"features", "logits"}), ("features", {"features"})],
)
def test_a_program_computes_what_its_module_does(tmp_path, kind, outputs):
    module = net(kind)
    spec = f"file/{export(module, tmp_path / 'net.pt2')}"
    source = sources.build(spec, 16)
    graph, variables = converters.from_torch(source.module, (3, 16, 16))
    assert (
        set(graph.outputs) == outputs and verify.compare(source.module, graph, variables)["features"] < 1e-5
    )
    assert variables.keys() == module.state_dict().keys()
    images = np.random.default_rng(0).standard_normal((5, 16, 16, 3)).astype(np.float32)
    ours, _ = model.apply(graph, variables, images)
    theirs = module(verify.as_torch(images))
    if kind == "dict":
        np.testing.assert_allclose(ours["features"], theirs["features"].detach(), atol=1e-5)
    logits = theirs if kind == "scores" else theirs["logits"] if kind == "dict" else None
    if logits is not None:
        np.testing.assert_allclose(ours["logits"], logits.detach(), atol=1e-5)


def test_convert_and_verify(saved, tmp_path):
    path = converters.convert(f"file/{saved}", tmp_path)
    info = artefacts.read_info(path)
    assert path.name.startswith("file--net.pt2-") and path.name.endswith("-16")
    assert (info["num_features"], info["num_classes"], info["parameters"]) == (6, 4, 6 * 27 + 6 + 12 + 28)
    assert info["notes"][0] == "mean and std were not stated; ImageNet's were taken"
    assert info["pooling"] == "input of the last linear layer (6); its output (4) is the logits"
    assert verify.verify_artefact(path)["float64 features"] < 1e-10
    with pytest.raises(SpecError, match="exported for images of 16 x 16 pixels and takes no others"):
        sources.build(f"file/{saved}", 32)


def test_settings_lie_in_the_file(tmp_path):
    stated = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "features": "output",
    }
    extra = {programs.SETTINGS: json.dumps(stated)}
    spec = f"file/{export(net(), tmp_path / 'net.pt2', extra_files=extra)}"
    info = sources.describe(spec)
    assert (info["mean"], info["std"], info["interpolation"]) == ([0.5] * 3, [0.25] * 3, "bicubic")
    assert info["notes"] == [] and info["pooling"] == "the program's output"
    graph, _ = converters.from_torch(sources.build(spec).module, (3, 16, 16))
    assert set(graph.outputs) == {"features"}


def test_any_image_size(tmp_path):
    sizes = (
        {0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)},
    )
    path = export(net(), tmp_path / "net.pt2", batch=sizes)
    assert sources.describe(f"file/{path}")["input_size"] == [3, 224, 224]
    source = sources.build(f"file/{path}", 20)
    graph, variables = converters.from_torch(source.module, (3, 20, 20))
    assert verify.compare(source.module, graph, variables)["features"] < 1e-5


def older(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.0")
        archive.writestr("serialized_exported_program.json", "{}")


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda p: export(net(), p, batch=None),
            r"batches of 2 images and no others; export it with .*dynamic_shapes",
        ),
        (lambda p: export(net("strange"), p), "returns a dict with scores"),
        (lambda p: export(net("pair"), p), "returns 2 tensors"),
        (
            lambda p: export(net().double(), p, dtype=torch.float64),
            "images in torch.float64; export .* in float32",
        ),
        (
            lambda p: torch.save(net().state_dict(), p),
            r"is a checkpoint .* timm/ARCHITECTURE@.*python/package.module",
        ),
        (lambda p: torch.jit.script(nn.Linear(2, 2)).save(str(p)), "is a TorchScript program"),
        (older, "was saved by an older release of PyTorch"),
        (lambda p: p.write_bytes(b"\x00" * 100), "is not a program of torch.export"),
        (
            lambda p: p.write_bytes(b"PK\x03\x04" + b"\x00" * 100),
            "is damaged or was not saved by torch.export.save",
        ),
        (lambda p: None, "is not there"),
        (lambda p: p.mkdir(), "is a folder without a converted model"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refused(tmp_path, make, message):
    path = tmp_path / "net.pt2"
    make(path)
    with pytest.raises(SpecError, match=message) as error:
        sources.describe(f"file/{path}")
    assert "\n" not in str(error.value) and str(path) in str(error.value)


# Hostile files: whatever torch.export.load does with a part of a file, it leaves no trace.


class _Hostile:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def changed(saved, path, change):
    """A copy of a program with `change` made to its files, {name: content}."""
    with zipfile.ZipFile(saved) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def edit(files, name, change):
    """Changes one of the JSON files."""
    content = json.loads(files[name])
    change(content)
    files[name] = json.dumps(content).encode()


_CONSTANTS, _WEIGHTS = (
    "net/data/constants/model_constants_config.json",
    "net/data/weights/model_weights_config.json",
)
_MODEL = "net/models/model.json"


def _pickled(trace):
    buffer = io.BytesIO()
    torch.save(_Hostile(trace), buffer)
    return buffer.getvalue()


def _constant(kind, content):
    def change(files):
        meta = {"path_name": f"{kind}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit(files, _CONSTANTS, lambda c: c["config"].update(evil=meta))
        files[f"net/data/constants/{kind}_0"] = content

    return change


def _in_graph(change):
    return lambda files: edit(files, _MODEL, lambda program: change(program["graph_module"]))


def _code(trace):
    return f"__import__('os').system('touch {trace}')"


def _rename_input(module, name):
    """The images' placeholder, whose name becomes the name of a parameter of a Python function."""
    text = json.dumps(module).replace('"name": "x"', json.dumps({"name": name})[1:-1])
    module.clear()
    module.update(json.loads(text))
    module["graph"]["tensor_values"][name] = module["graph"]["tensor_values"].pop("x")


ATTACKS = {
    "sample inputs": lambda t: lambda files: files.update({"net/data/sample_inputs/model.pt": _pickled(t)}),
    "opaque object": lambda t: _constant("opaque_obj", pickle.dumps(_Hostile(t))),
    "custom object": lambda t: _constant("custom_obj", _pickled(t)),
    "pickled constant": lambda t: _constant("tensor", _pickled(t)),
    "legacy constants": lambda t: lambda files: files.update({"net/data/constants/model.pt": _pickled(t)}),
    "legacy weights": lambda t: lambda files: files.update({"net/data/weights/model.pt": _pickled(t)}),
    "pickled weight": lambda t: (
        lambda files: (
            edit(files, _WEIGHTS, lambda c: c["config"]["fc.bias"].update(use_pickle=True)),
            files.update({"net/data/weights/weight_5": _pickled(t)}),
        )
    ),
    "shape": lambda t: _in_graph(
        lambda m: m["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str=_code(t))
    ),
    "shape within a text": lambda t: _in_graph(
        lambda m: m["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"].update(
            expr_str=f"Add({_code(t)!r}, 1)"
        )
    ),
    "name": lambda t: _in_graph(lambda m: _rename_input(m, f"x={_code(t)}")),
    "argument": lambda t: _in_graph(
        lambda m: m["graph"]["nodes"][0]["inputs"][-1].update(name=_code(t), kind=2)
    ),
    "target": lambda t: _in_graph(
        lambda m: m["graph"]["nodes"].insert(
            0,
            {
                **m["graph"]["nodes"][0],
                "target": "torch.os.system",
                "inputs": [{"name": "command", "arg": {"as_string": f"touch {t}"}, "kind": 1}],
            },
        )
    ),
    "operator with a file": lambda t: _in_graph(
        lambda m: m["graph"]["nodes"][0].update(
            target="torch.ops.aten.from_file.default",
            inputs=[
                {"name": "filename", "arg": {"as_string": str(t)}, "kind": 1},
                {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
                {"name": "size", "arg": {"as_int": 8}, "kind": 1},
            ],
        )
    ),
    "guard": lambda t: lambda files: edit(files, _MODEL, lambda p: p.update(guards_code=[_code(t)])),
    "containers": lambda t: _in_graph(
        lambda m: m["module_call_graph"][0]["signature"].update(
            in_spec=json.dumps(
                [1, {"type": "collections.defaultdict", "context": _code(t), "children_spec": []}]
            )
        )
    ),
    "compiled code": lambda t: (
        lambda files: files.update({"net/data/aotinductor/model/model.so": b"\x7fELF"})
    ),
    "a file of another kind": lambda t: lambda files: files.update({"net/data/other.pkl": _pickled(t)}),
}
HARMLESS = {"sample inputs", "guard"}  # what is left out needs not be refused


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs_when_a_file_is_opened(saved, tmp_path, attack):
    trace = tmp_path / "trace"
    path = changed(saved, tmp_path / "net.pt2", ATTACKS[attack](trace))
    if attack in HARMLESS:
        source = sources.build(f"file/{path}", 16)
        assert source.module(torch.zeros(1, 3, 16, 16))["logits"].shape == (1, 4)
    else:
        with pytest.raises(SpecError, match="could run code when it is opened, and was not opened") as error:
            sources.build(f"file/{path}", 16)
        assert "\n" not in str(error.value)
    assert not trace.exists()


def test_torch_itself_would_run_them(saved, tmp_path):
    """The attacks are real ones: a test of harmless files would prove nothing."""
    traces, paths = {}, []
    for attack in ("sample inputs", "opaque object", "legacy weights", "shape", "name"):
        folder = tmp_path / attack.replace(" ", "-")  # in a command of a shell
        folder.mkdir()
        traces[attack] = folder / "trace"
        paths.append(str(changed(saved, folder / "net.pt2", ATTACKS[attack](traces[attack]))))
    program = conftest.PROGRAMS / "programs_run_by_torch.py"
    subprocess.run([sys.executable, str(program), *paths], capture_output=True, timeout=300)
    assert all(trace.exists() for trace in traces.values()), traces


def test_two_files_of_one_name(saved, tmp_path):
    path = changed(saved, tmp_path / "net.pt2", lambda files: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    with pytest.raises(SpecError, match="two of its files have the same name"):
        sources.build(f"file/{path}", 16)


# Converted models.


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("converted") / "mine", *conftest.tiny_parts(head=True))


def test_a_converted_model_is_taken_where_it_lies(converted, tmp_path):
    spec = f"file/{converted}"
    assert artefacts.find(tmp_path, spec, 16) == artefacts.find(tmp_path, spec, 0) == converted
    assert sources.check(spec).path == str(converted) and sources.describe(spec)["num_features"] == 24
    with pytest.raises(
        converters_client.ConversionError, match="16 x 16 pixels, and 32.*--config.image_size=16"
    ):
        artefacts.find(tmp_path, spec, 32)
    with pytest.raises(converters_client.ConversionError, match="leave out what follows '#'"):
        artefacts.find(tmp_path, f"{spec}#pool=avg", 16)


def test_a_damaged_converted_model(converted, tmp_path):
    import shutil

    path = shutil.copytree(converted, tmp_path / "damaged")
    (path / "graph.json").write_text((path / "graph.json").read_text().replace("linear", "matmul"))
    with pytest.raises(SpecError, match="damaged or was edited"):
        sources.check(f"file/{path}")
    with pytest.raises(converters_client.ConversionError, match="damaged or was edited"):
        artefacts.find(tmp_path, f"file/{path}", 16)


def test_a_sweep_of_converted_models_without_pytorch(converted, tmp_path):
    program = conftest.PROGRAMS / "sweep_without_torch.py"
    command = [sys.executable, str(program), str(tmp_path / "w"), f"file/{converted}"]
    process = subprocess.run(command, text=True, capture_output=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = (tmp_path / "w" / "results" / "knn").glob("file--mine-*/digits.json")
    result = json.loads(path.read_text())
    assert result["weight_hash"] == artefacts.read_info(converted)["weight_hash"]
    assert not list((tmp_path / "w" / "models").glob("file--*"))
