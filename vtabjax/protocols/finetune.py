"""Fine-tuning on 1,000 examples: VTAB-1k's protocol (Zhai et al., arXiv 1910.04867).

A small grid is trained on train800, the point that is best on val200 is retrained on train800val200 and evaluated
once on the whole test split. SGD with momentum 0.9, no weight decay, no augmentation; a head of zeros on the
features; batch norm in training mode.
"""

from __future__ import annotations

from vtabjax.protocols._finetune_settings import Settings, schedule
from vtabjax.protocols._finetune_train import Data, Plan, State, Trainer, Trunk, frozen, plan, sample, trunk

__all__ = [
    "Data",
    "Plan",
    "Settings",
    "State",
    "Trainer",
    "Trunk",
    "frozen",
    "plan",
    "sample",
    "schedule",
    "trunk",
]
