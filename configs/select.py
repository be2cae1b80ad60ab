"""The whole experiment: from many candidates to a ranked few, each measured as far as it got.

    python main.py --config=configs/select.py        # embedded tasks, eight tiny models: minutes on two cores
    python main.py --config=configs/select.py:vtab --config.models='timm/resnet*' --config.tasks=dtd,svhn
    python main.py --config=configs/select.py:vtab --config.models='timm/vit*' --config.tasks=folder:/path/to/pictures

Stages are ordinary sweeps over the models that are left, in one workdir: their results are those of configs/knn.py,
configs/linear.py and configs/finetune.py, so what was run by hand is not run again. WORKDIR/select holds
selection.json (who went how far and why, the winner, what may have been missed) and winner/ (the fine-tuned model, as
safetensors for PyTorch, too, with a model card). docs/select.md says how everything is decided.
"""

from ml_collections import ConfigDict

from configs import common, finetune, knn, linear, transferability

_STAGES = (knn, linear, transferability, finetune)

# Eight that need no download: pixels, the bundled pre-trained model, six tiny architectures with random weights.
_MINI = (
    "baseline/pixels",
    "embedded/sprites_resnet",
    "timm/test_resnet@random",
    "timm/test_vit@random",
    "timm/test_efficientnet@random",
    "timm/test_convnext@random",
    "timm/test_byobnet@random",
    "timm/test_nfnet@random",
)
SUITES = ("mini", "vtab")


def get_config(suite: str = "mini") -> ConfigDict:
    """Every field of the stages' own configs with its default there, and those of the selection.

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; choose from {', '.join(SUITES)} (configs/select.py:vtab)"
        )
    c = common.base("select", suite)
    for stage in _STAGES:
        for name, value in stage.get_config(suite).items():
            if name not in c:
                c[name] = value
    mini = suite == "mini"
    if mini:
        c.models = ",".join(_MINI)
        # Half of what configs/finetune.py takes: it ends in minutes on two cores.
        c.finetune.steps = "120"
        c.finetune.save = True  # the models are tiny, so that the winner need not be trained again

    # PROTOCOL:N keeps the N best models, PROTOCOL:P% that share of them; the last one ranks all that reach it.
    c.stages = "knn:50%,linear:2,finetune" if mini else "knn:25%,linear:20,finetune"
    c.keep_chance = 0.05  # who has more than this chance of belonging to the first N goes on, too ...
    c.keep_at_most = 1.5  # ... up to so many times N
    # After the finalists more models are measured by the last stage, the likeliest first, while the chance that one of
    # those left out would beat the best by more than a point is above this ...
    c.add_chance = 0.05
    c.add_at_most = 2.5  # ... up to what so many times N models cost on all tasks; 1: nobody
    c.always = ""  # models that are never dropped: the one in production, a baseline
    c.audit = 0  # of those left out, drawn at random (by `seed`), are measured by the last stage, too
    # With three tasks or more, or three seeds: finalists whose chance of being first falls under this are trained on no
    # other tasks, with no other seeds; 0: all finalists are trained to the end.
    c.stop_chance = 0.01
    # It ends in time with the best answer there is, measuring fewer models, halving the grid; 0: as long as it takes.
    c.hours = 0.0
    c.winner_on = (
        "train"  # examples of the model that is kept: "train", and its score holds; "all": the test's, too
    )
    return c
