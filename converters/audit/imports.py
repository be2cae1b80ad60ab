"""What every process of the audit needs: imported once, before the processes are forked."""

from .. import convert, randomise, sources, verify  # noqa: F401
from ..sources import timm, torchvision  # noqa: F401
