"""Checkpoint files: every layout recognised by content, exactly the backbone taken."""

import pytest
import torch
from checkpoint_files import (
    BY_NAME,
    ResNet18,
    backbone_state,
    openmmlab,
    save,
    state_of,
    synthesise,
    tensor,
    with_classifier,
)
from safetensors.torch import save_file

from converters import sources
from converters.checkpoints import layouts, reading
from converters.checkpoints.sobel import SobelConv
from vtabjax import specs


@pytest.mark.parametrize("name", BY_NAME)
def test_every_layout_gives_its_backbone_and_lists_the_rest(name, tmp_path):
    layout = BY_NAME[name]
    tree, base = synthesise(layout)
    path = save(tree, tmp_path / "file.pth")
    found = layouts.backbone(reading.read(path), path)
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
    assert layouts.backbone(tree, "f") is None


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
