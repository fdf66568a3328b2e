"""Separability: how well a layer tells the classes apart, equation (2.1)."""

import pandas as pd
import torch
from torch import Tensor

from eenotes.class_statistics import ClassMeans
from eenotes.exits import ClassMeanExit
from eenotes.inference import collect
from eenotes_book.ch02_e2cm.experiment import Bench
from eenotes_book.data import vision


@torch.no_grad()
def separability(b: Bench) -> pd.DataFrame:
    r"""How far apart the class means lie at every layer, against the spread within the classes.

    Equation (2.1), $\delta / (\delta + \sigma)$, with $\delta$ the distance from a class's mean to
    the nearest other one and $\sigma$ the root mean square distance of its training samples to
    their own mean.  0: the means coincide; 1: the classes are points.

    Returns:
        One row per class (its name), one column per exit point; the last column is the classifier's
        output.
    """
    logits, labels = collect(b.class_means, vision.batches(b.data.train))
    of_classifier = _means_of(logits[-1], labels)
    heads = [*b.class_means.exits, of_classifier]
    distances = [*logits[:-1], of_classifier(logits[-1])]
    names = [*b.backbone.exit_points, "classifier"]
    columns = {
        name: _of_layer(head.means, negative, labels).tolist()
        for name, head, negative in zip(names, heads, distances, strict=True)
    }
    return pd.DataFrame(columns, index=list(b.data.classes))


def _of_layer(means: Tensor, negative_distances: Tensor, labels: Tensor) -> Tensor:
    own = negative_distances.gather(1, labels[:, None]).squeeze(1).square()
    within = torch.stack([own[labels == k].mean() for k in range(len(means))]).sqrt()
    between = torch.cdist(means, means).fill_diagonal_(torch.inf).min(1).values
    return between / (between + within)


def _means_of(features: Tensor, labels: Tensor) -> ClassMeanExit:
    means = ClassMeans(int(labels.max()) + 1)
    means.update(features, labels)
    return ClassMeanExit(means.compute())
