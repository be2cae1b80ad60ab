"""Repositories of the hub as local folders: features equal each library's own pipeline, resizing included."""

import json

import hub_folders
import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import converters
from converters import from_torch, sources
from vtabjax import model, specs
from vtabjax.data import images


def outputs(folder):
    """What the converted model gives for the pictures, and what is said of it."""
    source = sources.build(f"hf/{folder}")
    info = source.info
    size, method = info["input_size"][1], images.of_source(info)
    pixels = np.stack([images.resize(p, size, method) for p in hub_folders.pictures()])
    graph, variables = from_torch(source.module, tuple(info["input_size"]))
    forward = jax.jit(lambda variables, x: model.apply(graph, variables, x)[0])
    return forward(variables, model.normalise(pixels / np.float32(255), info)), info


def same(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


RESIZED = {
    "vit": "bilinear both 64 floor",
    "vit without pooler": "bilinear both 64 floor",
    "dinov2": "bicubic shortest 65 floor",
    "siglip": "bicubic both 64 floor",
    "convnext": "bicubic shortest 73 floor",
    "mobilevit": "bicubic shortest 72 floor",
}


@pytest.mark.parametrize("name", RESIZED)
def test_a_folder_of_transformers_equals_its_own_processor_and_model(name, tmp_path):
    reference = hub_folders.transformers_case(name, tmp_path)
    features, logits = hub_folders.transformers_outputs(reference, tmp_path)
    ours, info = outputs(tmp_path)
    assert images.of_source(info) == RESIZED[name]
    assert info["repository"]["library"] == "transformers" and info["repository"]["revision"] is None
    if features is not None:
        same(ours["features"], features)
    if logits is not None:
        same(ours["logits"], logits)
    assert info["num_classes"] == (None if logits is None else 5)


def test_a_folder_of_timm_equals_its_own_transforms_and_model(tmp_path):
    expected = hub_folders.timm_case("test_vit", tmp_path, num_classes=5, img_size=96)
    config = json.loads((tmp_path / "config.json").read_text())
    ours, info = outputs(tmp_path)
    same(ours["features"], expected)
    assert info["architecture"] == "test_vit" and info["num_classes"] == 5
    assert info["input_size"] == [3, *config["pretrained_cfg"]["input_size"][1:]]


def test_timms_model_inside_transformers_is_the_same(tmp_path):
    hub_folders.timm_case("test_vit", tmp_path)
    before = sources.build(f"hf/{tmp_path}").module.state_dict()
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "timm_wrapper"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = {f"timm_model.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    after = sources.build(f"hf/{tmp_path}")
    assert after.info["repository"]["library"] == "timm"
    assert all(torch.equal(v, before[k]) for k, v in after.module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "preprocess", "method"),
    [
        ("vit", {}, "bicubic shortest 64"),
        ("timm", dict(interpolation="bilinear", resize_mode="squash", mean=(0.5,) * 3), "bilinear both 96"),
    ],
)
def test_a_folder_of_open_clip_equals_its_own_transforms_and_encoder(name, preprocess, method, tmp_path):
    expected = hub_folders.open_clip_case(name, tmp_path, **preprocess)
    ours, info = outputs(tmp_path)
    same(ours["features"], expected)
    assert images.of_source(info) == method and info["method"] == "image-text"


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    hub_folders.transformers_case("vit", folder)
    return folder


def test_pixel_values_scaled_otherwise_are_folded_into_mean_and_std(vit):
    # x / 127.5 - 1 is (x / 255 - 0.5) / 0.5
    info = sources.describe(f"hf/{vit}")
    assert info["mean"] == pytest.approx([0.5, 0.5, 0.75]) and info["std"] == pytest.approx([0.5, 1, 0.5])


def test_converting_says_what_was_taken_and_keeps_it(vit, tmp_path):
    (vit / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\ndatasets: [beans, food101]\nbase_model: google/vit-base\n---\n# Card"
    )
    path = converters.convert(f"hf/{vit}", tmp_path)
    assert path.name.startswith(f"hf--{vit.name}-") and path.name.endswith("-64")
    info = model.load_parts(path).info
    assert info["license"] == "cc-by-nc-4.0" and info["pretraining_data"] == "beans, food101"
    assert (
        info["repository"]["base_model"] == ["google/vit-base"]
        and info["repository"]["file"] == "model.safetensors"
    )
    assert info["pooling"] == "the input of its classifier" and info["method"] is None
    assert "ViTForImageClassification of transformers" in info["notes"][0]
    assert max(info["parity"]["float32"].values()) < 1e-5


def test_describing_counts_and_builds_alike_without_weights(vit):
    spec = f"hf/{vit}"
    listed, built = sources.describe(spec), sources.build(spec)
    unlike = {k for k in built.info if listed.get(k) != built.info[k]} - {"pooling", "repository", "notes"}
    assert unlike == set()
    assert sources.parameters(spec) == sum(p.numel() for p in built.module.parameters())


def test_weights_in_shards_and_in_a_pickle_are_the_same(vit, tmp_path):
    state = load_file(vit / "model.safetensors")
    for form in ("shards", "pickle"):
        folder = tmp_path / form
        folder.mkdir()
        for name in ("config.json", "preprocessor_config.json"):
            (folder / name).write_bytes((vit / name).read_bytes())
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        save_file({k: state[k] for k in part}, tmp_path / "shards" / file)
    index = {"weight_map": {k: file for file, part in shards.items() for k in part}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(state, tmp_path / "pickle" / "pytorch_model.bin")
    expected = sources.build(f"hf/{vit}").module.state_dict()
    for form in ("shards", "pickle"):
        found = sources.build(f"hf/{tmp_path / form}").module.state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_a_classifier_that_the_weights_lack_is_not_used(vit, tmp_path):
    state = {k: v for k, v in load_file(vit / "model.safetensors").items() if not k.startswith("classifier")}
    copy(vit, tmp_path, state)
    source = sources.build(f"hf/{tmp_path}")
    assert source.info["num_classes"] is None
    assert "not in its weights, and not used: classifier.bias, classifier.weight" in source.info["notes"]
    assert not source.module.state_dict()["classifier.weight"].any()  # no random number stays in it


def test_a_tower_that_the_weights_lack_in_part_is_refused(vit, tmp_path):
    state = {k: v for k, v in load_file(vit / "model.safetensors").items() if "layernorm.weight" not in k}
    copy(vit, tmp_path, state)
    with pytest.raises(specs.SpecError, match="weights lack 1 tensors that its features are made with"):
        sources.build(f"hf/{tmp_path}")


def copy(vit, folder, state, **fields):
    """A folder like the tiny ViT's with other weights, and with other fields in its config."""
    config = json.loads((vit / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_bytes((vit / "preprocessor_config.json").read_bytes())
    if state is not None:
        save_file(state, folder / "model.safetensors")


def test_another_size_interpolates_positions_or_is_refused(vit, tmp_path):
    info = sources.build(f"hf/{vit}", 96).info
    assert info["input_size"] == [3, 96, 96]
    assert "its config.json is for images of 64 pixels, and here they have 96" in info["notes"]
    hub_folders.open_clip_case("vit", tmp_path)
    source = sources.build(f"hf/{tmp_path}", 96)
    assert "open_clip resampled its positions to 96" in source.info["notes"][-1]
    with pytest.raises(specs.SpecError, match="cannot take images of 7 pixels"):
        sources.build(f"hf/{tmp_path}", 7)


def test_a_resize_that_cannot_be_done_here_is_told_of_that_model(vit, tmp_path):
    copy(vit, tmp_path, None)
    processor = json.loads((vit / "preprocessor_config.json").read_text())
    processor |= {
        "size": {"shortest_edge": 64},
        "do_center_crop": False,
        "image_processor_type": "CLIPImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    info = sources.describe(f"hf/{tmp_path}")
    assert info["input_size"] == [3, 64, 64]
    with pytest.raises(ValueError, match="CLIPImageProcessor does not make squares of one size"):
        images.of_source(info)
