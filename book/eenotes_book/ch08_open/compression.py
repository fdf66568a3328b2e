"""Question 3, compression: prune, quantise and distil one network in every order."""

import copy
import gzip
from collections.abc import Iterable
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from eenotes import training
from eenotes.methods import pruning, pruning_schedule
from eenotes.network import EarlyExitNetwork
from eenotes_book.ch08_open.compact import best_step, quantise
from eenotes_book.ch08_open.networks import TrainedNetwork, freeze_garbage
from eenotes_book.ch08_open.settings import Order
from eenotes_book.data import vision

OPERATIONS = {"P": "prune", "Q": "quantise", "D": "distil", "C": "train on"}
ORDERS = ("PQD", "PDQ", "QPD", "QDP", "DPQ", "DQP", "PQC")


class Rounded(nn.Module):
    """A parametrisation: weights rounded in the forward pass, with gradients straight through.

    The steps are those of the weights as they are now, and stay.
    """

    def __init__(self, weight: Tensor, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("step", best_step(weight, bits=bits))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight; its gradient is that of the weight."""
        return weight + (quantise(weight, bits=self.bits, step=self.step) - weight).detach()


def distillation_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, temperature: float = 2.0
) -> Tensor:
    r"""Self-distillation: every early exit learns the labels and the last exit's softmax alike.

    It is (8.5), $\frac1J$ times $\mathrm{CE}(z_J, y) + \frac12 \sum_{j<J}
    \bigl[\mathrm{CE}(z_j, y) + \tau^2\mathrm{KL}(p_J \Vert p_j)\bigr]$, with $p_j$ the softmax of
    $z_j/\tau$; no gradient flows into the teacher.
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
    network: TrainedNetwork,
    order: str,
    s: Order,
    *,
    bits: int,
    made: dict[tuple[str, int | None], EarlyExitNetwork] | None = None,
) -> EarlyExitNetwork:
    """A copy of the network, pruned, quantised and distilled in the order of the letters.

    Each letter is followed by equally many epochs.

    Args:
        network: the trained network.
        order: letters of `OPERATIONS`.  P removes the smallest weights of backbone and exits for
            good, Q rounds what the forward pass uses from then on, D and C change only the loss of
            their own epochs: with distillation, without it.
        s: of every letter.
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
    net = with_masks(network.net)
    for number, letter in enumerate(order):
        done = order[: number + 1]
        key = (done, bits if "Q" in done else None)
        if key not in made:
            made[key] = copy.deepcopy(net)
            loss = _change(made[key], letter, rate=s.rate, bits=bits)
            training.fit(
                made[key],
                network.data.train,
                loss=loss,
                epochs=s.epochs,
                batch_size=s.batch_size,
                optimizer=partial(training.sgd, lr=s.learning_rate),
                seed=100 * network.seed + number,
                title=f"{order}: {OPERATIONS[letter]}",
            )
            _apply_masks(made[key])
        net = made[key]
    return net


def with_masks(net: EarlyExitNetwork) -> EarlyExitNetwork:
    """A copy whose layers have masks that mask nothing yet.

    With them a rounded weight can be pruned, and a pruned one can be rounded.
    """
    twin = copy.deepcopy(net)
    for module in pruning.layers(twin).values():
        prune.identity(module, "weight")
    _apply_masks(twin)
    return twin


def _apply_masks(net: EarlyExitNetwork) -> None:
    """Bring the masked weights up to date with what is behind them."""
    pruning.sparsity(pruning.layers(net))


def _change(net: EarlyExitNetwork, letter: str, *, rate: float, bits: int) -> training.Loss:
    """Do to the network, in place, what the letter says; return the loss of the next epochs."""
    layers = pruning.layers(net)
    if letter == "P":
        pruning.prune_smallest(layers.values(), rate=rate)
    if letter == "Q":
        for module in layers.values():
            rounded = Rounded(module.weight, bits)
            parametrize.register_parametrization(module, "weight_orig", rounded)
    return distillation_loss if letter == "D" else training.joint_loss


@torch.no_grad()
def prune_behind(modules: Iterable[nn.Module], *, rate: float) -> None:
    """Prune rounded layers by the weights behind the rounded ones, in one ranking over all.

    Gradients have moved these weights all the while.

    Args:
        modules: layers whose weights are `Rounded`.
        rate: share of all their weights to remove, strictly between 0 and 1.

    Raises:
        ValueError: a layer that is not rounded, or a rate outside (0, 1).
    """
    modules = list(modules)
    rounded = [parametrize.is_parametrized(module, "weight_orig") for module in modules]
    if not 0 < rate < 1 or not all(rounded):
        raise ValueError(
            "need rounded layers and a rate strictly between 0 and 1, "
            f"got {len(modules)} layers, {sum(rounded)} of them rounded, and {rate}"
        )
    sizes = [module.parametrizations.weight_orig.original.abs() for module in modules]
    ranked = torch.cat([size.flatten() for size in sizes]).sort().values
    limit = ranked[round(rate * len(ranked)) - 1]
    for module, size in zip(modules, sizes, strict=True):
        prune.custom_from_mask(module, "weight", (size > limit).to(size))
    pruning.sparsity({str(number): module for number, module in enumerate(modules)})


def order_table(network: TrainedNetwork, s: Order) -> pd.DataFrame:
    """Every order with every number of bits, and the network before (``"dense"``), one row each.

    Returns:
        ``seed``, ``order``, ``bits``; the test accuracy of each exit (``exit 1`` ...), their
        ``mean``; and ``bytes``, see `stored_bytes`.
    """
    freeze_garbage()
    made: dict = {}
    nets = {("dense", 32): network.net}
    for bits in s.bits:
        for order in ORDERS:
            nets[order, bits] = compressed(network, order, s, bits=bits, made=made)
    rows = []
    for (order, bits), net in nets.items():
        accuracy = pruning_schedule.accuracies(net, vision.batches(network.data.test))
        row = {"seed": network.seed, "order": order, "bits": bits}
        row |= {f"exit {j}": value for j, value in enumerate(accuracy, 1)}
        row |= {"mean": sum(accuracy) / len(accuracy), "bytes": stored_bytes(net)}
        rows.append(row)
    return pd.DataFrame(rows)


def stored_bytes(net: EarlyExitNetwork) -> int:
    """The size of a gzip file of the weight matrices.

    Rounded weights are whole numbers of steps, one byte each; others are float32.
    """
    content = b""
    for module in pruning.layers(net).values():
        weight = module.weight.detach().cpu()
        parametrizations = getattr(module, "parametrizations", {}).values()
        rounded = [chain[0] for chain in parametrizations if isinstance(chain[0], Rounded)]
        if rounded:
            steps = rounded[0].step.cpu()
            levels = (weight.flatten(1) / steps).round().to(torch.int8)
            content += levels.numpy().tobytes() + steps.numpy().tobytes()
        else:
            content += weight.numpy().tobytes()
    return len(gzip.compress(content, mtime=0))
