"""Opens a .pt2 file. torch.export.load would run code from it in several places, so it never sees the file itself.

What torch.export.load does with a file, in PyTorch 2.13:

- it unpickles example inputs, pickled weights and constants, custom and opaque objects, and legacy members;
- it loads what AOTInductor compiled as a shared library;
- it passes shapes to sympy.sympify, which evaluates them as Python;
- it looks targets of nodes up as attributes of torch, of which some are other modules (`torch.os`);
- it writes names of nodes, arguments and attributes into the text of a Python function, and executes that;
- guards become the text of another one.

So a second archive is made in memory with nothing in it but tensors as raw bytes and a graph whose every text was
looked at (`graph_text`), and that one is loaded.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from vtabjax import specs
from vtabjax.specs import SpecError

from . import graph_text

SETTINGS = "vtabjax.json"  # an extra file that states mean, std, interpolation
_EXTRA = "extra/"
_CARRIED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version"
)
_RAW = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+)")
_CONFIG = re.compile(r"data/(weights|constants)/(\w+)_(weights|constants)_config\.json")
_SAMPLES = re.compile(r"data/sample_inputs/\w+\.pt")
_MODEL = re.compile(r"models/(\w+)\.json")
_MAX_TEXT = 256 << 20  # bytes of JSON
_MAX_COMPRESSION = 100


class ProgramError(SpecError):
    """A file that is not a program of torch.export, or not one that is opened; says why and what to do."""


def read(path: str | os.PathLike) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The program in a .pt2 file, and what its extra file vtabjax.json states. Runs nothing from the file.

    Raises:
      ProgramError: the file cannot be read, is something else, or has in it what would run code.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            _refuse_other_files(path, file.read(2))
            with zipfile.ZipFile(file) as archive:
                clean, settings = _rewritten(path, archive)
    except OSError as e:
        raise ProgramError(f"cannot read {path}: {e.strerror}") from e
    except graph_text.UnsafeError as e:
        raise _unsafe(path, str(e)) from e
    except (zipfile.BadZipFile, ValueError, KeyError, RecursionError, NotImplementedError) as e:
        if isinstance(e, ProgramError):
            raise
        raise _damaged(path, e) from e
    try:
        return torch.export.load(clean), settings
    except Exception as e:
        raise _damaged(path, e) from e


def _rewritten(path: Path, archive: zipfile.ZipFile) -> tuple[io.BytesIO, dict[str, Any]]:
    """An archive with what is needed and was looked at; the settings."""
    members = _members(path, archive)
    models = [m[1] for name in members if (m := _MODEL.fullmatch(name))]
    if len(models) != 1:
        raise ProgramError(
            f"{path} holds {len(models)} programs ({specs.listed(models)}); save one with torch.export.save"
        )
    settings: dict[str, Any] = {}
    clean = io.BytesIO()
    with zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as out:
        for name, info in members.items():
            if _SAMPLES.fullmatch(name):
                content = _no_samples()
            elif name == _EXTRA + SETTINGS:
                settings = _settings(path, _text(path, archive, info))
                continue
            elif name.startswith(_EXTRA):
                continue
            elif _MODEL.fullmatch(name):
                content = json.dumps(graph_text.checked_program(_text(path, archive, info))).encode()
            elif _CONFIG.fullmatch(name):
                content = json.dumps(graph_text.checked_payload(_text(path, archive, info))).encode()
            else:
                content = archive.read(info)
            out.writestr(f"model/{name}", content)
    clean.seek(0)
    return clean, settings


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by their names within its one folder; refuses what is not known to be harmless."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    declared, there = sum(info.file_size for info in infos), path.stat().st_size
    if declared > _MAX_COMPRESSION * there + (1 << 20):
        raise ProgramError(
            f"{path} would unpack to {declared / 1e6:,.0f} MB, as no program does; it was not opened"
        )
    members = {info.filename.partition("/")[2]: info for info in infos}
    _refuse_other_archives(path, [info.filename for info in infos])
    if len(members) < len(infos):
        raise _unsafe(path, "two of its files have the same name")
    for name in members:
        if name.startswith("data/aotinductor/"):
            raise _unsafe(path, "code that AOTInductor compiled")
        if re.fullmatch(r"data/constants/custom_obj_\d+", name):
            raise _unsafe(path, "a pickled custom object")
        if re.fullmatch(r"data/constants/opaque_obj_\d+", name):
            raise _unsafe(path, "a pickled object")
        if re.fullmatch(r"data/(weights|constants)/\w+\.pt", name):
            raise _unsafe(path, "pickled tensors, as older releases of PyTorch wrote them")
        known = (_CARRIED, _RAW, _CONFIG, _SAMPLES, _MODEL)
        if not name.startswith(_EXTRA) and not any(pattern.fullmatch(name) for pattern in known):
            raise _unsafe(path, f"a file that torch.export.save does not write ({name!r})")
    return members


def _refuse_other_files(path: Path, start: bytes) -> None:
    if start != b"PK":
        raise ProgramError(
            f"{path} is not a program of torch.export; for a checkpoint name the architecture it belongs to: "
            f"timm/ARCHITECTURE@{path} or python/package.module:function@{path}"
        )


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    if any(name.endswith("constants.pkl") for name in names):
        raise ProgramError(
            f"{path} is a TorchScript program, which runs as code of its own; export the module itself with "
            "torch.export.export and save it with torch.export.save, or save its state_dict() and name the architecture"
        )
    if any(name.endswith("serialized_exported_program.json") for name in names):
        raise ProgramError(
            f"{path} was saved by an older release of PyTorch; export the module again with PyTorch 2.9 or newer"
        )
    if any(name.endswith("data.pkl") for name in names):
        raise ProgramError(
            f"{path} is a checkpoint and not a program of torch.export; name the architecture it belongs to: "
            f"timm/ARCHITECTURE@{path} or python/package.module:function@{path}"
        )


def _text(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > _MAX_TEXT:
        raise ProgramError(
            f"{path}: {info.filename} has {info.file_size / 1e6:,.0f} MB of text; it was not opened"
        )
    return json.loads(archive.read(info).decode("utf-8"))


def _settings(path: Path, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ProgramError(
            f'{path}: its extra file {SETTINGS} does not hold a JSON object such as {{"mean": [...]}}'
        )
    return found


def _no_samples() -> bytes:
    """Example inputs are unpickled, and nothing here needs them."""
    buffer = io.BytesIO()
    torch.save(((), {}), buffer)
    return buffer.getvalue()


def _unsafe(path: Path, what: str) -> ProgramError:
    return ProgramError(
        f"{path} could run code when it is opened, and was not opened: {what}. Get it from a source you trust, export "
        "the module again with plain tensors, or save its state_dict() and name the architecture"
    )


def _damaged(path: Path, reason: object) -> ProgramError:
    text = " ".join(str(reason).split())[:200]
    return ProgramError(f"{path} is damaged or was not saved by torch.export.save ({text}); save it again")
