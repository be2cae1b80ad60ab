"""Files that notice when they were changed."""

import io
import json
import zlib

import numpy as np
import pytest

from vtabjax.runtime import files


def test_the_checksum_of_a_file_in_several_blocks():
    content = np.random.default_rng(0).bytes((9 << 20) + 1)
    assert files.crc32(io.BytesIO(content)) == zlib.crc32(content)
    f = io.BytesIO(content)
    f.seek(5)
    assert files.crc32(f, zlib.crc32(content[:5])) == zlib.crc32(content)


def test_a_content_followed_by_its_checksum():
    for content in (b"", b"x", bytes(1000)):
        assert zlib.crc32(content + zlib.crc32(content).to_bytes(4, "little")) == files.SOUND


CONTENT = {"id": "café", "n": [1, 2, 10**19], "x": 0.1, "odd": "a\udc80", "none": None}


def test_a_sealed_text_comes_back():
    for content in (CONTENT, {}, [], "", 3):
        assert files.unseal(files.seal(content)) == content
    assert json.loads(files.seal(CONTENT))["content"] == CONTENT  # other programs can read it


def test_every_flipped_bit_of_a_sealed_text_is_noticed():
    text = files.seal(CONTENT).encode()
    for i in range(len(text)):
        for bit in range(8):
            changed = text[:i] + bytes([text[i] ^ (1 << bit)]) + text[i + 1 :]
            with pytest.raises(ValueError):
                files.unseal(changed.decode())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "3", '{"content": 1}', "[" * 100_000])
def test_what_was_never_sealed(text):
    with pytest.raises(ValueError):
        files.unseal(text)
