"""The thesis's curves of training, and the shares α that it found best."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from eenotes_book.ch06_language.frozen_training import COPY, MEANS, RANDOM, WITH_COPY, WITH_RANDOM

MODEL = "OPT-125m"
_EPOCHS = (0, 1, 2, 4, 10)
FROZEN = pd.DataFrame(  #: next-token accuracy of the exit, read off a figure; a row per epoch
    {
        RANDOM: [0, None, None, None, 0.019],
        COPY: [0.054, 0.058, 0.08, 0.136, 0.187],
        MEANS: [0.242, 0.131, 0.14, 0.193, 0.222],
        WITH_RANDOM: [0.252, 0.199, 0.207, 0.218, 0.234],
        WITH_COPY: [0.245, 0.189, 0.199, 0.216, 0.229],
    },
    index=_EPOCHS,
)
ALL_WEIGHTS = pd.DataFrame(  #: the same where everything is trained
    {
        RANDOM: [0, 0.217, 0.267, 0.305, 0.313],
        COPY: [0.056, 0.327, 0.352, 0.358, 0.325],
        MEANS: [0.243, 0.298, 0.316, 0.324, 0.311],
        WITH_RANDOM: [0.261, 0.285, 0.323, 0.337, 0.325],
        WITH_COPY: [0.229, 0.326, 0.347, 0.353, 0.325],
    },
    index=_EPOCHS,
)
_ALPHAS = {  # beside random, beside the copy
    ("OPT-125m, thesis", "all weights"): (0.6, 0.6),
    ("OPT-125m, thesis", "frozen"): (0.8, 0.8),
    ("OPT-350m, thesis", "all weights"): (0.4, 0.6),
    ("OPT-350m, thesis", "frozen"): (0.8, 0.8),
    ("TinyLlama-1.1B, thesis", "all weights"): (0.8, 0.6),
    ("TinyLlama-1.1B, thesis", "frozen"): (0.8, 0.6),
}


def alphas(
    trainings: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """The share of class means in both mixtures, the thesis's and ours, as a table.

    The thesis's is the best one in training; ours is chosen on validation text before it.

    Args:
        trainings: the record's ``numbers["training"]``, perhaps none.
        runs: of the small models; the median over them.
    """
    rows = dict(_ALPHAS)
    if trainings:
        chosen = trainings[0]["chosen"]
        shares = tuple(chosen[f"share, {mixed}"] for mixed in (WITH_RANDOM, WITH_COPY))
        rows["SmolLM2-135M, behind the norm", "epoch 0"] = shares
    shares = (median(run["alphas"][other] for run in runs) for other in (RANDOM, COPY))
    rows["small model, raw", "epoch 0"] = tuple(shares)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["beside random", "beside copy"])
    table.index = pd.MultiIndex.from_tuples(table.index, names=["model", "best for"])
    return table
