"""Time of fitting class means and of imports, relative to the work that neither can avoid."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch

import eenotes
from eenotes import split
from eenotes.methods import e2cm
from eenotes_book.models.resnet import CifarResNet
from eenotes_book.timing import median_seconds, timed


@torch.no_grad()
def class_mean_fitting(
    depth: int, *, rounds: int, images: int = 1024, size: int = 256
) -> dict[str, float]:
    """The time of `e2cm.fit` over that of the forward passes that it needs.

    They are one for the normaliser "rms", two for "mean".
    """
    torch.manual_seed(0)
    backbone = CifarResNet(depth).eval()
    stages = split(backbone, at=backbone.exit_points)
    batches = [
        (torch.randn(size, 3, 32, 32), torch.arange(size) % 10) for _ in range(images // size)
    ]

    def forward() -> None:
        for x, _ in batches:
            for stage in stages[:-1]:
                x = stage(x)

    rms, mean = (
        partial(e2cm.fit, stages, batches, num_classes=10, normaliser=how)
        for how in ("rms", "mean")
    )
    return {
        "rms": _ratio(rms, forward, rounds=rounds),
        "mean": _ratio(mean, forward, rounds=rounds) / 2,
    }


@torch.no_grad()
def token_means(*, rounds: int, rows: int = 128, vocabulary: int = 8192, width: int = 256) -> float:
    """Time of `token_statistics.statistics` over the time of the forward passes that it needs.

    Those are the decoders below the exit, and no head.
    """
    from transformers import OPTConfig, OPTForCausalLM

    from eenotes.language import exits as language_exits
    from eenotes.language import token_statistics

    torch.manual_seed(0)
    shape = {
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
    }
    model = language_exits.attach(
        OPTForCausalLM(OPTConfig(vocab_size=vocabulary, **shape)), at=4
    ).eval()
    batches = torch.randint(0, vocabulary, (rows, 96)).split(32)
    return _ratio(
        lambda: token_statistics.statistics(model, batches),
        lambda: [model.features(ids) for ids in batches],
        rounds=rounds,
    )


def import_time(*, rounds: int = 5) -> dict[str, float]:
    """The time to import eenotes, alone and with every name, over that of torch alone.

    Each import runs in a fresh process.
    """
    statements = {
        "torch": "import torch",
        "alone": "import torch, eenotes",
        "every name": f"import torch; from eenotes import {', '.join(eenotes.__all__)}",
    }
    runs = {
        name: partial(subprocess.run, [sys.executable, "-c", statement], check=True, env=os.environ)
        for name, statement in statements.items()
    }
    medians = median_seconds(runs, rounds=rounds, repeats=1)
    return {name: medians[name] / medians["torch"] for name in ("alone", "every name")}


def _ratio(
    statement: Callable[[], object], reference: Callable[[], object], *, rounds: int
) -> float:
    """The time of a statement over that of a reference, which runs before and after it.

    The median over the rounds counts, and a first round warms up.
    """
    ratios, before = [], timed(reference)[0]
    for _ in range(rounds + 1):
        taken, after = timed(statement)[0], timed(reference)[0]
        ratios.append(2 * taken / (before + after))
        before = after
    return statistics.median(ratios[1:])
