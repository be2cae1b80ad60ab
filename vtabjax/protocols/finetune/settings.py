"""The numbers of the fine-tuning protocol."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from vtabjax.options import AUGMENTATIONS, OPTIMIZERS, SCHEDULES, SCOPES

SAMPLING = ("epoch", "replacement")
DTYPES = ("float32", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what fine-tuning computes. The defaults are VTAB's lightweight sweep.

    Attributes:
      learning_rates: candidates; with `weight_decay` and `steps` or `epochs` they span the grid.
      steps: candidates for the number of steps.
      epochs: candidates for the length in epochs, instead of `steps`: passes over the examples of the stage, so
        that the retraining on more examples takes more steps than the grid.
      batch_size: examples per step, over all devices.
      optimizer: "sgd", "adam", "adamw", "lamb" or "lion"; see `optimizers.transformation`.
      momentum: of SGD (no Nesterov).
      weight_decay: candidates, of weights with at least two dimensions: neither of biases nor of norms. Decoupled from
        the gradient for adamw, lamb and lion, a part of the gradient for sgd and adam, as in PyTorch.
      layer_decay: what the learning rate is multiplied by for every layer between a weight and the head; 1 for none.
      clip: largest norm of the gradient of all trained weights together, or 0.
      label_smoothing: probability that is spread over all classes of the task.
      ema: decay of the average of the weights that is evaluated and kept, or 0 for the weights themselves.
      schedule: "piecewise", "cosine" (to 0 at the end) or "constant"; see `plans.rate`.
      decay_at: fractions of the steps after which the learning rate is multiplied by `decay_factor` ("piecewise").
      decay_factor: see `decay_at`.
      warmup: steps in which the learning rate rises linearly from 0.
      warmup_epochs: the same in epochs, where the length is in epochs.
      augment: "none", "flip", "crop", "crop+flip" or "crop+flip+jitter"; see `augmentation`.
      sampling: "epoch": every example once before any comes again; "replacement": each drawn independently.
      scope: what is trained: "all" weights, "head": a linear layer on the features of the model as it is, or a part.
      lora_rank: rank of the updates (scope "lora").
      lora_alpha: they are multiplied by lora_alpha / lora_rank.
      lora_layers: pattern of the names of the weights that get one; "" for the scope's own choice.
      prompt_tokens: number of tokens (scopes "prompt" and "prompt_deep").
      halving: of the grid points, the best 1/halving on the validation examples after 1/halving of their steps go on;
        0 for all.
      hours: after which the cell begins no further grid point, leaving time for the retraining; 0 for no limit.
      seeds: of the order of the examples. The choice on the validation set is made with the first one; the chosen
        point is retrained and tested with each.
      dtype: what the model computes in; parameters, running statistics and the head stay float32 ("float64":
        everything in float64, under ``jax.enable_x64``).
      frozen_cache_gb: room on each device for what the part below the first trained weight computes of the training
        examples, once for all steps; where it does not suffice, and with `augment`, every step computes it.
      micro_batch: examples that pass through the model at once, or 0 for the whole batch. Gradients are summed, so
        the step is the batch's; batch statistics are those of each micro-batch.
      remat: compute activations again in the backward pass instead of keeping them (less memory, ~1/3 slower).

    Raises:
      ValueError: a value that makes no sense; the message has the field, the value, the way out.
    """

    learning_rates: tuple[float, ...] = (0.1, 0.01)
    steps: tuple[int, ...] = (2500, 10000)
    epochs: tuple[float, ...] = ()
    batch_size: int = 512
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: tuple[float, ...] = (0.0,)
    layer_decay: float = 1.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    schedule: str = "piecewise"
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay_factor: float = 0.1
    warmup: int = 0
    warmup_epochs: float = 0.0
    augment: str = "none"
    sampling: str = "epoch"
    scope: str = "all"
    lora_rank: int = 8
    lora_alpha: float = 8.0
    lora_layers: str = ""
    prompt_tokens: int = 10
    halving: int = 0
    hours: float = 0.0
    seeds: tuple[int, ...] = (0,)
    dtype: str = "float32"
    frozen_cache_gb: float = 2.0
    micro_batch: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        for field, names in (
            ("sampling", SAMPLING),
            ("scope", SCOPES),
            ("dtype", DTYPES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
        ):
            self._check(
                getattr(self, field) in names, field, f"choose {', '.join(names[:-1])} or {names[-1]}"
            )
        self._check_grid()
        self._check_update()
        self._check(
            self.augment == "none" or self.scope != "head",
            "augment",
            "with scope=head the features are computed once, from the pictures as they are; give augment=none",
        )
        self._check(self.lora_rank >= 1, "lora_rank", "it must be at least 1")
        self._check(0 < self.lora_alpha < math.inf, "lora_alpha", "it must be above 0")
        self._check(self.prompt_tokens >= 1, "prompt_tokens", "it must be at least 1")
        self._check(self.halving == 0 or self.halving >= 2, "halving", "give 2 or more, or 0 for none")
        self._check(0 <= self.frozen_cache_gb < math.inf, "frozen_cache_gb", "give GB, or 0 for none")
        self._check(0 <= self.hours < math.inf, "hours", "give hours, or 0 for no limit")
        self._check(
            bool(self.seeds)
            and all(0 <= s < 2**31 for s in self.seeds)
            and len(set(self.seeds)) == len(self.seeds),
            "seeds",
            "give distinct whole numbers, 0 or larger",
        )
        self._check(
            self.micro_batch >= 0 and self.batch_size % (self.micro_batch or 1) == 0,
            "micro_batch",
            f"it must divide batch_size={self.batch_size}, or be 0 for the whole batch",
        )

    def _check_grid(self) -> None:
        """Learning rates, lengths and the schedule."""
        check, rates = self._check, self.learning_rates
        check(bool(rates) and all(0 < r < math.inf for r in rates), "learning_rates", "give positive numbers")
        check(self.batch_size >= 1, "batch_size", "it must be at least 1")
        if self.epochs:
            check(not self.steps, "steps", "epochs are given, too: leave one of them empty")
            check(all(0 < n < math.inf for n in self.epochs), "epochs", "give positive numbers")
            check(not self.warmup, "warmup", "the length is in epochs: give warmup_epochs")
            longest = f"it must be between 0 and the smallest of epochs, {min(self.epochs):g}"
            check(0 <= self.warmup_epochs <= min(self.epochs), "warmup_epochs", longest)
        else:
            check(bool(self.steps) and all(n >= 1 for n in self.steps), "steps", "give numbers of at least 1")
            longest = "it must be between 0 and the smallest of steps"
            check(0 <= self.warmup <= min(self.steps), "warmup", longest)
            check(not self.warmup_epochs, "warmup_epochs", "the length is in steps: give warmup")
            # Positions in the stream of examples are 32-bit numbers on every device.
            fits = max(self.steps) * self.batch_size < 2**31
            check(fits, "steps", f"too many for batch_size={self.batch_size}")
        check(all(0 < f < 1 for f in self.decay_at), "decay_at", "give fractions between 0 and 1")
        ascending = list(self.decay_at) == sorted(self.decay_at)
        check(ascending, "decay_at", "give the fractions in ascending order")
        check(0 < self.decay_factor <= 1, "decay_factor", "it must be above 0 and at most 1")

    def _check_update(self) -> None:
        """What a step does with the gradient."""
        check = self._check
        check(0 <= self.momentum < 1, "momentum", "it must be at least 0 and below 1")
        decays = self.weight_decay
        fine = bool(decays) and all(0 <= w < math.inf for w in decays)
        check(fine, "weight_decay", "give numbers of at least 0")
        check(0 < self.layer_decay <= 1, "layer_decay", "it must be above 0 and at most 1 (1: none)")
        check(0 <= self.clip < math.inf, "clip", "give the largest norm of the gradient, or 0 for none")
        check(0 <= self.label_smoothing < 1, "label_smoothing", "it must be at least 0 and below 1")
        check(0 <= self.ema < 1, "ema", "give a decay below 1, or 0 for none")

    def _check(self, fine: bool, field: str, wanted: str) -> None:
        if not fine:
            raise ValueError(f"finetune.{field}={getattr(self, field)!r}: {wanted}")

    @property
    def param_dtype(self) -> Any:
        """dtype of parameters, running statistics, head and loss."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def boundaries(self, total: int) -> np.ndarray:
        """Steps after which the learning rate of a run of `total` steps drops, int32 [len(decay_at)]."""
        return np.asarray([math.floor(f * total + 1e-9) for f in self.decay_at], np.int32)

    def steps_in(self, epochs: float, examples: int) -> int:
        """The number of steps in so many epochs of so many examples, at least 1."""
        return max(1, round(epochs * examples / self.batch_size))

    def warmup_steps(self, examples: int) -> int:
        """The number of steps of the warm-up in a stage with so many examples."""
        return self.warmup or round(self.warmup_epochs * examples / self.batch_size)
