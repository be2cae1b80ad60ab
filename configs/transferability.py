"""Transferability scores: LEEP, NLEEP, LogME and others, from one pass of each model over the training
images.

    python main.py --config=configs/transferability.py
    python main.py --config=configs/transferability.py:vtab --config.scores=logme,parc

docs/scores.md says what each one means and when not to believe it. leep and nce need the source's classifier:
they are empty (null, not 0) for models without one. Scores are compared within a task, not averaged over tasks.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(suite: str = "mini") -> ConfigDict:
    """Fields of `common.base`, and of this protocol."""
    c = common.base("transferability", suite)
    # Which, comma-separated.
    c.scores = "leep,nce,nleep,logme,h_score,regularized_h_score,transrate,gbc,parc,sfda"
    # Seeds (from `seed` on) that nleep, the slowest, averages over.
    c.nleep_seeds = 1 if suite == "mini" else 5
    # h_score, transrate and sfda prefer noise once a model has as many features as there are examples, so they get
    # this many principal components of every model instead.
    c.pca_components = 64
    return c
