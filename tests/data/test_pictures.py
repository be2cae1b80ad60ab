"""One picture of each kind that people have, with the pixels that it should become; and a folder looked through."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from conftest import fill_with_pictures as fill
from PIL import Image, features

from vtabjax import data, tasks
from vtabjax.data import audit, describe, images, pictures
from vtabjax.data.pictures import Depth, Reading

GREY16 = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(content, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of Pillow's on the console
        array = images.to_array(images.decode(content, upright=True, reading=Reading(**options)))
    return np.broadcast_to(array, (*array.shape[:2], 3))


def png(depth, colour_type, row, width, key):
    """A PNG of one row with a transparent colour, of depths that Pillow does not write."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def two(alpha_mode):
    """A red pixel, and one that is transparent and green below."""
    image = Image.fromarray(np.uint8([[[200, 0, 0, 255], [0, 200, 0, 0]]]), "RGBA")
    return image.convert(alpha_mode)


@pytest.mark.parametrize(
    "content",
    [
        encode(two("RGBA")),
        encode(two("RGBA"), "WEBP", lossless=True, exact=True),
        encode(two("RGBA"), "TIFF"),
        encode(two("RGBA"), "TGA"),
        encode(two("RGBA").quantize(4)),  # a palette with a transparency for each colour
    ],
    ids=["RGBA", "WebP", "TIFF", "TGA", "palette"],
)
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_transparent_parts_show_the_background(content, background):
    assert decode(content, background=background).tolist() == [[[200, 0, 0], list(background)]]


def test_transparent_greys_and_keys():
    grey = Image.fromarray(np.uint8([[[60, 255], [60, 0], [60, 102]]]), "LA")
    assert decode(encode(grey))[0, :, 0].tolist() == [60, 255, 60 * 0.4 + 255 * 0.6]
    palette = Image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    assert decode(encode(palette, transparency=0)).tolist() == [[[255] * 3, [50, 60, 70]]]
    assert decode(encode(palette, "GIF", transparency=0)).tolist() == [[[255] * 3, [50, 60, 70]]]
    rgb = Image.fromarray(np.uint8([[[1, 2, 3], [4, 5, 6]]]))
    assert decode(encode(rgb, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]
    bits = Image.fromarray(np.uint8([[0, 255]])).convert("1")
    assert decode(encode(bits, transparency=0)).tolist() == [[[255] * 3, [255] * 3]]
    # One colour stands for "transparent", in the depth of the file.
    for depth, row, key, width in (
        (1, b"\x80", 1, 2),
        (2, b"\xc0", 3, 2),
        (4, b"\xf0", 15, 2),
        (8, b"\xff\0", 255, 2),
    ):
        content = png(depth, 0, row, width, struct.pack(">H", key))
        assert decode(content, background=(9, 9, 9)).tolist() == [[[9] * 3, [0] * 3]], depth
    wide = png(16, 0, struct.pack(">HH", 65535, 514), 2, struct.pack(">H", 514))
    assert decode(wide, background=(9, 9, 9)).tolist() == [[[255] * 3, [9] * 3]]
    colours = png(
        16, 2, struct.pack(">HHHHHH", *[0x1234] * 3, *[0xFFFF] * 3), 2, struct.pack(">HHH", *[0x1234] * 3)
    )
    assert decode(colours, background=(9, 9, 9)).tolist() == [[[9] * 3, [255] * 3]]


def test_transparency_elsewhere_is_as_ever():
    assert np.asarray(images.decode(encode(two("RGBA")))).tolist() == [[[200, 0, 0], [0, 200, 0]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_greys_of_16_bits(kind):
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    content = encode(Image.fromarray(GREY16), kind, **options)
    np.testing.assert_array_equal(decode(content)[..., 0], np.rint(GREY16 / 257))
    # 12 bits in 16, when the data set says so, or nothing else is known.
    content = encode(Image.fromarray(GREY16 >> 4), kind, **options)
    np.testing.assert_array_equal(decode(content)[..., 0], np.rint((GREY16 >> 4) * (255 / 4095)))
    np.testing.assert_array_equal(decode(content, bits=16)[..., 0], np.rint((GREY16 >> 4) / 257))
    with pytest.raises(pictures.DepthError, match="more than the 8 bits of the data set"):
        decode(content, bits=8)


def test_other_depths():
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(unit), "TIFF"))[..., 0], np.rint(unit * 255))
    whole = Image.fromarray(GREY16.astype(np.int32))
    np.testing.assert_array_equal(decode(encode(whole, "TIFF"))[..., 0], np.rint(GREY16 / 257))
    colour = b"P6 2 1 65535\n" + struct.pack(">6H", 0, 257, 65535, 65535, 0, 257 * 7)
    assert decode(colour).tolist() == [[[0, 1, 255], [255, 0, 7]]]
    pgm = b"P5 3 1 4095\n" + struct.pack(">3H", 0, 2048, 4095)  # says itself what is white
    assert decode(pgm)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "array, message",
    [
        (np.full((2, 2), -3, np.int32), "whole numbers from -3"),
        (np.full((2, 2), 70000, np.int32), "whole numbers from 70,000"),
        (np.full((2, 2), 300, np.float32), "fractions from 300"),
        (np.full((2, 2), -0.1, np.float32), "fractions from -0.1"),
        (np.full((2, 2), np.nan, np.float32), "fractions from nan"),
    ],
)
def test_values_without_an_agreed_white_are_refused(array, message):
    with pytest.raises(pictures.DepthError, match=message):
        decode(encode(Image.fromarray(array), "TIFF"))


def test_one_rule_for_a_data_set():
    for high, bits in (
        (0, 8),
        (255, 8),
        (256, 10),
        (1023, 10),
        (4000, 12),
        (16383, 14),
        (16384, 16),
        (65535, 16),
    ):
        assert pictures.bits({"a": Depth("grey", 0, 200), "b": Depth("grey", 3, high)}) == bits
    assert pictures.bits({}) == pictures.bits({"a": Depth("fraction", 0, 1)}) == 0
    with pytest.raises(pictures.DepthError, match="^dark.png: colours of 16 bits that use less than 15"):
        pictures.bits({"dark.png": Depth("colour", 0, 63)})
    assert pictures.bits({"dark.png": Depth("colour", 0, 63), "light.png": Depth("colour", 0, 200)}) == 0


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "1", "RGBX"])
def test_other_modes(mode):
    white = Image.new("RGB", (4, 4), "white")
    image = white if mode == "RGBX" else white.convert(mode)
    assert (decode(encode(image, "TIFF")) > 250).all()


def test_kinds_of_files():
    grey = Image.new("RGB", (16, 16), (90, 90, 90))
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "TGA", "JPEG2000", "AVIF", "PPM", "PCX", "QOI"):
        if kind == "QOI" and "QOI" not in Image.SAVE:
            continue
        assert abs(decode(encode(grey, kind)).astype(int) - 90).max() <= 2, kind
    assert features.check("avif") and features.check("jpg_2000")  # requirements.txt asks for such a Pillow
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", b"<svg/>", b""):
        with pytest.raises(OSError):
            decode(content)


def tiff(channels, photometric, extra=None):
    """A TIFF file of 2 x 2 pixels, written by hand: Pillow writes no more than four channels."""
    short, long = 3, 4
    bits = (short, [8] * channels)
    tags = {256: (short, [2]), 257: (short, [2]), 258: bits, 259: (short, [1]), 262: (short, [photometric])}
    tags |= {273: (long, [0]), 277: (short, [channels]), 278: (short, [2]), 279: (long, [4 * channels])}
    if extra is not None:
        tags[338] = (short, list(extra))
    entries, more = b"", b""
    beside = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in tags.items():
        value = struct.pack(f"<{len(values)}{'H' if kind == short else 'I'}", *values)
        if tag == 273:
            value = struct.pack(
                "<I", beside + sum(2 * len(v) for k, v in tags.values() if k == short and len(v) > 2)
            )
        if len(value) > 4:
            value, more = struct.pack("<I", beside + len(more)), more + value
        entries += struct.pack("<HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + entries
        + bytes(4)
        + more
        + bytes(range(50, 50 + 4 * channels))
    )


@pytest.mark.parametrize(
    "channels, photometric, extra, message",
    [
        (13, 1, [0] * 12, "it has 13 channels, more than grey and transparency need; nothing says which"),
        (4, 1, [0] * 3, "it has 4 channels, more than grey"),
        (4, 2, [0], "it has 4 channels, more than its colours and transparency need"),
        (5, 2, [2, 0], "it has 5 channels, more than its colours"),
        (6, 2, [0] * 3, "it has 6 channels, more than its colours"),
        (2, 1, [0], "it has 2 channels, more than grey"),
    ],
)
def test_more_than_three_channels_are_refused(channels, photometric, extra, message, tmp_path):
    with pytest.raises(OSError, match=message):
        decode(tiff(channels, photometric, extra))
    for name in ("a/0.tif", "a/1.tif", "b/0.tif", "b/1.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tiff(channels, photometric, extra))
    with pytest.raises(data.BrokenImageError, match=f"4 files cannot be read(.|\n)*a/1.tif: {message}"):
        data.look_through(f"folder:{tmp_path}")


def test_the_channels_that_are_read():
    grey = decode(tiff(1, 1))
    assert grey.shape == (2, 2, 3) and (grey == np.uint8([[50, 51], [52, 53]])[..., None]).all()  # repeated
    np.testing.assert_array_equal(decode(tiff(3, 2)).reshape(4, 3), np.arange(50, 62).reshape(4, 3))
    assert (
        decode(tiff(4, 2, [2])).shape
        == decode(tiff(2, 1, [2])).shape
        == decode(tiff(4, 5)).shape
        == (2, 2, 3)
    )


def test_a_picture_that_is_too_large():
    content = encode(Image.new("L", (300, 200)))
    with pytest.raises(
        pictures.TooLargeError, match="300 x 200 pixels are 60,000, more than max_pixels=59,999"
    ):
        decode(content, max_pixels=59_999)
    assert decode(content, max_pixels=60_000).shape == (200, 300, 3)


def test_colours():
    assert pictures.parse_colour("white") == (255, 255, 255) and pictures.parse_colour("#010203") == (1, 2, 3)
    for wrong in ("whit", "#01020304", ""):
        with pytest.raises(ValueError):
            pictures.parse_colour(wrong)


@pytest.fixture
def folder(tmp_path):
    """30 pictures of 12 bits in 16, none of which uses all of them."""
    for i in range(30):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 100 * i, np.uint16)).save(path)
    return tmp_path / "set"


def test_a_folder_shares_its_depth(folder, tmp_path):
    loaded = data.load(f"folder:{folder}", "trainval", image_size=4)
    for image, name in zip(loaded.images, loaded.ids, strict=True):
        number = int(name.split("/")[1].split(".")[0])
        assert (image == round(number * 100 * 255 / 4095)).all()
    notes = data.look_through(f"folder:{folder}", cache_dir=tmp_path / "cache")
    assert notes["depth"] == {"bits": 12, "pictures": 30, "highest": 2900}
    assert "30 of more than 8 bits, read as 12 bits (2,900)" in describe.line(
        tasks.get(f"folder:{folder}"), notes
    )
    Image.fromarray(np.full((4, 4), -3, np.int32)).save(folder / "a" / "odd.tiff")
    tasks.forget_folders()
    for read in (lambda: data.look_through(f"folder:{folder}", skip_broken=True),
                 lambda: data.load(f"folder:{folder}", "test", image_size=4)):  # fmt: skip
        with pytest.raises(data.BrokenImageError, match="a/odd.tiff holds whole numbers from -3"):
            read()


def test_what_is_too_large_is_no_damage(folder):
    Image.new("L", (50, 40)).save(folder / "a" / "large.png")
    (folder / "a" / "broken.png").write_bytes(b"")
    name = f"folder:{folder}"
    with pytest.raises(
        data.BrokenImageError, match="1 file cannot be read(.|\n)*1 file too large(.|\n)*50 x 40"
    ):
        data.look_through(name, max_pixels=1000)
    with pytest.raises(data.BrokenImageError, match="config.max_pixels(.|\n)*a/large.png: 50 x 40"):
        data.look_through(name, max_pixels=1000, skip_broken=True)
    with pytest.raises(data.BrokenImageError, match="large.png: 50 x 40"):
        for split in ("trainval", "test"):
            data.load(name, split, image_size=4, max_pixels=1000, skip_broken=True)
    assert data.look_through(name, skip_broken=True)["broken"]["count"] == 1


def test_pictures_that_show_nothing_are_told(folder):
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(folder / "a" / "empty.tga")
    notes = data.look_through(f"folder:{folder}")
    assert notes["transparent_everywhere"] == {"count": 1, "first": ["a/empty.tga"]}
    assert "1 transparent everywhere" in describe.line(tasks.get(f"folder:{folder}"), notes)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_deep_pictures_are_turned_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 3
    for values in (GREY16, (GREY16 / 65535).astype(np.float32)):
        if values.dtype == np.float32 and kind == "PNG":
            continue
        turned = decode(encode(Image.fromarray(values), kind, exif=exif))[..., 0]
        np.testing.assert_array_equal(turned, np.rint(GREY16 / 257)[::-1, ::-1])


def test_16_bits_with_transparency():
    """Grey and colours of 16 bits with an alpha channel: the upper 8 bits count."""
    header = struct.pack(">IIBBBBB", 2, 1, 16, 4, 0, 0, 0)
    row = b"\0" + struct.pack(">4H", 0x8000, 0xFFFF, 0x8000, 0)

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert decode(content, background=(9, 8, 7)).tolist() == [[[128] * 3, [9, 8, 7]]]


def test_several_pictures_in_a_file():
    frames = [Image.new("RGBA", (6, 6), colour) for colour in ((200, 0, 0, 255), (0, 200, 0, 255))]
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(decode(content).astype(int) - [200, 0, 0]).max() <= 4, kind
    frames = [frame.convert("RGB") for frame in frames]
    content = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert abs(decode(content).astype(int) - [200, 0, 0]).max() <= 4


def test_background_of_a_folder(tmp_path):
    for cls in "ab":
        (tmp_path / cls).mkdir()
        for i in range(3):
            two("RGBA").save(tmp_path / cls / f"{i}.png")
    white, black = (
        data.load(f"folder:{tmp_path}", "train", image_size=2, resize="bilinear", background=colour)
        for colour in ("white", "black")
    )
    assert white.images[0, 0, 1].tolist() == [255] * 3 and black.images[0, 0, 1].tolist() == [0] * 3
    assert white.fingerprint != black.fingerprint


def test_copies_are_counted_once_for_all(tmp_path, monkeypatch):
    fill(tmp_path / "set" / "train", cat=5, dog=5)
    fill(tmp_path / "set" / "test", cat=3)
    fill(tmp_path / "set" / "val", dog=1)
    name, cache = f"folder:{tmp_path}/set", tmp_path / "cache"
    copies = data.look_through(name, cache_dir=cache)["copies"]
    assert copies == {
        "within": {"train": 5, "val": 0, "test": 0},
        "between": {"train+val": 1, "train+test": 3, "val+test": 1},
        "classes": 5,
    }
    # Another process finds what this one found; a file that changed is looked at.
    monkeypatch.setattr(audit, "_records", {})
    monkeypatch.setattr(audit, "_look", None)
    assert data.look_through(name, cache_dir=cache)["copies"] == copies
    monkeypatch.undo()
    (tmp_path / "set" / "train" / "cat" / "000.png").write_bytes(b"")
    tasks.forget_folders()
    with pytest.raises(data.BrokenImageError, match="train/cat/000.png: the file is empty"):
        data.look_through(name, cache_dir=cache)
    for file in cache.glob("*-audit-*.json"):
        file.write_text("{")
    monkeypatch.setattr(audit, "_records", {})
    assert data.look_through(name, cache_dir=cache, skip_broken=True)["broken"]["count"] == 1
