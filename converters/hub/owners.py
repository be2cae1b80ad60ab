"""How and on what the models of the hub's well-known owners were trained, as far as their cards and papers say."""

from __future__ import annotations

import re

_IN1K, _IN21K = "ImageNet-1k", "ImageNet-21k"
_BOTH = f"{_IN21K}, {_IN1K}"
_SUPERVISED, _SELF, _TEXT = "supervised", "self-supervised", "image-text"

# Patterns of whole names, the first that fits; None: not published, or one pattern stands for several.
_REPOSITORIES: tuple[tuple[str, str | None, str | None], ...] = (
    (r"facebook/dinov2-.*", _SELF, "LVD-142M"),
    (r"facebook/dinov3-.*lvd1689m", _SELF, "LVD-1689M"),
    (r"facebook/dinov3-.*sat493m", _SELF, "SAT-493M"),
    (r"facebook/dino-(vit|resnet).*", _SELF, _IN1K),
    (r"facebook/vit-(mae|msn)-.*", _SELF, _IN1K),
    (r"facebook/ijepa_.*_1k", _SELF, _IN1K),
    (r"facebook/ijepa_.*_22k", _SELF, _IN21K),
    (r"facebook/webssl-.*", _SELF, "MetaCLIP-2B"),
    (r"facebook/(deit|levit)-.*", _SUPERVISED, _IN1K),
    (r"facebook/convnext-.*-22k(-\d+)?", _SUPERVISED, _IN21K),
    (r"facebook/convnext-.*-22k-1k", _SUPERVISED, _BOTH),
    (r"facebook/convnext-.*", _SUPERVISED, _IN1K),
    (r"facebook/convnextv2-.*-22k-\d+", _SUPERVISED, _BOTH),
    (r"facebook/convnextv2-.*-1k-\d+", _SUPERVISED, _IN1K),
    (r"facebook/regnet-.*-seer-in1k", _SUPERVISED, f"Instagram-1B, {_IN1K}"),
    (r"facebook/regnet-.*-seer", _SELF, "Instagram-1B"),
    (r"facebook/regnet-.*", _SUPERVISED, _IN1K),
    (r"facebook/data2vec-vision-.*-ft1k", _SUPERVISED, _IN1K),
    (r"facebook/data2vec-vision-.*", _SELF, _IN1K),
    (r"facebook/hiera-.*-mae-hf", _SELF, _IN1K),
    (r"facebook/hiera-.*-in1k-hf", _SUPERVISED, _IN1K),
    (r"facebook/metaclip-.*-400m", _TEXT, "MetaCLIP-400M"),
    (r"facebook/metaclip-.*-fullcc2\.5b", _TEXT, "MetaCLIP-2.5B"),
    (r"facebook/metaclip-2-.*", _TEXT, "MetaCLIP 2 worldwide"),
    (r"google/vit-.*-in21k", _SUPERVISED, _IN21K),
    (r"google/vit-.*", _SUPERVISED, _BOTH),
    (r"google/siglip2?-.*", _TEXT, "WebLI"),
    (r"google/medsiglip-.*", _TEXT, None),
    (r"google/(mobilenet_v[12]|efficientnet)[-_].*", _SUPERVISED, _IN1K),
    (r"google/bit-.*", _SUPERVISED, None),
    (r"microsoft/(resnet-.*|cvt-.*-(224|384))", _SUPERVISED, _IN1K),
    (r"microsoft/cvt-.*-22k", _SUPERVISED, _BOTH),
    (r"microsoft/swinv2-.*-22kto1k-ft", _SUPERVISED, _BOTH),
    (r"microsoft/swin(v2)?-.*-(in)?22k", _SUPERVISED, _IN21K),
    (r"microsoft/swin-large-.*", _SUPERVISED, None),
    (r"microsoft/swin(v2)?-.*", _SUPERVISED, _IN1K),
    (r"microsoft/beit-.*-pt22k", _SELF, _IN21K),
    (r"microsoft/beit-.*-pt22k-ft22k", _SUPERVISED, _IN21K),
    (r"microsoft/beit-(base|large)-patch16-\d+", _SUPERVISED, _BOTH),
    (r"microsoft/focalnet-(tiny|small|base).*", _SUPERVISED, _IN1K),
    (r"microsoft/focalnet-x?large.*", _SUPERVISED, _IN21K),
    (r"microsoft/dit-.*-finetuned-rvlcdip", _SUPERVISED, "IIT-CDIP, RVL-CDIP"),
    (r"microsoft/dit-(base|large)", _SELF, "IIT-CDIP"),
    (r"microsoft/rad-dino", _SELF, "chest X-rays (BRAX, CheXpert, MIMIC-CXR, NIH-CXR, PadChest)"),
    (r"microsoft/rad-dino-.*", _SELF, None),
    (r"microsoft/BiomedCLIP-.*", _TEXT, "PMC-15M"),
    (r"openai/clip-.*", _TEXT, "OpenAI WIT-400M"),
    (r"laion/CLIP-.*laion400m.*", _TEXT, "LAION-400M"),
    (r"laion/CLIP-.*laion5B.*", _TEXT, "LAION-5B"),
    (r"laion/CLIP-.*laion2B.*", _TEXT, "LAION-2B"),
    (r"laion/CLIP-.*DataComp\.XL.*", _TEXT, "DataComp-1B"),
    (r"laion/.*CLIP-.*", _TEXT, None),
    (r"apple/(mobilevit|deeplabv3-mobilevit).*", _SUPERVISED, _IN1K),
    (r"apple/aimv2-.*", "generative", "DFN-2B, COYO-700M, HQITP"),
    (r"apple/DFN2B-.*", _TEXT, "DFN-2B"),
    (r"apple/DFN5B-.*", _TEXT, "DFN-5B"),
    (r"apple/MobileCLIP-.*", _TEXT, "DataCompDR-1B"),
    (r"apple/MobileCLIP2-.*", _TEXT, "DFNDR-2B"),
    (r"nvidia/mit-b\d", _SUPERVISED, _IN1K),
    (r"(sail/poolformer|Zetatech/pvt|OpenGVLab/pvt_v2|MBZUAI/swiftformer)[-_].*", _SUPERVISED, _IN1K),
    (r"shi-labs/(dinat|nat)-.*-in1k-.*", _SUPERVISED, _IN1K),
    # Pathology, biology, remote sensing.
    (r"MahmoodLab/UNI", _SELF, "Mass-100K (pathology)"),
    (r"MahmoodLab/UNI2-h", _SELF, "pathology slides (not public)"),
    (r"MahmoodLab/(CONCH|conchv1_5)", _TEXT, "pathology images with captions (not public)"),
    (r"owkin/phikon", _SELF, "TCGA (pathology)"),
    (r"owkin/phikon-v2", _SELF, "PANCAN-XL (pathology)"),
    (r"bioptimus/H-optimus-[01]", _SELF, "pathology slides (not public)"),
    (r"paige-ai/Virchow2?", _SELF, "pathology slides (not public)"),
    (r"prov-gigapath/prov-gigapath", _SELF, "Prov-Path (pathology)"),
    (r"histai/hibou-.*", _SELF, "pathology slides (not public)"),
    (r"imageomics/bioclip", _TEXT, "TreeOfLife-10M"),
    (r"imageomics/bioclip-2", _TEXT, "TreeOfLife-200M"),
    (r"chendelong/RemoteCLIP", _TEXT, None),
    (r"flax-community/clip-rsicd.*", _TEXT, "OpenAI WIT-400M, RSICD"),
    (r"ibm-nasa-geospatial/Prithvi-.*", _SELF, None),
)  # fmt: skip


def provenance(name: str) -> tuple[str | None, str | None]:
    """Training method and data of a repository OWNER/NAME; None for what is not known."""
    for pattern, method, data in _REPOSITORIES:
        if re.fullmatch(pattern, name):
            return method, data
    return None, None
