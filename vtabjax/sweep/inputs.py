"""What a protocol gets to work on for one cell, made when it is first asked for and timed by stage."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtabjax import tasks
from vtabjax.data import copies
from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.sweep import artefacts

if TYPE_CHECKING:
    import jax

    from vtabjax import data, model
    from vtabjax.features import device_images
    from vtabjax.options import RunOptions
    from vtabjax.sweep import heartbeat
    from vtabjax.sweep.conversions import Conversions
    from vtabjax.sweep.progress import Progress

# A union is put together from the features of its pieces: what knn extracts on train800val200, linear
# evaluation finds on train800 and val200.
UNIONS = {"trainval": ("train", "val"), "train800val200": ("train800", "val200")}


class Stages:
    """Wall seconds by stage. A stage inside another one is not counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: str | None = None
        self._stack: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        now = time.monotonic()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Charges the block to the stage `name`; remembers the innermost stage that raises."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._charge()
            self._stack.pop()


class SweepContext(NamedTuple):
    """What the models and cells of a run share.

    Attributes:
      options: see configs/common.py.
      workdir: the run's folder.
      mesh: the devices.
      examples: (task, split, image size, resize method) -> the examples; reads each once.
      images: those that stay on the devices.
      conversions: where models come from that are not converted yet.
      progress: what is told on the terminal.
      heartbeat: what is told to others, in this worker's file.
      told: what was said once and is not said for every model.
    """

    options: RunOptions
    workdir: Path
    mesh: jax.sharding.Mesh
    examples: Callable[[str, str, int, str], data.Examples]
    images: device_images.DeviceImageCache
    conversions: Conversions
    progress: Progress
    heartbeat: heartbeat.Worker
    told: set[str]


class LoadedModel:
    """A converted model in a run. Weights are read and programs compiled when a feature is missing.

    Attributes:
      seen: images that have passed through it, once per pass.
    """

    def __init__(self, spec: str, path: Path, sweep: SweepContext):
        self.spec, self.path, self.sweep = spec, files.as_path(path), sweep
        self.info = artefacts.read_info(path)
        self.seen = 0
        self._made: dict[Hashable, Any] = {}

    def memo(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """``make()`` at the first call with `key`, its result afterwards: a trainer that serves all tasks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @functools.cached_property
    def resize(self) -> str:
        """The method of `vtabjax.data.load` that pictures are resized by for this model."""
        from vtabjax.data import images

        asked = self.sweep.options.resize
        try:
            return images.of_source(self.info) if asked == "source" else asked
        except ValueError as e:
            raise ValueError(
                f"config.resize is 'source', and of {self.spec} {e}; choose another resize"
            ) from e

    def pictures(self, task: str, split: str) -> data.Examples:
        """A split's examples as this model takes them."""
        return self.sweep.examples(task, split, self.info["input_size"][1], self.resize)

    @functools.cached_property
    def parts(self) -> model.SavedModel:
        """Graph, variables and info."""
        from vtabjax import model

        return model.load_parts(self.path)

    @functools.cached_property
    def extract(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Images to features; see `vtabjax.features.extractor`."""
        from vtabjax import features

        return features.extractor(
            self.parts,
            mesh=self.sweep.mesh,
            batch_size=self.sweep.options.batch_size,
            dtype=self.sweep.options.dtype,
            images=self.sweep.images,
        )


class SplitFeatures(NamedTuple):
    """A split as a model sees it.

    Attributes:
      features: float32 [N, D].
      labels: int [N].
      logits: float32 [N, K], or None where the model has no classifier (or nobody asked).
    """

    features: np.ndarray
    labels: np.ndarray
    logits: np.ndarray | None


class CellContext:
    """The inputs of one cell.

    Attributes:
      cell: the cell; `task` and `settings` are its own.
      loaded: the converted model; `loaded.parts` for protocols that train it.
      stages: the cell's clock.
      say: writes a line about long work.
      fingerprints: of the splits that were used, for the record.
      passes: split -> how many images went through the model for this cell, and the seconds that took: {"images",
        "seconds"}. A model's first pass has its compilation in it.
    """

    def __init__(
        self,
        cell: Cell,
        loaded: LoadedModel,
        stages: Stages,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.cell, self.task, self.settings = cell, cell.task, cell.settings
        self.loaded, self.stages, self.say = loaded, stages, say
        self.fingerprints: dict[str, str] = {}
        self._pictures: dict[str, copies.Pictures] = {}
        self.passes: dict[str, dict[str, float]] = {}

    @property
    def folder(self) -> Path:
        """A place for the cell's own files (checkpoints, learning curves), not made yet: it survives restarts."""
        return self.cell.scratch(self.loaded.sweep.workdir)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices, those of all processes."""
        return self.loaded.sweep.mesh

    @property
    def own_mesh(self) -> jax.sharding.Mesh:
        """The devices of this process, for what each process computes from the features by itself."""
        from vtabjax.runtime import devices

        return self.mesh if processes.count() == 1 else devices.local_mesh()

    def examples(self, split: str) -> data.Examples:
        """Images [N, S, S, 3] at the model's input size, labels, ids."""
        with self.stages("data"):
            # Where one process cannot read them, the others must not begin to compute without it.
            examples = processes.all_or_none(lambda: self._examples(split))
        self.fingerprints[split] = examples.fingerprint
        if examples.hashes is not None and split not in self._pictures:
            self._pictures[split] = copies.Pictures(examples.hashes, examples.labels)
            self._tell_copies()
        return examples

    def copies(self) -> dict[str, Any] | None:
        """Equal pictures in the splits that were used, see `vtabjax.data.copies.count`; None where none is known.

        The two parts of a training set that were both used count as one split.
        """
        if set(self._pictures) != set(self.fingerprints):
            return None
        splits = dict(self._pictures)
        for union, (first, second) in UNIONS.items():
            if first in splits and second in splits:
                both = splits.pop(first), splits.pop(second)
                splits = {union: copies.Pictures(*map(np.concatenate, zip(*both, strict=True))), **splits}
        return copies.count(splits) if splits else None

    def _tell_copies(self) -> None:
        """Says once per task and run what has copies, as soon as all splits of the protocol are there."""
        wanted = {piece for name in self.settings.get("splits", ()) for piece in UNIONS.get(name, (name,))}
        told = self.loaded.sweep.told
        if self.task.startswith("folder:"):
            return  # said of the whole folder before the work
        if not wanted <= set(self._pictures):
            return
        text = copies.said(self.copies())
        if text and f"{self.task}: {text}" not in told:
            told.add(f"{self.task}: {text}")
            self.say(f"warning: task {self.task}: {text}")

    def _examples(self, split: str) -> data.Examples:
        examples = self.loaded.pictures(self.task, split)
        labels, classes = examples.labels, tasks.get(self.task).num_classes
        if len(labels) and not (0 <= labels.min() and labels.max() < classes):
            raise ValueError(
                f"task {self.task}, split {split}: labels from {labels.min()} to {labels.max()}; the task has "
                f"the classes 0 to {classes - 1}, so its data set was prepared from something else"
            )
        return examples

    def split(self, name: str, *, logits: bool = False) -> SplitFeatures:
        """Features and labels of a split, from the cache or from a pass of the model over it."""
        if name in UNIONS:
            pieces = [self.split(piece, logits=logits) for piece in UNIONS[name]]
            given = [piece.logits for piece in pieces if piece.logits is not None]
            return SplitFeatures(
                np.concatenate([piece.features for piece in pieces]),
                np.concatenate([piece.labels for piece in pieces]),
                np.concatenate(given) if len(given) == len(pieces) else None,
            )
        from vtabjax import features

        examples, info = self.examples(name), self.loaded.info
        key = features.Key(
            weights=info["weight_hash"],
            graph=info["graph_hash"],
            examples=examples.fingerprint,
            input_size=tuple(info["input_size"]),
            normalisation=(tuple(info["mean"]), tuple(info["std"])),
            dtype=self.loaded.sweep.options.dtype,
        )
        folder = self.loaded.sweep.workdir / "features"
        with self.stages("features"):
            found = features.load(folder, key)
            wanted = logits and info.get("num_classes") is not None
            complete = found is not None and (not wanted or "logits" in found)
            there = all(processes.gather(complete))  # all processes ask, whatever they have
            if found is None or not there:
                found = self._extract(name, examples)
                if processes.is_first():
                    features.save(folder, key, found)
        return SplitFeatures(found["features"], examples.labels, found.get("logits") if wanted else None)

    def _extract(self, split: str, examples: data.Examples) -> dict[str, np.ndarray]:
        """A pass of the model over a split, counted and timed."""
        from vtabjax import features

        with self.stages("load"):
            extract = processes.all_or_none(lambda: self.loaded.extract)
        since = time.monotonic()
        found = extract(examples.images)
        seconds = round(time.monotonic() - since, 4)
        self.passes[split] = {"images": len(examples.labels), "seconds": seconds}
        self.loaded.seen += len(examples.images)
        features.check_finite(found)  # in all processes: none goes on alone
        return found
