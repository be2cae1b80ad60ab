"""Reads checkpoint files without executing what is in them, and fits their tensors to a module."""

from __future__ import annotations

import _compat_pickle
import pickle
import re
import types
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtabjax.specs import SpecError

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

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        """Takes a list's item and forgets it."""

    def extend(self, values):
        """Takes a list's items and forgets them."""

    def add(self, value):
        """Takes a set's item and forgets it."""

    def __hash__(self):
        return id(self)


def read(path: str | Path) -> Any:
    """The content of a checkpoint file (.pth, .pt, .pth.tar, .safetensors): nested dicts with tensors, on the CPU.

    Objects that are neither tensors nor plain containers and numbers come back as `Stub`s.

    Raises:
      CheckpointError: the file is missing, truncated, no checkpoint, or pickled with code in it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as f:
            start = f.read(512)
    except OSError as e:
        raise CheckpointError(f"cannot read the weight file {path}: {e.strerror}") from e
    _refuse_other_files(path, start)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    archive = start.startswith(b"PK\x03\x04")
    if archive:
        _refuse_other_archives(path)
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


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise _truncated(path, e) from e


def _refuse_other_files(path: Path, start: bytes) -> None:
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint (download pages of file hosts are saved so); download it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the checkpoint itself; run `git lfs pull`")


def _refuse_other_archives(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise _truncated(path, "its end is missing")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(n.endswith("/constants.pkl") for n in names):
        raise CheckpointError(f"{path} is a TorchScript program; save its state_dict() with torch.save")
    if all(n.endswith(".npy") for n in names):
        raise CheckpointError(f"{path} holds NumPy arrays with other names; use a release for PyTorch")


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


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, architecture: str) -> None:
    """Fills the module with a state_dict that must have exactly its names and shapes, in float32.

    Counters of batch normalisation (num_batches_tracked), which some releases leave out, may be missing.

    Raises:
      CheckpointError: a name or shape differs.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if len(missing) > len(own) // 2:
        raise CheckpointError(
            f"{path} is of another architecture than {architecture}: it lacks {_some(missing)} "
            f"and has {_some(extra)}; name the architecture it was made with"
        )
    if missing:
        raise CheckpointError(f"{path} lacks {_some(missing)}, which {architecture} has")
    if extra:
        raise CheckpointError(f"{path} has {_some(extra)}, which {architecture} has not")
    if wrong:
        first = wrong[0]
        more = f" and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{path}: {first} has shape {list(state[first].shape)}, {architecture} wants "
            f"{list(own[first].shape)}{more}; name the architecture the file was made with"
        )
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite in {_some(broken)}")
    module.load_state_dict({**own, **{k: v.to(own[k].dtype) for k, v in state.items()}}, strict=True)


def _some(keys: Iterable[str], n: int = 3) -> str:
    keys = list(keys)
    more = f" and {len(keys) - n} more" if len(keys) > n else ""
    return ", ".join(keys[:n]) + more
