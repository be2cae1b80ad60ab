"""The architectures that every change is tested on, each at a small image size it accepts."""

from __future__ import annotations

import re

from converters import _compat  # noqa: F401  (before torchvision)

# isort: split
import timm
import torchvision
from torch import nn

TIMM = {
    "resnet50": 64, "resnet50d": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64, "seresnet50": 64,
    "ecaresnet50d": 64, "resnetv2_50x1_bit": 64, "resnest50d": 64, "res2net50_26w_4s": 64, "regnety_032": 64,
    "densenet121": 64, "vgg16_bn": 64, "dpn68b": 64, "hrnet_w18": 64, "inception_v4": 96, "xception41": 64,
    "mobilenetv3_large_100": 64, "mnasnet_100": 64, "efficientnet_b0": 64, "tf_efficientnetv2_b0": 64,
    "ghostnet_100": 64, "nfnet_f0": 64, "convnext_tiny": 64, "convnextv2_nano": 64, "vit_small_patch16_224": 224,
    "deit_small_distilled_patch16_224": 224, "beit_base_patch16_224": 224, "eva02_tiny_patch14_224": 224,
    "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "maxvit_tiny_tf_224": 224,
    "coatnet_0_rw_224": 224, "mixer_b16_224": 224, "gmlp_s16_224": 224, "levit_128s": 224,
    "efficientformerv2_s0": 224, "mobilevit_s": 64, "xcit_nano_12_p16_224": 64, "poolformer_s12": 64,
    "volo_d1_224": 224, "sequencer2d_s": 64,
}  # fmt: skip

# Fewer layers than published, where those of a row differ in width and so are not `shortened`; narrower ones, where
# large images go through them. Operators and their order stay.
SHORT = {
    "coatnet_0_rw_224": {"depths": (1, 2, 2, 1), "embed_dim": (32, 64, 96, 128), "stem_width": (16, 24)},
    "densenet121": {"block_config": (3, 3, 3, 3)},
    "dpn68b": {"k_sec": (2, 2, 3, 2)},
    "maxvit_rmlp_pico_rw_256": {"depths": (1, 1, 2, 1)},
    "maxvit_tiny_tf_224": {"depths": (1, 1, 2, 1), "embed_dim": (32, 64, 96, 128), "stem_width": 32},
    "swin_tiny_patch4_window7_224": {"depths": (2, 1, 1, 2), "embed_dim": 32, "num_heads": (1, 2, 4, 8)},
    "swinv2_tiny_window8_256": {"depths": (2, 1, 1, 2), "embed_dim": 32, "num_heads": (1, 2, 4, 8)},
    "vgg16_bn": {"mlp_ratio": 0.05},
}
# Sizes other than 64 for torchvision's.
_TORCHVISION_SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}
TORCHVISION = {
    name: _TORCHVISION_SIZES.get(name, 64)
    for name in torchvision.models.list_models(module=torchvision.models)
}
# One of each kind of torchvision's; the others have more of the same blocks, or wider ones.
KINDS = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 shufflenet_v2_x0_5 "
    "squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_32"
).split()
# Six hundred million parameters: in float64 they need 16 GB.
HUGE = ("vit_h_14", "regnet_y_128gf")


def build(source: str, name: str, *, full: bool = False) -> tuple[nn.Module, int]:
    """(module with random weights, image size); of blocks that repeat only two, unless `full`."""
    if source == "timm":
        options = {} if full else SHORT.get(name, {})
        # Some have no classifier of their own.
        module, size = timm.create_model(name, num_classes=10, **options), TIMM[name]
    else:
        size = TORCHVISION[name]
        options = {"image_size": size} if name.startswith("vit_") else {}
        if name in ("inception_v3", "googlenet"):
            options["init_weights"] = False  # their truncated normal takes minutes
        module = torchvision.models.get_model(name, **options)
    return module if full else shortened(module), size


def shortened(module: nn.Module) -> nn.Module:
    """The module without the third and further ones of equal blocks in a row: nothing of its kind is lost.

    Blocks are equal where they print alike and have variables of the same shapes. Two stay because a second one may
    differ in what is not printed (every other window of a Swin transformer is shifted).
    """
    for parent in [m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList))]:
        keys = [_key(child) for child in parent]
        surplus = [i for i in range(2, len(keys)) if keys[i] and keys[i - 2] == keys[i - 1] == keys[i]]
        for i in reversed(surplus):
            del parent[i]
    return module


def _key(block: nn.Module) -> tuple[object, ...]:
    """What equal blocks have in common; empty for a layer, of which a network may count on each."""
    printed = re.sub(r"\b(drop_prob|p)=[\d.e-]+", "", str(block))  # stochastic depth grows with depth
    printed = re.sub(r"Identity\(\)|DropPath\(.*?\)|StochasticDepth\(.*?\)", "", printed)
    shapes = tuple((name, tuple(v.shape)) for name, v in block.state_dict().items())
    return (printed, shapes) if shapes and list(block.children()) else ()
