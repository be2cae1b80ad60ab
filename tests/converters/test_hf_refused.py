"""Repositories that are refused, each by what it is; nothing in any of them is executed."""

import json
import pickle

import hub_folders
import pytest
import torch

from converters import sources
from vtabjax import specs


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    hub_folders.transformers_case("vit", folder)
    return folder


def refusal(folder, what="check"):
    with pytest.raises(specs.SpecError) as error:
        getattr(sources, what)(f"hf/{folder}")
    text = str(error.value)
    assert f"hf/{folder}" in text and "\n" not in text
    return text


CONFIGS = {
    "no config": ({}, "no config.json or open_clip_config.json"),
    "a diffusers pipeline": ({"model_index.json": {"_class_name": "X"}}, "a pipeline of diffusers"),
    "sentence-transformers": ({"modules.json": {}, "README.md": {}}, "a model of sentence-transformers"),
    "an adapter": (
        {"adapter_config.json": {"base_model_name_or_path": "o/base"}},
        r"adapter \(PEFT\) to o/base",
    ),
    "GGUF": ({"model.gguf": {}}, "GGUF files"),
    "ONNX": ({"model.onnx": {}}, "ONNX programs"),
    "a converted model": ({"graph.json": {}, "model.json": {}}, "a converted model; write file/"),
    "an unknown config": ({"config.json": {"depth": 3}}, "it has depth"),
    "a config that is a list": ({"config.json": [1]}, "holds a list"),
    "a text model": ({"config.json": {"model_type": "bert", "architectures": ["BertModel"]}}, "a bert model"),
    "a detector": ({"config.json": {"model_type": "detr"}}, "a detr model"),
    "a later type": (
        {"config.json": {"model_type": "dinov2s"}},
        "no model_type 'dinov2s'; near ones are dinov2",
    ),
    "own code": (
        {"config.json": {"model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}}},
        "Python code of its own (modeling_mine.Mine), which is never executed",
    ),
    "own code without a type": (
        {"config.json": {"auto_map": {"AutoModel": "o/other--modeling.Mine"}}},
        "Python code of its own (o/other--modeling.Mine), which is never executed",
    ),
    "quantised": (
        {"config.json": {"model_type": "vit", "quantization_config": {"bits": 4}}},
        "are quantised",
    ),
    "an odd vit": (
        {"config.json": {"model_type": "vit", "hidden_size": "many"}},
        "cannot read its config.json",
    ),
    "another repository's weights": (
        {"config.json": {"model_type": "dpt", "use_pretrained_backbone": True, "backbone": "o/evil"}},
        "its weights lie in another repository",
    ),
    "a later timm": ({"config.json": {"architecture": "resnet999"}}, "no architecture 'resnet999'"),
    "timm from elsewhere": (
        {"config.json": {"architecture": "hf-hub:o/evil"}},
        "no architecture 'hf-hub:o/evil'",
    ),
    "timm without its weights": (
        {"config.json": {"architecture": "test_vit", "model_args": {"pretrained_strict": False}}},
        "sets pretrained_strict",
    ),
    "timm with another file": (
        {"config.json": {"architecture": "test_vit", "model_args": {"checkpoint_path": "/x"}}},
        "sets checkpoint_path",
    ),
    "thirteen channels": (
        {"config.json": {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [13, 64, 64]}}},
        "images of 13 channels; pictures here have three",
    ),
    "open_clip without a tower": (
        {"open_clip_config.json": {"model_cfg": {}}},
        "no model_cfg with a vision_cfg",
    ),
    "open_clip from elsewhere": (
        {"open_clip_config.json": {"model_cfg": {"vision_cfg": {"timm_model_name": "hf-hub:o/evil"}}}},
        "no architecture 'hf-hub:o/evil'",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_no_image_model_is_refused_by_what_it_is(name, tmp_path):
    files, expected = CONFIGS[name]
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    assert expected.replace("\\", "") in refusal(tmp_path)


def test_a_file_that_is_not_json_and_a_folder_that_is_not_there(tmp_path):
    assert "is not there" in refusal(tmp_path / "none")
    (tmp_path / "config.json").write_text("{")
    assert "its config.json is not readable JSON" in refusal(tmp_path)
    assert "is a file, not a folder" in refusal(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["hf/resnet-50", "hf/a/b/c", "hf/a//b"])
def test_names_that_are_no_repository(name):
    with pytest.raises(specs.SpecError, match="does not name a repository: write hf/OWNER/NAME"):
        sources.check(name)


def test_without_transformers_its_extra_is_named_and_timms_repositories_are_read(vit, tmp_path, monkeypatch):
    from vtabjax import installation

    monkeypatch.setattr(installation, "absent", lambda extra, *modules: [*modules])
    assert (
        "a repository that transformers wrote needs transformers, which is not installed: pip install"
        in refusal(vit)
    )
    hub_folders.timm_case("test_vit", tmp_path)
    sources.check(f"hf/{tmp_path}")


def test_own_code_beside_a_type_that_is_native_is_not_used(vit, tmp_path):
    marker = tmp_path / "executed"
    config = json.loads((vit / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling.Mine", "AutoConfig": "modeling.Config"}}
    processor = json.loads((vit / "preprocessor_config.json").read_text())
    processor |= {"auto_map": {"AutoImageProcessor": "modeling.Processor"}}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "model.safetensors").write_bytes((vit / "model.safetensors").read_bytes())
    source = sources.build(f"hf/{folder}")
    assert (
        "its own Python code was not used: transformers' ViTForImageClassification was"
        in source.info["notes"]
    )
    assert not marker.exists()


class Hostile:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_code_in_a_pickle_is_never_run(form, vit, tmp_path):
    marker, folder = tmp_path / "executed", tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((vit / name).read_bytes())
    state = {"vit.embeddings.cls_token": torch.zeros(1), "x": Hostile(marker)}
    if form == "plain pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(state))
    else:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    assert "pytorch_model.bin" in refusal(folder, "build")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("tf_model.h5", "weights for TensorFlow"),
        ("flax_model.msgpack", "weights for Flax"),
        ("adapter_model.safetensors", "an adapter"),
        ("notes.txt", "it has no weights that transformers reads (model.safetensors or pytorch_model.bin)"),
    ],
)
def test_weights_for_something_else(file, what, vit, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((vit / name).read_bytes())
    (tmp_path / file).write_bytes(b"0" * 8)
    assert what in refusal(tmp_path, "build")


def test_without_a_processor_nothing_is_guessed(vit, tmp_path):
    (tmp_path / "config.json").write_bytes((vit / "config.json").read_bytes())
    (tmp_path / "README.md").write_text("---\nbase_model: o/base\n---")
    text = refusal(tmp_path)
    assert "no preprocessor_config.json" in text and "o/base" in text


def test_a_processor_that_is_more_than_a_mean_is_refused(vit, tmp_path):
    (tmp_path / "config.json").write_bytes((vit / "config.json").read_bytes())
    processor = {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert "ImageGPTImageProcessor does not make one picture" in refusal(tmp_path)


def test_weights_of_another_architecture(tmp_path):
    hub_folders.timm_case("test_vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {**config.get("model_args", {}), "mlp_ratio": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "its weights are not those of test_vit with the arguments" in refusal(tmp_path, "build")
