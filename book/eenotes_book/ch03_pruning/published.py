"""The networks of chapter 3's study: published weights, and linear exits trained beside them."""

from dataclasses import replace

import torch

from eenotes import training
from eenotes.cutting import split
from eenotes.exits import linear_exits
from eenotes.methods.pruning_schedule import Iteration, Phase
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, networks
from eenotes_book.ch03_pruning.experiment import (
    CONTROL,
    SEPARATELY,
    SPARED,
    TOGETHER,
    Bench,
    by_approach,
    pruned,
)
from eenotes_book.ch03_pruning.settings import Published
from eenotes_book.ch03_pruning.sweep import kept_shares
from eenotes_book.data import pretrained, vision


def bench(s: Published, *, seed: int) -> Bench:
    """A published network whose exits, and the network with them, are trained or taken from the
    cache.

    The seed draws the exits' first weights, and the order and shifts of the images; the published
    weights are the same for every seed.
    """
    data = pretrained.normalised(vision.load(s.data, train=s.train, val=s.val, test=s.test))
    stages = split(pretrained.load(f"resnet{s.depth}"), at=s.exits)
    sample = data.train.tensors[0][:2]
    torch.manual_seed(seed)
    grid = sample.shape[-1] if s.flat else 1
    exits = linear_exits(stages, sample, num_classes=len(data.classes), grid=grid)
    net = EarlyExitNetwork(stages, exits)
    published = {"params": list(net.stages.parameters()), "lr": s.backbone_rate}
    new = {"params": list(net.exits.parameters())}
    training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=lambda _: training.sgd([published, new], lr=s.learning_rate),
        augment=networks.augmentation(data),
        seed=seed,
        checkpoint=cache.network(
            "published", seed=seed, flat=s.flat, rate=s.backbone_rate, **networks.facts(s)
        ),
        title=f"ResNet-{s.depth}: {net.num_exits} exits",
    )
    return Bench(data, net, s, seed, by_halves=True)


def variant(b: Bench, approach: str) -> tuple[EarlyExitNetwork, list[Iteration]]:
    """The network of one approach, and what each round left.

    Approach 2 with plain and with spared exits shares all rounds of the backbone but the last; in
    that one the backbone gives up what the spared exits keep.
    """
    if approach in (TOGETHER, CONTROL):
        return by_approach(b, approach)
    s, before = b.s, b.s.rounds - 1
    sparsity = 1 - (1 - s.rate) ** s.rounds
    exits = {SEPARATELY: sparsity, SPARED: s.spared}[approach]
    shares = kept_shares(b.net, sparsity=sparsity, exits=exits)
    start, first = pruned(b, "backbone", [Phase("backbone", s.rate, before)], samples=s.samples)
    plan = [
        Phase("backbone", 1 - shares["backbone"] / (1 - s.rate) ** before, 1),
        Phase("exits", 1 - shares["exits"] ** (1 / s.rounds), s.rounds),
    ]
    net, (last, *rest) = pruned(replace(b, net=start), approach, plan, samples=s.samples)
    return net, [*first, replace(last, number=s.rounds), *rest]
