"""Checkpoint files that are refused, each with its own message; code in them never runs."""

import argparse
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import (
    BY_NAME,
    ResNet18,
    save,
    synthesise,
    tensor,
)
from safetensors.torch import save_file

from converters import sources
from converters.checkpoints import reading
from converters.checkpoints.reading import CheckpointError
from vtabjax import specs


def refused(tree, tmp_path, message: str, spec: str = "torchvision/resnet50") -> None:
    path = save(tree, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        sources.build(f"{spec}@{path}")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["layer3.4.bn2.weight", "conv1.weight", "layer4.0.conv1.weight"])
def test_missing_key(key, tmp_path):
    layout = BY_NAME["moco_v2_official"]
    tree, _ = synthesise(layout)
    del tree["state_dict"]["module.encoder_q." + key]
    refused(tree, tmp_path, f"lacks {key}, which torchvision/resnet50 has")


def test_extra_key_in_the_backbone(tmp_path):
    tree, _ = synthesise(BY_NAME["moco_v2_official"])
    tree["state_dict"]["module.encoder_q.layer3.6.conv1.weight"] = tensor((2, 2), 1.0)
    refused(tree, tmp_path, r"has layer3\.6\.conv1\.weight, which torchvision/resnet50 does not have")


def test_extra_key_beside_the_backbone(tmp_path):
    tree, _ = synthesise(BY_NAME["moco_v2_official"])
    tree["state_dict"]["module.adapter.weight"] = tensor((2, 2), 1.0)
    refused(tree, tmp_path, r"moco_v2_official .* 1 keys that do not belong there: module\.adapter\.weight")


def test_wrong_shape(tmp_path):
    tree, _ = synthesise(BY_NAME["swav_released"])
    tree["module.layer2.0.conv2.weight"] = tensor((256, 256, 3, 3), 1.0)
    refused(
        tree, tmp_path, r"layer2\.0\.conv2\.weight has shape \[256, 256, 3, 3\].*wants \[128, 128, 3, 3\]"
    )


def test_another_architecture(tmp_path):
    tree, _ = synthesise(BY_NAME["vissl_r50"])
    refused(tree, tmp_path, "which torchvision/resnet101 has|another architecture", "torchvision/resnet101")
    refused(tree, tmp_path, "is of another architecture than timm/vit_tiny", "timm/vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("name", "momentum"),
    [("openselfsup_epoch_moco", "encoder_k.0."), ("openselfsup_epoch_byol", "target_net.0.")],
)
def test_swapped_encoders(name, momentum, tmp_path):
    tree, base = synthesise(BY_NAME[name])
    state = tree["state_dict"]
    for k in base:
        state["backbone." + k] = state[momentum + k]
    refused(tree, tmp_path, f"equals the momentum copy under {momentum}.*the two encoders are swapped")


@pytest.mark.parametrize(
    ("name", "online"), [("moco_v2_official", "module.encoder_q."), ("mmselfsup_1x_mocov2", "backbone.")]
)
def test_only_the_momentum_copy(name, online, tmp_path):
    tree, _ = synthesise(BY_NAME[name])
    tree["state_dict"] = {k: v for k, v in tree["state_dict"].items() if not k.startswith(online)}
    refused(tree, tmp_path, "the momentum copy is not the model and is not used")


def test_numbers_that_are_not_finite(tmp_path):
    state = ResNet18()
    state["layer1.0.bn1.running_var"] = tensor((64,), float("nan"))
    refused(state, tmp_path, r"not finite in layer1\.0\.bn1\.running_var", "torchvision/resnet18")


def test_no_state_dict(tmp_path):
    refused([1, 2], tmp_path, "holds a list, not a state_dict")
    refused({"epoch": 3, "args": {}}, tmp_path, "holds no tensors.*epoch, args")
    refused({"type": "shard_list"}, tmp_path, "sharded VISSL checkpoint")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_truncated(zipped, share, tmp_path):
    path = save(ResNet18(), tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    with open(path, "r+b") as f:
        f.truncate(int(os.path.getsize(path) * share))
    with pytest.raises(CheckpointError, match="truncated or damaged.*download it again"):
        sources.build(f"torchvision/resnet18@{path}")


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    with open(path, "r+b") as f:
        f.truncate(300)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        sources.build(f"torchvision/resnet18@{path}")


def test_files_that_are_no_checkpoints(tmp_path):
    for content, message in (
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"hello there", "truncated or damaged"),
    ):
        path = tmp_path / "file.pth"
        path.write_bytes(content)
        with pytest.raises(specs.SpecError, match=message):
            sources.build(f"torchvision/resnet18@{path}")
    with pytest.raises(specs.SpecError, match="there is no weight file"):
        sources.build(f"torchvision/resnet18@{tmp_path}/nothing.pth")
    with pytest.raises(CheckpointError, match="is a folder with 2 weight files"):
        path.with_name("other.pth").touch()
        reading.read(tmp_path)


def test_archives_that_are_no_checkpoints(tmp_path):
    np.savez(tmp_path / "vit.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="holds NumPy arrays"):
        sources.build(f"torchvision/resnet18@{tmp_path}/vit.npz")
    with zipfile.ZipFile(
        tmp_path / "script.pt", "w"
    ) as archive:  # what torch.jit.save writes, as far as it matters
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        sources.build(f"torchvision/resnet18@{tmp_path}/script.pt")


def test_a_whole_pickled_model_is_not_a_state_dict(tmp_path):
    path = save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"holds a Sequential, not a state_dict; save model\.state_dict"
    ):
        sources.build(f"torchvision/resnet18@{path}")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"\w+\.system"),
        (exec, "exec"),
        (eval, "eval"),
        (getattr, "getattr"),
        (__import__, "__import__"),
        (open, "open"),
        (subprocess.call, "subprocess.call"),
    ],
)
def test_pickled_code_is_refused_and_not_run(function, name, zipped, tmp_path):
    witness = tmp_path / "it_ran"
    arguments = {
        os.system: (f"touch {witness}",),
        subprocess.call: (["touch", str(witness)],),
        open: (str(witness), "w"),
        getattr: (Path(witness), "touch"),
        __import__: ("os",),
    }.get(function, (f"open({str(witness)!r}, 'w')",))
    tree = {"state_dict": ResNet18(), "args": Call(function, *arguments)}
    path = save(tree, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"would run code when it is opened .*{name}"):
        sources.build(f"torchvision/resnet18@{path}")
    assert not witness.exists()


class HistoryBuffer:
    """An object of a class that the converters do not have."""

    def __init__(self):
        self.values = np.arange(3)


def ran(*arguments):
    raise AssertionError("executed while reading a checkpoint")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_stubbed(zipped, tmp_path):
    tree = {
        "state_dict": ResNet18(),
        "args": argparse.Namespace(lr=0.1, path=Path("x")),
        "loss": np.float64(0.5),
        "message_hub": {"a": HistoryBuffer(), "b": [HistoryBuffer(), {HistoryBuffer()}]},
        "hook": Call(ran, 1),
        "size": torch.Size([1, 2]),
    }
    path = save(tree, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    read = reading.read(path)
    assert isinstance(read["args"], reading.Stub) and isinstance(read["message_hub"]["a"], reading.Stub)
    assert isinstance(read["hook"], reading.Stub) and read["size"] == torch.Size([1, 2])
    source = sources.build(f"torchvision/resnet18@{path}")
    assert torch.equal(source.module.conv1.weight, tree["state_dict"]["conv1.weight"])


def test_dotted_names_do_not_lead_out_of_the_allowed_classes():
    """Protocol 4 may name an attribute of an attribute: a class whose allowed name hides another object."""
    for module, name in (
        ("torch", "hub.sys.modules"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "os.system.Storage"),
        ("collections", "OrderedDict.fromkeys"),
    ):
        text = pickle.PROTO + b"\x04"
        for part in (module, name):
            text += pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode()
        text += pickle.STACK_GLOBAL + pickle.STOP
        found = reading._StubbingUnpickler(io.BytesIO(text)).load()
        assert issubclass(found, reading.Stub)


def test_damage_inside_the_archive_is_noticed(tmp_path):
    path = save(ResNet18(), tmp_path / "file.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/3"):
                new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        sources.build(f"torchvision/resnet18@{tmp_path}/b.pth")
