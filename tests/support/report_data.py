"""A sweep's results without a sweep: what vtabjax.report reads, written through vtabjax.results.save; the report."""

import csv
import re

import numpy as np

from configs import report as report_config
from vtabjax import options, report, results
from vtabjax.report import gather
from vtabjax.results import Cell

METHODS = ("supervised", "self-supervised", "none", "semi-supervised")
COMMON = {"image_size": 64, "resize": "vtab", "dtype": "float32"}
SETTINGS = {
    "knn": {"splits": ["train800val200"], "k": 1, "metric": ["euclidean", "cosine"]},
    "linear": {"splits": ["train800", "val200", "test"], "c_min": 1e-6, "c_max": 1e5, "c_count": 12},
    "transferability": {"splits": ["train800val200"], "scores": list(options.SCORES), "seed": 0},
    "finetune": {"splits": ["train800", "val200", "test"], "scope": "all", "seeds": [0]},
}


def spec(i: int) -> str:
    """The i-th model."""
    weights = "@random" if METHODS[i % 4] == "none" else f".tag{i}_in1k"
    return f"timm/{('resnet', 'vit', 'convnext')[i % 3]}_{i:03d}{weights}"


def source(i: int) -> dict:
    """What its model.json would say."""
    return {
        "source": "timm",
        "architecture": f"{('resnet', 'vit', 'convnext')[i % 3]}_{i:03d}",
        "family": ("resnet", "vision_transformer", "convnext")[i % 3],
        "method": METHODS[i % 4],
        "pretraining_data": None if METHODS[i % 4] == "none" else "ImageNet-1k",
        "parameters": int(3e6 * 1.6 ** (i % 11)),
        "num_features": 256 * (1 + i % 4),
        "imagenet_top1": None if i % 2 else 70.0 + i % 13,
    }


def save(workdir, protocol, model, task, metrics, correct=None, *, changes=None, i=0, **rest):
    """One result; `changes` to the settings."""
    cell = Cell(protocol, model, task, {**SETTINGS[protocol], **COMMON, **(changes or {}), "task": task})
    images = {"train800": 800, "val200": 200}
    provenance = {
        "weight_hash": model,
        "source": source(i),
        "input": {"input_size": [3, 64, 64]},
        "data": {"train800": f"{task}-a", "test": f"{task}-b"},
        "passes": {k: {"images": n, "seconds": n / (200 + 40 * i)} for k, n in images.items()},
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    } | rest
    seconds = {"features": 2.0 + i % 5, protocol: 0.25} | {s: 0.01 for s in options.SCORES if s in metrics}
    assert results.save(
        cell, workdir, metrics=metrics, correct=correct, provenance=provenance, seconds=seconds
    )
    return cell


def sweep(workdir, models, tasks, protocols=tuple(SETTINGS), *, n=400, seed=0):
    """Models of different strength on tasks of different difficulty; proxies see the strength through noise."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(size=models)
    for t, task in enumerate(tasks):
        logit = strength + 0.5 * rng.normal(size=models) + 1.2 * np.sin(t)
        shared = rng.logistic(size=n)  # hard examples are hard for all
        for i in range(models):

            def drawn(shift, n=n, i=i, logit=logit, shared=shared):
                return logit[i] + shift > 0.7 * shared[:n] + 0.3 * rng.logistic(size=n)

            for protocol in protocols:
                right = drawn({"finetune": 1.2, "linear": 0.6}.get(protocol, 0.0))
                metrics = {"accuracy": float(right.mean())}
                if protocol == "knn":
                    metrics |= {"n_tied": 0, "accuracy_cosine": float(drawn(0.1).mean()), "n_tied_cosine": 0}
                elif protocol == "transferability":
                    metrics, right = {}, None
                    for k, score in enumerate(options.SCORES):
                        noise = (0.2 + 0.2 * k) * rng.normal()
                        metrics[score] = (
                            None if score in ("leep", "nce") and i % 2 else float(logit[i] + noise)
                        )
                else:
                    metrics["val_accuracy"] = float(drawn(0.4, 200).mean())
                save(workdir, protocol, spec(i), task, metrics, right, i=i)


def finetuned(workdir, i, task, accuracy=0.5, **rest):
    """One result of fine-tuning the i-th model."""
    save(workdir, "finetune", spec(i), task, {"accuracy": accuracy}, i=i, **rest)


def make(workdir, **changes):
    """The report; returns the page's HTML without its scripts, as text."""
    config = report_config.get_config()
    config.resamples, config.figures = 100, False
    config.update(changes)
    assert report.run(config, workdir) == 0
    html = (workdir / "report" / "report.html").read_text(encoding="utf-8")
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    return (
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.replace("<wbr>", "")))
        .replace("&#39;", "'")
        .replace("&lt;", "<")
    )


def rows(workdir, name):
    """The rows of one of the report's tables."""
    with open(workdir / "report" / "tables" / f"{name}.csv", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def gathered(workdir, others=()):
    """What the report is made of."""
    return gather.gather(workdir, workdir / "models", others)
