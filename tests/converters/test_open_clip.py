"""open_clip's image towers: what encode_image gives, in its own names, from files and at random."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters import sources
from converters.export import from_torch
from converters.randomise import randomise
from vtabjax.model import SavedModel, apply, to_state_dict
from vtabjax.specs import SpecError

open_clip = pytest.importorskip("open_clip")
_TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
_VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
CONFIGS = {
    "tiny-ViT": {"embed_dim": 24, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "tiny-ViT-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "tiny-RN": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": _TEXT,
    },
    "tiny-coca": {
        "embed_dim": 24,
        "vision_cfg": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**_TEXT, "attn_pooler_heads": 4},
        "custom_text": True,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": _TEXT,
    },
}


@pytest.fixture(scope="module", autouse=True)
def tiny_configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in CONFIGS:
        open_clip.factory._MODEL_CONFIGS.pop(name)


def whole(name, **options):
    """open_clip's model of images and texts with random weights."""
    return randomise(open_clip.create_model(name, **options).eval())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_files_features_are_what_encode_image_gives(name, tmp_path):
    torch.manual_seed(0)
    model = whole(name)
    path = tmp_path / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    source = sources.build(f"open_clip/{name}@{path}")
    size = source.info["input_size"][1]
    assert size == CONFIGS[name]["vision_cfg"]["image_size"]
    module = source.module.double()
    graph, variables = from_torch(module, (3, size, size))

    images = np.random.default_rng(0).standard_normal((3, size, size, 3))
    with torch.no_grad():
        theirs = model.double().encode_image(torch.from_numpy(images).permute(0, 3, 1, 2), normalize=False)
    with jax.enable_x64(True):
        ours = jax.jit(lambda v: apply(graph, v, images)[0])(variables)
    assert list(ours) == ["features"]
    error = np.abs(np.asarray(ours["features"]) - theirs.numpy()).max() / theirs.abs().max().item()
    assert error < 1e-10
    # The tower alone, under its own names.
    assert set(variables) == set(model.visual.state_dict())
    state = to_state_dict(SavedModel(graph, variables, {}))
    model.visual.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    assert source.info["checkpoint"]["tensors"] == len(state)


def test_positions_are_resampled_as_open_clip_does(tmp_path):
    model = whole("tiny-ViT")
    path = tmp_path / "open_clip_model.safetensors"
    save_file(model.state_dict(), path)
    source = sources.build(f"open_clip/tiny-ViT@{path}", 48)
    other = open_clip.create_model("tiny-ViT", pretrained=str(path), force_image_size=48)
    assert source.info["positions"]["method"] == "bicubic, antialiased"
    for key, value in other.visual.state_dict().items():
        assert torch.equal(source.module.state_dict()[key], value), key


def test_a_timm_tower_at_another_size_is_open_clips(tmp_path):
    model = whole("tiny-timm")
    path = tmp_path / "open_clip_model.safetensors"
    save_file(model.state_dict(), path)
    source = sources.build(f"open_clip/tiny-timm@{path}", 96)
    other = open_clip.create_model("tiny-timm", pretrained=str(path), force_image_size=96).eval()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = source.module.image_outputs(source.module, images)["features"]
        assert torch.equal(features, other.encode_image(images))


def test_the_activation_is_the_configs_or_the_tags():
    plain, quick = (sources.build(f"open_clip/{n}@random", None) for n in ("tiny-ViT", "tiny-ViT-quickgelu"))
    assert (plain.info["activation"], quick.info["activation"]) == ("GELU", "QuickGELU")
    kinds = [{type(m).__name__ for m in s.module.modules()} for s in (plain, quick)]
    assert "QuickGELU" not in kinds[0] and "QuickGELU" in kinds[1]
    activation = lambda spec: sources.open_clip._activation(sources.check(spec))  # noqa: E731
    assert activation("open_clip/ViT-B-32.openai") == "QuickGELU"
    assert activation("open_clip/ViT-B-32.laion2b_s34b_b79k") == "GELU"
    assert activation("open_clip/roberta-ViT-B-32.laion2b_s12b_b32k") == "QuickGELU"
    assert activation("open_clip/ViT-B-16-SigLIP.webli") is None


def test_a_seed_decides_and_a_size_that_does_not_fit_is_refused():
    first, same, other = (
        sources.build(f"open_clip/tiny-ViT@random{s}").module.state_dict() for s in ("", ":0", ":1")
    )
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    with pytest.raises(
        SpecError, match="open_clip/tiny-ViT@random' cannot take images of 4 pixels: its own size is 32"
    ):
        sources.build("open_clip/tiny-ViT@random", 4)


def test_everything_listed_can_be_described():
    configs = [n for n in sources.list_models("open_clip/*@random") if "tiny-" not in n]
    tags = sources.list_models("open_clip/*")
    assert len(configs) >= 144 and len(tags) >= 190
    for spec in configs[:3] + tags:
        info = sources.describe(spec, listed=True)
        json.dumps(info)
        assert len(info["mean"]) == len(info["std"]) == 3 and info["input_size"][0] == 3
    assert sources.list_models("open_clip/ViT-B-32.laion400m*") == [
        "open_clip/ViT-B-32.laion400m_e31",
        "open_clip/ViT-B-32.laion400m_e32",
    ]


def test_preprocessing_is_the_tags():
    openai = sources.describe("open_clip/ViT-B-32.openai")
    assert openai["mean"] == [0.48145466, 0.4578275, 0.40821073] and openai["crop_mode"] == "center"
    assert (openai["method"], openai["pretraining_data"]) == ("image-text", "OpenAI WIT-400M")
    siglip = sources.describe("open_clip/ViT-B-16-SigLIP-384.webli")
    assert (
        siglip["mean"] == [0.5] * 3
        and siglip["crop_mode"] == "squash"
        and siglip["input_size"] == [3, 384, 384]
    )
    shared = sources.describe("open_clip/ViT-B-16-SigLIP@random")
    assert shared["mean"] == [0.5] * 3 and "for all weights of ViT-B-16-SigLIP" in shared["preprocessing"]
    none = sources.describe("open_clip/ViT-M-16@random")
    assert none["mean"] == openai["mean"] and "default" in none["preprocessing"]
    clipa = sources.describe("open_clip/ViT-L-14-CLIPA.datacomp1b")
    assert clipa["interpolation"] == "bilinear"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip/ViT-B-33@random", "open_clip has no config 'ViT-B-33'; did you mean"),
        (
            "open_clip/ViT-B-32",
            "does not say which weights; write a tag, such as ViT-B-32.openai; it has openai, ",
        ),
        ("open_clip/ViT-B-32.webli", "has no weights 'webli'; it has openai, "),
        ("open_clip/ViT-B-16-plus", "publishes no weights.*open_clip/ViT-B-16-plus@random"),
        ("open_clip/ViT-B-32@/nowhere.pt", "there is no weight file /nowhere.pt"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(SpecError, match=message) as error:
        sources.check(spec)
    assert spec in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_another_width_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(whole("tiny-ViT").state_dict(), path)
    wide = {**CONFIGS["tiny-ViT"], "vision_cfg": {**_VIT, "width": 96}}
    (tmp_path / "tiny-wide.json").write_text(json.dumps(wide))
    open_clip.add_model_config(tmp_path / "tiny-wide.json")
    try:
        with pytest.raises(SpecError, match=r"has shape \[64\], open_clip/tiny-wide wants \[96\]|tiny-wide"):
            sources.build(f"open_clip/tiny-wide@{path}")
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path / "tiny-wide.json")
        open_clip.factory._MODEL_CONFIGS.pop("tiny-wide")
