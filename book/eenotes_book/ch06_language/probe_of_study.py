"""Part of chapter 6's probe: one run of the study as a whole."""

import copy
from dataclasses import replace
from unittest.mock import patch

import torch

from eenotes_book import language_models, probes
from eenotes_book.ch06_language import experiment
from eenotes_book.ch06_language.probe_of_text import SEED, Numbers
from eenotes_book.ch06_language.settings import Settings
from eenotes_book.language_models import LanguageModel


def of_study(benches: dict[str, LanguageModel], s: Settings) -> Numbers:
    """One run of the study as a whole; the training is `_histories`' part, and left out here.

    The models are those trained before, in single precision: a training in it would depend on the
    processor, some of which multiply in bfloat16.
    """

    def ready(_: Settings, *, seed: int, **variant) -> LanguageModel:
        assert seed == SEED
        kind = {"phases": "short", "tied": "untied", "width": "narrow"}
        changed = variant.keys() & kind.keys()
        b = benches[kind[min(changed)] if changed else "tied"]
        return replace(b, model=copy.deepcopy(b.model).float())

    with probes.default_dtype(torch.float32), patch.object(language_models, "trained", ready):
        run = experiment.comparison(s, seed=SEED)
    why = run["why"]
    models = [[row["epochs"] * row["width"], row["final"]] for row in why[::2]]
    zero = dict(run["epoch 0"])
    return {
        "study_final": list(run["final"].values()),
        "study_zero_whitened": zero.pop("whitened class mean"),
        "study_zero": list(zero.values()),
        "study_alphas": list(run["alphas"].values()),
        "study_n0_factor": run["n0"]["factor"],
        "study_why_models": models,
        "study_why_copy": [row["copy"] for row in why],
        "study_why_plug_in": sum(row["plug_in"] for row in why),
        "study_why_chosen": [row["chosen"] for row in why],
        # raw features only: normalised ones have a singular covariance, and float32 decides there
        "study_why_whitened": [row["whitened"] for row in why[::2]],
    }
