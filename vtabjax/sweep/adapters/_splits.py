"""Which split of a task is trained on."""

from __future__ import annotations

from typing import Any


def train_split(config: Any) -> str:
    """The split of a config's suite that is trained on: all of it, or VTAB-1k's 1,000 examples."""
    return "trainval" if config.suite == "vtab_full" else "train800val200"
