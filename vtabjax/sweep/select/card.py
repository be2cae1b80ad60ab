"""The model card of a fine-tuned winner: Markdown, with what the Hugging Face hub reads at its top."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vtabjax import __version__, specs, tasks
from vtabjax.sweep.select import shown
from vtabjax.sweep.select.winner import Trained

_HEAD = "finetuned_head.weight"


def write(selection: Mapping[str, Any], models: Sequence[Trained], winner_on: str) -> str:
    """The card.

    Args:
      selection: what selection.json holds.
      models: the winner on each task.
      winner_on: "train" or "all", the examples it was trained on.
    """
    spec, info = selection["leader"], models[0].info
    source = models[0].record["source"]
    parts = [
        _header(source, models),
        f"# {spec}, fine-tuned on {specs.listed([_short(m.task) for m in models], 4)}",
        selection["verdict"] + ".",
        "## Source\n\n" + _source(spec, source, info),
        "## Data\n\n" + _data(models, winner_on),
        "## Results\n\n" + _results(models, winner_on),
        "## How it was chosen\n\n" + _choice(selection),
        "## Training\n\n" + _training(models, winner_on),
        "## In JAX\n\n" + _jax(models[0]),
        "## In PyTorch\n\n" + _torch(spec, models[0]),
        "## Limits\n\n" + _limits(selection, models, winner_on),
    ]
    return "\n\n".join(parts) + "\n"


def _header(source: Mapping[str, Any], models: Sequence[Trained]) -> str:
    licence = source.get("license")
    lines = ["---", f"license: {json.dumps(licence or 'unknown')}", "library_name: vtabjax"]
    lines += ["tags:", "- image-classification", "- vtabjax", "metrics:", "- accuracy", "datasets:"]
    lines += [f"- {json.dumps(_short(m.task))}" for m in models]
    return "\n".join([*lines, "---"])


def _short(task: str) -> str:
    """A task as a card may name it: a folder without the path to it."""
    kind, colon, place = task.partition(":")
    return f"{kind}:{place.rstrip('/').rpartition('/')[2]}" if colon and "/" in place else task


def _source(spec: str, source: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    lines = {
        "model": f"`{spec}`",
        "architecture": source.get("architecture"),
        "weights": source.get("weights"),
        "licence of these weights": source.get("license") or _no_licence(source),
        "training": source.get("method"),
        "trained on": source.get("pretraining_data"),
        "repository": source.get("repository"),
        "features": source.get("features"),
        "parameters": f"{info['parameters']:,}" if info.get("parameters") else None,
        "SHA-256 of the source's weights": f"`{info.get('pretrained_weight_hash') or info['weight_hash']}`",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items() if value)


def _no_licence(source: Mapping[str, Any]) -> str:
    return (
        "none, they are random" if source.get("method") == "none" else "not known; ask whoever published them"
    )


def _data(models: Sequence[Trained], winner_on: str) -> str:
    first = models[0]
    size = "x".join(map(str, first.record["input"]["input_size"][1:]))
    settings = first.record["settings"]
    lines = ["| task | classes | trained on | tested on | fingerprints |", "|---|---|---|---|---|"]
    for m in models:
        task = tasks.get(m.task)
        # Training, validation, test; their names differ from task to task.
        counts = [
            sum(r.stop - r.start for r in tasks.ranges(task, s)) for s in m.record["settings"]["splits"]
        ]
        trained = sum(counts if winner_on == "all" else counts[:2])
        held = "none are left" if winner_on == "all" else f"{m.record['n_examples']:,}"
        marks = ", ".join(f"{split} `{mark}`" for split, mark in m.record["data"].items())
        lines.append(f"| {_short(m.task)} | {task.num_classes} | {trained:,} | {held} | {marks} |")
    names = [
        f"Classes of {_short(m.task)}, in the order of the logits: {', '.join(map(str, found))}."
        for m in models
        if (found := tasks.get(m.task).class_names)
    ]
    how = (
        f"Images are resized to {size} pixels ({settings['resize']}), scaled to [0, 1] and normalised with mean "
        f"{first.info['mean']} and standard deviation {first.info['std']}."
    )
    return "\n\n".join(["\n".join(lines), how, *names])


def _results(models: Sequence[Trained], winner_on: str) -> str:
    lines = [
        "| task | accuracy | 95 % interval | balanced accuracy | test examples |",
        "|---|---|---|---|---|",
    ]
    for m in models:
        metrics = m.record["metrics"]
        low, high = metrics["interval"]
        lines.append(
            f"| {_short(m.task)} | {_percent(metrics['accuracy'])} | {_percent(low)} to {_percent(high)} | "
            f"{_percent(metrics['balanced_accuracy'])} | {m.record['n_examples']:,} |"
        )
    text = ["Accuracies in percent.", "\n".join(lines)]
    if winner_on == "all":
        text.append(
            "These numbers are those of the same model trained without the test examples. The model in this folder has "
            "seen them, too, so that nothing is left to measure it with."
        )
    differing = [
        m for m in models if m.accuracy is not None and m.accuracy != m.record["metrics"]["accuracy"]
    ]
    for m in differing:  # on another device, say
        text.append(
            f"The model in this folder was trained again with the same settings and has {_percent(m.accuracy or 0)} on "
            f"{_short(m.task)}."
        )
    return "\n\n".join(text)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _choice(selection: Mapping[str, Any]) -> str:
    lines = [f"{len(selection['settings']['models'])} models were compared, in stages:", ""]
    for stage in selection["stages"]:
        entered, kept = len(stage["models"]), len(stage["kept"])
        more = sum(row["reason"] == "added" for row in stage["models"])
        early = sum(row["reason"] == "stopped" for row in stage["models"])
        lines.append(
            f"- {stage['stage']}: {entered} measured, {kept} "
            + ("kept" if stage["keep"] else "ranked")
            + (f", {more} of them added for their chances (config.add_chance)" if more else "")
            + (f", {early} not trained to the end (config.stop_chance)" if early else "")
        )
    lines += ["", f"Judged by: {selection['method']}.", ""]
    lines += ["| place | model | mean | points behind | 95 % interval |", "|---|---|---|---|---|"]
    for row in selection["ranking"]:
        low, high = row["behind_interval"] or (None, None)
        interval = ""
        if row["place"] > 1 and low is not None and high is not None:
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
        lines.append(
            f"| {row['place']} | {row['model']} | {_percent(row['score'])} | {100 * row['behind']:.2f} | {interval} |"
        )
    for key, what in (
        ("chance_missed", "The chance that a model that was left out would have done better"),
        ("expected_regret", "How much better the best of them would be on average"),
    ):
        lines += ["", f"{what}: {shown.estimate(key, selection.get(key))}."]
    return "\n".join(lines)


def _training(models: Sequence[Trained], winner_on: str) -> str:
    settings = models[0].record["settings"]
    skipped = (
        "learning_rates",
        "weight_decay",
        "steps",
        "epochs",
        "seeds",
        "splits",
        "task",
        "save",
        "data",
        "pictures",
    )
    lines = [
        f"- {_short(m.task)}: learning rate {m.final['learning_rate']:g}, weight decay "
        f"{m.final['weight_decay']:g}, {m.final['steps']} steps, seed {m.final['seed']}; chosen on validation examples "
        f"among {_grid(m.record['settings'])}"
        for m in models
    ]
    rest = ", ".join(f"{k} {v}" for k, v in settings.items() if k not in skipped)
    seen = (
        "the training, validation and test examples"
        if winner_on == "all"
        else "the 1,000 examples (or fewer)"
    )
    return "\n".join(
        [*lines, "", f"Other settings: {rest}. The model in this folder was trained on {seen} named above."]
    )


def _grid(settings: Mapping[str, Any]) -> str:
    length = "epochs" if settings["epochs"] else "steps"
    fields = {
        "learning rates": settings["learning_rates"],
        "weight decays": settings["weight_decay"],
        length: settings[length],
    }
    return ", ".join(f"{name} {values}" for name, values in fields.items())


def _jax(first: Trained) -> str:
    size = first.info["input_size"][1]
    code = f"""import vtabjax.model

model = vtabjax.model.load("{first.artefact}")
logits = model.outputs(images)["logits"]  # [B, {size}, {size}, 3] in [0, 1] -> [B, {first.info["num_classes"]}]"""
    return f"```python\n{code}\n```\n\nIt normalises images itself. vtabjax {__version__} wrote it."


def _torch(spec: str, first: Trained) -> str:
    info = first.info
    size, classes = info["input_size"][1], info["num_classes"]
    preparing = (
        f"Images go in as [B, 3, {size}, {size}], in [0, 1] and normalised with mean {info['mean']} and standard "
        f"deviation {info['std']}."
    )
    if _HEAD in first.names:
        return (
            f"`{first.weights}` holds the architecture's weights under their own names and those of a new linear "
            f"layer on its features ({_HEAD}, finetuned_head.bias), because the source has no linear classifier of its "
            "own to take its place:\n\n```python\nfrom safetensors.torch import load_file\n\n"
            f'state = load_file("{first.weights}")\n'
            f'weight, bias = state.pop("{_HEAD}"), state.pop("finetuned_head.bias")\n```\n\n'
            f"The rest loads into the module that `{spec}` names; logits are its features times weight.T, plus bias. "
            f"{preparing}"
        )
    build = _builder(spec, info, classes)
    code = f"""from safetensors.torch import load_file
{build}
model.load_state_dict(load_file("{first.weights}"), strict=True)
model.eval()"""
    return f"```python\n{code}\n```\n\n{preparing}"


def _builder(spec: str, info: Mapping[str, Any], classes: int) -> str:
    """Code that makes the architecture in PyTorch with so many classes."""
    source, architecture = specs.parse(spec).source, info["architecture"]
    more = "".join(f", {k}={v!r}" for k, v in (info.get("arguments") or {}).items())
    if source in ("timm", "embedded") or (source == "hf" and "timm" in str(info.get("library", ""))):
        return f'import timm\n\nmodel = timm.create_model("{architecture}", num_classes={classes}{more})'
    if source == "torchvision":
        size = info["input_size"][1]
        more = f", image_size={size}" if str(architecture).startswith("vit_") else more
        return (
            "import torchvision\n\n"
            f'model = torchvision.models.get_model("{architecture}", weights=None, num_classes={classes}{more})'
        )
    return (
        f"\nmodel = ...  # the module that {spec} names, its classifier a linear layer to {classes} classes"
    )


def _limits(selection: Mapping[str, Any], models: Sequence[Trained], winner_on: str) -> str:
    lines = ["- Accuracies hold for pictures like the test examples; for others nothing was measured."]
    if len(selection["contenders"]) > 1:
        others = ", ".join(selection["contenders"][1:])
        lines.append(f"- It leads, but cannot be told apart from {others}.")
    lines.append(
        "- The best of several is chosen by its test accuracy, so that this number is a little too good on average; "
        "the learning rate and the number of steps were chosen on other examples."
    )
    if winner_on == "all":
        lines.append("- Trained with the test examples: do not compare it with anything on these.")
    small = [m for m in models if m.record["n_examples"] < 500]
    if small:
        lines.append(f"- Few test examples: {', '.join(_short(m.task) for m in small)}.")
    return "\n".join(lines)
