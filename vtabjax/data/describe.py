"""What is said of your own pictures: a line before the work, a record in the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtabjax import specs, tasks
from vtabjax.data import copies
from vtabjax.data.pictures import Reading
from vtabjax.tasks import Task

_SHOWN = 4  # kinds of files that the line names


def notes(
    task: Task, found: Mapping[str, Any] | None = None, reading: Reading | None = None
) -> dict[str, Any]:
    """What the data hold, what was taken for what, what was left out; JSON.

    Args:
      task: an own task.
      found: its `audit.record`, if its pictures have been looked through.
      reading: how they are read.
    """
    made: dict[str, Any] = dict(task.notes)
    if task.majority is not None:
        made["majority"] = {"split": "test", "share": round(task.majority, 6)}
    if reading is not None:
        made["background"] = "#{:02x}{:02x}{:02x}".format(*reading.background)
    if found is None:
        return made
    if found["deep"]:
        made["depth"] = {"bits": found["bits"], **found["deep"]}
    broken = {**task.problems, **found["broken"]}
    if broken:
        made["broken"] = {"count": len(broken), "first": dict(list(broken.items())[:3])}
    if names := found["transparent"]:
        made["transparent_everywhere"] = {"count": len(names), "first": names[:3]}
    made["copies"] = found["copies"]
    return made


def line(task: Task, made: Mapping[str, Any], protocol: str = "", splits: Sequence[str] = ()) -> str:
    """The `notes` of an own task in a line.

    Args:
      task: an own task.
      made: its `notes`.
      protocol: what it is used for.
      splits: those that the protocol uses.
    """
    sizes = ", ".join(f"{split} {n:,}" for split, n in made["splits"].items())
    smallest, largest = made["smallest_class"], made["largest_class"]
    parts = [
        f"{made['classes']:,} classes, {made['pictures']:,} pictures ({sizes})",
        f"smallest class {smallest[0]} {smallest[1]:,}, largest {largest[0]} {largest[1]:,} "
        f"({largest[1] / made['pictures']:.1%})",
    ]
    if splits:
        used = [f"{sum(r.stop - r.start for r in tasks.ranges(task, s)):,} ({s})" for s in splits]
        parts.append(f"{protocol} works with {', '.join(used)}")
        parts += _missing_classes(task, splits)
    if fold := made.get("fold"):
        parts.append(f"fold {fold[0]} of {fold[1]} is the test split")
    parts += _taken(made, "/" if task.name.startswith("folder:") else "") + _of_columns(made)
    parts += _left_out(made.get("left_out", {}))
    if "depth" in made and made["depth"]["bits"]:
        depth = made["depth"]
        parts.append(
            f"{depth['pictures']:,} of more than 8 bits, read as {depth['bits']} bits ({depth['highest']:,})"
        )
    elif "depth" in made:
        parts.append(f"{made['depth']['pictures']:,} of more than 8 bits")
    if "broken" in made:
        parts.append(f"{made['broken']['count']:,} that cannot be read left out")
    if "transparent_everywhere" in made:
        names = made["transparent_everywhere"]
        parts.append(
            f"{names['count']:,} transparent everywhere, which show the background only ({names['first'][0]})"
        )
    if text := copies.said(made.get("copies")):
        parts.append(text)
    return f"{task.name}: " + "; ".join(parts)


def _missing_classes(task: Task, splits: Sequence[str]) -> list[str]:
    """What is trained on may lack classes: the thousand examples of a folder with thousands of classes."""
    parts = []
    for split in splits:
        labels = {f.label for r in tasks.ranges(task, split) for f in task.files[r.split][r.start : r.stop]}
        missing = task.num_classes - len(labels)
        if missing and (split.startswith("train") or "groups" in task.notes):
            parts.append(f"{missing:,} class{'es' * (missing != 1)} without a picture in {split}")
    return parts


def _taken(made: Mapping[str, Any], slash: str) -> list[str]:
    parts = [f"read from {made['read_from']}{slash}"] if "read_from" in made else []
    parts += [f"{' and '.join(group)} are {len(group)} classes" for group in made.get("classes_alike", [])]
    if "taken" in made:
        parts += [
            f"{where}{slash} is the {split} split" for split, where in made["taken"].items() if where != split
        ]
        if "val" not in made["taken"]:
            parts.append("a fifth of train is val")
    return parts


def _of_columns(made: Mapping[str, Any]) -> list[str]:
    """How the columns of a table or data set were read."""
    parts = [f"the separator is a {made['separator']}"] if "separator" in made else []
    if "columns" in made:
        parts.append("columns: " + ", ".join(f"{role} is {name}" for role, name in made["columns"].items()))
    if "labels" in made:
        parts.append(f"labels are {made['labels']}")
    if "cut_by" in made and set(made.get("taken", {})) < {"train", "val", "test"}:
        what = "bytes of the pictures" if made["cut_by"] == "content" else made["cut_by"]
        parts.append(f"cut by a hash of the {what}")
    for name, text in (
        ("splits_left_out", "{} {} neither train, val nor test and left out"),
        ("splits_without_labels", "{} {} without labels and left out"),
        ("classes_not_in_train", "{} {} tested and not in train"),
    ):
        if names := made.get(name):
            parts.append(text.format(specs.listed(names, _SHOWN), "is" if len(names) == 1 else "are"))
    parts += _of_groups(made)
    if n := made.get("listed_twice"):
        parts.append(f"{n:,} rows name a file again, which counts once")
    return parts


def _of_groups(made: Mapping[str, Any]) -> list[str]:
    """How pictures belong together, and where they look as if they did."""
    if looks := made.get("looks_grouped"):
        return [
            f"WARNING: names such as {looks['like']} seem to say what pictures share ({looks['count']:,} of them, "
            f"{looks['divided']:,} in more than one split); if they do, numbers are too high without "
            f"--config.group='{looks['pattern']}'"
        ]
    if not (n := made.get("groups")):
        return []
    name, size = made["largest_group"]
    by = f" by '{made['grouped_by']}'" if "grouped_by" in made else ""
    parts = [f"{n:,} groups{by}, the largest {name} with {size:,} pictures, never divided"]
    if alone := made.get("in_no_group"):
        parts.append(f"{alone:,} pictures in no group")
    if names := made.get("classes_of_one_group"):
        verb = "is" if len(names) == 1 else "are"
        parts.append(
            f"{specs.listed(names, _SHOWN)} {verb} in one group only and cannot be both learnt and tested"
        )
    return parts


def _left_out(left_out: Mapping[str, Any]) -> list[str]:
    parts = []
    if kinds := left_out.get("unread"):
        shown = [f"{n:,} {kind}" for kind, n in list(kinds.items())[:_SHOWN]]
        if len(kinds) > _SHOWN:
            shown.append(f"{sum(list(kinds.values())[_SHOWN:]):,} of other kinds")
        parts.append(", ".join(shown))
    for name, what in (
        ("outside_classes", "outside class folders"),
        ("masks", "in folders of masks or labels"),
    ):
        if found := left_out.get(name):
            parts.append(f"{found['count']:,} pictures {what} ({found['first'][0]})")
    if found := left_out.get("folders_without_pictures"):
        parts.append(f"folders without pictures ({', '.join(found['first'])})")
    if hidden := left_out.get("hidden"):
        parts.append(f"{hidden:,} hidden or left by systems")
    for link, place in list(left_out.get("links", {}).items())[:_SHOWN]:
        parts.append(f"the link {link} (it leads to {place}, which is read once)")
    told = [f"left out: {', '.join(parts)}"] if parts else []
    if found := left_out.get("two_forms"):
        told.append(f"{', '.join(found['first'])} is there in two Unicode forms, read as one class")
    return told
