"""One step of SGD with momentum on the same batch, in PyTorch and in Flax, in float64; and back into PyTorch."""

import models
import pytest
import tiny_transformers
import torch
import training_step

from converters import _compat  # noqa: F401  (before timm)

# isort: split
import timm

from converters.randomise import randomise
from converters.sources import open_clip

pytestmark = pytest.mark.usefixtures("memory_back")
# One of each family, at the smallest image that keeps every stage at work.
FAMILIES = {
    "resnet18": 64,
    "resnetv2_50x1_bit": 64,
    "regnetx_002": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "test_efficientnet": 64,
    "mobilenetv3_small_100": 64,
    "nf_regnet_b0": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 32,
    "deit_tiny_distilled_patch16_224": 32,
    "swin_tiny_patch4_window7_224": 224,
    "maxvit_rmlp_pico_rw_256": 64,
    "mixer_s32_224": 224,
    "levit_128s": 224,
    "poolformer_s12": 64,
    "vgg11_bn": 32,
}

# A hundred million parameters of VGG are its first two linear layers; a dozen copies of them in float64 fill memory.
_OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.05}} | {
    name: {"img_size": FAMILIES[name]}
    for name in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "maxvit_rmlp_pico_rw_256")
}
TRANSFORMERS = (
    "vit", "deit", "dinov2", "beit", "siglip", "clip", "convnext", "resnet", "swin", "segformer", "mobilenet_v2",
    "levit",
)  # fmt: skip
_VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
OPEN_CLIP = {
    "ViT": _VIT,
    "CoCa": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "ResNet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "timm": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
}


def _create(name, whole):
    """The architecture; of its blocks that repeat two, unless it is to be whole."""
    options = _OPTIONS.get(name, {})
    if whole:
        return timm.create_model(name, **options)
    return models.shortened(timm.create_model(name, **options, **models.SHORT.get(name, {})))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        # EfficientNet-B0 takes half a minute; timm's tiny one and MobileNetV3 have its kinds of blocks.
        *(pytest.param(name, False, id=name) for name in FAMILIES if name != "efficientnet_b0"),
        *(pytest.param(name, True, id=f"{name}-whole", marks=pytest.mark.audit) for name in FAMILIES),
    ],
)
def test_one_step_equals_torchs_and_goes_back_to_torch(name, whole):
    torch.manual_seed(0)
    module = randomise(_create(name, whole)).double()
    training_step.check(module, lambda: _create(name, whole), FAMILIES[name], module.num_classes)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_classifiers_take_the_same_step(name):
    torch.manual_seed(0)
    module, size = tiny_transformers.build(name)
    training_step.check(randomise(module).double(), lambda: tiny_transformers.build(name)[0], size, 10)


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clips_towers_take_the_same_step(name):
    def create():
        return open_clip.tower({"embed_dim": 24, "vision_cfg": OPEN_CLIP[name]})

    torch.manual_seed(0)
    size = OPEN_CLIP[name]["image_size"]
    training_step.check(randomise(create()).double(), create, size, None)
