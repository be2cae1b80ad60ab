"""Folders as transformers, timm and open_clip write them: tiny, with random weights."""

import dataclasses
import functools

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from converters import _compat  # noqa: F401  (before torchvision)

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SQUARE = {"height": 64, "width": 64}


@functools.cache
def pictures():
    """Sixteen real pictures of all shapes: two photographs and parts of them."""
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    found = [Image.fromarray(p) for p in photographs]
    while len(found) < 16:
        pixels = photographs[len(found) % 2]
        height, width = rng.integers(70, 400, 2)
        top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        found.append(Image.fromarray(pixels[top : top + height, left : left + width]))
    return found


def randomised(module, seed=0):
    """The module in evaluation mode with all parameters and running statistics random: fresh ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.copy_(noise.abs() + 0.5 if name.endswith(("var", "norm.weight")) else tensor + noise)
    return module.eval()


def transformers_case(name, folder):
    """Writes a repository of transformers; returns its model."""
    import transformers as t

    vision = dict(SMALL, image_size=64, patch_size=16)
    imagenet = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    make = {
        "vit": lambda: (
            t.ViTForImageClassification(t.ViTConfig(**vision, num_labels=5)),
            t.ViTImageProcessorPil(
                size=SQUARE, rescale_factor=1 / 127.5, image_mean=[1, 1, 1.5], image_std=[1, 2, 1]
            ),
        ),
        "vit without pooler": lambda: (
            t.ViTModel(t.ViTConfig(**vision), add_pooling_layer=False),
            t.ViTImageProcessorPil(size=SQUARE),
        ),
        "dinov2": lambda: (
            t.Dinov2Model(t.Dinov2Config(**SMALL, image_size=70, patch_size=14)),
            t.BitImageProcessorPil(
                size={"shortest_edge": 65}, crop_size={"height": 56, "width": 56}, **imagenet
            ),
        ),
        "siglip": lambda: (
            t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=dict(SMALL, vocab_size=50))),
            t.SiglipImageProcessorPil(size=SQUARE),
        ),
        "convnext": lambda: (
            t.ConvNextForImageClassification(
                t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=5)
            ),
            t.ConvNextImageProcessorPil(size={"shortest_edge": 64}, **imagenet),
        ),
        "mobilevit": lambda: (  # blue first, and no mean
            t.MobileViTForImageClassification(
                t.MobileViTConfig(
                    image_size=64,
                    num_labels=5,
                    hidden_sizes=[16, 24, 32],
                    neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32],
                )
            ),
            t.MobileViTImageProcessorPil(size={"shortest_edge": 72}, crop_size=SQUARE),
        ),
    }
    torch.manual_seed(0)
    model, processor = make[name]()
    randomised(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def transformers_outputs(model, folder):
    """Features and logits (None without a classifier) of the pictures by the library's own processor and model."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = torch.cat([processor(images=p, return_tensors="pt")["pixel_values"] for p in pictures()])
    with torch.no_grad():
        if hasattr(model, "get_image_features"):
            out = model.get_image_features(pixel_values=images)
            return getattr(out, "pooler_output", out).numpy(), None
        out = model(pixel_values=images)
    if hasattr(out, "logits"):
        return None, out.logits.numpy()
    pooled = getattr(out, "pooler_output", None)
    return (out.last_hidden_state.mean(1) if pooled is None else pooled).numpy(), None


def timm_case(name, folder, **arguments):
    """Writes a repository of timm; returns its features of the pictures by timm's own loader and transforms."""
    import timm
    from timm.data import create_transform, resolve_data_config
    from timm.models import save_for_hf

    save_for_hf(randomised(timm.create_model(name, **arguments)), folder, safe_serialization=True)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model.pretrained_cfg), is_training=False)
    images = torch.stack([transform(p) for p in pictures()])
    with torch.no_grad():
        return model.forward_head(model.forward_features(images), pre_logits=True).numpy()


class _NoTokenizer:
    def save_pretrained(self, folder):
        pass


VISION = {
    "vit": dict(image_size=64, layers=2, width=32, patch_size=16, head_width=16),
    "timm": dict(image_size=96, timm_model_name="test_vit", timm_pool="token", timm_proj="linear"),
}


def open_clip_case(name, folder, **preprocess):
    """Writes a repository of open_clip; returns what its own encode_image gives for the pictures."""
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    text = dict(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
    config = dict(embed_dim=24, vision_cfg=VISION[name], text_cfg=text)
    model = randomised(open_clip.model.CLIP(**config))
    given = open_clip.transform.PreprocessCfg(size=VISION[name]["image_size"], **preprocess)
    open_clip.model.set_model_preprocess_cfg(model, dataclasses.asdict(given))
    save_for_hf(model, _NoTokenizer(), config, folder)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        return model.eval().encode_image(torch.stack([transform(p) for p in pictures()])).numpy()
