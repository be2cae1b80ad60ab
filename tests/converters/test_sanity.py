"""A first look at the weights of a checkpoint file: nearest neighbours on digits, beside random weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import converters
from converters import __main__ as cli
from converters import sanity, sources
from vtabjax import bundled

SIZE = 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network that was trained, as a training script leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    state = load_file(bundled.FOLDER / "sprites_resnet" / "weights.safetensors")
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}, folder / "t.pth")
    return folder / "t.pth"


def test_trained_weights_do_better_than_random_ones(trained, tmp_path, capsys):
    status = cli.main(["convert", f"timm/test_resnet@{trained}", f"--out={tmp_path}", f"--input_size={SIZE}"])
    out = capsys.readouterr().out
    assert (
        status == 0
        and "weights: state_dict.model; all of the architecture's tensors, features pooled by avg" in out
    )
    (folder,) = (p for p in tmp_path.iterdir() if (p / "model.json").is_file())
    info = json.loads((folder / "model.json").read_text())
    look = info["sanity"]
    assert look["examples"] == 300 and look["warning"] is None and "WARNING" not in out
    assert look["accuracy"] > look["random"] + 0.1
    assert (
        f"on 300 digits: {100 * look['accuracy']:.1f} %, with random weights {100 * look['random']:.1f} %"
        in out
    )
    assert info["checkpoint"]["share"] == 1.0 and info["place"] == "state_dict.model"

    # The very numbers, by another way: scikit-learn on PyTorch's features.
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    from vtabjax import data

    examples = data.load("digits", "train800", image_size=SIZE)
    images, labels = (
        torch.from_numpy(examples.images[:300].copy()).permute(0, 3, 1, 2) / 255,
        examples.labels[:300],
    )
    mean, std = (torch.tensor(info[k])[:, None, None] for k in ("mean", "std"))
    found = {}
    for weights in (f"@{trained}", "@random", "@random:1", "@random:2"):
        module = sources.build(f"timm/test_resnet{weights}", SIZE).module
        with torch.no_grad():
            maps = module.forward_features((images - mean) / std)
            features = module.forward_head(maps, pre_logits=True).double().numpy()
        neighbours = KNeighborsClassifier(1)
        predictions = cross_val_predict(neighbours, features, labels, cv=LeaveOneOut())
        found[weights] = (predictions == labels).mean()
    # But for near ties in float32.
    assert found.pop(f"@{trained}") == pytest.approx(look["accuracy"], abs=0.0101)
    assert max(found.values()) == pytest.approx(look["random"], abs=0.0101)


def test_weights_that_were_never_trained_are_warned_of(tmp_path, capsys):
    torch.save(sources.build("timm/test_resnet@random:3").module.state_dict(), tmp_path / "r.pth")
    status = cli.main(
        ["convert", f"timm/test_resnet@{tmp_path}/r.pth", f"--out={tmp_path}/m", f"--input_size={SIZE}"]
    )
    assert status == 0 and "WARNING: no better than random weights" in capsys.readouterr().out


def test_models_that_are_not_files_have_no_first_look(tmp_path, monkeypatch):
    monkeypatch.setattr(sanity, "check", lambda *_: pytest.fail("looked at"))
    path = converters.convert("timm/test_resnet@random", tmp_path, input_size=SIZE, verify=False)
    assert "sanity" not in json.loads((path / "model.json").read_text())


def test_without_a_random_initialisation_numbers_are_shuffled():
    variables = {"w": np.arange(6.0).reshape(2, 3)}
    found = sanity._random({"source": "nowhere", "architecture": "x", "input_size": [3, 8, 8]}, variables, 0)
    assert sorted(found["w"].ravel()) == list(range(6)) and not np.array_equal(found["w"], variables["w"])
