"""What every process of the audit needs: imported once, before the processes are forked."""

from vtabjax import installation

from .. import convert, randomise, sources, verify  # noqa: F401
from ..sources import timm, torchvision  # noqa: F401

if not installation.absent("hub", "transformers", "open_clip"):
    from ..sources import open_clip, transformers  # noqa: F401
