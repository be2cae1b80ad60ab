"""The same pictures in every form that a task can be read from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


class Picture(NamedTuple):
    """A picture: its path, which names its split where it has one, its class, its file's content."""

    path: str
    label: str
    png: bytes

    @property
    def split(self) -> str:
        return self.path.split("/")[0] if self.path.count("/") == 2 else ""


def pictures(splits: Sequence[str] = ("",), n: int = 12) -> list[Picture]:
    """`n` or a few more pictures of each class and split, in several sizes, some grey; classes have colours."""
    rng = np.random.default_rng(3)
    made = []
    for split in splits:
        for c, cls in enumerate(CLASSES):
            for i in range(n + 2 * c):
                array = rng.integers(0, 160, (7 + i % 3, 9, 3)).astype(np.uint8)
                array[:, :, c] += 60
                image = Image.fromarray(array if i % 4 else array[:, :, c])
                file = io.BytesIO()
                image.save(file, "PNG")
                name = f"{cls}/{i:03d}.png"
                made.append(Picture(f"{split}/{name}" if split else name, cls, file.getvalue()))
    return made


def write_folder(root: Path, found: Sequence[Picture]) -> str:
    """One sub-folder per class, in splits where there are any; the task's name."""
    for picture in found:
        path = root / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.png)
    return f"folder:{root}"


def write_list(path: Path, found: Sequence[Picture]) -> str:
    """A .csv, .tsv or .jsonl file that lies beside the folder's pictures; the task's name."""
    rows = [{"path": p.path, "label": p.label} | ({"split": p.split} if p.split else {}) for p in found]
    with open(path, "w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return f"table:{path}"


def write_parquet(path: Path, found: Sequence[Picture], *, struct: bool = False, names: bool = True) -> str:
    """A .parquet file with the pictures' bytes, in a few row groups; the task's name."""
    import pyarrow
    import pyarrow.parquet

    image = [{"bytes": p.png, "path": p.path if names else None} if struct else p.png for p in found]
    columns = {"image": image, "label": [p.label for p in found]}
    if names and not struct:
        columns["path"] = [p.path for p in found]
    if found[0].split:
        columns["split"] = [p.split for p in found]
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=10)
    return f"table:{path}"


def write_hub(root: Path, found: Sequence[Picture], *, names: bool = True, parquet: bool = False) -> str:
    """A data set of the datasets library, as `save_to_disk` writes it or as the hub has it; the task's name."""
    import datasets

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    if names:
        features["path"] = datasets.Value("string")

    def data_set(own: Sequence[Picture]) -> datasets.Dataset:
        columns = {"image": [{"bytes": p.png, "path": None} for p in own], "label": [p.label for p in own]}
        columns |= {"path": [p.path for p in own]} if names else {}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    splits = {
        split: data_set([p for p in found if p.split == split]) for split in sorted({p.split for p in found})
    }
    if parquet:
        (root / "data").mkdir(parents=True)
        for split, own in splits.items():
            own.to_parquet(root / "data" / f"{split or 'train'}-00000-of-00001.parquet")
    elif set(splits) == {""}:
        splits[""].save_to_disk(root)
    else:
        datasets.DatasetDict(splits).save_to_disk(root)
    return f"hf:{root}"


def write_tfds(data_dir: Path, found: Sequence[Picture], file_format: str, *, names: bool = True) -> str:
    """A data set that tensorflow-datasets prepares; the task's name."""
    import tensorflow_datasets as tfds

    fields = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    if names:
        fields["file_name"] = tfds.features.Text()

    class Animals(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Made up."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

        def _split_generators(self, dl_manager):
            return {split or "train": self._generate_examples(split) for split in {p.split: 0 for p in found}}

        def _generate_examples(self, split):
            for p in found:
                if p.split == split:
                    example = {"image": io.BytesIO(p.png), "label": p.label, "file_name": p.path}
                    yield p.path, {name: example[name] for name in fields}

    builder = Animals(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    return "tfds:animals"
