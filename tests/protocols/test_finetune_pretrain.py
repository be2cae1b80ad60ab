"""The model in the box: its source task, the program that makes it, the weights that ship."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import converters
from configs import pretrain_sprites
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)
from vtabjax import bundled, data, model
from vtabjax.bundled import pretrain
from vtabjax.data.sources import sprites

# isort: split
import timm


def test_labels_are_the_coarse_factors():
    #           shape, scale, orientation, x, y
    factors = [[0, 0, 0, 0, 0], [0, 2, 9, 15, 15], [0, 2, 10, 15, 15], [0, 2, 9, 15, 16], [0, 2, 9, 16, 15],
               [0, 3, 9, 15, 15], [1, 0, 0, 0, 0], [2, 5, 39, 31, 31]]  # fmt: skip
    np.testing.assert_array_equal(pretrain.label(np.asarray(factors)), [0, 0, 1, 4, 8, 16, 32, 95])
    everything = pretrain.label(sprites.all_factors(np.arange(int(np.prod(sprites.FACTOR_SIZES)))))
    assert set(np.bincount(everything)) == {737280 // 96} and len(np.unique(everything)) == pretrain.CLASSES


def test_pictures_are_not_those_of_the_tasks():
    given = [data.load("sprites_location", split, image_size=64) for split in ("train", "val", "test")]
    tasks = {image.tobytes() for part in given for image in part.images}
    images, labels = pretrain.pictures(0, 4000, 64)
    assert images.shape == (4000, 64, 64, 3) and set(np.unique(images)) == {0, 255}
    # A square looks the same after a quarter of a turn, so a few pictures of other states are equal.
    assert sum(image.tobytes() in tasks for image in images) < 0.02 * 4000
    again, same = pretrain.pictures(100, 50, 64)
    np.testing.assert_array_equal(again, images[100:150])
    np.testing.assert_array_equal(same, labels[100:150])
    with pytest.raises(ValueError, match="fewer steps"):
        pretrain.pictures(734000, 1000, 64)


def test_a_few_steps_end_in_weights_that_pytorch_loads(tmp_path):
    config = pretrain_sprites.get_config()
    config.image_size, config.steps, config.round, config.test, config.batch_size = 16, 4, 16, 32, 8
    torch.manual_seed(0)
    graph, variables = converters.from_torch(timm.create_model("test_resnet"), (3, 16, 16))
    said = []
    parts = model.SavedModel(
        graph, variables, {"mean": [0] * 3, "std": [1] * 3, "family": "resnet", "num_features": 96}
    )
    config.warmup = 0
    made, accuracy = pretrain.train(parts, config, said.append)
    assert said[-1].startswith("step 4/4: loss") and 0 <= accuracy <= 1
    pretrain.write(made, accuracy, config, tmp_path / "m")
    source = json.loads((tmp_path / "m" / "source.json").read_text())
    module = timm.create_model(source["architecture"], **source["kwargs"])
    module.load_state_dict(load_torch(tmp_path / "m" / "weights.safetensors"), strict=True)
    assert module.fc.weight.shape == (96, 96)
    moved = module.state_dict()[
        "conv1.0.weight" if "conv1.0.weight" in module.state_dict() else "conv1.weight"
    ]
    name = "conv1.0.weight" if "conv1.0.weight" in variables else "conv1.weight"
    assert np.abs(moved.numpy() - variables[name]).max() > 1e-3


def test_what_ships(tmp_path):
    from converters.sources import embedded
    from vtabjax import specs

    folder = bundled.FOLDER / "sprites_resnet"
    weights = load_file(folder / "weights.safetensors")
    assert (folder / "weights.safetensors").stat().st_size < 1_000_000
    assert {v.dtype.name for v in weights.values()} == {"float16", "int64"}
    source = json.loads((folder / "source.json").read_text())
    config = pretrain_sprites.get_config()
    assert source["config"] == json.loads(
        json.dumps(config.to_dict())
    )  # the config that is committed made it
    assert source["info"]["license"] == "apache-2.0" and source["kwargs"] == {"num_classes": pretrain.CLASSES}
    info = embedded.describe(specs.parse("embedded/sprites_resnet"))
    assert info["num_classes"] == pretrain.CLASSES and info["input_size"] == [3, 64, 64]
    # It knows its source task.
    built = embedded.build(specs.parse("embedded/sprites_resnet"), None)
    images, labels = pretrain.pictures(700_000, 256, 64)
    pixels = torch.from_numpy((images / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        found = built.module.eval()(pixels).argmax(1).numpy()
    assert np.mean(found == labels) > 0.35  # chance is 1/96; a square's quarter of a turn cannot be seen


def test_it_is_better_than_its_own_architecture_at_random():
    """Nearest neighbours on sprites_orientation, whose 16 classes are not among the source's."""
    from converters.sources import embedded
    from vtabjax import specs
    from vtabjax.protocols import knn

    torch.manual_seed(0)
    modules = {
        "random": timm.create_model("test_resnet", num_classes=0),
        "shipped": embedded.build(specs.parse("embedded/sprites_resnet"), None).module,
    }
    given = data.load("sprites_orientation", "train800val200", image_size=64)
    pixels = torch.from_numpy((given.images / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    accuracy = {}
    for name, module in modules.items():
        module.eval()
        with torch.no_grad():
            features = module.forward_head(module.forward_features(pixels), pre_logits=True).numpy()
        accuracy[name] = knn.leave_one_out(features, given.labels).accuracy
    assert accuracy["shipped"] > accuracy["random"] + 0.02, accuracy
