r"""Pruning early exit networks (Görmez and Koyuncu, 2022).

Prune a fraction of the remaining weights by magnitude, fine-tune, repeat.  The question is the
order: exits `together` with the backbone, out of one pool, or `separately`, after it, on a backbone
that is frozen by then.  Masks are those of ``torch.nn.utils.prune``; weights that are really gone,
not only zero, are `torch-pruning`'s (`prune_channels`).
"""

import gzip
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from eenotes.costs import Costs, count_macs
from eenotes.network import EarlyExitNetwork, in_mode

if TYPE_CHECKING:
    import pandas as pd
from eenotes.methods.pruning import WEIGHTED, Iteration, check_rate, layers, permanent, sparsity


def sparsity_table(net: EarlyExitNetwork) -> "pd.DataFrame":
    """One row per layer, in the order of execution:

    ``part``, ``kind`` (convolution, linear), ``weights``, ``zeros``, ``sparsity``.
    """
    import pandas as pd

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


def pool_sparsity(table: "pd.DataFrame") -> "pd.Series":
    """From `sparsity_table`: the share of zeros in the backbone's pool, in that of the exits, and
    in both together.
    """
    import pandas as pd

    pools = table.groupby("part")[["zeros", "weights"]].sum()
    pools.loc["all"] = pools.sum()
    return pd.Series(pools.zeros / pools.weights, name="sparsity")


def by_round(iterations: Sequence[Iteration]) -> "pd.DataFrame":
    """Sparsity after each round of a schedule: one row per round (from 1), one column per layer.

    The two halves of `separately` are put side by side: row r holds the backbone after r rounds of
    its own and the exits after r of theirs.
    """
    import pandas as pd

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
    """MACs of one sample that are not multiplications by a zero weight (3.4); without zeros it is
    `count_macs`.

    ``x``, ``(B, ...)``, is a sample batch.  A weight is used once per position of its layer's
    output; a zero saves all of them, if the hardware skips it, which none here does.
    """
    dense, found, uses = count_macs(net, x), layers(net), {}

    def note(name: str, module: nn.Module, _, out: Tensor) -> None:
        uses[name] = uses.get(name, 0) + out.numel() // (len(x) * module.weight.shape[0])

    handles = [module.register_forward_hook(partial(note, name)) for name, module in found.items()]
    try:
        with in_mode(net):
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    idle = {
        name: int((module.weight == 0).sum()) * uses.get(name, 0) for name, module in found.items()
    }

    def less(part: str, macs: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            count
            - sum(saved for name, saved in idle.items() if f"{name}.".startswith(f"{part}.{j}."))
            for j, count in enumerate(macs)
        )

    return Costs(less("stages", dense.stages), less("exits", dense.exits))


def checkpoint_bytes(net: EarlyExitNetwork, *, compress: bool = True) -> int:
    """The size of the network as a safetensors file, without masks, plain or gzipped; (3.5) says
    how small it can get.
    """
    from safetensors.torch import save

    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in permanent(net).state_dict().items()
    }
    content = save(state)
    return len(gzip.compress(content, mtime=0) if compress else content)


def prune_channels(net: EarlyExitNetwork, x: Tensor, *, ratio: float) -> EarlyExitNetwork:
    """A copy with whole channels removed, the least important first (Fang et al., 2023): smaller
    matrices, not zeros.

    What hangs together shrinks together: a channel of a residual stream disappears from every
    convolution, batch normalisation and exit that touches it.  The number of classes stays.

    Args:
        net: a network; its own zeros, if any, become weights like others.
        x: a sample batch ``(B, ...)`` on the network's device; the library follows its gradients
            through the network.
        ratio: share of the channels of every layer that goes, strictly between 0 and 1; about ``(1
            - ratio)**2`` of the weights stay.

    Raises:
        ImportError: without the package torch-pruning.
        ValueError: a ratio outside (0, 1), or a network without prunable exits.
    """
    check_rate(ratio)
    layers(net)
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            "prune_channels needs torch-pruning: pip install 'eenotes[pruning]'"
        ) from error
    twin = permanent(net).eval().requires_grad_()
    heads = [
        [m for m in head.modules() if isinstance(m, WEIGHTED)]
        for head in (*twin.exits, twin.stages[-1])
    ]
    pruner = torch_pruning.pruner.BasePruner(
        twin,
        x[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[found[-1] for found in heads if found],  # their outputs are the classes
    )
    pruner.step()
    return twin.eval()
