r"""Pruning early exit networks (Görmez and Koyuncu, 2022).

Prune a fraction of the remaining weights by magnitude, fine-tune, repeat.  The question is the
order: exits `together` with the backbone, out of one pool, or `separately`, after it, on a backbone
that is frozen by then.  Masks are those of ``torch.nn.utils.prune``; weights that are really gone,
not only zero, are `torch-pruning`'s (`prune_channels`).
"""

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import Dataset, Subset

from eenotes import checkpoints, training
from eenotes.inference import check_answers, collect
from eenotes.network import EarlyExitNetwork

if TYPE_CHECKING:
    pass


Part = Literal["all", "backbone", "exits"]


Scope = Literal["global", "layer"]


WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers(net: EarlyExitNetwork, *, part: Part = "all") -> dict[str, nn.Module]:
    """The linear and convolution layers in the order of execution, by the name under which
    ``net.get_submodule`` finds them.

    The classifier at the end belongs to the backbone.  Only weight matrices are pruned: no biases,
    no batch normalisation.

    Raises:
        ValueError: an unknown part, or a part without such a layer: a network without exits, or
            with exits that have no weights.
    """
    if part not in ("all", "backbone", "exits"):
        raise ValueError(f"part={part!r} must be 'all', 'backbone' or 'exits'")
    # a shared layer: its first name
    names = {id(module): name for name, module in reversed(list(net.named_modules()))}
    found: dict[str, nn.Module] = {}
    for j, stage in enumerate(net.stages):
        roots = [] if part == "exits" else [stage]
        roots += [] if part == "backbone" else list(net.exits[j : j + 1])
        found |= {
            names[id(m)]: m for root in roots for m in root.modules() if isinstance(m, WEIGHTED)
        }
    exits = [m for head in net.exits for m in head.modules() if isinstance(m, WEIGHTED)]
    if part != "backbone" and not exits:
        raise ValueError(
            f"the network has {len(net.exits)} early exits and no weights in them: there is no exit to prune"
        )
    if not found:
        raise ValueError(f"no linear or convolution layer in part {part!r} of the network")
    return found


def prune_smallest(modules: Iterable[nn.Module], *, rate: float, scope: Scope = "global") -> None:
    """Set the smallest of the **remaining** weights to zero for good (3.1), by
    ``torch.nn.utils.prune``; in place.

    Args:
        modules: layers with a ``weight``, such as the values of `layers`; a layer already pruned
            keeps its zeros.
        rate: fraction of the remaining weights to remove, strictly between 0 and 1.
        scope: ``"global"`` compares the weights of all modules with each other, ``"layer"`` takes
            the fraction from each layer.

    Raises:
        ValueError: a rate outside (0, 1), an unknown scope, no modules, weights that are not
            finite, or nothing left to remove.
    """
    modules = list(modules)
    check_rate(rate)
    if scope not in ("global", "layer"):
        raise ValueError(f"scope={scope!r} must be 'global' or 'layer'")
    if not modules or not all(
        isinstance(getattr(module, "weight", None), Tensor) for module in modules
    ):
        raise ValueError(
            "prune_smallest needs at least one layer, and each with a weight; layers(net) finds those of a network"
        )
    refresh(modules)
    if not all(module.weight.isfinite().all() for module in modules):
        raise ValueError("a weight is not finite: its magnitude cannot be compared")
    left = [_remaining(module) for module in modules]
    removed = (
        round(rate * sum(left)) if scope == "global" else sum(round(rate * count) for count in left)
    )
    if not removed:
        raise ValueError(
            f"nothing left to prune: a rate of {rate} takes none of the {sum(left)} weights that remain"
        )
    if scope == "global":
        pairs = [(module, "weight") for module in modules]
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=float(rate))
    else:
        for module in modules:
            prune.l1_unstructured(module, "weight", amount=float(rate))
    refresh(modules)


def permanent(net: EarlyExitNetwork) -> EarlyExitNetwork:
    """An independent copy whose pruned weights are plain zeros in plain parameters: no masks, the
    same outputs.
    """
    refresh(net.modules())
    twin = copy.deepcopy(net)
    for module in twin.modules():
        for name in [
            hook._tensor_name
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, prune.BasePruningMethod)
        ]:
            prune.remove(module, name)
    return twin


@dataclass(frozen=True)
class Iteration:
    """One prune + fine-tune iteration, as it left the network."""

    part: Part  # what was pruned and fine-tuned
    number: int  # from 1, within its part
    sparsity: dict[str, float]  # layer → share of its weights that are zero, all layers
    accuracy: tuple[float, ...]  # of every exit, as `evaluate` gave it


Tune = Callable[[EarlyExitNetwork, Part, int], object]


Evaluate = Callable[[EarlyExitNetwork], Sequence[float]]


Plan = Sequence[tuple[Part, float, int]]  # (what, rate, rounds) of each phase


def schedule(
    net: EarlyExitNetwork,
    plan: Plan,
    *,
    tune: Tune,
    evaluate: Evaluate,
    scope: Scope = "global",
    checkpoint: Path | None = None,
) -> Iterator[Iteration]:
    """Any order of pruning: phase by phase, each ``(part, rate, rounds)`` of prune + fine-tune
    iterations.

    Args:
        net: a trained network, changed in place iteration by iteration, as the iterator is asked
            for the next one.
        plan: the phases; during one of them everything outside its part is frozen.
        tune: ``tune(net, part, number)`` fine-tunes ``part`` in place, after iteration ``number``
            (from 1) of its phase has pruned it; see `fine_tune`.
        evaluate: ``evaluate(net)`` gives the accuracy of every exit; see `accuracies`.
        scope: see `prune_smallest`.
        checkpoint: a ``.safetensors`` file, written after every iteration.  A schedule that was cut
            off goes on after its last whole iteration: those before it are yielded from the file,
            and the network is in the state of the last of them.  A file of another network or plan
            is reported by a `training.CheckpointWarning` and written anew; what ``tune`` does, it
            cannot know.

    Returns:
        An iterator over one `Iteration` per round of each phase.

    Raises:
        ValueError: bad rate, rounds or scope, or a network without prunable exits, all at once;
            while iterating: nothing left to prune.
        RuntimeError: while iterating, if ``tune`` changed what the phase freezes: parameters, or
            statistics of batch normalisation.
    """
    layers(net)  # raises without exits
    for part, rate, rounds in plan:
        layers(net, part=part)
        check_rate(rate)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"rounds={rounds!r} must be a whole number of at least 1")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope={scope!r} must be 'global' or 'layer'")
    return _iterations(net, plan, tune=tune, evaluate=evaluate, scope=scope, checkpoint=checkpoint)


def together(net: EarlyExitNetwork, *, rate: float, rounds: int, **options) -> Iterator[Iteration]:
    """Approach 1: backbone and exits in one pool, with one cut for both (3.3); prune, fine-tune
    everything, repeat ``rounds`` times.

    ``options`` (``tune``, ``evaluate``, ``scope``, ``checkpoint``), return value and errors are
    those of `schedule`.
    """
    return schedule(net, [("all", rate, rounds)], **options)


def separately(
    net: EarlyExitNetwork, *, rate: float, rounds: int, **options
) -> Iterator[Iteration]:
    r"""Approach 2: prune and fine-tune the backbone ``rounds`` times, freeze it, then prune and
    fine-tune the exits as often.

    Every weight goes through as many iterations as in `together`, and both pools end at the same
    sparsity, $1 - (1 - \rho)^R$ (3.2). ``options`` (``tune``, ``evaluate``, ``scope``,
    ``checkpoint``), return value and errors are those of `schedule`.
    """
    return schedule(net, [("backbone", rate, rounds), ("exits", rate, rounds)], **options)


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
    """One iteration's fine-tuning of one part, the rest frozen: a ``tune`` for the schedules once
    `functools.partial` has set its options.

    Everything is tuned on the mean loss of all exits, exits alone on that of the early ones, and
    the backbone alone on its own classifier's, as if the exits were not there yet.

    Args:
        net: in place.
        part: what to train; the rest keeps its parameters and its statistics of batch normalisation
            bit by bit.
        number: of the iteration; with ``seed`` it draws the samples and their order, the same ones
            for every schedule.
        dataset: of ``(x, y)``.
        samples: how many are seen; more than there are: some twice.
        batch_size: per step.
        backbone_loss: another loss for part ``"backbone"``, for example `training.joint_loss`.
        seed: see ``number``.
        optimizer: from parameters to an optimizer.
        augment: see `training.fit`.

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
    if part not in tunable:
        raise ValueError(f"part={part!r} must be 'all', 'backbone' or 'exits'")
    whole, loss = tunable[part]
    generator = torch.Generator().manual_seed(seed * 10_007 + number)
    passes = -(-samples // len(dataset))
    drawn = torch.cat([torch.randperm(len(dataset), generator=generator) for _ in range(passes)])[
        :samples
    ]
    (mean_loss,) = training.fit(
        net,
        Subset(dataset, drawn.tolist()),
        loss=loss,
        epochs=1,
        batch_size=batch_size,
        optimizer=optimizer,
        part=whole,
        augment=augment,
        seed=seed * 10_007 + number,
        title=f"{part} {number}",
    )
    return mean_loss


def last_exit_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the backbone's own classifier, the last exit; labels ``(B,)``."""
    x, y = batch
    return nn.functional.cross_entropy(model(x)[-1], y)


def accuracies(
    net: EarlyExitNetwork, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, ...]:
    """The share of right answers of every exit, first to last, each judged on all samples, in
    batches ``(x, y)``: J numbers.

    Raises:
        ValueError: what `eenotes.inference.collect` raises, or NaN logits.
    """
    logits, labels = collect(net, batches)
    for j, z in enumerate(logits):
        check_answers(j, z)  # the argmax of NaN would be class 0
    return tuple((logits.argmax(2) == labels).double().mean(1).tolist())


def _iterations(
    net: EarlyExitNetwork,
    plan: Plan,
    *,
    tune: Tune,
    evaluate: Evaluate,
    scope: Scope,
    checkpoint: Path | None,
) -> Iterator[Iteration]:
    run = {"plan": [list(phase) for phase in plan], "scope": scope, "start": fingerprint(net)}
    done = _resume(checkpoint, run, net) if checkpoint else []
    yield from done
    steps = [(part, rate, number) for part, rate, rounds in plan for number in range(1, rounds + 1)]
    for part, rate, number in steps[len(done) :]:
        prune_smallest(layers(net, part=part).values(), rate=rate, scope=scope)
        frozen = {"all": nn.ModuleList(), "backbone": net.exits, "exits": net.stages}[part]
        before = fingerprint(frozen)
        tune(net, part, number)
        refresh(net.modules())
        if fingerprint(frozen) != before:
            raise RuntimeError(
                f"fine-tuning of the {part} changed weights or statistics outside them: train with part=net.{_HOME[part]} only"
            )
        net.eval()
        accuracy = tuple(float(value) for value in evaluate(net))
        done.append(Iteration(part, number, sparsity(layers(net)), accuracy))
        if checkpoint and training.accelerator().is_main_process:
            checkpoints.save_tensors(
                checkpoint,
                net.state_dict(),
                run=run,
                iterations=[asdict(iteration) for iteration in done],
            )
        yield done[-1]


_HOME = {"backbone": "stages", "exits": "exits"}


def _resume(path: Path, run: dict, net: EarlyExitNetwork) -> list[Iteration]:
    """Bring the network to where the file left it; the iterations up to there, none if there is
    nothing to use.
    """
    if not Path(path).exists():
        return []
    try:
        tensors, facts = checkpoints.load_tensors(path)
        if facts.get("run") != run:
            raise ValueError(
                f"it belongs to another plan or network: {facts.get('run')} instead of {run}"
            )
    except ValueError as error:
        warnings.warn(
            f"{path} is not used, pruning starts anew: {error}",
            checkpoints.CheckpointWarning,
            stacklevel=4,
        )
        return []
    refresh(net.modules())
    for name, module in layers(net).items():
        if f"{name}.weight_mask" in tensors:
            prune.custom_from_mask(
                module, "weight", tensors[f"{name}.weight_mask"].to(module.weight.device)
            )
    net.load_state_dict(tensors)
    net.eval()
    refresh(net.modules())
    return [
        Iteration(i["part"], i["number"], i["sparsity"], tuple(i["accuracy"]))
        for i in facts["iterations"]
    ]


def fingerprint(module: nn.Module) -> str:
    """A hash of every parameter and buffer, bit by bit: equal before and after means that nothing
    was changed.
    """
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


def check_rate(rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
        raise ValueError(
            f"rate={rate!r} must be a fraction strictly between 0 and 1: the share of the remaining weights to remove"
        )


def _remaining(module: nn.Module) -> int:
    mask = getattr(module, "weight_mask", None)
    return module.weight.numel() if mask is None else int(mask.sum())


@torch.no_grad()
def refresh(modules: Iterable[nn.Module]) -> None:
    """Recompute pruned weights: after an optimizer step ``weight`` is still what the last forward
    pass used.
    """
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                hook(module, None)


def sparsity(modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """The share of each layer's weights that are zero, in [0, 1]."""
    refresh(modules.values())
    return {name: (module.weight == 0).double().mean().item() for name, module in modules.items()}
