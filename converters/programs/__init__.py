"""Programs saved by torch.export.save: opened without running what is in them, turned into modules."""

from .archive import SETTINGS, ProgramError, read
from .module import ProgramModule, as_module

__all__ = ["SETTINGS", "ProgramError", "ProgramModule", "as_module", "read"]
