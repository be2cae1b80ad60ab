"""Fine-tuning by VTAB-1k's protocol: `evaluate` trains a grid, chooses, trains again and tests once."""

from vtabjax.protocols.finetune.adaptation import finished
from vtabjax.protocols.finetune.backbone import Backbone, precomputed, trainable
from vtabjax.protocols.finetune.journal import Journal, catch_sigterm
from vtabjax.protocols.finetune.plans import Schedule, plan, sample, schedule
from vtabjax.protocols.finetune.protocol import evaluate
from vtabjax.protocols.finetune.result import DivergedError, Final, GridPoint, Result
from vtabjax.protocols.finetune.scopes import ScopeError
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.protocols.finetune.training import STEPS_PER_CALL, State, Trainer, TrainingSet, averaged

__all__ = [
    "STEPS_PER_CALL",
    "Backbone",
    "DivergedError",
    "Final",
    "GridPoint",
    "Journal",
    "Result",
    "Schedule",
    "ScopeError",
    "Settings",
    "State",
    "Trainer",
    "TrainingSet",
    "averaged",
    "catch_sigterm",
    "evaluate",
    "finished",
    "plan",
    "precomputed",
    "sample",
    "schedule",
    "trainable",
]
