"""How and on what weights of timm and open_clip were trained, as far as their tags tell."""

from __future__ import annotations

import re
from typing import NamedTuple

# What the parts of timm's tags say. The order within a tag is the order of training.
_DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-21k",
    "inw21k": "ImageNet-21k (winter)",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "sat493m": "SAT-493M",
    "laion400m": "LAION-400M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-A",
    "openai": "OpenAI WIT-400M",
    "datacompxl": "DataComp-1B",
    "datacomp1b": "DataComp-1B",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "merged2b": "Merged-2B",
    "m30m": "Merged-30M",
    "m38m": "Merged-38M",
    "webli": "WebLI",
    "cc12m": "CC-12M",
    "yfcc15m": "YFCC-15M",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
    "swag": "Instagram-3.6B",
    "jft": "JFT-300M",
    "sa1b": "SA-1B",
    "bamboo": "Bamboo",
    "seer": "Instagram-1B",
    "dfndr2b": "DFNDR-2B",
}
_SELF_SUPERVISED = set("dino dinov3 mae mim fcmae ijepa seer lvd142m lvd1689m sat493m".split())
_SEMI_SUPERVISED = {"ssl", "swsl", "ns"}
_IMAGE_TEXT = set(
    "clip openai laion400m laion2b laiona datacompxl datacomp1b dfn2b dfn5b merged2b webli cc12m yfcc15m "
    "mclip mclip2 metaclip metaclip2 tinyclip dfndr2b".split()
)
_TRAINED_ON_IMAGENET = {"dino", "mae", "fcmae"}  # the official releases' data, which the tag leaves out


# Patterns of whole tags that tell more than their parts. None: the makers do not say, or one tag stands for several
# models.
_TAGS: tuple[tuple[str, tuple[str | None, str | None]], ...] = (
    (r"apple_mclip(_lt)?", ("image-text", "DataCompDR-1B")),
    (r"apple_pt(_dist)?", ("generative", "DFN-2B, COYO-700M, HQITP")),
    (r"metaclip2_worldwide", ("image-text", "MetaCLIP 2 worldwide")),
    (r"metaclip_2pt5b", ("image-text", "MetaCLIP-2.5B")),
    (r"metaclip_400m", ("image-text", "MetaCLIP-400M")),
    (r"metaclip_altogether", ("image-text", "MetaCLIP")),
    (r"bamboo", ("supervised", "Bamboo")),
    (r"sa1b", ("supervised", "SA-1B")),
    # Vision towers of models of language and pictures; what they were trained on is not published.
    (r"(deepseek|gemma|ogvl|pali|qwen)\w*|msft_florence2|fb_tiling", ("image-text", None)),
    # Distilled from several models (RADIO), bodies (Sapiens), segmentation (SAM 2), BEiT-3's mixture, unpublished.
    (r"c_radio|fb|fb_r\d+\w*|(indomain_)?pt|robbyant|genlip|tips", (None, None)),
)


def unknown(tag: str) -> bool:
    """Whether it is known of a tag that method or data are not."""
    return any(re.fullmatch(pattern, tag) and None in known for pattern, known in _TAGS)


def provenance(tag: str) -> tuple[str | None, str | None]:
    """Training method and data, as far as one of timm's weight tags tells; None for what it does not."""
    for pattern, known in _TAGS:
        if re.fullmatch(pattern, tag):
            return known
    parts = tag.lower().split("_")
    found = [_DATA[p] for p in parts if p in _DATA]
    fine_tuned = "ft" in parts and any(re.fullmatch(r"in\d+k", p) for p in parts[parts.index("ft") :])
    if _SEMI_SUPERVISED & set(parts):
        method = "semi-supervised"
    elif fine_tuned:
        method = "supervised"
    elif _SELF_SUPERVISED & set(parts):
        method = "self-supervised"
    elif _IMAGE_TEXT & set(parts):
        method = "image-text"
    elif any(p.startswith("in") and p in _DATA for p in parts):
        method = "supervised"
    else:
        method = None
    if _TRAINED_ON_IMAGENET & set(parts) and not found[:1] == ["ImageNet-1k"]:
        found.insert(0, "ImageNet-1k")
    return method, ", ".join(dict.fromkeys(found)) or None


class Provenance(NamedTuple):
    """How, on what and under which licence weights were published; None for what their makers do not say."""

    method: str | None
    data: str | None
    license: str | None


# open_clip's tags: the data, and the licence of the releases (None: none is stated, or it differs within the tag).
# The first pattern that fits counts. All were trained on pairs of images and texts.
_OPEN_CLIP: tuple[tuple[str, str | None, str | None], ...] = (
    (r"openai", "OpenAI WIT-400M", "mit"),
    (r"yfcc15m", "YFCC-15M", None),
    (r"cc12m", "CC-12M", None),
    (r"laion400m_e\d+", "LAION-400M", None),
    (r"laion400m_\w+", "LAION-400M", "mit"),
    (r"laion2b_e\d+", "LAION-2B", None),
    (r"laion2b(_\w+)?", "LAION-2B", "mit"),
    (r"(frozen_)?laion5b_\w+", "LAION-5B", "mit"),
    (r"laion_aesthetic_\w+", "LAION-A", "mit"),
    (r"mscoco_finetuned_laion2b_\w+", "LAION-2B, MSCOCO", "mit"),
    (r"merged2b_\w+", "Merged-2B", "mit"),
    (r"datacomp1b|datacomp_xl_\w+|datacomp_s34b_b86k", "DataComp-1B", "mit"),
    (r"datacomp_l_\w+", "DataComp large", "mit"),
    (r"datacomp_m_\w+", "DataComp medium", "mit"),
    (r"datacomp_s_\w+", "DataComp small", "mit"),
    (r"datacompdr(_lt)?", "DataCompDR-1B", "apple-amlr"),
    (r"dfn2b(_s39b)?", "DFN-2B", "apple-ascl"),
    (r"dfn5b", "DFN-5B", "apple-ascl"),
    (r"dfndr2b", "DFNDR-2B", "apple-amlr"),
    (r"webli", "WebLI", "apache-2.0"),
    (r"metaclip_400m", "MetaCLIP-400M", "cc-by-nc-4.0"),
    (r"metaclip_fullcc", "MetaCLIP-2.5B", "cc-by-nc-4.0"),
    (r"metaclip_altogether", "MetaCLIP", "cc-by-nc-4.0"),
    (r"metaclip2_worldwide", "MetaCLIP 2 worldwide", "cc-by-nc-4.0"),
    (r"meta", "MetaCLIP-5.4B", "apache-2.0"),  # Perception Encoder
    # NLLB-CLIP: a new text tower beside another model's image tower, which was not trained further.
    (r"v1|mrl", None, "cc-by-nc-4.0"),
)
_POOLS = {"s": "small", "m": "medium", "l": "large", "xl": "xlarge"}


def open_clip_provenance(name: str, tag: str) -> Provenance:
    """What is known of open_clip's weights: ``open_clip_provenance("ViT-B-32", "laion2b_s34b_b79k")``."""
    pool = re.fullmatch(r"commonpool_(xl|[sml])(?:_(basic|clip|image|laion|text))?_s\d+[mb]_b\d+k", tag)
    if pool is not None:
        kept = f" ({pool[2]} filter)" if pool[2] else ""
        return Provenance("image-text", f"CommonPool {_POOLS[pool[1]]}{kept}", "mit")
    for pattern, data, license in _OPEN_CLIP:
        if re.fullmatch(pattern, tag):
            if "CLIPA" in name:
                license = "apache-2.0"
            if tag in ("v1", "mrl") and "siglip" in name:
                data = "WebLI"
            return Provenance("image-text", data, license)
    return Provenance(None, None, None)
