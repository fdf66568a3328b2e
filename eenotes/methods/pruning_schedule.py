"""Pruning early exit networks round by round (Görmez and Koyuncu, 2022).

Each round prunes a fraction of the remaining weights, then fine-tunes.  The question is the order:
exits `together` with the backbone, out of one pool, or `separately`, after it, on a frozen one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import Dataset, Subset

from eenotes import checkpoints, training
from eenotes._checks import pair, require_answers, require_one_of, require_range
from eenotes.identity import described, fingerprint
from eenotes.inference import collect
from eenotes.methods import pruning
from eenotes.methods.pruning import Part, Scope, layers, refresh
from eenotes.network import EarlyExitNetwork


class Phase(NamedTuple):
    """Rounds of pruning and fine-tuning one part, while the rest is frozen."""

    part: Part
    rate: float
    rounds: int


def together(*, rate: float, rounds: int) -> list[Phase]:
    """The plan of approach 1: backbone and exits in one pool, with one cut for both (3.3)."""
    return [Phase("all", rate, rounds)]


def separately(*, rate: float, rounds: int, exits_rate: float | None = None) -> list[Phase]:
    r"""The plan of approach 2: first the backbone, then, on the frozen backbone, the exits.

    After as many rounds as in `together` both pools end at the same sparsity, $1 - (1 - \rho)^R$
    (3.2), unless the exits have a rate of their own.
    """
    of_exits = rate if exits_rate is None else exits_rate
    return [Phase("backbone", rate, rounds), Phase("exits", of_exits, rounds)]


@dataclass(frozen=True)
class Iteration:
    """One round of pruning and fine-tuning, as it left the network."""

    part: Part  #: what was pruned and fine-tuned
    number: int  #: from 1, within its phase
    sparsity: dict[str, float]  #: layer → share of its weights that are zero, all layers
    accuracy: tuple[float, ...]  #: of every exit, as ``evaluate`` gave it


def run(
    net: EarlyExitNetwork,
    plan: Sequence[Phase],
    *,
    tune: Callable[[EarlyExitNetwork, Part, int], object],
    evaluate: Callable[[EarlyExitNetwork], Sequence[float]],
    scope: Scope = "global",
    checkpoint: Path | None = None,
) -> Iterator[Iteration]:
    """Prune and fine-tune phase by phase and round by round; yield one `Iteration` for each round.

    Args:
        net: a trained network, changed in place by each step of the iterator.
        plan: the phases, from `together`, `separately`, or in any other order.
        tune: ``tune(net, part, number)`` fine-tunes ``part`` in place, after iteration ``number``
            (from 1) of its phase has pruned it; see `fine_tune`.
        evaluate: ``evaluate(net)`` gives the accuracy of every exit; see `accuracies`.
        checkpoint: a file, written after every iteration, from which a run that was cut off goes
            on. One of another run is reported by a `checkpoints.CheckpointWarning` and written
            anew.

    Raises:
        ValueError: bad rate, rounds or scope, or a network without prunable exits, all at once;
            while iterating: nothing left to prune.
        RuntimeError: while iterating, if ``tune`` changed what the phase freezes.
    """
    layers(net)  # raises without exits
    for part, rate, rounds in plan:
        layers(net, part=part)
        require_range(0, 1, rate=rate)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"rounds={rounds!r} must be a whole number of at least 1")
    require_one_of(pruning.SCOPES, scope=scope)
    facts = {"plan": [list(phase) for phase in plan], "scope": scope}
    if checkpoint:
        facts["start"] = fingerprint(net)
        facts |= described({"tune": tune, "evaluate": evaluate})
    return _iterations(net, plan, facts, tune, evaluate, checkpoint)


def fine_tune(
    net: EarlyExitNetwork,
    part: Part,
    number: int,
    *,
    dataset: Dataset,
    samples: int,
    batch_size: int,
    backbone_loss: training.Loss | None = None,
    seed: int = 0,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = training.sgd,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> float:
    """Fine-tune one part for one iteration, in place; the rest is frozen bit by bit.

    With its options set by `functools.partial` it is a ``tune`` for `run`.  Everything is tuned on
    the mean loss of all exits, exits alone on that of the early ones, and the backbone alone on
    ``backbone_loss``, by default its own classifier's, as if the exits were not there yet.  The
    iteration's ``number`` and ``seed`` draw the ``samples`` ``(x, y)`` and their order, the same
    for every plan; if there are more than the data set has, some come twice.

    Returns:
        The mean training loss.

    Raises:
        ValueError: an unknown part, no data, fewer than one sample, or what `training.fit` raises.
    """
    if samples < 1 or not len(dataset):
        raise ValueError(f"samples={samples} of {len(dataset)}: fine-tuning needs at least one")
    tunable = {
        "all": (net, training.joint_loss),
        "backbone": (net.stages, backbone_loss or last_exit_loss),
        "exits": (net.exits, training.exits_loss),
    }
    require_one_of(pruning.PARTS, part=part)
    trained, loss = tunable[part]
    own_seed = seed * 10_007 + number
    generator = torch.Generator().manual_seed(own_seed)
    passes = -(-samples // len(dataset))
    orders = [torch.randperm(len(dataset), generator=generator) for _ in range(passes)]
    (mean_loss,) = training.fit(
        net,
        Subset(dataset, torch.cat(orders)[:samples].tolist()),
        loss=loss,
        epochs=1,
        batch_size=batch_size,
        optimizer=optimizer,
        part=trained,
        augment=augment,
        seed=own_seed,
        title=f"{part} {number}",
    )
    return mean_loss


def last_exit_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the backbone's own classifier, the last exit; labels ``(B,)``."""
    x, y = pair(batch)
    return training.cross_entropy(model(x)[-1:], y)


def accuracies(
    net: EarlyExitNetwork, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, ...]:
    """The accuracy of each of the J exits, first to last, on all samples of ``(x, y)`` batches.

    Raises:
        ValueError: what `eenotes.inference.collect` raises, or NaN logits.
    """
    logits, labels = collect(net, batches)
    for j, z in enumerate(logits):
        require_answers(j, z)  # the argmax of NaN would be class 0
    right = (logits.argmax(2) == labels).sum(1)
    return tuple(count / len(labels) for count in right.tolist())


def _iterations(
    net: EarlyExitNetwork, plan: Sequence[Phase], facts: dict, tune, evaluate, path: Path | None
) -> Iterator[Iteration]:
    """The rounds of `run`; ``facts`` are what a checkpoint must have been written with."""
    done = _resume(path, facts, net) if path else []
    yield from done
    steps = [(part, rate, number) for part, rate, rounds in plan for number in range(1, rounds + 1)]
    for part, rate, number in steps[len(done) :]:
        pruning.prune_smallest(layers(net, part=part).values(), rate=rate, scope=facts["scope"])
        frozen = {"all": nn.ModuleList(), "backbone": net.exits, "exits": net.stages}[part]
        before = fingerprint(frozen)
        tune(net, part, number)
        refresh(net.modules())
        if fingerprint(frozen) != before:
            trained = "net.stages" if part == "backbone" else "net.exits"
            what = f"fine-tuning of the {part} changed weights or statistics outside them"
            raise RuntimeError(f"{what}: train with part={trained} only")
        net.eval()
        accuracy = tuple(float(value) for value in evaluate(net))
        done.append(Iteration(part, number, pruning.sparsity(layers(net)), accuracy))
        if path and training.accelerator().is_main_process:
            iterations = [asdict(iteration) for iteration in done]
            checkpoints.save_tensors(path, net.state_dict(), run=facts, iterations=iterations)
        yield done[-1]


def _resume(path: Path, facts: dict, net: EarlyExitNetwork) -> list[Iteration]:
    """Bring the network to where the file left it; the iterations up to there."""
    loaded = checkpoints.load_of_run(path, facts, otherwise="pruning starts anew", key="run")
    if loaded is None:
        return []
    tensors, found = loaded
    refresh(net.modules())
    for name, module in layers(net).items():
        mask = tensors.get(f"{name}.weight_mask")
        if mask is not None:
            prune.custom_from_mask(module, "weight", mask.to(module.weight.device))
    net.load_state_dict(tensors)
    net.eval()
    refresh(net.modules())
    return [Iteration(**row | {"accuracy": tuple(row["accuracy"])}) for row in found["iterations"]]
