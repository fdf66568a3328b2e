"""Question 5, data without labels: drop what early and last exit agree on, and learn again."""

import hashlib
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes._checks import require_range
from eenotes.language import evaluation, exits, initialisation, token_statistics
from eenotes.methods import e2cm, eeprune
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, clustering, deep_clustering, fine_tuning, language_models, scale
from eenotes_book.ch08_open.networks import device_of, freeze_garbage
from eenotes_book.ch08_open.settings import Clusters
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes
from eenotes_book.language_models import LanguageModel, next_token_loss

KEPT = ("drop agreeing", "random", "drop disagreeing")


def drop_rows(values: Tensor, ratio: float, how: str, *, seed: int = 0) -> Tensor:
    """The rows that stay, ascending, when the share ``ratio`` is dropped.

    Args:
        values: ``(N,)``, how much early exit and last exit agree on each row.
        ratio: in [0, 1).
        how: one of `KEPT`: drop the rows with the largest values, any rows, or those with the
            smallest.
        seed: of the random choice.

    Raises:
        ValueError: another ratio or word, or values of more than one dimension.
    """
    if how not in KEPT:
        raise ValueError(f"how={how!r} must be one of {', '.join(KEPT)}")
    require_range(0, 1, ends="[)", ratio=ratio)
    if values.ndim != 1:
        raise ValueError(f"values must have one number per row, got {tuple(values.shape)}")
    drawn = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = {"drop agreeing": values, "random": drawn, "drop disagreeing": -values}[how]
    return order.argsort(stable=True)[: len(values) - int(ratio * len(values))].sort().values


def clustered(
    x: Tensor, s: Clusters, *, rows: Tensor, num_clusters: int, seed: int
) -> EarlyExitNetwork:
    """A deep embedded clustering of some rows of ``x`` ``(N, D)``, with class-mean exits.

    It takes as many steps whatever the number of rows, or comes from the cache.
    """
    part, epochs = x[rows], round(s.epochs * len(x) / len(rows))
    options = {name: getattr(s, name) for name in ("steps", "widths", "distortion", "batch_size")}
    facts = {"x": _digest(x), "rows": _digest(rows), "recipe": [num_clusters, epochs, options]}
    return clustering.cluster_or_load(
        part,
        options | {"epochs": epochs},
        num_clusters=num_clusters,
        seed=seed,
        path=cache.network("clusters", seed=seed, **facts),
    )


@torch.no_grad()
def assignments(net: EarlyExitNetwork, x: Tensor) -> Tensor:
    """The cluster of every point ``(N, D)``, on the CPU."""
    return net(x.to(device_of(net)))[-1].argmax(1).cpu()


def cluster_accuracy(net: EarlyExitNetwork, split: TensorDataset) -> float:
    """Clustering accuracy on a split of pictures."""
    x, labels = clustering.flat(split).tensors
    return deep_clustering.clustering_accuracy(assignments(net, x), labels)


@torch.no_grad()
def agreement(net: EarlyExitNetwork, x: Tensor, *, exit_index: int) -> Tensor:
    """How surely an early exit names the same cluster as the last exit (8.7), ``(N,)``.

    It is the E²CM confidence, and 0 where the exits name different clusters.
    """
    logits, rule = net(x), e2cm.rule(net)
    prediction, confidence, _ = rule.score(exit_index, logits[exit_index])
    return torch.where(prediction == logits[-1].argmax(1), confidence, 0.0)


def cluster_runs(data: vision.Vision, s: Clusters, *, ratio: float, seeds: int) -> pd.DataFrame:
    """Cluster the training points, drop some, and cluster what is left from scratch.

    Returns:
        ``seed``; ``kept``, one of `KEPT` or ``"everything"``; ``accuracy`` on test; and for
        everything ``agree``, the share of training points on which both exits agree.
    """
    freeze_garbage()
    rows = []
    points = clustering.flat(data.train).tensors[0].to(scale.device())
    for seed in range(seeds):
        options = {"num_clusters": len(data.classes), "seed": seed}
        net = clustered(points, s, rows=torch.arange(len(points)), **options)
        values = agreement(net, points, exit_index=eeprune.middle(net))
        agree = (values > 0).cpu().double().mean().item()
        row = {"seed": seed, "kept": "everything", "accuracy": cluster_accuracy(net, data.test)}
        rows.append(row | {"agree": agree})
        for how in KEPT:
            again = clustered(points, s, rows=drop_rows(values, ratio, how, seed=seed), **options)
            accuracy = cluster_accuracy(again, data.test)
            rows.append({"seed": seed, "kept": how, "accuracy": accuracy})
    return pd.DataFrame(rows)


def class_mean_exit(b: LanguageModel, factor: float) -> exits.Linear:
    """The class-mean head of the exit at $N_0$ = ``factor`` times its plug-in value."""
    found = token_statistics.statistics(b.exited(), b.text.train[: b.settings.statistics].split(32))
    unseen = initialisation.copied_head(b.model)[0]
    return initialisation.class_mean_head(found, n0=factor * found.plug_in_n0(), unseen=unseen)


@torch.no_grad()
def row_agreement(b: LanguageModel, head: exits.Linear) -> Tensor:
    """For every training row the share of tokens that both exit and final head get right, (N,)."""
    exited, shares = exits.load(b.exited(), head), []
    for ids in b.text.train.split(64):
        early, final = (z[:, :-1].argmax(2).cpu() for z in exited(ids.to(b.model.device)))
        shares.append(((early == ids[:, 1:]) & (final == ids[:, 1:])).double().mean(1))
    return torch.cat(shares)


def reading_runs(
    b: LanguageModel, values: Tensor, *, ratio: float, seeds: int, reads: int
) -> pd.DataFrame:
    """Train fresh language models on the rows that stay.

    Args:
        b: the text, and the model that was scored.
        values: from `row_agreement`.
        ratio: the share of the rows that is dropped.
        seeds: how many models each way of dropping gets.
        reads: rows that each model reads.

    Returns:
        ``seed``, ``kept``, and ``perplexity`` and ``accuracy`` of the final head on test.
    """
    freeze_garbage()
    rows = []
    for seed in range(1, seeds + 1):  # the scoring model has seed 0
        for how in KEPT:
            left = drop_rows(values, ratio, how, seed=seed)
            fresh = exits.attach(_reader(b, left, seed=seed, reads=reads), at=b.settings.at).eval()
            found = evaluation.evaluate(fresh, b.text.test.split(64))
            rows.append(
                {
                    "seed": seed,
                    "kept": how,
                    "perplexity": found["final_perplexity"],
                    "accuracy": found["final_accuracy"],
                }
            )
    return pd.DataFrame(rows)


def _reader(b: LanguageModel, rows: Tensor, *, seed: int, reads: int) -> nn.Module:
    """A language model of the same size, trained on ``reads`` rows, in turn of those given."""
    torch.manual_seed(seed)
    model = language_models.untrained(b.text, b.settings)
    facts = {"text": b.text.digest, "rows": _digest(rows), "length": reads, "recipe": b.settings}
    training.fit(
        fine_tuning.FullPrecision(model),
        Passes(TensorDataset(b.text.train), rows, reads),
        loss=next_token_loss,
        epochs=1,
        batch_size=b.settings.batch_size,
        optimizer=partial(training.adamw, lr=b.settings.learning_rate),
        seed=seed,
        checkpoint=cache.network("reader", seed=seed, **facts),
        title="a fresh language model",
    )
    return model.eval()


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:12]
