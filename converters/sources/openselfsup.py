"""OpenSelfSup's releases by name: ``openselfsup/<method>@/path/to/file.pth``, all of them ResNet-50.

The published files lie on Google Drive (docs/MODEL_ZOO.md of open-mmlab/OpenSelfSup), so the file comes from you.
The digits in their names are not checksums: ``-e3b0c442`` is the hash of no bytes at all.
"""

from __future__ import annotations

import fnmatch
from typing import Any, NamedTuple

from vtabjax.specs import Spec, SpecError

from ..checkpoints import building
from . import Source, did_you_mean, torchvision


class Release(NamedTuple):
    """A published file: the start of its name and how it was trained, on ImageNet-1k unless at random."""

    file: str
    method: str = "self-supervised"
    sobel: bool = False


RELEASES = {
    "imagenet": Release("imagenet_r50", "supervised"),
    "random": Release("random_r50", "none"),
    "relative_loc": Release("relative_loc_r50"),
    "rotation": Release("rotation_r50"),
    "deepcluster": Release("deepcluster_r50", sobel=True),
    "npid": Release("npid_r50"),
    "npid_ensure_neg": Release("npid_r50_ensure_neg"),
    "odc": Release("odc_r50_v1"),
    "moco_v1": Release("moco_r50_v1"),
    "moco_v2": Release("moco_r50_v2"),
    "simclr": Release("simclr_r50_bs256_ep200"),
    "simclr_mocov2_neck": Release("simclr_r50_bs256_ep200_mocov2_neck"),
    "byol": Release("byol_r50_bs256_accmulate16_ep300"),
    "byol_bs2048": Release("byol_r50_bs2048_accmulate2_ep200"),
}


def names(spec: Spec) -> list[str]:
    """The releases that match. Each needs its file: ``openselfsup/simclr@/path/to/file.pth``."""
    return [] if spec.random else fnmatch.filter(RELEASES, spec.name)


def check(spec: Spec) -> None:
    """Raises SpecError unless there is such a release and the spec has its file."""
    if spec.name not in RELEASES and spec.name not in [r.file for r in RELEASES.values()]:
        raise did_you_mean(spec, "release", spec.name, list(RELEASES))
    if spec.file is None:
        raise SpecError(
            f"model {str(spec)!r} needs its file, which you download from OpenSelfSup's model zoo: "
            f"write openselfsup/{spec.name}@/path/to/{_release(spec).file}-....pth"
        )
    building.check(spec)


def describe(spec: Spec) -> dict[str, Any]:
    """What is known about a release: all were made and evaluated alike."""
    release = _release(spec)
    return {
        **torchvision.describe(Spec("torchvision", "resnet50", "IMAGENET1K_V1")),
        "architecture": "resnet50",
        "weights": f"OpenSelfSup {release.file}",
        "num_classes": None,
        "imagenet_top1": None,  # torchvision's is that of its own weights
        "license": "apache-2.0",
        "method": release.method,
        "pretraining_data": None if release.method == "none" else "ImageNet-1k",
    }


def build(spec: Spec, input_size: int | None) -> Source:
    """The release's ResNet-50, without a classifier, and with a Sobel filter in front for DeepCluster."""
    source = torchvision.build(Spec("torchvision", "resnet50", file=spec.file), input_size)
    release = _release(spec)
    sobel = "stem" in source.info
    if sobel != release.sobel:
        has, other = (2, "deepcluster") if sobel else (3, "simclr, moco_v2 or another method")
        raise SpecError(
            f"model {str(spec)!r}: the first layer in {spec.file} takes {has} channels, so it is not "
            f"{spec.name}; write openselfsup/{other}"
        )
    info = {**source.info, **describe(spec), "input_size": source.info["input_size"]}
    return Source(source.module, info)


def parameters(spec: Spec) -> int:
    """Of a ResNet-50 without its classifier."""
    return torchvision.parameters(Spec("torchvision", "resnet50")) - 2049 * 1000


def _release(spec: Spec) -> Release:
    by_file = {r.file: r for r in RELEASES.values()}
    return RELEASES.get(spec.name) or by_file[spec.name]
