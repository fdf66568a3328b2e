"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.baselines import deep_clustering
from eenotes.language import evaluation, exits, initialisation, token_statistics
from eenotes.methods import e2cm, eeprune, sample_selection
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, clustering, language_models, scale
from eenotes_book.ch07_open.networks import device_of, digest, spare_garbage
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
    sample_selection.check_ratio(ratio)
    if values.ndim != 1:
        raise ValueError(f"values must have one number per row, got {tuple(values.shape)}")
    drawn = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = {"drop agreeing": values, "random": drawn, "drop disagreeing": -values}[how]
    return order.argsort(stable=True)[: len(values) - int(ratio * len(values))].sort().values


def clustered(
    x: Tensor, s: SimpleNamespace, *, rows: Tensor, num_clusters: int, seed: int
) -> EarlyExitNetwork:
    """Deep embedded clustering of some rows of ``x`` ``(N, D)``, with class-mean exits; as many
    steps whatever the number of rows.

    Taken from the cache if it is there.
    """
    part, epochs = x[rows], round(s.epochs * len(x) / len(rows))
    options = {name: getattr(s, name) for name in ("steps", "widths", "distortion", "batch_size")}
    facts = {"x": digest(x), "rows": digest(rows), "recipe": [num_clusters, epochs, options]}
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


def clusters_right(net: EarlyExitNetwork, split: TensorDataset) -> float:
    """Clustering accuracy on a split of pictures."""
    x, labels = clustering.flat(split).tensors
    return deep_clustering.clustering_accuracy(assignments(net, x), labels)


@torch.no_grad()
def agreement(net: EarlyExitNetwork, x: Tensor, *, exit_index: int) -> Tensor:
    """The E²CM confidence of an early exit where it names the cluster of the last exit, 0 where it
    does not (7.7): ``(N,)``.
    """
    logits, rule = net(x), e2cm.rule(net)
    prediction, confidence, _ = rule.score(exit_index, logits[exit_index])
    return torch.where(prediction == logits[-1].argmax(1), confidence, 0.0)


def cluster_runs(
    data: vision.Vision, s: SimpleNamespace, *, ratio: float, seeds: int
) -> pd.DataFrame:
    """Cluster, drop points, cluster what is left from scratch: ``seed``, ``kept`` (one of `KEPT`, or everything), ``accuracy`` on test,
    and ``agree``, the share of training points on which both exits agree."""
    spare_garbage()
    K, rows = len(data.classes), []
    points = clustering.flat(data.train).tensors[0].to(scale.device())
    for seed in range(seeds):
        net = clustered(points, s, rows=torch.arange(len(points)), num_clusters=K, seed=seed)
        values = agreement(net, points, exit_index=eeprune.middle(net))
        agree = (values > 0).double().mean().item()
        rows.append(
            {
                "seed": seed,
                "kept": "everything",
                "accuracy": clusters_right(net, data.test),
                "agree": agree,
            }
        )
        for how in KEPT:
            left = drop_rows(values, ratio, how, seed=seed)
            again = clustered(points, s, rows=left, num_clusters=K, seed=seed)
            rows.append({"seed": seed, "kept": how, "accuracy": clusters_right(again, data.test)})
    return pd.DataFrame(rows)


def text_bench(s: SimpleNamespace, *, seed: int = 0) -> LanguageModel:
    """A small language model, as in chapter 6."""
    return language_models.trained(s, seed=seed)


def class_mean_exit(b: LanguageModel, factor: float) -> exits.Linear:
    """The class-mean head of the exit at $N_0$ = ``factor`` times its plug-in value."""
    found = token_statistics.statistics(b.exited(), b.text.train[: b.s.statistics].split(32))
    return initialisation.class_mean_head(
        found, n0=factor * found.plug_in_n0(), unseen=initialisation.copied_head(b.model)[0]
    )


@torch.no_grad()
def row_agreement(b: LanguageModel, head: exits.Linear) -> Tensor:
    """For every training row ``(N,)`` the share of tokens that early exit and final head both get
    right.
    """
    exited, shares = exits.load(b.exited(), head), []
    for ids in b.text.train.split(64):
        early, final = (z[:, :-1].argmax(2).cpu() for z in exited(ids.to(b.model.device)))
        shares.append(((early == ids[:, 1:]) & (final == ids[:, 1:])).double().mean(1))
    return torch.cat(shares)


def reading_runs(
    b: LanguageModel, values: Tensor, *, ratio: float, seeds: int, reads: int
) -> pd.DataFrame:
    """Train fresh language models on the rows that stay, each on ``reads`` rows: ``seed``, ``kept``, and ``perplexity`` and ``accuracy`` of
    its final head on test."""
    spare_garbage()
    rows = []
    for seed in range(1, seeds + 1):  # the scoring model has seed 0
        for how in KEPT:
            fresh = trained_on(b, drop_rows(values, ratio, how, seed=seed), seed=seed, length=reads)
            found = evaluation.evaluate(
                exits.attach(fresh, at=b.s.at).eval(), b.text.test.split(64)
            )
            rows.append(
                {
                    "seed": seed,
                    "kept": how,
                    "perplexity": found["final_perplexity"],
                    "accuracy": found["final_accuracy"],
                }
            )
    return pd.DataFrame(rows)


def trained_on(b: LanguageModel, rows: Tensor, *, seed: int, length: int) -> nn.Module:
    """A language model of the same size, trained from scratch on ``length`` rows drawn in turn from
    those given.
    """
    torch.manual_seed(seed)
    model = language_models.untrained(b.text, b.s)
    facts = {"text": b.text.digest, "rows": digest(rows), "length": length, "recipe": b.s}
    training.fit(
        exits.FullPrecision(model),
        Passes(TensorDataset(b.text.train), rows, length),
        loss=next_token_loss,
        epochs=1,
        batch_size=b.s.batch_size,
        optimizer=partial(training.adamw, lr=b.s.learning_rate),
        seed=seed,
        checkpoint=cache.network("reader", seed=seed, **facts),
        title="a fresh language model",
    )
    return model.eval()
