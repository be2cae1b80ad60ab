"""What a protocol gets to work on for one cell, made when it is first asked for and timed by stage."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtabjax import tasks
from vtabjax.data import cache, copies
from vtabjax.results import Cell
from vtabjax.runtime import files, processes
from vtabjax.specs import pooling
from vtabjax.sweep import artefacts, split_features
from vtabjax.sweep.split_features import SplitFeatures

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
      spec: the model, without a choice of features.
      wanted: which of its outputs the run's cells are about; a pass over images computes all of them.
      seen: images that have passed through it, once per pass.
    """

    def __init__(self, spec: str, path: Path, sweep: SweepContext):
        self.spec, self.path, self.sweep = spec, files.as_path(path), sweep
        self.info = artefacts.read_info(path)
        self.wanted: frozenset[str] = frozenset()
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

    def extractor(self, outputs: frozenset[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Images to some outputs of the model, compiled once; see `vtabjax.features.extractor`."""
        from vtabjax import features

        def make() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
            return features.extractor(
                self.parts,
                mesh=self.sweep.mesh,
                batch_size=self.sweep.options.batch_size,
                dtype=self.sweep.options.dtype,
                images=self.sweep.images,
                outputs=outputs,
            )

        return self.memo(("features", outputs), make)


class CellContext:
    """The inputs of one cell.

    Attributes:
      cell: the cell; `task` and `settings` are its own.
      loaded: the converted model; `parts` for protocols that train it.
      stages: the cell's clock.
      say: writes a line about long work.
      fingerprints: of the splits that were used, for the record.
      choice: what was chosen by features=auto, for the record.
      groups: split -> groups of its examples (see `vtabjax.data.Examples`), of the splits that were used and have some.
      passes: split -> how many images went through the model for this cell, and the seconds that took: {"images",
        "seconds"}. A model's first pass has its compilation in it.
      seconds_before: stage -> what was spent earlier on work that this cell took over.
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
        self.groups: dict[str, np.ndarray] = {}
        self.passes: dict[str, dict[str, float]] = {}
        self.choice: dict[str, Any] = {}
        self.seconds_before: dict[str, float] = {}

    @functools.cached_property
    def output(self) -> str:
        """Which of the model's outputs are the cell's features.

        Raises:
          vtabjax.specs.SpecError: the cell's model asks for features that it does not have.
        """
        if self.settings.get("features") == "auto":
            return self._best_choice()
        if self.cell.model == self.loaded.spec:
            return pooling.NATIVE
        with self.stages("features"):
            return pooling.output(self.cell.model, self.loaded.info)

    def _best_choice(self) -> str:
        """The output by which most validation examples have the class of their nearest training example."""
        from vtabjax.protocols import knn

        names = pooling.alternatives(self.loaded.info)
        if len(names) > 1:
            splits = set(self.settings["splits"])
            train, val = UNIONS["train800val200" if splits & {"train800", "train800val200"} else "trainval"]
            accuracy = {}
            for name in names:
                reference, query = (self._features(split, name) for split in (train, val))
                found = knn.classify(*reference[:2], *query[:2], mesh=self.own_mesh)
                accuracy[name] = round(float(found.accuracy or 0), 6)
            best = max(names, key=accuracy.__getitem__)  # of equals the first: the model's own
        else:
            best, accuracy = names[0], {}
        self.choice = {"features": best, "features_val_accuracy": accuracy}
        return best

    @property
    def parts(self) -> model.SavedModel:
        """Graph, variables and info, with the cell's features as the graph's own."""
        from vtabjax import model

        return model.with_features(self.loaded.parts, self.output)

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
        if examples.groups is not None:
            self.groups[split] = examples.groups
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

    def tested_groups(self) -> np.ndarray | None:
        """Groups of the examples that a result is about, those of the last split; None where there are none."""
        split = self.settings["splits"][-1]
        pieces = [self.groups.get(piece) for piece in UNIONS.get(split, (split,))]
        return split_features.joined(pieces)

    def _tell_copies(self) -> None:
        """Says once per task and run what has copies, as soon as all splits of the protocol are there."""
        wanted = {piece for name in self.settings.get("splits", ()) for piece in UNIONS.get(name, (name,))}
        told = self.loaded.sweep.told
        if tasks.is_own(self.task):
            return  # said of all of its pictures before the work
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
            return split_features.union(pieces)
        return self._features(name, self.output, logits=logits)

    @functools.cached_property
    def _whole(self) -> CellContext | None:
        """The same cell about all of the task, where it is about a fold of it."""
        whole, fold = tasks.without_fold(self.task)
        cell = dataclasses.replace(self.cell, task=whole)
        return CellContext(cell, self.loaded, self.stages, self.say) if fold else None

    def _of_fold(self, whole: CellContext, split: str, output: str, logits: bool) -> SplitFeatures:
        """Those of a fold's split; see `split_features.of_fold`."""
        found = [
            (whole.examples(name), whole._features(name, output, logits=logits))
            for name in ("train", "val", "test")
            if tasks.ranges(tasks.get(whole.task), name)
        ]
        self.passes.update(whole.passes)
        features, pictures, self.fingerprints[split] = split_features.of_fold(self.task, split, found)
        if pictures is not None:
            self._pictures[split] = pictures
        if features.groups is not None:
            self.groups[split] = features.groups
        return features

    def _features(self, split: str, output: str, *, logits: bool = False) -> SplitFeatures:
        """One output of the model for a split; logits, where there are some, lie beside its own features."""
        from vtabjax import features

        if self._whole is not None:
            return self._of_fold(self._whole, split, output, logits)
        examples, info = self.examples(split), self.loaded.info
        key = features.Key(
            weights=info["weight_hash"],
            graph=info["graph_hash"],
            examples=examples.fingerprint,
            input_size=tuple(info["input_size"]),
            normalisation=(tuple(info["mean"]), tuple(info["std"])),
            dtype=self.loaded.sweep.options.dtype,
        )
        folder = self.loaded.sweep.workdir / "features"
        logits = logits and info.get("num_classes") is not None
        with self.stages("features"):
            found: dict[str, np.ndarray] = {}
            for name in (output, pooling.NATIVE) if logits else (output,):
                cached = features.load(folder, key._replace(output=name)) or {}
                found |= {name if k == "features" else k: v for k, v in cached.items()}
            complete = output in found and (not logits or "logits" in found)
            if not all(processes.gather(complete)):  # all processes ask, whatever they have
                found = self._extract(split, examples, output, logits)
                for name in found.keys() - {"logits"} if processes.is_first() else ():
                    beside = (
                        {"logits": found["logits"]} if name == pooling.NATIVE and "logits" in found else {}
                    )
                    features.save(folder, key._replace(output=name), {"features": found[name], **beside})
        logits_found = found["logits"] if logits else None
        return SplitFeatures(found[output], examples.labels, logits_found, examples.groups)

    def _extract(
        self, split: str, examples: data.Examples, output: str, logits: bool
    ) -> dict[str, np.ndarray]:
        """A pass of the model over a split, counted and timed: all outputs that the run's cells want."""
        from vtabjax import features

        outputs = {output, *self.loaded.wanted}
        if logits or any(":layer=" not in name for name in outputs):
            # The whole network runs: what it gives besides costs little, and other protocols find it.
            outputs |= {pooling.NATIVE} | (
                {"logits"} if self.loaded.info.get("num_classes") is not None else set()
            )
        with self.stages("load"):
            extract = processes.all_or_none(lambda: self.loaded.extractor(frozenset(outputs)))
        since = time.monotonic()
        found = extract(examples.images)
        seconds = round(time.monotonic() - since, 4)
        cache.release(examples.images)
        self.passes[split] = {"images": len(examples.labels), "seconds": seconds}
        self.loaded.seen += len(examples.images)
        features.check_finite(found)  # in all processes: none goes on alone
        return found
