"""Fine-tuning on the device: sampling, augmentation, normalisation, many steps, in one compiled program.

Learning rate, schedule, number of steps, examples, labels and number of classes are inputs of that program, so
that one compilation serves every task, grid point, stage and seed of a model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from vtabjax.protocols.finetune.augmentation import augment
from vtabjax.protocols.finetune.backbone import Backbone
from vtabjax.protocols.finetune.optimizers import Optimizer
from vtabjax.protocols.finetune.plans import Schedule, rate, sample
from vtabjax.protocols.finetune.settings import Settings
from vtabjax.runtime import devices

Tree = Any
STEPS_PER_CALL = 100  # the most steps that one call of the compiled program takes


class State(NamedTuple):
    """A training run between two steps.

    Attributes:
      step: number of steps taken.
      backbone: its trained weights.
      head: weight [K, D], bias [K].
      optimizer: optax's state of both.
      buffers: running statistics and the like.
      average: with ``ema``, averages under the names "backbone", "head" and "buffers"; empty without.
    """

    step: jax.Array
    backbone: dict[str, jax.Array]
    head: dict[str, jax.Array]
    optimizer: Tree
    buffers: dict[str, jax.Array]
    average: dict[str, dict[str, jax.Array]]


def averaged(state: State) -> State:
    """The state with the averaged weights in place of the latest ones, where there are averages."""
    named: dict[str, Any] = state.average
    return state._replace(**named)


_Carry = tuple[jax.Array, State, jax.Array, jax.Array]  # steps taken, state, losses, hits


class TrainingSet(NamedTuple):
    """Training examples on the devices, of which the first `n_examples` count.

    Attributes:
      inputs: [M, ...]; or, by name, what the frozen part of the model makes of them, each [M, ...].
      labels: int32 [M].
      n_examples: scalar.
    """

    inputs: Any
    labels: jax.Array
    n_examples: jax.Array


class Trainer:
    """Trains and evaluates one model on any number of tasks.

    Args:
      backbone: what lies below the head.
      settings: see `Settings`.
      classes: width K of the head: at least the number of classes of every task.
      capacity: number M of training examples there is room for.
      mesh: the devices; batches are split over its axis "data", all else is replicated.
      eval_batch: examples per step of `predict`, over all devices.
      loop: whether the many steps of a call are one program. XLA's CPU backend runs convolutions inside a loop on
        one slow path (20 times slower for a ResNet), so there the loop is Python's. None: by the platform.

    Attributes:
      traces: how often the training program has been traced, that is: compiled.
      below: what is computed once for all steps, or None; see `Backbone.below`.
      micro_batch: examples that pass through the model at once.
      seen: examples that have passed through it, in training and in evaluation.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        *,
        classes: int,
        capacity: int,
        mesh: jax.sharding.Mesh | None = None,
        eval_batch: int = 128,
        loop: bool | None = None,
    ):
        self.backbone, self.settings, self.classes, self.capacity = backbone, settings, classes, capacity
        self.mesh = devices.data_mesh() if mesh is None else mesh
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        self._loop, self._unroll = (not on_cpu if loop is None else loop), on_cpu
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._split = NamedSharding(self.mesh, PartitionSpec("data"))
        self._eval_batch = devices.BatchSize(eval_batch, self.mesh)
        self._optimizer = Optimizer(settings, backbone.layers_above, backbone.no_decay)
        self._frozen = self.put(dict(backbone.frozen))
        below = backbone.below if settings.augment == "none" else None
        fits = below and below.example_bytes * capacity <= settings.frozen_cache_gb * 1e9
        self.below = below if fits else None
        self._forward = self.below.forward if self.below else backbone.forward
        self.traces = self.seen = 0
        self.micro_batch = 0
        self.use_micro_batch(settings.micro_batch or settings.batch_size)

    def use_micro_batch(self, micro_batch: int) -> None:
        """Passes so many examples through the model at once from now on (another number means compiling again).

        Raises:
          ValueError: they cannot be shared evenly among the devices.
        """
        if micro_batch == self.micro_batch:
            return
        if micro_batch % self.mesh.size:
            raise ValueError(
                f"a (micro-)batch of {micro_batch} cannot be split over {self.mesh.size} devices; choose multiples "
                "of the number of devices for finetune.batch_size and finetune.micro_batch"
            )
        self.micro_batch = micro_batch
        jit = functools.partial(
            jax.jit,
            out_shardings=self._replicated,
            compiler_options=self.backbone.compiler_options,
        )
        self._train = jit(self._steps if self._loop else self._one_step, donate_argnums=0)
        self._predict = jit(self._predictions)
        self._compute_below = jit(self.below.compute) if self.below else None

    def can_use(self, micro_batch: int) -> bool:
        """Whether a batch can pass through the model in pieces of that size, shared evenly among the devices."""
        return self.settings.batch_size % micro_batch == 0 and micro_batch % self.mesh.size == 0

    @property
    def eval_batch(self) -> int:
        """Examples per step of `predict`, over all devices, as of now."""
        return self._eval_batch.size

    # Moving things to the devices.

    def put(self, tree: Tree) -> Tree:
        """Host arrays, the same on every process, to all devices."""
        return jax.tree.map(functools.partial(_put, sharding=self._replicated), tree)

    def data(self, inputs: np.ndarray, labels: np.ndarray) -> TrainingSet:
        """Training examples on the devices, filled up to the trainer's capacity.

        Raises:
          ValueError: too many examples, inputs of another shape, or labels beyond the head.
        """
        n, shape = len(labels), self.backbone.input_shape
        if len(inputs) != n or tuple(inputs.shape[1:]) != shape or not 1 <= n <= self.capacity:
            raise ValueError(
                f"training inputs {list(inputs.shape)} with {n} labels; this trainer takes 1 to {self.capacity} "
                f"examples of shape {list(shape)}"
            )
        if np.min(labels) < 0 or np.max(labels) >= self.classes:
            raise ValueError(
                f"labels range from {np.min(labels)} to {np.max(labels)}; they must lie in 0 ... {self.classes - 1}"
            )
        examples = (self._below(inputs), np.asarray(labels, np.int32))
        # What is beyond the examples is never drawn.
        inputs, labels = jax.tree.map(lambda a: np.resize(a, (self.capacity, *a.shape[1:])), examples)
        return TrainingSet(
            inputs=self.put(inputs),
            labels=self.put(labels),
            n_examples=self.put(np.int32(n)),
        )

    def _below(self, inputs: np.ndarray) -> Any:
        """What a step starts from: the inputs, or what the frozen part of the model makes of them, on the host."""
        compute = self._compute_below
        if compute is None:
            return np.asarray(inputs, self.backbone.input_dtype)
        buffers = self.put(dict(self.backbone.buffers))

        def run(start: int, size: int) -> Any:
            batch = devices.put_batch(inputs, start, size, self._split, self.backbone.input_dtype)
            return compute(buffers, batch, self._frozen)

        with jax.default_matmul_precision("float32"):
            return self._eval_batch.map_batches(run, len(inputs))

    def initial_state(self) -> State:
        """The model as it came, with a head of zeros."""
        param_dtype = self.settings.param_dtype
        head = {
            "weight": np.zeros((self.classes, self.backbone.width), param_dtype),
            "bias": np.zeros(self.classes, param_dtype),
        }
        trained = dict(self.backbone.parameters)
        buffers = dict(self.backbone.buffers)
        optimizer = jax.eval_shape(self._optimizer.initial_state, (trained, head))
        # Each of its own: the compiled program takes over the memory of every array.
        average = {"backbone": trained, "head": head, "buffers": buffers} if self.settings.ema else {}
        return State(
            step=self.put(np.int32(0)),
            backbone=self.put(trained),
            head=self.put(head),
            optimizer=self.put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), optimizer)),
            buffers=self.put(buffers),
            average=self.put(average),
        )

    def trainable_parameters(self, classes: int) -> int:
        """How many numbers are trained for a task with so many classes."""
        own = sum(np.size(value) for value in self.backbone.parameters.values())
        return own + classes * (self.backbone.width + 1)

    # Training.

    def train_steps(
        self, state: State, data: TrainingSet, plan: Schedule, n: int
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """Takes `n` steps, or fewer if the loss stops being finite.

        Args:
          state: where to start from; it is used up.
          data: the examples.
          plan: see `plan`.
          n: number of steps, at most STEPS_PER_CALL.

        Returns:
          (state, mean loss of each step's batch [n], fraction of the batch that was right [n]).
        """
        self.seen += n * self.settings.batch_size
        with jax.default_matmul_precision("float32"):
            if self._loop:
                state, losses, hits = self._train(state, self._frozen, data, plan, np.int32(n))
                return state, np.asarray(losses)[:n], np.asarray(hits)[:n]
            done = []
            for _ in range(n):
                state, *measured = self._train(state, self._frozen, data, plan)
                done.append(measured)
                if len(done) % 8 == 0 and not np.isfinite(done[-8][0]):
                    break  # 8 steps behind: reading the newest would keep the device waiting
            losses, hits = (np.asarray(jax.device_get([d[i] for d in done])) for i in range(2))
            return state, losses, hits

    def _steps(
        self, state: State, frozen: Mapping, data: TrainingSet, plan: Schedule, n: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        nothing = jnp.full(STEPS_PER_CALL, jnp.nan, self.settings.param_dtype)

        def go_on(carry: _Carry) -> jax.Array:
            i, _, losses, _ = carry
            return (i < n) & ((i == 0) | jnp.isfinite(losses[i - 1]))

        def body(carry: _Carry) -> _Carry:
            i, state, losses, hits = carry
            state, loss, hit = self._step(state, frozen, data, plan)
            return i + 1, state, losses.at[i].set(loss), hits.at[i].set(hit)

        self.traces += 1
        _, state, losses, hits = jax.lax.while_loop(go_on, body, (jnp.int32(0), state, nothing, nothing))
        return state, losses, hits

    def _one_step(
        self, state: State, frozen: Mapping, data: TrainingSet, plan: Schedule
    ) -> tuple[State, jax.Array, jax.Array]:
        self.traces += 1
        return self._step(state, frozen, data, plan)

    def _step(
        self, state: State, frozen: Mapping, data: TrainingSet, plan: Schedule
    ) -> tuple[State, jax.Array, jax.Array]:
        s = self.settings
        index = sample(
            plan.key, state.step, data.n_examples, size=self.capacity, batch=s.batch_size, sampling=s.sampling
        )
        parts = s.batch_size // self.micro_batch
        places = jnp.arange(s.batch_size, dtype=jnp.int32)
        drawn = tuple(a.reshape(parts, self.micro_batch) for a in (index, places))

        def micro(carry: tuple[Tree, ...], drawn: tuple[jax.Array, ...]) -> tuple[tuple[Tree, ...], None]:
            buffers, total, loss, hits = carry
            index, places = (jax.lax.with_sharding_constraint(a, self._split) for a in drawn)
            inputs, labels = jax.tree.map(lambda a: a[index], (data.inputs, data.labels))
            if s.augment != "none":
                inputs = augment(inputs, plan.key, state.step, places, s.augment)
            (here, (buffers, hit)), gradient = jax.value_and_grad(self._loss, has_aux=True)(
                (state.backbone, state.head), frozen, buffers, inputs, labels, plan.classes
            )
            return (buffers, jax.tree.map(jnp.add, total, gradient), loss + here, hits + hit), None

        weights = (state.backbone, state.head)
        zero = jnp.zeros((), s.param_dtype)
        start: tuple[Tree, ...] = (state.buffers, jax.tree.map(jnp.zeros_like, weights), zero, zero)
        if parts == 1:
            carry, _ = micro(start, (drawn[0][0], drawn[1][0]))
        else:
            carry, _ = jax.lax.scan(micro, start, drawn, unroll=parts if self._unroll else 1)
        buffers, gradient, loss, hits = carry
        gradient = jax.tree.map(lambda g: g / parts, gradient)
        now = rate(s, plan, state.step)
        (backbone, head), optimizer = self._optimizer.update(
            gradient, state.optimizer, weights, now, plan.weight_decay
        )
        average = {"backbone": backbone, "head": head, "buffers": buffers}
        average = {k: _average(old, average[k], s.ema) for k, old in state.average.items()}
        state = State(state.step + 1, backbone, head, optimizer, buffers, average)
        return state, loss / parts, hits / parts

    def _loss(
        self,
        weights: tuple[Mapping, Mapping],
        frozen: Mapping,
        buffers: Mapping,
        inputs: Any,
        labels: jax.Array,
        classes: ArrayLike,
    ) -> tuple[jax.Array, tuple[Mapping, jax.Array]]:
        features, buffers = self._forward(weights[0], buffers, inputs, True, frozen)
        logits = self._logits(weights[1], features, classes)
        likelihood = jax.nn.log_softmax(logits)
        loss = -jnp.take_along_axis(likelihood, labels[:, None], axis=1).mean()
        if smoothing := self.settings.label_smoothing:
            # Over the classes that the task has: the others are impossible.
            uniform = -jnp.where(jnp.isfinite(logits), likelihood, 0).sum(1).mean() / classes
            loss = (1 - smoothing) * loss + smoothing * uniform
        hits = (logits.argmax(1) == labels).mean().astype(loss.dtype)
        return loss, (buffers, hits)

    def _logits(self, head: Mapping, features: jax.Array, classes: ArrayLike) -> jax.Array:
        logits = features @ head["weight"].T + head["bias"]
        return jnp.where(jnp.arange(self.classes) < classes, logits, -jnp.inf)

    # Evaluation.

    def predict(self, state: State, inputs: np.ndarray, classes: int) -> np.ndarray:
        """Predicted labels int32 [N] of inputs [N, ...], in evaluation mode. Halves its batch when out of memory."""
        return self.classify(state, inputs, classes)[0]

    def classify(self, state: State, inputs: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicted labels int32 [N], as `predict`, and the probability of each, [N]."""
        tested = averaged(state)

        def run(start: int, size: int) -> tuple[jax.Array, jax.Array]:
            batch = devices.put_batch(inputs, start, size, self._split, self.backbone.input_dtype)
            return self._predict(
                tested.backbone, tested.head, tested.buffers, self._frozen, batch, np.int32(classes)
            )

        with jax.default_matmul_precision("float32"):
            found = self._eval_batch.map_batches(run, len(inputs))
        self.seen += len(inputs)
        return found

    def _predictions(
        self,
        backbone: Mapping,
        head: Mapping,
        buffers: Mapping,
        frozen: Mapping,
        inputs: jax.Array,
        classes: ArrayLike,
    ) -> tuple[jax.Array, jax.Array]:
        features, _ = self.backbone.forward(backbone, buffers, inputs, False, frozen)
        logits = self._logits(head, features, classes)
        return logits.argmax(1).astype(jnp.int32), jax.nn.softmax(logits).max(1)

    def halve_micro_batch(self) -> None:
        """Passes half as many examples through the model at once from now on.

        Raises:
          ValueError: it cannot be halved any further.
        """
        half = next(filter(self.can_use, range(self.micro_batch // 2, 0, -1)), None)
        if half is None:
            raise ValueError(
                f"out of memory with {self.micro_batch} examples at once, the fewest that {self.mesh.size} device(s) "
                "can share; choose a smaller image_size, finetune.remat=true or dtype=bfloat16"
            )
        self.use_micro_batch(half)


def _average(old: Mapping, new: Mapping, decay: float) -> dict:
    """A moving average of arrays; of counters the latest."""
    floating = {k: jnp.issubdtype(v.dtype, jnp.floating) for k, v in new.items()}
    return {k: decay * old[k] + (1 - decay) * v if floating[k] else v for k, v in new.items()}


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    # A callback rather than device_put: across processes that would compare the array between all of them.
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
