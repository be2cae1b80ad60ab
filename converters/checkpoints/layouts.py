"""Recognises by content how a self-supervised release lays out its checkpoint, and takes the backbone out.

The table below was made from the code that saves and loads these files in each repository. A layout says
where the state_dict lies, which prefix the backbone has, and which other keys belong to the method and are
dropped. Momentum copies are never taken. What no layout fits is searched (`converters.checkpoints.search`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .reading import CheckpointError

State = Mapping[str, torch.Tensor]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NO_NORMALISATION = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# As the methods' own evaluation does it: shorter edge to 256, centre 224.
CROP_PCT = 224 / 256


class Layout(NamedTuple):
    """One way of laying out a checkpoint.

    Attributes:
      name: its name in info["layout"].
      family: the repositories that write it.
      container: keys to descend to the state_dict.
      prefix: of the backbone's keys.
      stem: what the backbone begins with: "resnet", "vit" (timm's names) or "mm" (OpenMMLab's ViT names).
      has, lacks: patterns that some key, or no key, must match.
      top: keys that must lie at the file's top level.
      only_top: whether `top` must be all of them.
      drop: patterns of keys that are not the backbone's.
      alias: prefix under which the same tensors lie once more, with equal values.
      momentum: prefix of the momentum copy.
      when: a further condition on the whole file and the state_dict.
      normalisation: mean and std of images in [0, 1].
      interpolation: of the evaluation's resizing.
      method, license: None where the layout does not tell whose release it is.
      heads: attention heads by width, where the method's ViT has other numbers than timm's.
    """

    name: str
    family: str
    container: tuple[str, ...]
    prefix: str
    stem: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    only_top: bool = False
    drop: tuple[str, ...] = ()
    alias: str | None = None
    momentum: str | None = None
    when: Callable[[Any, State], bool] | None = None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    interpolation: str = "bilinear"
    method: str | None = "self-supervised"
    license: str | None = None
    heads: Mapping[int, int] = {}


class Backbone(NamedTuple):
    """A backbone taken out of a checkpoint.

    Attributes:
      state: state_dict with timm's or torchvision's names, exactly as in the file otherwise.
      layout: the layout it was recognised by.
      dropped: keys of the file's state_dict that were left behind.
    """

    state: dict[str, torch.Tensor]
    layout: Layout
    dropped: list[str]

    @property
    def sobel(self) -> bool:
        """Whether its first layer wants the two channels of a Sobel filter (DeepCluster)."""
        stem = self.state.get("conv1.weight")
        return stem is not None and stem.ndim == 4 and stem.shape[1] == 2


_MM_DROP = (
    r"(neck|head|queue|queue_ptr|memory_bank|sobel_layer|projector|predictor|target_generator)(\..+)?",
    r"(encoder_q|online_net|encoder|base_encoder)\.\d.*",
    r"(encoder_k|target_net|momentum_encoder)\.(\d.*|module\..+|steps)",
    r"data_preprocessor\..+",
)
_MM: dict[str, Any] = dict(
    container=("state_dict",), prefix="backbone.", stem="resnet", drop=_MM_DROP, license="apache-2.0"
)
_MOCO: dict[str, Any] = dict(
    container=("state_dict",),
    prefix="module.encoder_q.",
    stem="resnet",
    drop=(r"module\.encoder_q\.fc\..+", r"module\.encoder_k\..+", r"module\.queue(_ptr)?"),
    momentum="module.encoder_k.",
)
_MOCO3: dict[str, Any] = dict(
    container=("state_dict",),
    prefix="module.base_encoder.",
    drop=(
        r"module\.base_encoder\.(fc|head)\..+",
        r"module\.momentum_encoder\..+",
        r"module\.predictor\..+",
    ),
    momentum="module.momentum_encoder.",
)
_SWAV: dict[str, Any] = dict(
    prefix="module.",
    stem="resnet",
    has=(r"module\.(projection_head|prototypes)\..+",),
    drop=(r"module\.(projection_head|prototypes)\..+",),
    license="cc-by-nc-4.0",
)
_DINO_DROP = (r"(module\.)?(head|dino_head|ibot_head)\..+", r"(module\.)?backbone\.(masked_embed|mask_token)")
# DINOv3's names are those of its predecessors, and its positions and registers its own.
_DINO3 = r"(.+\.)?(storage_tokens|rope_embed\..+)"
_DINO: dict[str, Any] = dict(
    container=("teacher",), lacks=(_DINO3,), drop=_DINO_DROP, interpolation="bicubic", license="apache-2.0"
)
_VISSL: dict[str, Any] = dict(
    prefix="_feature_blocks.", stem="resnet", drop=(r"(_feature_blocks\.)?heads\..+",), license="mit"
)
_PYCONTRAST_DROP = (
    r"module\.(head|head_jig|jigsaw|projection|linear|fc)(\..+)?",
    r"module\.encoder[12]?\.(fc|head)(\..+)?",
    r"module\.encoder2\..+",
)
_NO_HEAD = (r"(fc|head|classifier)\..+",)


def _author(tree: Any, state: State) -> bool:
    return tree.get("author") == "OpenSelfSup"


def _queue_of(size: int) -> Callable[[Any, State], bool]:
    return lambda tree, state: "module.queue" in state and state["module.queue"].shape[-1] == size


def _never_trained_in_torch(tree: Any, state: State) -> bool:
    # Converted weights were never updated in torch: every batch counter is there and still zero. A fine-tuned
    # or supervised ResNet that somebody saved in the same way has counted.
    counters = [v for k, v in state.items() if k.endswith("num_batches_tracked")]
    return bool(counters) and not any(int(v) for v in counters)


def _flat_resnet50(tree: Any, state: State) -> bool:
    return "layer3.5.conv3.weight" in state and "layer3.6.conv1.weight" not in state


# The first that fits. More telling ones stand before less telling ones of the same place.
LAYOUTS: tuple[Layout, ...] = (
    Layout("openselfsup_released", "OpenSelfSup", ("state_dict",), "", "resnet", when=_author, license="apache-2.0",
           method=None),  # the zoo also has a supervised and a random one
    Layout("openselfsup_legacy_flat", "OpenSelfSup", (), "", "resnet", has=(r"head\..+",), drop=(r"head\..+",),
           license="apache-2.0"),
    Layout("mmselfsup_1x_vit", "MMSelfSup 1.x / MMPretrain ViT", **{**_MM, "stem": "mm"}, heads={384: 12}),
    Layout("mmselfsup_1x_mocov2", "MMSelfSup 1.x / MMPretrain", **_MM, has=(r"encoder_k\.module\..+",),
           momentum="encoder_k.module.0."),
    Layout("mmselfsup_1x_byol", "MMSelfSup 1.x / MMPretrain", **_MM, has=(r"target_net\.module\..+",),
           momentum="target_net.module.0."),
    Layout("openselfsup_epoch_moco", "OpenSelfSup, MMSelfSup 0.x", **_MM, top=("optimizer",),
           has=(r"encoder_q\.0\..+",), alias="encoder_q.0.", momentum="encoder_k.0."),
    Layout("mmselfsup_0x_mocov2", "MMSelfSup 0.x", **_MM, has=(r"encoder_q\.0\..+",), alias="encoder_q.0.",
           momentum="encoder_k.0."),
    Layout("openselfsup_epoch_byol", "OpenSelfSup, MMSelfSup 0.x", **_MM, has=(r"online_net\.0\..+",),
           alias="online_net.0.", momentum="target_net.0."),
    Layout("openselfsup_epoch", "OpenSelfSup, MMSelfSup", **_MM, has=(r"(neck|head)\..+",), top=("meta",)),
    Layout("mmselfsup_backbone", "OpenSelfSup, MMSelfSup", **_MM, top=("meta",)),
    Layout("solo_learn", "solo-learn and other Lightning modules", ("state_dict",), "backbone.", "resnet",
           drop=(r"(projector|predictor|classifier|queue|prototypes|momentum_\w+|online_\w+)(\..+)?",)),
    Layout("pcl_official", "salesforce/PCL", **_MOCO, when=_queue_of(16384)),
    Layout("moco_v2_official", "facebookresearch/moco", **_MOCO),
    Layout("moco_v3_r50_official", "facebookresearch/moco-v3", **_MOCO3, stem="resnet"),
    Layout("moco_v3_vits_official", "facebookresearch/moco-v3", **_MOCO3, stem="vit", heads={384: 12}),
    Layout("simsiam_official", "facebookresearch/simsiam", ("state_dict",), "module.encoder.", "resnet",
           drop=(r"module\.encoder\.fc\..+", r"module\.predictor\..+")),
    Layout("swav_released", "facebookresearch/swav (SwAV, DeepCluster-v2, SeLa-v2)", (), **_SWAV),
    Layout("swav_checkpoint", "facebookresearch/swav (SwAV, DeepCluster-v2, SeLa-v2)", ("state_dict",), **_SWAV),
    Layout("barlowtwins_checkpoint", "facebookresearch/barlowtwins, vicreg", ("model",), "module.backbone.", "resnet",
           drop=(r"module\.(projector|bn)\..+",), license="mit"),
    Layout("dinov2_checkpoint", "facebookresearch/dinov2", prefix="backbone.", stem="vit", **_DINO,
           has=(r"dino_head\..+",)),
    Layout("ibot_full_vits16", "bytedance/ibot", prefix="backbone.", stem="vit", **_DINO,
           has=(r"backbone\.masked_embed",)),
    Layout("ibot_full_vits16", "bytedance/ibot", prefix="module.backbone.", stem="vit", **_DINO,
           has=(r"module\.backbone\.masked_embed",)),
    Layout("dino_full_vits16", "facebookresearch/dino", prefix="backbone.", stem="vit", **_DINO),
    Layout("dino_full_vits16", "facebookresearch/dino", prefix="module.backbone.", stem="vit", **_DINO),
    Layout("dino_full_r50", "facebookresearch/dino", prefix="module.backbone.", stem="resnet", **_DINO),
    Layout("dino_full_r50", "facebookresearch/dino", prefix="backbone.", stem="resnet", **_DINO),
    Layout("ibot_teacher_vits16", "bytedance/ibot", ("state_dict",), "", "vit", lacks=_NO_HEAD, top=("state_dict",),
           only_top=True, drop=(r"masked_embed",), interpolation="bicubic"),
    Layout("mae_pretrain_vitb16", "facebookresearch/mae", ("model",), "", "vit", lacks=(*_NO_HEAD, r"fc_norm\..+"),
           drop=(r"decoder_.+", r"mask_token"), interpolation="bicubic", license="cc-by-nc-4.0"),
    Layout("dinov2_vits14", "facebookresearch/dinov2", (), "", "vit", lacks=(r"decoder_.+", _DINO3),
           has=("mask_token",), drop=("mask_token",), interpolation="bicubic", license="apache-2.0"),
    Layout("vissl_r50", "facebookresearch/vissl", ("classy_state_dict", "base_model", "model", "trunk"), **_VISSL),
    Layout("vissl_r50", "facebookresearch/vissl", ("model_state_dict",), **_VISSL),
    Layout("vissl_r50", "facebookresearch/vissl", (), **_VISSL),
    Layout("pycontrast_infomin", "HobbitLong/PyContrast (InsDis, PIRL, InfoMin)", ("model",), "module.encoder.",
           "resnet", drop=_PYCONTRAST_DROP),
    Layout("pycontrast_cmc", "HobbitLong/PyContrast (CMC)", ("model",), "module.encoder1.", "resnet",
           drop=_PYCONTRAST_DROP),
    Layout("simclr_v1_converted", "google-research/simclr via tonylins/simclr-converter", ("state_dict",), "",
           "resnet", has=(r"fc\.weight",), top=("state_dict",), only_top=True, drop=(r"fc\..+",),
           when=_never_trained_in_torch, normalisation=NO_NORMALISATION, license="apache-2.0"),
    # Nothing but a backbone: Barlow Twins, VICReg and DINO release theirs so, and so may anybody.
    Layout("barlowtwins_released", "facebookresearch/barlowtwins, vicreg, or any bare ResNet-50", (), "", "resnet",
           lacks=_NO_HEAD, when=_flat_resnet50, method=None),
    Layout("dino_backbone_vits16", "facebookresearch/dino, or any bare ViT", (), "", "vit",
           lacks=(*_NO_HEAD, r"(fc_norm|norm_pre|attn_pool)\..+", r"(reg|dist)_token", _DINO3),
           interpolation="bicubic", method=None),
)  # fmt: skip

_STEMS = {
    "resnet": ("conv1.weight", "layer4.0.conv1.weight"),
    "vit": ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    "mm": ("patch_embed.projection.weight", "layers.0.attn.qkv.weight"),
}


def backbone(tree: Any, path: str) -> Backbone | None:
    """Takes the backbone out of a checkpoint whose layout is known; None for any other file.

    Args:
      tree: what `converters.checkpoints.reading.read` gives.
      path: the file, for messages.

    Raises:
      CheckpointError: copies in the file contradict each other, or a method's file has keys that do not belong there.
    """
    if not isinstance(tree, Mapping):
        return None
    for layout in LAYOUTS:
        state = descend(tree, layout.container)
        if state is not None and _fits(layout, tree, state):
            return _take(layout, state, path)
    return None


def descend(tree: Any, container: tuple[str, ...]) -> State | None:
    """The tensors of the dict that a path of keys leads to; None where there is none."""
    for key in container:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    if not isinstance(tree, Mapping):
        return None
    return {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, torch.Tensor)} or None


def _fits(layout: Layout, tree: Mapping, state: State) -> bool:
    return (
        any(layout.prefix + key in state for key in _STEMS[layout.stem])
        and all(key in tree for key in layout.top)
        and (not layout.only_top or len(tree) == len(layout.top))
        and all(any(re.fullmatch(p, k) for k in state) for p in layout.has)
        and not any(re.fullmatch(p, k) for k in state for p in layout.lacks)
        and (layout.when is None or layout.when(tree, state))
    )


def _take(layout: Layout, state: State, path: str) -> Backbone | None:
    if layout.alias:
        _refuse_swapped(layout, layout.alias, state, path)
    dropped = [k for k in state if any(re.fullmatch(p, k) for p in layout.drop)]
    dropped_set = set(dropped)
    kept = {k: v for k, v in state.items() if k not in dropped_set}
    strangers = [k for k in kept if not k.startswith(layout.prefix)]
    if strangers and layout.momentum is None:
        return None  # the prefix is a common one; somebody else's file
    if strangers:
        raise CheckpointError(
            f"{path} looks like {layout.name} ({layout.family}) but has {len(strangers)} keys that do not belong "
            f"there: {', '.join(strangers[:3])}"
        )
    kept = {k.removeprefix(layout.prefix): v for k, v in kept.items()}
    if layout.stem == "mm":
        kept = {_mm_name(k): v for k, v in kept.items()}
    elif layout.stem == "vit":
        kept = _dinov2_names(kept)
    found = Backbone(kept, layout, dropped)
    if found.sobel and layout.name == "openselfsup_released":
        return found._replace(layout=layout._replace(name="openselfsup_released_sobel"))
    return found


def _refuse_swapped(layout: Layout, alias: str, state: State, path: str) -> None:
    """The backbone's tensors lie in the file twice; where the two differ, one of them is not what it says."""

    def differing(copy: str) -> list[str]:
        pairs = [(k, copy + k.removeprefix(layout.prefix)) for k in state if k.startswith(layout.prefix)]
        return [k for k, other in pairs if other in state and not _equal(state[k], state[other])]

    different = differing(alias)
    if not different:
        return
    text = f"{path}: {different[0]} differs from its other copy under {alias}"
    momentum = layout.momentum
    if momentum and any(k.startswith(momentum) for k in state) and not differing(momentum):
        text += f" and equals the momentum copy under {momentum}: the two encoders are swapped"
    raise CheckpointError(f"{text}; the file was not written by the method's own code")


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


_MM_NAMES = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"layers\.(\d+)\.(?:ln|norm)([12])\.", r"blocks.\1.norm\2."),
    (r"layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"(?:ln|norm)1\.", "norm."),
)


def _mm_name(key: str) -> str:
    """OpenMMLab's name of a ViT's tensor in timm's words; names that are not known stay and are refused later."""
    for pattern, name in _MM_NAMES:
        if re.match(pattern, key):
            return re.sub("^" + pattern, name, key)
    return key


def _dinov2_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DINOv2's SwiGLU, register tokens and chunked blocks in timm's words. Other ViTs pass unchanged."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
        key = re.sub(r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1.", key)
        renamed[re.sub(r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2.", key)] = value
    if "register_tokens" in renamed:
        # timm adds the class token's position to the token itself where there are registers.
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed
