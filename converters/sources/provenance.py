"""How and on what weights of timm were trained, as far as their tags tell."""

from __future__ import annotations

import re

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
