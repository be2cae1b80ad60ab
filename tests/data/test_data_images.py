"""Decoding and resizing: the published formula, Pillow, broken files."""

import io

import numpy as np
import pytest
from PIL import Image

from vtabjax.data import images


def _formula(image, size):
    """TF1's bilinear resize, pixel by pixel: source = i * in / out; the neighbour to the right ends at the edge."""
    height, width = image.shape[:2]
    y_scale, x_scale = np.float32(height) / np.float32(size), np.float32(width) / np.float32(size)
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = np.float32(i) * y_scale, np.float32(j) * x_scale
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            dy, dx = float(y) - y0, float(x) - x0
            top = image[y0, x0] * (1 - dx) + image[y0, x1] * dx
            bottom = image[y1, x0] * (1 - dx) + image[y1, x1] * dx
            out[i, j] = top * (1 - dy) + bottom * dy
    return out


@pytest.mark.parametrize(
    "height, width, size",
    [
        (32, 32, 56),
        (64, 48, 33),
        (37, 124, 22),
        (7, 5, 13),
        (96, 96, 24),
        (1, 3, 5),
        (51, 33, 33),
        (40, 21, 63),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_legacy_resize_equals_the_formula(height, width, size, channels):
    image = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    expected = _formula(image.astype(np.float64), size)
    np.testing.assert_allclose(images.resize_legacy(image, size), expected, rtol=0, atol=1e-4)
    rounded = images.resize(image, size, "vtab")
    assert rounded.shape == (size, size, 3) and rounded.dtype == np.uint8
    assert np.abs(rounded - expected).max() <= 0.5001


def test_legacy_resize_worked_by_hand():
    # 2 -> 4 pixels lie at 0, 0.5, 1, 1.5; the last one has no neighbour to the right.
    row = images.resize_legacy(np.float32([[[0], [100]], [[0], [100]]]), 4)[0, :, 0]
    assert row.tolist() == [0, 50, 100, 100]
    # 4 -> 2 pixels lie at 0 and 2: no averaging.
    columns = np.broadcast_to(np.float32([1, 2, 3, 4])[None, :, None], (4, 4, 1))
    assert images.resize_legacy(columns, 2)[0, :, 0].tolist() == [1, 3]


def test_legacy_resize_is_not_the_half_pixel_one():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    other = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(images.resize_legacy(image, 64) - other).mean() > 5


def test_same_size_is_passed_through():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for method in images.METHODS:
        np.testing.assert_array_equal(images.resize(image, 24, method), image)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_other_methods_are_pillows(method):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    expected = np.asarray(Image.fromarray(image).resize((17, 17), filters[method]))
    np.testing.assert_array_equal(images.resize(image, 17, method), expected)
    np.testing.assert_array_equal(images.resize(Image.fromarray(image), 17, method), expected)
    grey = images.resize(image[:, :, :1], 17, method)
    np.testing.assert_array_equal(grey, np.repeat(expected[..., :1], 3, axis=2))


def test_unknown_method():
    with pytest.raises(ValueError, match="resize 'nearest'.*vtab, bilinear, bicubic"):
        images.check_form(224, "nearest")
    with pytest.raises(ValueError, match="image_size 0"):
        images.check_form(0, "vtab")


def _encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _decode(data, **options):
    return images.to_array(images.decode(data, **options))


def test_decode_modes():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(_decode(_encode(Image.fromarray(rgb), "PNG")), rgb)
    alpha = Image.fromarray(np.concatenate([rgb, rgb[..., :1]], axis=2))
    np.testing.assert_array_equal(_decode(_encode(alpha, "PNG")), rgb)
    grey = _decode(_encode(Image.fromarray(rgb[..., 0]), "PNG"))
    np.testing.assert_array_equal(grey, rgb[..., :1])
    cmyk = _decode(_encode(Image.fromarray(rgb).convert("CMYK"), "JPEG"))
    palette = _decode(_encode(Image.fromarray(rgb).quantize(4), "GIF"))
    assert cmyk.shape == palette.shape == (5, 7, 3)
    assert _decode(_encode(Image.fromarray(rgb[..., 0] > 99), "PNG")).max() == 255


def test_exif_orientation_only_where_asked_for():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    data = _encode(image, "PNG", exif=exif)
    assert _decode(data).shape == (4, 6, 3)
    turned = _decode(data, upright=True)
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_broken_files(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = _encode(image, kind)
    for broken in (b"", b"no image", data[: len(data) // 2], data[:12]):
        with pytest.raises(OSError):
            _decode(broken)


def test_jpeg_equals_tensorflows_accurate_decoder():
    tf = pytest.importorskip("tensorflow")
    coarse = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    data = _encode(Image.fromarray(coarse).resize((123, 77)), "JPEG")
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_allclose(_decode(data).astype(int), expected, atol=1)
