"""Image encoders of transformers: the library's own features and logits, in its own names."""

import json
import subprocess
import sys

import conftest
import jax
import numpy as np
import pytest
import tiny_transformers as tiny
import torch

from converters import sources
from converters.export import from_torch
from converters.randomise import randomise
from converters.sources.transformers_models import wrap
from vtabjax.model import SavedModel, apply, to_state_dict
from vtabjax.runtime.xla_cpu import quick_compilation
from vtabjax.specs import SpecError

# What the library's classifier reads, or its pooled output, worked out from the parts of its model.
FEATURES = {
    "vit": lambda m, x: m.vit(x).last_hidden_state[:, 0],
    "deit": lambda m, x: m.deit(x).last_hidden_state[:, 0],
    "beit": lambda m, x: m.beit(x).pooler_output,
    "dinov2": lambda m, x: both(m.dinov2(x).last_hidden_state, 1),
    "dinov2_with_registers": lambda m, x: both(m.dinov2_with_registers(x).last_hidden_state, 5),
    "dinov3_vit": lambda m, x: m(x).last_hidden_state[:, 0],
    "ijepa": lambda m, x: m.ijepa(x).last_hidden_state.mean(1),
    "vit_mae": lambda m, x: m(x, noise=torch.arange(16.0).expand(len(x), 16)).last_hidden_state.mean(1),
    "clip": lambda m, x: m.vision_model(x).last_hidden_state[:, 1:].mean(1),
    "siglip": lambda m, x: m.vision_model(x).last_hidden_state.mean(1),
    "blip": lambda m, x: m.visual_projection(m.vision_model(x).pooler_output),
    "siglip_vision_model": lambda m, x: m(x).pooler_output,
    "clip_vision_model": lambda m, x: m(x).pooler_output,
    "convnext": lambda m, x: m.convnext(x).pooler_output,
    "resnet": lambda m, x: m.resnet(x).pooler_output.flatten(1),
    "swin": lambda m, x: m.swin(x).pooler_output,
    "segformer": lambda m, x: m.segformer(x).last_hidden_state.mean((2, 3)),
    "mobilenet_v2": lambda m, x: m.mobilenet_v2(x).pooler_output,
    "poolformer": lambda m, x: m.norm(m.poolformer(x)[0]).mean((2, 3)),
    "levit": lambda m, x: m.classifier.batch_norm(m.levit(x).last_hidden_state.mean(1)),
}


def both(tokens, patches_from):
    return torch.cat([tokens[:, 0], tokens[:, patches_from:].mean(1)], 1)


def as_images(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_features_are_those_of_the_librarys_own_forward(name):
    torch.manual_seed(0)
    own = randomise(tiny.plain(name)).double()
    module, size = tiny.build(name)
    module = module.double()
    module.load_state_dict(
        {k: v for k, v in own.state_dict().items() if k in module.state_dict()}, strict=True
    )
    graph, variables = from_torch(module, (3, size, size))

    images = np.random.default_rng(0).standard_normal((3, size, size, 3))
    if name == "vit_mae":
        own.config.mask_ratio = 0.0
    with torch.no_grad():
        theirs = {"features": FEATURES[name](own, as_images(images))}
        if name in sources.transformers._CLASSIFIERS:
            theirs["logits"] = own(as_images(images)).logits
    with jax.enable_x64(True):
        run = jax.jit(lambda v: apply(graph, v, images)[0]).lower(variables).compile(quick_compilation())
        ours = run(variables)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        error = np.abs(np.asarray(ours[key]) - value.numpy()).max() / value.abs().max().item()
        assert error < 1e-10, f"{key}: {error:.1e}"
    # Back into the library's model; a text tower and what compares with it is not part of the image encoder.
    state = {k: torch.from_numpy(v) for k, v in to_state_dict(SavedModel(graph, variables, {})).items()}
    left_out = {k for k in own.state_dict() if k.startswith("text_") or k == "logit_scale"}
    assert set(own.state_dict()) - set(state) == left_out
    own.load_state_dict({**{k: own.state_dict()[k] for k in left_out}, **state}, strict=True)


def test_two_towers_go_back_into_the_vision_model():
    module, size = tiny.build("clip")
    assert set(module.state_dict()) == set(tiny.plain("clip").state_dict())
    full = tiny.transformers.CLIPModel(tiny.config("clip"))
    encoder, info = wrap(full.eval())
    assert info == {
        "pooling": "what get_image_features gives",
        "input_size": [3, size, size],
        "num_classes": None,
    }
    vision = tiny.transformers.CLIPVisionModelWithProjection(
        tiny.transformers.CLIPVisionConfig(**tiny._VIT, projection_dim=24)
    )
    vision.load_state_dict(encoder.state_dict(), strict=True)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(
            encoder.image_outputs(encoder, images)["features"], vision.eval()(images).image_embeds
        )


def test_what_a_checkpoint_did_not_have_is_not_used():
    x = torch.randn(2, 3, 32, 32)
    classifier = tiny.plain("vit")
    module, info = wrap(classifier, missing=["classifier.weight", "classifier.bias"])
    assert info["num_classes"] is None and "hidden state" in info["pooling"]
    model = tiny.transformers.ViTModel(tiny.config("vit")).eval()
    with torch.no_grad():
        assert set(module.image_outputs(module, x)) == {"features"}
        tokens = model(x).last_hidden_state
        assert "pooler_output" in wrap(model)[1]["pooling"]
        assert torch.equal(model.image_outputs(model, x)["features"], model(x).pooler_output)
        assert "hidden state" in wrap(model, missing=["pooler.dense.weight"])[1]["pooling"]
        assert torch.equal(model.image_outputs(model, x)["features"], tokens.mean(1))


def test_two_classifiers_give_the_mean_of_what_they_read():
    model = tiny.transformers.DeiTForImageClassificationWithTeacher(tiny.config("deit")).eval()
    module, info = wrap(model)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens, out = model.deit(x).last_hidden_state, module.image_outputs(module, x)
        torch.testing.assert_close(out["features"], (tokens[:, 0] + tokens[:, 1]) / 2)
        assert torch.equal(out["logits"], model(x).logits) and info["num_classes"] == 10


def test_another_image_size_interpolates_positions():
    model = tiny.plain("vit")
    module, info = wrap(model, size=48)
    assert info["input_size"] == [3, 48, 48]
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        logits = module.image_outputs(module, x)["logits"]
        assert torch.equal(logits, model(x, interpolate_pos_encoding=True).logits)


def test_what_is_not_an_encoder_of_images_is_said():
    model = tiny.transformers.BertModel(
        tiny.transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    )
    with pytest.raises(SpecError, match=r"BertModel takes input_ids, .* not images \(pixel_values\)"):
        wrap(model)
    patches = tiny.transformers.Siglip2VisionModel(
        tiny.transformers.Siglip2VisionConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(SpecError, match="patches of images of several sizes, with spatial_shapes"):
        wrap(patches)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transformers/vitt@random", "no image model type 'vitt'; did you mean vit"),
        ("transformers/qqqqq@random", r"list 'transformers/\*@random' lists them"),
        ("transformers/bert@random", "no image model type 'bert'"),
        ("transformers/vit", "write transformers/vit@random; published weights are hf/OWNER/NAME"),
        ("transformers/vit.base", "published weights are hf/OWNER/NAME"),
        ("transformers/vit@/path/model.safetensors", "files hf//path/to/folder"),
        ("transformers/vit*", r"write transformers/vit\*@random"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(SpecError, match=message) as error:
        sources.list_models(spec)
    assert spec in str(error.value) and "\n" not in str(error.value)


def test_a_pattern_expands_and_everything_can_be_described():
    found = sources.list_models("transformers/*@random")
    assert len(found) >= 100 and found == sorted(set(found))
    assert {f"transformers/{n}@random" for n in tiny.CONFIGS} <= set(found)
    assert "transformers/vit@random:3" in sources.list_models("transformers/vi*@random:3")
    for spec in found:
        info = sources.describe(spec, listed=True)
        json.dumps(info)
        assert len(info["mean"]) == len(info["std"]) == 3 and info["method"] == "none"
        assert (
            info["interpolation"] in ("bicubic", "bilinear", "lanczos", "nearest")
            and 0 < info["crop_pct"] <= 1.2
        )
    clip = sources.describe("transformers/clip_vision_model@random")
    assert (
        clip["mean"] == [0.48145466, 0.4578275, 0.40821073] and "CLIPImageProcessor" in clip["preprocessing"]
    )
    assert "none for this type" in sources.describe("transformers/maskformer-swin@random")["preprocessing"]


def test_a_seed_decides():
    states = [sources.build(f"transformers/levit@random{s}").module.state_dict() for s in ("", ":0", ":1")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


@pytest.mark.parametrize("package", ["transformers", "open_clip"])
def test_without_the_extra_one_line_names_it(package):
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        f"u.find_spec = lambda n, *a: None if n in ('transformers', 'open_clip') else find(n, *a)\n"
        "sys.modules['transformers'] = sys.modules['open_clip'] = None\n"
        "from converters.__main__ import main\n"
        f"status = main(['check', '{package}/vit@random', 'timm/resnet18@random', '*/resnet18@random'])\n"
        "assert status == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.ROOT, capture_output=True, text=True, check=True
    )
    first, *rest = done.stdout.splitlines()
    assert (
        first
        == f"a model of {package} needs {package}, which is not installed: pip install -r requirements.txt"
    )
    assert rest == ["ok  timm/resnet18@random", "ok  */resnet18@random"]


def test_importing_the_converters_imports_neither():
    code = (
        "import sys, converters, converters.sources\n"
        "print(sorted({'transformers', 'open_clip', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
