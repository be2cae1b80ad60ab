"""Checkpoints as training scripts leave them: the weights are found, their place is said and may be chosen."""

import json

import pytest
import torch
from checkpoint_files import ResNet18, save, tensor, with_classifier
from safetensors.torch import save_file

from converters import sources
from converters.checkpoints.reading import CheckpointError
from converters.sources import timm as timm_source
from vtabjax.specs import SpecError

R18 = "torchvision/resnet18"
VIT = "timm/vit_tiny_patch16_224"


def under(prefix: str, state: dict) -> dict:
    return {prefix + k: v for k, v in state.items()}


def doubled(state: dict) -> dict:
    return {k: v * 2 if v.is_floating_point() else v for k, v in state.items()}


def thin(spec: str, value: float = 0.25, **options) -> dict[str, torch.Tensor]:
    """A state_dict of an architecture of timm, one number in each tensor."""
    import timm

    with torch.device("meta"):
        shapes = {
            k: v.shape
            for k, v in timm.create_model(spec.removeprefix("timm/"), **options).state_dict().items()
        }
    return {k: tensor(tuple(s), value + i / 512) for i, (k, s) in enumerate(shapes.items())}


@pytest.fixture(scope="module")
def resnet():
    return with_classifier(ResNet18())


@pytest.fixture(scope="module")
def vit():
    return thin(VIT)


def load(tree, tmp_path, spec=R18, weights="", name="f.pth"):
    return sources.build(f"{spec}@{save(tree, tmp_path / name)}{weights}")


def loaded(source, state, key="layer1.0.conv1.weight") -> bool:
    return torch.equal(source.module.state_dict()[key], state[key])


PREFIXES = (
    "net. network. feature_extractor. backbone.model. _orig_mod.model. _orig_mod.module. module._orig_mod. "
    "module.module. a.b.c."
)


@pytest.mark.parametrize("prefix", PREFIXES.split())
def test_any_prefix(prefix, resnet, tmp_path):
    source = load(under(prefix, resnet), tmp_path)
    assert loaded(source, resnet) and source.info["num_classes"] == 1000
    assert source.info["checkpoint"]["prefix"] == prefix and source.info["place"] == prefix[:-1]
    assert source.info["checkpoint"]["share"] == 1.0 and source.info["dropped_keys"] == []


@pytest.mark.parametrize(
    "container", ["weights", "net", "student", "params", "model_state", "model/state_dict", "a/0/b"]
)
def test_any_container(container, resnet, tmp_path):
    tree = resnet
    for key in reversed(container.split("/")):
        tree = [tree] if key == "0" else {key: tree, "epoch": 3}
    source = load(tree, tmp_path)
    assert loaded(source, resnet) and source.info["checkpoint"]["container"] == container.replace("/", ".")


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("model.", {"criterion.weight": torch.ones(10)}),
        ("model.", {"train_acc.tp": torch.ones(10)}),
        ("backbone.", {"head.weight": torch.ones(10, 512), "head.bias": torch.ones(10)}),
        ("module.backbone.", {"module.online_probe.weight": torch.ones(10, 512)}),
        ("module.", {"n_averaged": torch.tensor(3)}),
        (
            "",
            {"total_ops": torch.zeros(1), "layer1.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
        ),
    ],
)
def test_what_lies_beside_the_weights_is_listed(prefix, extra, resnet, tmp_path):
    source = load({"state_dict": {**under(prefix, resnet), **extra}, "epoch": 1}, tmp_path)
    assert loaded(source, resnet) and set(source.info["dropped_keys"]) == set(extra)
    assert source.info["checkpoint"]["dropped"] == {"count": len(extra), "names": source.info["dropped_keys"]}


def test_wrappers_in_the_middle_of_names(resnet, tmp_path):
    state = {k.replace("layer1.", "layer1._orig_mod."): v for k, v in resnet.items()}
    assert loaded(load(state, tmp_path), resnet)


def test_averaged_weights_are_preferred_and_said(resnet, tmp_path):
    average = doubled(resnet)
    for plain, ema in (
        ("model", "model_ema"),
        ("state_dict", "state_dict_ema"),
        ("student", "teacher"),
        ("net", "EMA"),
    ):
        tree = {plain: resnet, ema: average}
        source = load(tree, tmp_path)
        assert loaded(source, average) and source.info["checkpoint"]["kind"] == "average"
        assert source.info["place"].startswith(f"{ema} (average") and source.info["checkpoint"]["others"] == [
            plain
        ]
        assert loaded(load(tree, tmp_path, weights="#weights=ema"), average)
        assert loaded(load(tree, tmp_path, weights=f"#weights={plain}"), resnet)
    for key in ("model_ema", "ema_state_dict", "ema"):
        assert loaded(load({key: resnet, "epoch": 1}, tmp_path), resnet)
    with pytest.raises(
        CheckpointError, match="no weights called 'x' that fit; it has #weights=teacher, #weights=net"
    ):
        load({"net": resnet, "teacher": average}, tmp_path, weights="#weights=x")


def test_an_average_that_is_not_complete_is_said(resnet, tmp_path):
    parameters = {k: v for k, v in doubled(resnet).items() if "running" not in k}
    source = load({"model": resnet, "model_ema": parameters}, tmp_path)
    assert loaded(source, resnet) and "left out: model_ema has 60 of 100 tensors" in source.info["place"]


def test_two_sets_whose_names_do_not_tell_are_refused_with_both(resnet, tmp_path):
    tree = {"generator": resnet, "critic": doubled(resnet)}
    with pytest.raises(
        CheckpointError, match="2 complete sets.*write one of #weights=generator, #weights=critic after"
    ):
        load(tree, tmp_path)
    assert loaded(load(tree, tmp_path, weights="#weights=critic"), tree["critic"])
    nested = {"state_dict": {**under("a.", resnet), **under("b.", doubled(resnet))}}
    with pytest.raises(CheckpointError, match="#weights=state_dict.a, #weights=state_dict.b"):
        load(nested, tmp_path)
    assert loaded(load(nested, tmp_path, weights="#weights=b"), tree["critic"])
    copies = {"generator": resnet, "critic": {k: v.clone() for k, v in resnet.items()}}
    assert loaded(load(copies, tmp_path), resnet)


def test_momentum_copies_only_when_asked(resnet, tmp_path):
    tree = {**under("encoder_q.", resnet), **under("encoder_k.", doubled(resnet))}
    source = load(tree, tmp_path)
    assert loaded(source, resnet) and all(k.startswith("encoder_k.") for k in source.info["dropped_keys"])
    assert loaded(load(tree, tmp_path, weights="#weights=encoder_k"), doubled(resnet))
    online = {**under("online_encoder.net.", resnet), **under("target_encoder.net.", doubled(resnet))}
    assert loaded(load(online, tmp_path), resnet)


@pytest.mark.parametrize("head", ["absent", "wrapped", "other width", "no bias"])
def test_a_complete_backbone_under_an_odd_head_gives_features(head, resnet, tmp_path):
    state = {k: v for k, v in resnet.items() if not k.startswith("fc.")}
    state |= {
        "absent": {},
        "wrapped": {"fc.1.weight": torch.zeros(10, 512), "fc.1.bias": torch.zeros(10)},
        "other width": {"fc.weight": torch.zeros(10, 700), "fc.bias": torch.zeros(10)},
        "no bias": {"fc.weight": torch.zeros(10, 512)},
    }[head]
    source = load(state, tmp_path)
    assert source.info["num_classes"] is None and loaded(source, resnet)
    assert source.module(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    expected = "absent" if head == "absent" else "left out, not part of the architecture: fc."
    assert source.info["checkpoint"]["head"].startswith(expected)
    assert [k for k in source.info["dropped_keys"]] == [k for k in state if k.startswith("fc.")]


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("resnet101", "timm/resnet50", "has layer3.6.conv1.weight.*which timm/resnet50 does not have"),
        ("vit_base_patch32_224", "timm/vit_base_patch16_224", "pos_embed has shape"),
        (
            "vit_small_patch14_reg4_dinov2",
            "timm/vit_small_patch14_dinov2",
            "has reg_token, which .* does not have",
        ),
        ("vit_tiny_patch16_224", "timm/vit_small_patch16_224", "has shape"),
        ("deit_tiny_distilled_patch16_224", VIT, "has dist_token"),
        ("vit_small_patch16_224", "torchvision/vit_b_16", "another architecture"),
    ],
)
def test_a_file_of_another_architecture_that_nearly_fits_is_refused(theirs, ours, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load(thin(theirs), tmp_path, ours)


def test_grey_pictures_and_quantized_weights_are_refused_with_the_reason(resnet, tmp_path):
    for channels, why in ((1, "trained on grey pictures"), (4, "not trained on pictures in colour")):
        with pytest.raises(CheckpointError, match=f"takes {channels} channel.*{why}"):
            load({**resnet, "conv1.weight": torch.zeros(64, channels, 7, 7)}, tmp_path)
    with pytest.raises(CheckpointError, match="int8 numbers in layer1.0.conv1.weight: a quantized model"):
        load({**resnet, "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3, dtype=torch.int8)}, tmp_path)


def test_files_of_other_libraries(vit, tmp_path):
    transformers = {
        "vit.embeddings.cls_token": torch.zeros(1, 1, 192),
        "vit.encoder.layer.0.output.bias": torch.zeros(1),
    }
    with pytest.raises(CheckpointError, match="is a Hugging Face transformers file"):
        load(transformers, tmp_path, VIT)
    trunk = {k: v for k, v in vit.items() if not k.startswith("head.")}
    source = load(
        {**under("visual.trunk.", trunk), "visual.head.proj.weight": torch.zeros(512, 192)}, tmp_path, VIT
    )
    assert source.info["place"] == "visual.trunk" and source.info["num_classes"] is None
    assert loaded(source, vit, "blocks.3.attn.qkv.weight")
    lightly = {**under("teacher_backbone.vit.", vit), **under("student_backbone.vit.", doubled(vit))}
    source = load({"state_dict": lightly}, tmp_path, VIT)
    assert loaded(source, vit, "norm.weight") and "teacher_backbone.vit (average" in source.info["place"]
    ijepa = {"encoder": under("module.", vit), "target_encoder": under("module.", doubled(vit)), "epoch": 1}
    source = load(ijepa, tmp_path, VIT)
    assert loaded(source, doubled(vit), "norm.weight") and source.info["place"].startswith(
        "target_encoder.module ("
    )


def openai(key: str) -> str:
    """timm's name of a tensor of CLIP's image tower in OpenAI's words."""
    if key.startswith("norm."):
        return "visual.ln_post." + key.removeprefix("norm.")
    for ours, theirs in (
        *(("patch_embed.proj", "conv1"), ("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre")),
        *(("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc")),
        *(("mlp.fc2", "mlp.c_proj"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("cls_token", "class_embedding")),
        ("pos_embed", "positional_embedding"),
    ):
        key = key.replace(ours, theirs)
    return f"visual.{key}"


def test_clip_under_its_own_names(tmp_path):
    name = "timm/vit_base_patch32_clip_224"
    state = thin(name, num_classes=0)
    squeezed = {"pos_embed": state["pos_embed"][0], "cls_token": state["cls_token"][0, 0]}
    tree = {openai(k): v for k, v in {**state, **squeezed}.items()} | {"visual.proj": torch.zeros(768, 512)}
    source = load({"state_dict": under("module.", tree)}, tmp_path, name)
    assert all(torch.equal(v, state[k]) for k, v in source.module.state_dict().items())
    assert source.info["num_classes"] is None and source.info["dropped_keys"] == ["module.visual.proj"]
    with pytest.raises(CheckpointError, match="is a CLIP file.*timm/vit_base_patch32_clip_224"):
        load(tree, tmp_path, "timm/vit_base_patch16_224")


def dinov3(state: dict) -> dict:
    """As Meta's release has it: other names, and biases that are all zero with a mask."""
    names = (("reg_token", "storage_tokens"), (".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma"))
    renamed = {}
    for key, value in state.items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        renamed[key] = value
    biases = {f"blocks.{i}.attn.qkv.{b}": torch.zeros(1152) for i in range(12) for b in ("bias", "bias_mask")}
    return {**renamed, **biases, "mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


def test_dinov3_under_its_own_names(tmp_path):
    name = "timm/vit_small_patch16_dinov3"
    state = thin(name)
    source = load(dinov3(state), tmp_path, name)
    assert all(torch.equal(v, state[k]) for k, v in source.module.state_dict().items())
    assert (
        source.info["pooling"] == "avg"
        and source.info["license"] is None
        and source.info["layout"] == "state_dict"
    )
    teacher = {
        "teacher": under("backbone.", dinov3(state)),
        "student": under("backbone.", dinov3(doubled(state))),
    }
    assert loaded(load(teacher, tmp_path, name), state, "norm.weight")
    with pytest.raises(CheckpointError, match="is an official DINOv3 file.*timm/vit_small_patch16_dinov3"):
        load(dinov3(state), tmp_path, "timm/vit_small_patch16_224")
    biased = {**dinov3(state), "blocks.0.attn.qkv.bias": torch.ones(1152)}
    with pytest.raises(CheckpointError, match="_qkvb where the biases"):
        load(biased, tmp_path, name)


@pytest.mark.parametrize(("grid", "size"), [(24, 224), (14, 96)])
def test_resampled_positions_are_timms_own_and_said(grid, size, vit, tmp_path):
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = {**vit, "pos_embed": torch.randn(1, grid**2 + 1, 192)}
    source = sources.build(f"{VIT}@{save(state, tmp_path / 'f.pth')}", input_size=size)
    own = timm.create_model("vit_tiny_patch16_224", img_size=size)
    expected = checkpoint_filter_fn(dict(state), own)["pos_embed"]
    assert torch.equal(source.module.state_dict()["pos_embed"], expected)
    cells = (size // 16) ** 2 + 1
    assert source.info["positions"] == {
        "resampled": {"pos_embed": {"from": [1, grid**2 + 1, 192], "to": [1, cells, 192]}},
        "method": "bicubic, antialiased",
    }
    with pytest.raises(CheckpointError, match="pos_embed has shape"):
        load({**vit, "pos_embed": torch.randn(1, 200, 192)}, tmp_path, VIT)


@pytest.mark.parametrize("name", ["blob", "pytorch_model.bin", "A.SAFETENSORS", "x.pth"])
def test_safetensors_under_any_name(name, resnet, tmp_path):
    save_file({k: v.contiguous() for k, v in resnet.items()}, tmp_path / name)
    assert loaded(sources.build(f"{R18}@{tmp_path / name}"), resnet)


def test_shards_and_folders(resnet, tmp_path):
    keys = list(resnet)
    shards = {"model-1.safetensors": keys[:50], "model-2.safetensors": keys[50:]}
    for name, own in shards.items():
        save_file({k: resnet[k].contiguous() for k in own}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: name for name, own in shards.items() for k in own}}))
    for path in (index, tmp_path):
        assert loaded(sources.build(f"{R18}@{path}"), resnet)
    index.write_text(json.dumps({"weight_map": {**dict.fromkeys(keys, "model-1.safetensors")}}))
    with pytest.raises(CheckpointError, match="shards that lack .*more"):
        sources.build(f"{R18}@{index}")
    other = tmp_path / "other"
    other.mkdir()
    save(resnet, other / "pytorch_model.bin")
    assert loaded(sources.build(f"{R18}@{other}"), resnet)


def test_features_say_how_they_are_pooled():
    built = {spec: sources.build(f"{spec}@random", 64).info["pooling"] for spec in (VIT, "timm/test_resnet")}
    assert built == {VIT: "token", "timm/test_resnet": "avg"}
    assert sources.build("torchvision/vit_b_32@random", 64).info["pooling"] == "token"
    assert timm_source.pooling(torch.nn.Identity()) is None


def test_a_pipe_is_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="not a regular file but a pipe"):
        sources.check(f"{R18}@{tmp_path / 'pipe'}")
