"""`python -m converters`: what it prints, what it writes, how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from converters import __main__ as cli
from converters import sources
from vtabjax import model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
    """Runs a command in this process; gives (status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(list(arguments))
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def converted(monkeypatch):
    """Puts a recorder in place of the conversion; VGGs fail."""
    calls = []

    def convert(spec, out_dir, *, input_size=None, verify=True):
        calls.append((spec, input_size, verify))
        print("a library's chatter on stdout")
        if "vgg" in spec:
            raise RuntimeError("operator aten.nonsense\nis not known")
        path = Path(out_dir) / f"{cli.specs.file_stem(spec)}-{input_size or 224}"
        path.mkdir(parents=True)
        (path / "model.json").write_text("{}")
        return path

    monkeypatch.setattr("converters.conversion.convert", convert)
    return calls


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_batch_says_what_became_of_each_model(run, converted, tmp_path):
    models = ["torchvision/resnet18@random", "torchvision/vgg11@random", "torchvision/resnet99", "baseline/*"]
    status, out, err = run("convert", *models, f"--out={tmp_path}", "--input_size=64", "--json_lines")
    assert status == 1
    found = {line["spec"]: line for line in lines(out)}
    assert all(set(line) == {"spec", "status", "path", "message", "seconds"} for line in found.values())
    good = found["torchvision/resnet18@random"]
    assert good["status"] == "converted" and good["message"] == ""
    assert good["path"] == str(tmp_path / "torchvision--resnet18@random-64")
    assert found["baseline/pixels"]["status"] == "converted"  # after the one that failed
    assert found["torchvision/vgg11@random"]["status"] == "failed"
    assert found["torchvision/vgg11@random"]["message"] == "RuntimeError: operator aten.nonsense is not known"
    assert found["torchvision/vgg11@random"]["path"] is None
    assert "did you mean" in found["torchvision/resnet99"]["message"]
    assert "a library's chatter" in err and "[2/3] torchvision/vgg11@random" in err
    assert [c[1:] for c in converted] == [(64, True)] * 3


def test_what_is_there_is_not_converted_again(run, converted, tmp_path):
    command = [
        "convert",
        "baseline/pixels",
        "baseline/pix*",
        f"--out={tmp_path}",
        "--no_verify",
        "--json_lines",
    ]
    status, out, _ = run(*command)
    assert status == 0 and lines(out)[0]["status"] == "converted"
    status, out, _ = run(*command)
    assert status == 0 and lines(out)[0]["status"] == "present"
    assert lines(out)[0]["path"] == str(tmp_path / "baseline--pixels-224")
    assert converted == [("baseline/pixels", None, False)]


def test_text_for_people(run, converted, tmp_path):
    status, out, _ = run("convert", "baseline/pixels", "torchvision/vgg11@random", f"--out={tmp_path}")
    assert status == 1
    assert "converted  baseline/pixels" in out
    assert "failed     torchvision/vgg11@random  RuntimeError: operator aten.nonsense is not known" in out


def test_list(run):
    status, out, _ = run("list", "torchvision/resnet50*", "--json_lines", "--parameters")
    assert status == 0
    first, second = lines(out)
    assert first["spec"] == "torchvision/resnet50.IMAGENET1K_V1" and first["license"] == "bsd-3-clause"
    assert first["parameters"] == second["parameters"] == 25557032 and first["input_size"] == [3, 224, 224]
    status, out, _ = run("list", "timm/resnet18*")
    assert status == 0
    assert any(
        "timm/resnet18.a1_in1k" in x and "224x224" in x and "apache-2.0" in x for x in out.splitlines()
    )
    status, out, _ = run("list", "openselfsup/*", "--parameters")
    assert (
        status == 0 and "openselfsup/simclr " in out and out.count("23.51 M") == len(out.splitlines()) == 14
    )
    status, out, err = run("list", "timm/qqq*")
    assert status == 1 and out == "" and err.startswith("error: ") and "matches nothing" in err
    status, out, _ = run("list", "timm/qqq*", "--json_lines")
    assert status == 1 and lines(out)[0]["status"] == "failed"


def test_check(run):
    status, out, _ = run("check", "timm/resnet18@random", "timm/resnet18x", "baseline/*", "--json_lines")
    assert status == 1
    assert [line["status"] for line in lines(out)] == ["ok", "failed", "ok"]
    assert [line["ok"] for line in lines(out)] == [True, False, True]
    assert "did you mean resnet18" in lines(out)[1]["message"]
    assert run("check", "baseline/pixels")[0] == 0


def test_artefacts_that_are_not_there(run, tmp_path):
    status, _, err = run("verify", str(tmp_path))
    assert status == 1 and "is not a converted model" in err and "Traceback" not in err
    status, _, err = run("export", str(tmp_path), str(tmp_path / "x.safetensors"))
    assert status == 1 and "is not a converted model" in err
    status, _, err = run("export", str(tmp_path), str(tmp_path / "x.pth"))
    assert status == 1 and "*.safetensors" in err


def test_convert_verify_and_export_for_real(run, tmp_path):
    spec = "timm/test_resnet@random:4"
    status, out, _ = run("convert", spec, f"--out={tmp_path}", "--input_size=64", "--json_lines")
    assert status == 0
    path = lines(out)[0]["path"]
    assert path == str(tmp_path / "timm--test_resnet@random-4-64")

    status, out, _ = run("verify", path, "--json_lines")
    assert status == 0 and lines(out)[0]["spec"] == spec

    status, out, _ = run("export", path, str(tmp_path / "new" / "weights.safetensors"))
    assert status == 0 and "weights.safetensors" in out
    state = load_file(tmp_path / "new" / "weights.safetensors")
    module = sources.build("timm/test_resnet@random:9", 64).module
    module.load_state_dict(state, strict=True)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    parts = model.load_parts(path)
    features = np.asarray(model.load(path)(images))
    with torch.no_grad():
        normal = (images - np.array(parts.info["mean"])) / np.array(parts.info["std"])
        x = torch.from_numpy(normal).float().permute(0, 3, 1, 2)
        expected = module.forward_head(module.forward_features(x), pre_logits=True).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    # The written file is a checkpoint like any other.
    again = sources.build(f"timm/test_resnet@{tmp_path}/new/weights.safetensors", 64)
    assert all(torch.equal(v, state[k]) for k, v in again.module.state_dict().items())


def test_in_a_process_of_its_own_stdout_is_json_alone(tmp_path):
    command = [sys.executable, "-m", "converters", "convert", "baseline/pixels", "baseline/nothing"]
    done = subprocess.run(
        [*command, f"--out={tmp_path}", "--input_size=32", "--json_lines"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert {line["spec"]: line["status"] for line in lines(done.stdout)} == {
        "baseline/pixels": "converted",
        "baseline/nothing": "failed",
    }
    assert (tmp_path / "baseline--pixels-32" / "model.json").is_file()
    assert "Traceback" not in done.stderr
