"""What one writes without vtabjax: features of timm models in PyTorch, then scikit-learn. benchmarks/sweep.py runs it.

For each model and task: features and logits of the training and test images, leave-one-out 1-NN (scikit-learn, brute
force), logistic regression over a grid of C chosen on 200 examples (scikit-learn's defaults but for max_iter), LEEP.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from converters import _compat  # noqa: F401  (before timm, which imports torchvision)

# isort: split
import timm
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vtabjax import data

C_GRID = np.logspace(-6, 5, 12)


def extract(model, images, mean, std, batch=128):
    features, logits = [], []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).permute(0, 3, 1, 2)
            x = (x.float() / 255 - mean) / std
            trunk = model.forward_features(x.contiguous(memory_format=torch.channels_last))
            features.append(model.forward_head(trunk, pre_logits=True).flatten(1).numpy())
            logits.append(model.forward_head(trunk).numpy())
    return np.concatenate(features), np.concatenate(logits)


def leave_one_out(x, y):
    neighbours = KNeighborsClassifier(2, algorithm="brute").fit(x, y).kneighbors(x, return_distance=False)
    nearest = np.where(neighbours[:, 0] == np.arange(len(y)), neighbours[:, 1], neighbours[:, 0])
    return float(np.mean(y[nearest] == y))


def linear(x, y, x_test, y_test):
    def fit(c, n):
        return LogisticRegression(C=c, max_iter=1000).fit(x[:n], y[:n])

    accuracies = [fit(c, 800).score(x[800:], y[800:]) for c in C_GRID]
    return float(fit(C_GRID[int(np.argmax(accuracies))], None).score(x_test, y_test))


def leep(logits, y):
    p = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float64)
    p /= p.sum(1, keepdims=True)
    joint = np.stack([p[y == c].sum(0) for c in range(y.max() + 1)]) / len(y)
    conditional = joint / joint.sum(0)
    return float(np.mean(np.log(np.sum(conditional[y] * p, axis=1))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    seconds = dict.fromkeys(("images", "model", "features", "knn", "linear", "leep"), 0.0)
    clock = [time.perf_counter()]

    def lap(stage):
        now = time.perf_counter()
        seconds[stage] += now - clock[0]
        clock[0] = now

    found, images = {}, {}
    for task in args.tasks.split(","):
        for split in ("train800val200", "test"):
            images[task, split] = data.load(task, split, image_size=args.image_size)
    lap("images")
    for name in args.models.split(","):
        torch.manual_seed(0)
        size = {"img_size": args.image_size} if "vit" in name else {}
        model = timm.create_model(name, **size).eval().to(memory_format=torch.channels_last)
        mean, std = (torch.tensor(model.default_cfg[k])[:, None, None] for k in ("mean", "std"))
        lap("model")
        for task in args.tasks.split(","):
            train, test = images[task, "train800val200"], images[task, "test"]
            x, logits = extract(model, train.images, mean, std)
            x_test, _ = extract(model, test.images, mean, std)
            lap("features")
            row = {"knn": leave_one_out(x, train.labels)}
            lap("knn")
            row["linear"] = linear(x, train.labels, x_test, test.labels)
            lap("linear")
            row["leep"] = leep(logits, train.labels)
            lap("leep")
            found[f"{name} {task}"] = row
    Path(args.out).write_text(json.dumps({"seconds": seconds, "scores": found}))


if __name__ == "__main__":
    main()
