"""Pictures resized as a model's source does it, compared with torchvision's transforms and by hand."""

import numpy as np
import pytest
from PIL import Image

from converters import _compat  # noqa: F401  (before torchvision)
from vtabjax.data import images

from torchvision import transforms  # isort: skip

MODES = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "nearest": transforms.InterpolationMode.NEAREST,
    "lanczos": transforms.InterpolationMode.LANCZOS,
}


def picture(height, width, channels=3):
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])


@pytest.mark.parametrize("method", MODES)
@pytest.mark.parametrize("shape", [(60, 91), (91, 60), (37, 37), (20, 33), (200, 41)])
def test_shortest_edge_and_cut_are_torchvisions(shape, method):
    image = picture(*shape)
    theirs = transforms.Compose([transforms.Resize(37, MODES[method]), transforms.CenterCrop(32)])(image)
    assert np.array_equal(images.resize(image, 32, f"{method} shortest 37"), np.asarray(theirs))


def test_both_edges_and_cut_are_torchvisions():
    image = picture(60, 91, 1)
    theirs = transforms.Compose([transforms.Resize((37, 37), MODES["bicubic"]), transforms.CenterCrop(32)])
    expected = np.asarray(theirs(image.convert("RGB")))
    assert np.array_equal(images.resize(np.asarray(image)[:, :, None], 32, "bicubic both 37"), expected)
    assert np.array_equal(images.resize(image, 32, "bicubic both 32"), images.resize(image, 32, "bicubic"))


def test_an_image_smaller_than_the_cut_has_a_black_border_as_torchvisions():
    image = picture(20, 20)
    expected = transforms.CenterCrop(25)(image)
    assert np.array_equal(images.resize(image, 25, "bicubic shortest 20"), np.asarray(expected))


def test_floor_cuts_at_half_of_what_is_left_over():
    row = np.tile(np.arange(9, dtype=np.uint8)[None, :, None], (9, 1, 3))
    # 9 - 6 = 3 columns too many: the nearest even number to 1.5 is 2, rounded down it is 1.
    assert images.resize(row, 6, "nearest both 9")[0, :, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert images.resize(row, 6, "nearest both 9 floor")[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("crop_pct", "mode", "size", "method"),
    [
        (0.875, "center", 224, "bicubic shortest 256"),
        (224 / 232, "center", 224, "bicubic shortest 232"),
        (0.9, "center", 224, "bicubic shortest 248"),
        (0.9, "center", 288, "bicubic shortest 320"),
        (1.0, "squash", 384, "bicubic both 384"),
    ],
)
def test_what_a_model_says_of_its_source(crop_pct, mode, size, method):
    info = {
        "interpolation": "bicubic",
        "crop_pct": crop_pct,
        "crop_mode": mode,
        "input_size": [3, size, size],
    }
    assert images.of_source(info) == method
    images.check_form(size, method)
    assert images.of_source({**info, "crop_rounding": "floor"}) == f"{method} floor"


def test_every_ratio_of_whole_edges_gives_them_back():
    info = {"interpolation": "bilinear", "crop_mode": "center"}
    for size in range(8, 600, 7):
        for edge in range(size, 2 * size, 11):
            found = images.of_source({**info, "crop_pct": size / edge, "input_size": [3, size, size]})
            assert found == f"bilinear shortest {edge}"


@pytest.mark.parametrize(
    "more", [{"crop_mode": "border"}, {"interpolation": "random"}, {"resize_unknown": "it pads"}]
)
def test_what_cannot_be_done_is_said(more):
    info = {
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "input_size": [3, 64, 64],
        **more,
    }
    with pytest.raises(ValueError, match="cannot be done here: .*" + str(next(iter(more.values())))):
        images.of_source(info)


def test_other_words_are_refused():
    for method in ("bicubic tallest 256", "bicubic shortest 0", "bicubic shortest 256 ceil", "source"):
        with pytest.raises(ValueError, match="does not exist"):
            images.check_form(224, method)
