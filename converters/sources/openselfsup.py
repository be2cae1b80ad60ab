"""OpenSelfSup's 14 releases by name: ``openselfsup/<method>@/path/to/file.pth``."""

from vtabjax.specs import Spec


def names(spec: Spec) -> list[str]:
    return []
