"""What pruning saves: tables of sparsity, effective MACs, and whole channels.

Zeros come from `eenotes.methods.pruning`.  Weights that are really gone, not only zero, are
torch-pruning's work (`prune_channels`).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from eenotes._checks import require_range
from eenotes.costs import Costs, count_macs
from eenotes.methods.pruning import WEIGHTED, layers, permanent, sparsity
from eenotes.methods.pruning_schedule import Iteration
from eenotes.network import EarlyExitNetwork, in_mode


def sparsity_table(net: EarlyExitNetwork) -> pd.DataFrame:
    """The zeros of each layer.

    Returns:
        One row per layer, in the order of execution: ``part``, ``kind`` (convolution, linear),
        ``weights``, ``zeros``, ``sparsity``.
    """
    found = layers(net)
    shares = sparsity(found)
    rows = [
        {
            "part": "exits" if name.startswith("exits.") else "backbone",
            "kind": "linear" if isinstance(module, nn.Linear) else "convolution",
            "weights": module.weight.numel(),
            "zeros": round(shares[name] * module.weight.numel()),
            "sparsity": shares[name],
        }
        for name, module in found.items()
    ]
    return pd.DataFrame(rows, index=pd.Index(found, name="layer"))


def pool_sparsity(table: pd.DataFrame) -> pd.Series:
    """From `sparsity_table`: the share of zeros in ``backbone``, ``exits`` and ``all`` together."""
    pools = table.groupby("part")[["zeros", "weights"]].sum()
    pools.loc["all"] = pools.sum()
    return pd.Series(pools.zeros / pools.weights, name="sparsity")


def by_round(iterations: Sequence[Iteration]) -> pd.DataFrame:
    """Sparsity after each round: one row per round (from 1), one column per layer.

    The two phases of `pruning_schedule.separately` are put side by side: row r holds the backbone
    after r rounds of its own and the exits after r of theirs.
    """
    rows: dict[int, dict[str, float]] = {}
    for iteration in iterations:
        mine = {
            name: value
            for name, value in iteration.sparsity.items()
            if iteration.part == "all" or name.startswith("exits.") == (iteration.part == "exits")
        }
        rows.setdefault(iteration.number, {}).update(mine)
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table[list(iterations[0].sparsity)].rename_axis("round") if iterations else table


@torch.no_grad()
def effective_costs(net: EarlyExitNetwork, x: Tensor) -> Costs:
    """MACs of one sample that are not multiplications by a zero weight (3.4).

    A weight is used once per position of its layer's output.  A zero saves all of them, if the
    hardware skips it, which none here does.  What ``forward`` reads of a layer that it does not
    call counts in full.  Without zeros the result is that of `count_macs`.

    Args:
        net: a network, pruned or not.
        x: a sample batch ``(B, ...)``.
    """
    dense, saved = count_macs(net, x), _saved(net, x)

    def effective(part: str, macs: Sequence[int]) -> tuple[int, ...]:
        return tuple(count - saved[part, j] for j, count in enumerate(macs))

    return Costs(effective("stages", dense.stages), effective("exits", dense.exits))


def _saved(net: EarlyExitNetwork, x: Tensor) -> Counter[tuple[str, int]]:
    """The MACs of one sample with a zero, in each stage and exit, where the layers are used."""
    saved: Counter[tuple[str, int]] = Counter()
    place = ("stages", 0)

    def note(zeros: int, module: nn.Module, _: object, out: Tensor) -> None:
        saved[place] += zeros * (out.numel() // (len(x) * module.weight.shape[0]))

    handles = [
        module.register_forward_hook(partial(note, int((module.weight == 0).sum())))
        for module in layers(net).values()
    ]
    try:
        with in_mode(net):
            features = x
            for j, stage in enumerate(net.stages):
                place = ("stages", j)
                features = stage(features)
                place = ("exits", j)
                if j < len(net.exits):
                    net.exits[j](features)
    finally:
        for handle in handles:
            handle.remove()
    return saved


def prune_channels(net: EarlyExitNetwork, x: Tensor, *, ratio: float) -> EarlyExitNetwork:
    """A copy with whole channels removed, the least important first (Fang et al., 2023).

    Its matrices are smaller, instead of holding zeros.  What hangs together shrinks together: a
    channel of a residual stream disappears from every convolution, batch normalisation and exit
    that touches it.  The number of classes stays.

    Args:
        net: a network; its own zeros, if any, become weights like others.
        x: a sample batch ``(B, ...)`` on the network's device; the library follows its gradients
            through the network.
        ratio: share of the channels of every layer that goes, strictly between 0 and 1; about
            ``(1 - ratio)**2`` of the weights stay.

    Raises:
        ImportError: without the package torch-pruning.
        ValueError: a ratio outside (0, 1), a network without prunable exits, or one whose layers
            torch-pruning cannot follow; it names the first of them.
    """
    require_range(0, 1, ratio=ratio)
    layers(net)
    _refuse_foreign(net)
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            "prune_channels needs torch-pruning: pip install 'eenotes[pruning]'"
        ) from error
    twin = permanent(net).eval().requires_grad_()
    outputs = [
        [m for m in head.modules() if isinstance(m, WEIGHTED)]
        for head in (*twin.exits, twin.stages[-1])
    ]
    try:
        pruner = torch_pruning.pruner.BasePruner(
            twin,
            x[:1],
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[found[-1] for found in outputs if found],  # the classes
        )
        pruner.step()
        with torch.no_grad():
            twin.eval()(x[:1])
    except (RuntimeError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as e:
        raise ValueError(_CANNOT.format(_obstacle(net))) from e
    return twin.eval()


def _refuse_foreign(net: EarlyExitNetwork) -> None:
    """Refuse attention, and weights outside of PyTorch's own layers, such as a class token.

    On a small vision transformer torch-pruning took gigabytes and did not end in half a minute.
    """
    for name, module in net.named_modules():
        own = next((weight for weight, _ in module.named_parameters(recurse=False)), None)
        kind = type(module)  # a trace makes plain modules of those whose forward it looks into
        layer = isinstance(module, WEIGHTED) or kind.__module__.startswith("torch.nn.modules")
        if own is not None and (not layer or kind in (nn.Module, nn.MultiheadAttention)):
            raise ValueError(_CANNOT.format(f"{name}.{own} ({type(module).__name__})"))


_CANNOT = (
    "torch-pruning cannot remove channels around {}: prune single weights with "
    "eenotes.methods.pruning, or use a backbone of plain convolutions"
)


def _obstacle(net: EarlyExitNetwork) -> str:
    """The first layer with weights that is neither a convolution, linear nor batch normalised."""
    for name, module in net.named_modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None and not isinstance(module, (*WEIGHTED, _BatchNorm)):
            return f"{name} ({type(module).__name__})"
    for j, stage in enumerate(net.stages):
        for node in stage.graph.nodes if isinstance(stage, fx.GraphModule) else ():
            if node.target in ("view", "reshape", "chunk"):
                return f"the {node.target} of channels in stages.{j} ({node.name})"
    return f"the layers of {', '.join(sorted({type(m).__name__ for m in net.modules()}))}"
