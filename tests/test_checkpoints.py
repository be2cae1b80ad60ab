"""Checkpoint files: every layout recognised by content, exactly the backbone taken, everything else refused."""

import argparse
import functools
import io
import json
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters import checkpoints, layouts, sources
from converters.checkpoints import CheckpointError
from converters.sources.files import SobelConv
from vtabjax import specs

LAYOUTS = json.loads(Path(__file__).with_name("ssl_layouts.json").read_text())
BY_NAME = {layout["name"]: layout for layout in LAYOUTS}


@functools.cache
def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone as its own repository writes them."""
    from converters.sources import timm, torchvision  # noqa: F401

    import timm as library  # isort: skip
    import torchvision as vision  # isort: skip

    with torch.device("meta"):
        if backbone.startswith("resnet"):
            state = vision.models.get_model(backbone.removesuffix("_sobel")).state_dict()
        else:
            name = {"vit_base": "vit_base_patch16_224", "vit_small_dinov2": "vit_small_patch14_dinov2"}
            model = library.create_model(name.get(backbone, "vit_small_patch16_224"), num_classes=0)
            state = model.state_dict()
    found = {k: tuple(v.shape) for k, v in state.items() if not k.startswith("fc.")}
    if backbone == "resnet50_sobel":
        found["conv1.weight"] = (64, 2, 7, 7)
    if backbone == "vit_small_dinov2":
        found["mask_token"] = (1, 384)
    if backbone == "vit_small_mm":
        found = {openmmlab(k): v for k, v in found.items()}
    return found


def openmmlab(key: str) -> str:
    """timm's name of a ViT's tensor in OpenMMLab's words."""
    for ours, theirs in (
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        ("norm1.", "ln1."),
        ("norm2.", "ln2."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
    ):
        key = key.replace(ours, theirs)
    return key.replace("norm.", "ln1.") if key.startswith("norm.") else key


def tensor(shape, value: float, dtype=torch.float32) -> torch.Tensor:
    """A tensor of one number; the file holds it once, so that files stay small."""
    if shape == ():
        return torch.zeros((), dtype=torch.int64)
    return torch.full((1,), value, dtype=dtype).expand(shape)


def backbone_state(backbone: str, offset: float = 0.0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    return {k: tensor(s, 0.5 + i / 512 + offset, dtype) for i, (k, s) in enumerate(shapes(backbone).items())}


def synthesise(layout: dict, dtype=torch.float32) -> tuple[dict, dict[str, torch.Tensor]]:
    """A checkpoint in a layout, and the backbone that lies in it. Momentum copies have other values."""
    base = backbone_state(layout["backbone"], dtype=dtype)
    state = {layout["prefix"] + k: v for k, v in base.items()}
    state |= {k: tensor(tuple(s), 7.0) for k, s in layout["extra"].items()}
    for prefix, kind in layout["copies"].items():
        copy = base if kind == "alias" else backbone_state(layout["backbone"], offset=100.0, dtype=dtype)
        state |= {prefix + k: v for k, v in copy.items()}
    return wrap(layout, state), base


def wrap(layout: dict, state: dict) -> dict:
    tree = state
    for key in reversed(layout["container"]):
        tree = {key: tree}
    others = {"author": "OpenSelfSup", "optimizer": {"state": {}}, "type": "checkpoint"}
    return {**{k: others.get(k, 3) for k in layout["top"]}, **tree}


def state_of(layout: dict, tree: dict) -> dict:
    for key in layout["container"]:
        tree = tree[key]
    return tree


def save(tree, path, **kwargs) -> str:
    torch.save(tree, path, **kwargs)
    return str(path)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_layout_gives_its_backbone_and_lists_the_rest(name, tmp_path):
    layout = BY_NAME[name]
    tree, base = synthesise(layout)
    path = save(tree, tmp_path / "file.pth")
    found = layouts.backbone(checkpoints.read(path), path)
    assert found.layout.name == name
    if layout["backbone"] == "vit_small_mm":
        found = found._replace(state={openmmlab(k): v for k, v in found.state.items()})
    kept = {k for k in base if k != "mask_token"}
    assert set(found.state) == kept
    assert all(torch.equal(found.state[k], base[k]) for k in kept)
    assert set(found.dropped) == set(state_of(layout, tree)) - {layout["prefix"] + k for k in kept}
    assert found.sobel == (layout["backbone"] == "resnet50_sobel")
    normalised = found.layout.normalisation == layouts.IMAGENET
    assert normalised == layout["normalised"]


def test_there_are_24_layouts_to_recognise():
    assert len(BY_NAME) == 24


ResNet18 = functools.partial(backbone_state, "resnet18")


def with_classifier(state: dict, classes: int = 1000) -> dict:
    return {**state, "fc.weight": tensor((classes, 512), 0.25), "fc.bias": tensor((classes,), 0.125)}


@pytest.mark.parametrize(
    ("container", "prefix"),
    [("", ""), ("", "module."), ("state_dict", "module."), ("model", ""), ("model_state_dict", "backbone.")],
)
def test_state_dict_of_the_architecture_is_loaded_with_its_classifier(container, prefix, tmp_path):
    state = with_classifier(ResNet18(), classes=7)
    tree = {prefix + k: v for k, v in state.items()}
    path = save({container: tree, "epoch": 5} if container else tree, tmp_path / "mine.pth")
    source = sources.build(f"torchvision/resnet18@{path}")
    own = source.module.state_dict()
    assert set(own) == set(state) and all(torch.equal(own[k], state[k]) for k in own)
    assert source.info["num_classes"] == 7
    assert source.info["layout"] == "state_dict" and source.info["dropped_keys"] == []
    assert source.info["license"] is None and source.info["method"] is None


def test_safetensors_half_precision_and_missing_counters(tmp_path):
    state = {k: v.contiguous() for k, v in backbone_state("resnet18", dtype=torch.bfloat16).items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "bare.safetensors")
    source = sources.build(f"timm/resnet18@{tmp_path}/bare.safetensors")
    assert source.info["num_classes"] is None
    own = source.module.state_dict()
    assert own["layer1.0.conv1.weight"].dtype == torch.float32
    assert torch.equal(own["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"].float())
    assert source.module(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_torchvision_without_classifier_gives_the_features_in_front_of_it(tmp_path):
    path = save(ResNet18(), tmp_path / "bare.pth")
    assert sources.build(f"torchvision/resnet18@{path}").module(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_simclr_is_told_from_a_trained_model_by_its_batch_counters(tmp_path):
    layout = BY_NAME["simclr_v1_converted"]
    tree, _ = synthesise(layout)
    assert layouts.backbone(tree, "f").layout.name == "simclr_v1_converted"
    for k in tree["state_dict"]:
        if k.endswith("num_batches_tracked"):
            tree["state_dict"][k] = torch.tensor(1000)
    assert layouts.backbone(tree, "f").layout is None


def test_openmmlab_vit_has_twelve_heads_under_timm_names(tmp_path):
    tree, base = synthesise(BY_NAME["mmselfsup_1x_vit"])
    source = sources.build(f"timm/vit_small_patch16_224@{save(tree, tmp_path / 'f.pth')}")
    assert source.info["num_heads"] == source.module.blocks[0].attn.num_heads == 12
    own = source.module.state_dict()
    assert torch.equal(own["blocks.3.mlp.fc2.weight"], base["layers.3.ffn.layers.1.weight"])
    assert torch.equal(own["norm.bias"], base["ln1.bias"])
    assert source.info["mean"] == [0.485, 0.456, 0.406]  # not timm's 0.5


def test_position_embedding_is_resampled_to_another_input_size(tmp_path):
    tree, base = synthesise(BY_NAME["dino_backbone_vits16"])
    tree = dict(tree)
    grid = torch.linspace(0, 1, 14)[:, None].expand(14, 14).reshape(1, 196, 1).expand(1, 196, 384)
    tree["pos_embed"] = torch.cat([torch.full((1, 1, 384), 9.0), grid], dim=1)
    source = sources.build(f"timm/vit_small_patch16_224@{save(tree, tmp_path / 'f.pth')}", input_size=64)
    positions = source.module.pos_embed.detach()
    assert positions.shape == (1, 17, 384)
    assert (positions[0, 0] == 9).all()
    rows = positions[0, 1:, 0].reshape(4, 4)
    assert torch.allclose(rows, rows[:, :1].expand(4, 4), atol=1e-5) and (rows[1:] > rows[:-1]).all()


def test_dinov2_with_registers_folds_the_class_position():
    state = backbone_state("vit_small_dinov2")
    state["register_tokens"] = tensor((1, 4, 384), 3.0)
    state["blocks.0.mlp.w12.weight"] = state.pop("blocks.0.mlp.fc1.weight")
    found = layouts.backbone(state, "f").state
    assert found["pos_embed"].shape == (1, 1369, 384)
    assert torch.equal(found["cls_token"], state["cls_token"] + state["pos_embed"][:, :1])
    assert "blocks.0.mlp.fc1.weight" in found and "register_tokens" not in found


def test_sobel_stem_equals_upstreams_two_fixed_layers():
    conv = torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    stem = SobelConv(conv)
    x = torch.randn(2, 3, 20, 24)
    grey = torch.nn.functional.conv2d(x, torch.full((1, 3, 1, 1), 1 / 3))
    filters = torch.tensor(
        [[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]]]
    )
    gradients = torch.nn.functional.conv2d(grey, filters, padding=1)
    expected = torch.nn.functional.conv2d(gradients, stem.weight, stride=2, padding=3)
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-5)
    assert list(stem.state_dict()) == ["weight"]  # as in the released file


def test_deepcluster_by_name_and_by_content(tmp_path):
    tree, _ = synthesise(BY_NAME["openselfsup_released_sobel"])
    path = save(tree, tmp_path / "deepcluster_r50-bb8681e2.pth")
    source = sources.build(f"openselfsup/deepcluster@{path}", input_size=32)
    assert source.module(torch.randn(1, 3, 32, 32)).shape == (1, 2048)
    assert source.module.state_dict()["conv1.weight"].shape == (64, 2, 7, 7)
    assert source.info["license"] == "apache-2.0" and source.info["input_size"] == [3, 32, 32]
    assert "Sobel" in source.info["stem"]
    with pytest.raises(specs.SpecError, match="takes 2 channels.*write openselfsup/deepcluster"):
        sources.build(f"openselfsup/simclr@{path}")


def test_openselfsups_fourteen_releases(tmp_path):
    names = sources.list_models("openselfsup/*")
    assert len(names) == 14
    tree, base = synthesise(BY_NAME["openselfsup_released"])
    path = save(tree, tmp_path / "simclr.pth")
    source = sources.build(f"openselfsup/simclr@{path}")
    assert source.info["method"] == "self-supervised" and source.info["pretraining_data"] == "ImageNet-1k"
    assert source.info["crop_pct"] == 0.875 and source.info["interpolation"] == "bilinear"
    assert torch.equal(
        source.module.state_dict()["layer4.2.bn3.running_var"], base["layer4.2.bn3.running_var"]
    )
    for name in names:
        info = sources.describe(f"{name}@{path}")
        expected = {"openselfsup/imagenet": "supervised", "openselfsup/random": "none"}
        assert info["method"] == expected.get(name, "self-supervised")
    # The name of the published file is a name, too.
    assert sources.describe(f"openselfsup/moco_r50_v2@{path}")["weights"] == "OpenSelfSup moco_r50_v2"
    with pytest.raises(specs.SpecError, match="needs its file.*openselfsup/byol@/path/to/byol_r50"):
        sources.check("openselfsup/byol")
    with pytest.raises(specs.SpecError, match="did you mean relative_loc"):
        sources.check(f"openselfsup/relativ_loc@{path}")
    with pytest.raises(specs.SpecError, match="takes 3 channels"):
        sources.build(f"openselfsup/deepcluster@{path}")


# What is refused, each with its own message.


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
    refused(tree, tmp_path, r"has layer3\.6\.conv1\.weight, which torchvision/resnet50 has not")


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


def test_module_twice(tmp_path):
    tree, _ = synthesise(BY_NAME["swav_released"])
    refused({"module." + k: v for k, v in tree.items()}, tmp_path, "begin with 'module.' twice")
    refused({"module.module." + k: v for k, v in ResNet18().items()}, tmp_path, "'module.' twice")


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
        with pytest.raises(CheckpointError, match=message):
            sources.build(f"torchvision/resnet18@{path}")
    with pytest.raises(specs.SpecError, match="there is no weight file"):
        sources.build(f"torchvision/resnet18@{tmp_path}/nothing.pth")
    with pytest.raises(CheckpointError, match="cannot read the weight file"):
        checkpoints.read(tmp_path)


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
    read = checkpoints.read(path)
    assert isinstance(read["args"], checkpoints.Stub) and isinstance(
        read["message_hub"]["a"], checkpoints.Stub
    )
    assert isinstance(read["hook"], checkpoints.Stub) and read["size"] == torch.Size([1, 2])
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
        found = checkpoints._StubbingUnpickler(io.BytesIO(text)).load()
        assert issubclass(found, checkpoints.Stub)


def test_damage_inside_the_archive_is_noticed(tmp_path):
    path = save(ResNet18(), tmp_path / "file.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/3"):
                new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        sources.build(f"torchvision/resnet18@{tmp_path}/b.pth")
