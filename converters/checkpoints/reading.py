"""Reads checkpoint files, whatever their format, without executing what is in them."""

from __future__ import annotations

import _compat_pickle
import pickle
import re
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from vtabjax import specs
from vtabjax.specs import SpecError, weight_files

# Pickled objects of other modules are replaced by inert stand-ins. These modules' functions do something when a
# file is read, which no checkpoint needs: such a file is refused as a whole.
_CODE = frozenset(
    "_posixsubprocess asyncio bdb cgi code codeop commands compileall ctypes ftplib http imp importlib marshal "
    "multiprocessing nt os pdb pickle pip pkgutil posix profile pty pydoc runpy setuptools shelve shutil signal "
    "site smtplib socket subprocess sys timeit trace urllib venv webbrowser xmlrpc zipimport".split()
)
_CODE_NAMES = frozenset(
    [
        ("io", "open"),
        ("_io", "open"),
        ("types", "CodeType"),
        ("types", "FunctionType"),
        ("types", "LambdaType"),
    ]
)
_BUILTINS = frozenset(
    "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple".split()
)
_TORCH = frozenset(["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"])


class CheckpointError(SpecError):
    """A checkpoint file that cannot be used; the message names the file, the reason and a way out."""


class Stub:
    """Stands for a pickled object of a class that is of no concern here. Inert."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Self:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Takes a list's item and forgets it."""

    def extend(self, values: Any) -> None:
        """Takes a list's items and forgets them."""

    def add(self, value: Any) -> None:
        """Takes a set's item and forgets it."""

    def __hash__(self) -> int:
        return id(self)


class Arrays(dict[str, torch.Tensor]):
    """What a NumPy archive (.npz) holds: JAX releases have other names and layouts than PyTorch's."""


def read(path: str | Path) -> Any:
    """The content of a checkpoint: nested dicts with tensors, on the CPU. The content decides the format, not the name.

    A path may be a file (torch.save's two formats, safetensors, a NumPy archive), an index of shards with these
    beside it, or a folder with one of them. Objects that are neither tensors nor plain containers and numbers come
    back as `Stub`s.

    Raises:
      CheckpointError: the file is missing, truncated, not a checkpoint, or pickled with code in it.
    """
    try:
        index, *shards = weight_files.parts(path)
    except weight_files.WeightFileError as e:
        raise CheckpointError(str(e)) from e
    if not shards:
        return _read_file(index)
    state: dict[str, Any] = {}
    for shard in shards:
        content = _read_file(shard)
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{shard}, a shard of {index}, holds a {type(content).__name__}, not tensors"
            )
        state.update(content)
    missing = [name for name in weight_files.read_index(index) or {} if name not in state]
    if missing:
        raise CheckpointError(f"{index} is an index of shards that lack {specs.listed(missing)}")
    return state


def _read_file(path: Path) -> Any:
    try:
        with open(path, "rb") as f:
            start = f.read(512)
    except OSError as e:
        raise CheckpointError(f"cannot read the weight file {path}: {e.strerror}") from e
    if is_safetensors(start):
        return _read_safetensors(path)
    _refuse_other_files(path, start)
    archive = start.startswith(b"PK\x03\x04")
    if archive and _check_archive(path):
        return _read_arrays(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError:
        pass  # it holds more than tensors, or is damaged
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as e:
        raise _truncated(path, e) from e
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_stubbing, mmap=archive)
    except CheckpointError as e:
        raise CheckpointError(f"{path} {e}") from None
    except Exception as e:
        raise _truncated(path, e) from e


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so is a safetensors file: the length of a header, and the header, which is JSON."""
    return len(start) > 8 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise _truncated(path, e) from e


def _read_arrays(path: Path) -> Arrays:
    found = Arrays()
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.dtype == np.dtype("V2"):  # bfloat16, which NumPy does not know
                    found[name] = torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
                elif array.dtype.kind in "fiub":
                    found[name] = torch.from_numpy(np.ascontiguousarray(array))
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as e:
        if "allow_pickle" in str(e):
            raise CheckpointError(
                f"{path} is a NumPy archive with pickled objects, which are not opened"
            ) from e
        raise _truncated(path, e) from e
    return found


# What other files begin with, and what to say of them.
_STARTS = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; use a release for PyTorch"),
    (b"GGUF", "is a GGUF file; use a release for PyTorch"),
    (b"\x93NUMPY", "holds one NumPy array, not a state_dict"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the checkpoint itself; run `git lfs pull`"),
    (b"/annex/objects/", "is a git-annex pointer, not the checkpoint itself; run `git annex get`"),
    (b"{", "is a JSON text, not a checkpoint; name the file of the weights"),
    (b"[", "is a JSON text, not a checkpoint; name the file of the weights"),
)


def _refuse_other_files(path: Path, start: bytes) -> None:
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint (download pages of file hosts get saved like this); "
            "download it again"
        )
    for magic, text in _STARTS:
        if start.startswith(magic):
            raise CheckpointError(f"{path} {text}")
    if b"onnx" in start[:64] or start.startswith(b"\x08") and b"pytorch" in start[:64]:
        raise CheckpointError(f"{path} is an ONNX program; save the module's state_dict() with torch.save")
    if path.suffix.lower() == ".msgpack":
        raise CheckpointError(f"{path} is a Flax file (msgpack); use a release for PyTorch")
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive; unpack it and name the file of the weights")


# Tensors do not compress well. More than that is a file made to fill the memory.
_MAX_COMPRESSION = 100


def _check_archive(path: Path) -> bool:
    """Whether a zip archive is NumPy's; raises CheckpointError where it is not torch.save's either."""
    if not zipfile.is_zipfile(path):
        raise _truncated(path, "its end is missing")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    declared, there = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > _MAX_COMPRESSION * there + (1 << 20):
        raise CheckpointError(
            f"{path} has {there / 1e6:.1f} MB and would unpack to {declared / 1e6:,.0f} MB, which no checkpoint does; "
            "it was not opened"
        )
    if any(n.endswith("/constants.pkl") for n in names):
        raise CheckpointError(f"{path} is a TorchScript program; save its state_dict() with torch.save")
    if any(n.endswith(("serialized_exported_program.json", "/archive_format")) for n in names):
        raise CheckpointError(
            f"{path} is a program of torch.export; write file/{path}, or save the module's state_dict() with torch.save"
        )
    if names and all(n.endswith(".npy") for n in names):
        return True
    if not any(n.endswith("data.pkl") for n in names):
        raise CheckpointError(
            f"{path} is a zip archive without a checkpoint ({specs.listed(names)}); "
            "unpack it and name the file of the weights"
        )
    return False


def _truncated(path: Path, reason: object) -> CheckpointError:
    text = " ".join(str(reason).split())[:160]
    return CheckpointError(f"{path} is truncated or damaged ({text}); download it again")


class _StubbingUnpickler(pickle._Unpickler):
    """Makes tensors and plain containers, stubs every other class and refuses functions that do things."""

    def find_class(self, module: str, name: str) -> Any:
        # The usual protocol writes Python 2's names of what has moved since.
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        top = module.partition(".")[0]
        if (module, name) == ("collections", "OrderedDict") or (module, name) == ("torch", "Size"):
            return super().find_class(module, name)
        if module == "torch._utils" and name in _TORCH:
            return super().find_class(module, name)
        if module in ("torch", "torch.storage") and re.fullmatch(r"\w*Storage", name):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "_codecs" and name == "encode":
            return _encode
        if top == "builtins":
            if name in _BUILTINS:
                return super().find_class("builtins", name)
            raise _code(module, name)
        if top in _CODE or (module, name) in _CODE_NAMES:
            raise _code(module, name)
        return type(name, (Stub,), {"__module__": module})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _code(module: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"would run code when it is opened ({module}.{name}); it was not opened. "
        "Get the file from a source you trust, as safetensors or as a plain state_dict"
    )


# What torch.load asks of a pickle module.
_stubbing = types.SimpleNamespace(
    Unpickler=_StubbingUnpickler,
    load=lambda file, **kwargs: _StubbingUnpickler(file, **kwargs).load(),
    __name__="stubbing",
)
