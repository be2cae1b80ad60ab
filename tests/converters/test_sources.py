"""Model specs become torch modules, and what is known about them."""

import json
import socket
import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters import sources
from converters.sources import provenance, timm, torchvision
from vtabjax import bundled
from vtabjax.specs import SpecError

INFO = set(
    "spec source architecture family imagenet_top1 weights input_size mean std interpolation crop_pct crop_mode "
    "num_classes license method pretraining_data".split()
)
METHODS = {"supervised", "self-supervised", "semi-supervised", "image-text", "generative", "none", None}


@pytest.mark.parametrize(
    "spec", ["timm/*@random", "timm/*", "torchvision/*", "torchvision/*@random", "baseline/*"]
)
def test_everything_listed_can_be_described(spec):
    found = sources.list_models(spec)
    assert found == sorted(set(found))
    for name in found:
        info = sources.describe(name)
        assert set(info) == INFO | ({"feature_choices"} if spec == "baseline/*" else set()), name
        json.dumps(info)
        assert info["spec"] == name and info["method"] in METHODS and info["weights"]
        assert len(info["input_size"]) == len(info["mean"]) == len(info["std"]) == 3
        assert 0 < info["crop_pct"] <= 1.2 and info["interpolation"] in ("bicubic", "bilinear")


def test_list_models():
    assert len(sources.list_models("timm/*@random")) >= 1300
    assert len(sources.list_models("torchvision/*@random")) == 80
    published = sources.list_models("timm/resnet50.*")
    assert "timm/resnet50.a1_in1k" in published and all(p.startswith("timm/resnet50.") for p in published)
    assert sources.list_models("torchvision/resnet50*") == [
        "torchvision/resnet50.IMAGENET1K_V1",
        "torchvision/resnet50.IMAGENET1K_V2",
    ]
    assert sources.list_models("torchvision/resnet50.*V2") == ["torchvision/resnet50.IMAGENET1K_V2"]
    assert sources.list_models("timm/resnet18@random") == ["timm/resnet18@random"]
    assert "timm/vit_tiny_patch16_224@random:3" in sources.list_models("timm/vit_tiny*@random:3")
    assert sources.list_models("*/resnet18@random") == ["timm/resnet18@random", "torchvision/resnet18@random"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm/resnet18x", "no architecture 'resnet18x'; did you mean resnet18"),
        ("timm/zzzzqqqq", r"python -m converters list 'timm/\*' lists them"),
        ("tim/resnet18", "there is no source 'tim'; did you mean timm"),
        ("timm/resnet18.nothing_in1k", "has no weights 'nothing_in1k'; it has a1_in1k, "),
        ("timm/botnet50ts_256", "publishes no weights.*write timm/botnet50ts_256@random"),
        ("timm/resnet*", "is a pattern"),
        ("timm/resnet18@/nowhere.pth", "there is no weight file /nowhere.pth"),
        ("timm/resnet18.a1_in1k@/nowhere.pth", "both a weight tag and a file"),
        ("torchvision/resnet18.V1", "has no weights 'V1'; it has IMAGENET1K_V1"),
        ("torchvision/vgg16.IMAGENET1K_FEATURES", "has no weights"),
        ("torchvision/resnet17", "did you mean resnet1"),
        ("baseline/pixel", "baseline models: baseline/pixels"),
        ("baseline/pixels@random", "has no weights"),
        ("embedded/nothing", "does not ship with the project; embedded models: "),
        ("openselfsup/simclr", "needs its file"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(SpecError, match=message) as error:
        sources.check(spec)
    assert spec in str(error.value) and "\n" not in str(error.value)


def test_patterns_that_match_nothing():
    with pytest.raises(SpecError, match="matches nothing"):
        sources.list_models("timm/qqq*")
    with pytest.raises(SpecError, match="no source 'nowhere'"):
        sources.list_models("nowhere/*")
    with pytest.raises(SpecError, match="belongs to one architecture"):
        sources.list_models("timm/resnet*@/some/file.pth")


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = sources.build("timm/test_resnet@random:1").module.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = sources.build("timm/test_resnet@random:1").module.state_dict()
    other = sources.build("timm/test_resnet@random:2").module.state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(
    ("spec", "size", "classes"),
    [
        ("timm/test_resnet@random", 48, 1000),
        ("timm/test_vit@random", 96, 1000),
        ("timm/vit_tiny_patch16_224@random", 64, 1000),
        ("torchvision/squeezenet1_1@random", 64, 1000),
        ("torchvision/vit_b_32@random", 64, 1000),
        ("torchvision/regnet_y_400mf@random", 64, 1000),
        ("torchvision/inception_v3@random", 96, 1000),
    ],
)
def test_built_at_another_size(spec, size, classes):
    source = sources.build(spec, input_size=size)
    assert source.info["input_size"] == [3, size, size]
    assert not source.module.training
    assert all(p.dtype == torch.float32 for p in source.module.parameters())
    with torch.no_grad():
        assert source.module(torch.zeros(1, 3, size, size)).shape == (1, classes)


def test_a_size_that_a_model_cannot_take():
    with pytest.raises(
        SpecError,
        match="cannot take images of 100 pixels: its own size is 224, and near 100 it takes 96 and 128",
    ):
        sources.build("torchvision/vit_b_32@random", input_size=100)
    with pytest.raises(SpecError, match="own size is 224, and near 300 it takes 448"):
        sources.build("torchvision/maxvit_t@random", input_size=300)
    with pytest.raises(SpecError, match="cannot take images of 7 pixels"):
        sources.build("timm/test_vit@random", input_size=7)
    with pytest.raises(SpecError, match="input size 0 is not a positive number"):
        sources.build("timm/test_resnet@random", input_size=0)


def test_inception_has_no_auxiliary_classifier():
    assert not any("Aux" in k for k in sources.build("torchvision/inception_v3@random").module.state_dict())


def test_torchvision_says_what_its_transforms_do():
    info = sources.describe("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    assert (
        info["input_size"] == [3, 384, 384] and info["crop_pct"] == 1 and info["interpolation"] == "bicubic"
    )
    assert info["license"] == "cc-by-nc-4.0" and "Instagram" in info["pretraining_data"]
    info = sources.describe("torchvision/resnet50")
    assert info["family"] == "resnet" and info["imagenet_top1"] == pytest.approx(80.858)
    assert info["weights"] == "torchvision resnet50.IMAGENET1K_V2"  # torchvision's default
    assert round(224 / info["crop_pct"]) == 232
    assert info["license"] == "bsd-3-clause" and info["method"] == "supervised"
    assert sources.describe("torchvision/vit_h_14@random")["input_size"] == [3, 224, 224]


@pytest.mark.parametrize(
    ("tag", "method", "data"),
    [
        ("a1_in1k", "supervised", "ImageNet-1k"),
        ("augreg_in21k_ft_in1k", "supervised", "ImageNet-21k, ImageNet-1k"),
        ("dino", "self-supervised", "ImageNet-1k"),
        ("lvd142m", "self-supervised", "LVD-142M"),
        ("mae", "self-supervised", "ImageNet-1k"),
        ("fcmae_ft_in22k_in1k", "supervised", "ImageNet-1k, ImageNet-21k"),
        ("fb_swsl_ig1b_ft_in1k", "semi-supervised", "Instagram-1B, ImageNet-1k"),
        ("ns_jft_in1k", "semi-supervised", "JFT-300M, ImageNet-1k"),
        ("openai", "image-text", "OpenAI WIT-400M"),
        ("laion2b_ft_in12k_in1k", "supervised", "LAION-2B, ImageNet-12k, ImageNet-1k"),
        ("webli", "image-text", "WebLI"),
        ("in1k_ijepa", "self-supervised", "ImageNet-1k"),
        ("robbyant", None, None),
        ("", None, None),
    ],
)
def test_what_timms_tags_say(tag, method, data):
    found, where = timm.provenance(tag)
    assert found == method
    assert where == data or set(where.split(", ")) == set(data.split(", "))


def test_every_tag_of_timm_is_known_or_known_to_be_unknown():
    tags = {name.partition(".")[2] for name in timm._pretrained()} - {""}
    lost = {tag for tag in tags if None in timm.provenance(tag) and not provenance.unknown(tag)}
    assert not lost, "give each a row in converters/sources/provenance.py"
    assert timm.provenance("metaclip_400m") == ("image-text", "MetaCLIP-400M")
    assert timm.provenance("qwen3_vl_8b") == ("image-text", None)
    assert timm.provenance("seer") == ("self-supervised", "Instagram-1B")


@pytest.mark.parametrize(
    ("name", "tag", "data", "license"),
    [
        ("ViT-B-32", "openai", "OpenAI WIT-400M", "mit"),
        ("ViT-H-14", "laion2b_s32b_b79k", "LAION-2B", "mit"),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", "DataComp-1B", "mit"),
        (
            "ViT-B-32-256",
            "datacomp_s34b_b86k",
            "DataComp-1B",
            "mit",
        ),  # s34b: samples seen, not the small pool
        ("ViT-B-32", "datacomp_s_s13m_b4k", "DataComp small", "mit"),
        ("ViT-B-16", "commonpool_l_clip_s1b_b8k", "CommonPool large (clip filter)", "mit"),
        ("ViT-B-32", "commonpool_s_s13m_b4k", "CommonPool small", "mit"),
        ("ViT-H-14-CLIPA", "datacomp1b", "DataComp-1B", "apache-2.0"),
        ("ViTamin-L", "datacomp1b", "DataComp-1B", "mit"),
        ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k", "LAION-2B, MSCOCO", "mit"),
        ("ViT-H-14", "metaclip_fullcc", "MetaCLIP-2.5B", "cc-by-nc-4.0"),
        ("MobileCLIP-B", "datacompdr_lt", "DataCompDR-1B", "apple-amlr"),
        ("nllb-clip-base-siglip", "v1", "WebLI", "cc-by-nc-4.0"),
        ("nllb-clip-base", "v1", None, "cc-by-nc-4.0"),
    ],
)
def test_what_open_clips_tags_say(name, tag, data, license):
    assert provenance.open_clip_provenance(name, tag) == ("image-text", data, license)


def test_every_tag_of_open_clip_is_known():
    open_clip = pytest.importorskip("open_clip")
    found = {(n, t): provenance.open_clip_provenance(n, t) for n, t in open_clip.list_pretrained()}
    assert {known.method for known in found.values()} == {"image-text"}, "give each a row in provenance.py"
    # Their image towers come from models that the releases do not name.
    assert {n for (n, _), known in found.items() if known.data is None} == {
        "nllb-clip-base",
        "nllb-clip-large",
    }
    unlicensed = {t for (_, t), known in found.items() if known.license is None}
    assert unlicensed == {"yfcc15m", "cc12m", "laion400m_e31", "laion400m_e32", "laion2b_e16"}
    assert provenance.open_clip_provenance("ViT-B-32", "a_new_tag") == (None, None, None)


def test_pixels_are_the_image_averaged_to_16x16():
    source = sources.build("baseline/pixels", input_size=64)
    images = torch.rand(2, 3, 64, 64)
    blocks = images.numpy().reshape(2, 3, 16, 4, 16, 4).mean((3, 5))
    expected = blocks.transpose(0, 2, 3, 1).reshape(2, 768)
    np.testing.assert_allclose(source.module(images).numpy(), expected, rtol=1e-6)
    assert source.module(torch.rand(1, 3, 100, 90)).shape == (1, 768)
    assert sources.build("baseline/pixels").info["input_size"] == [3, 224, 224]
    assert sources.parameters("baseline/pixels") == 0


def test_parameters_are_counted_without_building():
    assert sources.parameters("timm/resnet18@random") == 11689512
    assert sources.parameters("torchvision/resnet18@random") == 11689512


# Published weights: nothing is downloaded here, so what the download would give is put in its place.


def test_published_timm_weights(monkeypatch):
    weights = timm.timm.create_model("resnet18").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(weights))
    source = sources.build("timm/resnet18.a1_in1k", input_size=64)
    own = source.module.state_dict()
    assert all(torch.equal(own[k], weights[k]) for k in weights)
    assert source.info["weights"] == "timm resnet18.a1_in1k" and source.info["license"] == "apache-2.0"
    assert source.info["method"] == "supervised" and source.info["pretraining_data"] == "ImageNet-1k"


def test_published_timm_weights_that_fix_the_size(monkeypatch):
    weights = timm.timm.create_model("gmixer_24_224").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(weights))
    spec = sources.list_models("timm/gmixer_24_224*")[0]
    with pytest.raises(SpecError, match="weights do not fit 64 pixels; leave the input size out"):
        sources.build(spec, input_size=64)


def test_published_torchvision_weights(monkeypatch):
    weights = torchvision.make("vit_b_32", 224).state_dict()
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", lambda *a, **k: dict(weights))
    own = sources.build("torchvision/vit_b_32").module.state_dict()
    assert all(torch.equal(own[k], weights[k]) for k in weights)
    small = sources.build("torchvision/vit_b_32.IMAGENET1K_V1", input_size=64).module
    assert small.encoder.pos_embedding.shape == (1, 5, 768)
    assert torch.equal(small.conv_proj.weight, weights["conv_proj.weight"])


def unreachable(*arguments, **options):
    raise socket.gaierror(-2, "Name or service not known")


def test_no_network_for_the_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("converters.sources.download.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(SpecError, match="cannot be downloaded .*does not resolve") as error:
        sources.build("timm/resnet18.a1_in1k")
    text = str(error.value)
    assert "timm/resnet18@random" in text and "timm/resnet18@/path/to/file" in text and "\n" not in text
    assert constants.HF_HUB_OFFLINE is False


def test_no_network_for_torchvision(monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(SpecError, match="cannot be downloaded .*refused.*torchvision/resnet18@random"):
        sources.build("torchvision/resnet18")


def test_other_errors_are_not_taken_for_the_network(monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        sources.build("timm/resnet18.a1_in1k")


def test_embedded_models(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    (tmp_path / "tiny").mkdir()
    weights = timm.timm.create_model("test_resnet", num_classes=4).state_dict()
    save_file(weights, tmp_path / "tiny" / "weights.safetensors")
    info = {
        "family": "resnet",
        "weights": "trained on sprites",
        "input_size": [3, 64, 64],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 4,
        "license": "apache-2.0",
        "method": "supervised",
        "pretraining_data": "sprites",
    }
    source = {"architecture": "test_resnet", "kwargs": {"num_classes": 4}, "num_features": 96, "info": info}
    (tmp_path / "tiny" / "source.json").write_text(json.dumps(source))
    assert sources.list_models("embedded/*") == ["embedded/tiny"]
    built = sources.build("embedded/tiny")
    assert set(built.info) == INFO
    own = built.module.state_dict()
    assert all(torch.equal(own[k], weights[k]) for k in weights)
    with pytest.raises(SpecError, match="embedded models: embedded/tiny"):
        sources.check("embedded/other")
    with pytest.raises(SpecError, match="brings its own weights"):
        sources.check("embedded/tiny@random")


def test_timm_imports_beside_a_torch_without_torchvisions_operators():
    """The schemas are declared exactly when torchvision's own operators do not load."""
    code = (
        "from converters import _compat\nimport timm, torchvision\n"
        "assert (_compat._library is None) == torchvision.extension._has_ops()\n"
        "import torchvision.ops"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
