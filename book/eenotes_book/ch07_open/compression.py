"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

import copy
import gzip
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from eenotes import training
from eenotes.methods import pruning, pruning_schedule
from eenotes.network import EarlyExitNetwork
from eenotes_book.ch07_open.compact import best_step, quantise
from eenotes_book.ch07_open.networks import Bench, spare_garbage
from eenotes_book.data import vision

OPERATIONS = {"P": "prune", "Q": "quantise", "D": "distil", "C": "train on"}


ORDERS = ("PQD", "PDQ", "QPD", "QDP", "DPQ", "DQP", "PQC")


class Rounded(nn.Module):
    """A parametrisation: weights rounded by `quantise` in the forward pass, gradients passed
    straight through.

    The steps are those of the weights as they are now, and stay.
    """

    def __init__(self, weight: Tensor, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("step", best_step(weight, bits=bits))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (quantise(weight, bits=self.bits, step=self.step) - weight).detach()


def distillation_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, temperature: float = 2.0
) -> Tensor:
    r"""Self-distillation: every early exit learns the last exit's softmax as well as the labels,
    half and half.

    Equation (7.5) over J: $\mathrm{CE}(z_J, y) + \frac12 \sum_{j<J} \bigl[\mathrm{CE}(z_j, y) +
    \tau^2\mathrm{KL}(p_J \Vert p_j)\bigr]$, with $p_j$ the softmax of $z_j/\tau$; no gradient flows
    into the teacher.
    """
    x, y = batch
    *early, last = model(x)
    teacher = (last.detach().float() / temperature).softmax(1)
    loss = nn.functional.cross_entropy(last, y)
    for z in early:
        pupil = (z.float() / temperature).log_softmax(1)
        divergence = nn.functional.kl_div(pupil, teacher, reduction="batchmean")
        loss = loss + 0.5 * nn.functional.cross_entropy(z, y) + 0.5 * temperature**2 * divergence
    return loss / (len(early) + 1)


def compressed(
    b: Bench, order: str, t: SimpleNamespace, *, bits: int, made: dict | None = None
) -> EarlyExitNetwork:
    """Prune, quantise and distil a copy of the network in the order of the letters, each followed
    by the same number of epochs.

    Args:
        b: the trained network.
        order: letters of `OPERATIONS`.  P removes the smallest weights of backbone and exits for
            good, Q rounds what the forward pass uses from then on, D and C change only the loss of
            their own epochs: with distillation, without it.
        t: ``rate``, the share of the weights that P removes; ``epochs``, ``batch_size`` and
            ``learning_rate`` of each short training.
        bits: of Q.
        made: networks made before with the same other options, by what was done to them; what is
            missing is added.

    Raises:
        ValueError: an unknown letter, or one of P and Q twice.
    """
    if not order or set(order) - set(OPERATIONS) or max(order.count("P"), order.count("Q")) > 1:
        raise ValueError(
            f"order={order!r} must be letters of {', '.join(OPERATIONS)}, P and Q at most once each"
        )
    made = {} if made is None else made
    net = with_masks(b.net)
    for number, letter in enumerate(order):
        done = order[: number + 1]
        key = (done, bits if "Q" in done else None)
        if key not in made:
            made[key] = copy.deepcopy(net)
            loss = _change(made[key], letter, rate=t.rate, bits=bits)
            training.fit(
                made[key],
                b.data.train,
                loss=loss,
                epochs=t.epochs,
                batch_size=t.batch_size,
                optimizer=partial(training.sgd, lr=t.learning_rate),
                seed=100 * b.seed + number,
                title=f"{order}: {OPERATIONS[letter]}",
            )
            pruning.sparsity(pruning.layers(made[key]))  # brings the masked weights up to date
        net = made[key]
    return net


def with_masks(net: EarlyExitNetwork) -> EarlyExitNetwork:
    """A copy whose layers have masks that mask nothing yet: a rounded weight can be pruned, a
    pruned one can be rounded.
    """
    twin = copy.deepcopy(net)
    for module in pruning.layers(twin).values():
        prune.identity(module, "weight")
    pruning.sparsity(pruning.layers(twin))
    return twin


def _change(net: EarlyExitNetwork, letter: str, *, rate: float, bits: int) -> training.Loss:
    """Do to the network what the letter says, in place, and return the loss of the epochs that
    follow.
    """
    found = pruning.layers(net)
    if letter == "P":
        pruning.prune_smallest(found.values(), rate=rate)
    if letter == "Q":
        for module in found.values():
            parametrize.register_parametrization(
                module, "weight_orig", Rounded(module.weight, bits)
            )
    return distillation_loss if letter == "D" else training.joint_loss


@torch.no_grad()
def prune_behind(modules: Iterable[nn.Module], *, rate: float) -> None:
    """Prune rounded layers by the weights behind the rounded ones, which gradients have moved all
    the while; one ranking over all.

    Args:
        modules: layers whose weights are `Rounded`.
        rate: share of all their weights to remove, strictly between 0 and 1.

    Raises:
        ValueError: a layer that is not rounded, or a rate outside (0, 1).
    """
    modules = list(modules)
    if not 0 < rate < 1 or not all(
        parametrize.is_parametrized(module, "weight_orig") for module in modules
    ):
        raise ValueError(
            f"need rounded layers and a rate strictly between 0 and 1, got {len(modules)} layers and {rate}"
        )
    sizes = [module.parametrizations.weight_orig.original.abs() for module in modules]
    limit = (
        torch.cat([size.flatten() for size in sizes])
        .sort()
        .values[round(rate * sum(size.numel() for size in sizes)) - 1]
    )
    for module, size in zip(modules, sizes, strict=True):
        prune.custom_from_mask(module, "weight", (size > limit).to(size))
    pruning.sparsity({str(number): module for number, module in enumerate(modules)})


def order_table(b: Bench, t: SimpleNamespace) -> pd.DataFrame:
    """Every order with every number of bits: ``seed``, ``order``, ``bits``, the test accuracy of each exit (``exit 1`` ...), their
    ``mean``, and ``bytes``, the size of a compressed file of the weights (see `stored_bytes`)."""
    spare_garbage()
    rows = [
        {
            "seed": b.seed,
            "order": "dense",
            "bits": 32,
            **_accuracies(b.net, b),
            "bytes": stored_bytes(b.net),
        }
    ]
    made: dict = {}
    for bits in t.bits:
        for order in ORDERS:
            net = compressed(b, order, t, bits=bits, made=made)
            rows.append(
                {
                    "seed": b.seed,
                    "order": order,
                    "bits": bits,
                    **_accuracies(net, b),
                    "bytes": stored_bytes(net),
                }
            )
    return pd.DataFrame(rows)


def stored_bytes(net: EarlyExitNetwork) -> int:
    """What the weight matrices take as a gzip file: rounded ones as whole numbers of steps, one
    byte each, others as float32.
    """
    content = b""
    for module in pruning.layers(net).values():
        weight = module.weight.detach().cpu()
        rounded = [
            p for p in getattr(module, "parametrizations", {}).values() if isinstance(p[0], Rounded)
        ]
        if rounded:
            steps = rounded[0][0].step.cpu()
            levels = (weight.flatten(1) / steps).round().to(torch.int8)
            content += levels.numpy().tobytes() + steps.numpy().tobytes()
        else:
            content += weight.numpy().tobytes()
    return len(gzip.compress(content, mtime=0))


def _accuracies(net: EarlyExitNetwork, b: Bench) -> dict[str, float]:
    accuracy = pruning_schedule.accuracies(net, vision.batches(b.data.test))
    return {f"exit {j}": value for j, value in enumerate(accuracy, 1)} | {
        "mean": sum(accuracy) / len(accuracy)
    }
