"""Which split of a task is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def train_split(config: Any) -> str:
    return "trainval" if config.suite == "vtab_full" else "train800val200"
