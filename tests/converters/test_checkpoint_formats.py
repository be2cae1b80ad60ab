"""Checkpoint files by their content: what is read under any name, what is named for what it is."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from checkpoint_files import ResNet18

from converters import sources
from converters.checkpoints import reading
from converters.checkpoints.reading import CheckpointError


def jax_release(module, classes: int = 7) -> dict[str, np.ndarray]:
    """A ViT of timm as Google's JAX releases have it."""
    w = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    heads = module.blocks[0].attn.num_heads
    width = w["cls_token"].shape[-1]
    found = {
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "cls": w["cls_token"],
        "Transformer/posembed_input/pos_embedding": w["pos_embed"],
        "Transformer/encoder_norm/scale": w["norm.weight"],
        "Transformer/encoder_norm/bias": w["norm.bias"],
        "head/kernel": np.ones((width, classes), np.float32),
        "head/bias": np.arange(classes, dtype=np.float32),
    }
    for i in range(len(module.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for a, b in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            found |= {f"{theirs}{b}/scale": w[f"{ours}{a}.weight"], f"{theirs}{b}/bias": w[f"{ours}{a}.bias"]}
        for a, b in (("mlp.fc1", "MlpBlock_3/Dense_0"), ("mlp.fc2", "MlpBlock_3/Dense_1")):
            found |= {
                f"{theirs}{b}/kernel": w[f"{ours}{a}.weight"].T,
                f"{theirs}{b}/bias": w[f"{ours}{a}.bias"],
            }
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for j, name in enumerate(("query", "key", "value")):
            kernel = np.split(w[f"{ours}attn.qkv.weight"], 3)[j].T.reshape(width, heads, -1)
            bias = np.split(w[f"{ours}attn.qkv.bias"], 3)[j].reshape(heads, -1)
            found |= {f"{attention}{name}/kernel": kernel, f"{attention}{name}/bias": bias}
        found[f"{attention}out/kernel"] = w[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width)
        found[f"{attention}out/bias"] = w[f"{ours}attn.proj.bias"]
    return found


def test_jax_releases_load_as_timm_reads_them(tmp_path):
    own = sources.build("timm/test_vit@random:5").module
    np.savez(tmp_path / "vit.npz", **jax_release(own))
    source = sources.build(f"timm/test_vit@{tmp_path}/vit.npz")
    found, expected = source.module.state_dict(), own.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in found if not k.startswith("head."))
    assert source.info["num_classes"] == 7 and torch.equal(found["head.bias"], torch.arange(7.0))
    assert "positions" not in source.info
    smaller = sources.build(f"timm/test_vit@{tmp_path}/vit.npz", input_size=96)
    assert smaller.info["positions"]["resampled"]["pos_embed"] == {"from": [1, 101, 64], "to": [1, 37, 64]}


def test_jax_releases_of_other_architectures_are_refused(tmp_path):
    own = sources.build("timm/test_vit@random").module
    arrays = jax_release(own)
    deeper = {
        k.replace("encoderblock_5", "encoderblock_6"): v for k, v in arrays.items() if "encoderblock_5" in k
    }
    np.savez(tmp_path / "deeper.npz", **arrays, **deeper)
    with pytest.raises(CheckpointError, match="is of another architecture than timm/test_vit: it holds"):
        sources.build(f"timm/test_vit@{tmp_path}/deeper.npz")
    patches = {**arrays, "embedding/kernel": np.zeros((8, 8, 3, 64), np.float32)}
    np.savez(tmp_path / "patches.npz", **patches)
    with pytest.raises(CheckpointError, match="is of another architecture"):
        sources.build(f"timm/test_vit@{tmp_path}/patches.npz")
    with pytest.raises(CheckpointError, match="timm does not read them into this architecture"):
        sources.build(f"timm/vit_tiny_patch16_224@{tmp_path}/deeper.npz")


def test_arrays_with_pytorchs_names(tmp_path):
    state = ResNet18()
    np.savez(tmp_path / "r.npz", **{k: v.numpy() for k, v in state.items()})
    module = sources.build(f"torchvision/resnet18@{tmp_path}/r.npz").module
    assert torch.equal(module.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match="pickled objects, which are not opened"):
        reading.read(tmp_path / "o.npz")


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b" + b"x" * 99, "is compressed with gzip"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 99, "is compressed with zstd"),
        (b"\x89HDF\r\n\x1a\n" + b"x" * 99, "HDF5 file, as Keras writes"),
        (b"\x93NUMPY" + b"x" * 99, "holds one NumPy array"),
        (b"GGUF" + b"x" * 99, "is a GGUF file"),
        (b'{"error": "Access denied"}', "is a JSON text, not a checkpoint"),
        (b"/annex/objects/SHA256E-s1--0", "is a git-annex pointer"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "is a tar archive"),
        (b"\x08\x07\x12\x07pytorch" + b"x" * 99, "is an ONNX program"),
        (archive(**{"notes.txt": b"x"}), "is a zip archive without a checkpoint"),
        (archive(**{"p/archive_format": b"pt2", "p/data.pkl": b"x"}), "is a program of torch.export"),
        (archive(**{"p/data.pkl": bytes(200 << 20)}), "would unpack to 210 MB, which no checkpoint does"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_named_for_what_they_are(content, message, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        reading.read(path)
    assert "damaged" not in str(error.value) and "download it again" not in str(error.value)


def test_what_a_file_without_tensors_holds(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"model": torch.nn.Linear(2, 2), "ema": None}, path)
    with pytest.raises(CheckpointError, match="a whole pickled Linear under 'model'"):
        sources.build(f"torchvision/resnet18@{path}")


def test_a_dict_that_holds_itself_and_many_references_end(tmp_path):
    tree: dict = {"state_dict": ResNet18()}
    tree["self"] = tree
    for _ in range(6):
        tree = {"a": tree, "b": tree}
    torch.save(tree, tmp_path / "f.pth")
    assert "state_dict" in sources.build(f"torchvision/resnet18@{tmp_path}/f.pth").info["place"]


def test_model_json_names_a_bounded_number_of_what_was_left_out(tmp_path):
    from vtabjax.sweep import artefacts

    extra = {f"queue.{i}": torch.zeros(1) for i in range(200)}
    torch.save({"net": {**ResNet18(), **extra}}, tmp_path / "f.pth")
    info = sources.build(f"torchvision/resnet18@{tmp_path}/f.pth").info
    assert info["checkpoint"]["dropped"]["count"] == 200 and len(json.dumps(info["checkpoint"])) < 2000
    assert "left out: 200 tensors of the file (queue.0, queue.1, queue.2, ...)" in artefacts.notes(info)
