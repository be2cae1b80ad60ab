"""What is known of the hub's well-known owners' models; and what is not is said to be unknown."""

import pytest

from converters.hub.owners import provenance


@pytest.mark.parametrize(
    ("name", "method", "data"),
    [
        ("facebook/dinov2-base", "self-supervised", "LVD-142M"),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "self-supervised", "LVD-1689M"),
        ("facebook/dinov3-vitl16-pretrain-sat493m", "self-supervised", "SAT-493M"),
        ("facebook/vit-mae-base", "self-supervised", "ImageNet-1k"),
        ("facebook/ijepa_vith14_22k", "self-supervised", "ImageNet-21k"),
        ("facebook/convnext-tiny-224", "supervised", "ImageNet-1k"),
        ("facebook/convnext-base-224-22k", "supervised", "ImageNet-21k"),
        ("facebook/convnext-base-224-22k-1k", "supervised", "ImageNet-21k, ImageNet-1k"),
        ("facebook/regnet-y-320-seer", "self-supervised", "Instagram-1B"),
        ("google/vit-base-patch16-224", "supervised", "ImageNet-21k, ImageNet-1k"),
        ("google/vit-base-patch16-224-in21k", "supervised", "ImageNet-21k"),
        ("google/siglip2-base-patch16-224", "image-text", "WebLI"),
        ("microsoft/resnet-50", "supervised", "ImageNet-1k"),
        ("microsoft/swinv2-base-patch4-window12-192-22k", "supervised", "ImageNet-21k"),
        ("microsoft/beit-base-patch16-224-pt22k", "self-supervised", "ImageNet-21k"),
        ("microsoft/beit-base-patch16-224-pt22k-ft22k", "supervised", "ImageNet-21k"),
        ("openai/clip-vit-base-patch32", "image-text", "OpenAI WIT-400M"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "image-text", "LAION-2B"),
        ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", "image-text", "DataComp-1B"),
        ("laion/CLIP-ViT-B-16-DataComp.L-s1B-b8K", "image-text", None),
        ("apple/DFN5B-CLIP-ViT-H-14", "image-text", "DFN-5B"),
        ("MahmoodLab/UNI", "self-supervised", "Mass-100K (pathology)"),
        ("owkin/phikon", "self-supervised", "TCGA (pathology)"),
        ("someone/vit-base-beans", None, None),
        ("someone/dinov2-base", None, None),
    ],
)
def test_method_and_data(name, method, data):
    assert provenance(name) == (method, data)
