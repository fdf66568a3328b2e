"""The sweep of chapter 3: how much of the weight budget goes to separately pruned exits."""

from collections.abc import Sequence

from eenotes.methods import pruning_schedule
from eenotes.methods.pruning_schedule import Phase, separately, together
from eenotes.network import EarlyExitNetwork
from eenotes_book import statistics
from eenotes_book.ch03_pruning import pruned_costs
from eenotes_book.ch03_pruning.experiment import Bench, pruned
from eenotes_book.data import vision


def sweep(b: Bench) -> list[dict]:
    """Both approaches over pruning rates, and over what the exits may keep of the weight budget.

    At each rate all networks keep equally many weights.  The separate ones give their exits more or
    fewer of them, and the backbone the rest; ``s.sweep.exit_sparsity`` says how sparse the exits
    become, and once they become as sparse as the backbone: the plain approach 2.  Rounds per weight
    and samples per round are equal throughout.

    Returns:
        A row per rate and sparsity of the exits, with ``sparsity`` (of all weights), ``exits`` (the
        sparsity wanted of the exits), ``share`` (of the kept weights, those in exits) and ``kept``
        (all weights kept); ``pool_exits``, ``pool_share`` and ``pool_kept`` are those of pruning
        together; ``early`` (mean of the early exits) and ``last`` are test accuracies, together -
        separately.
    """
    s, rows = b.s.sweep, []
    for rate in s.rates:
        pool = _judged(b, "sweep together", together(rate=rate, rounds=s.rounds))
        sparsity = 1 - (1 - rate) ** s.rounds
        for exits in [*(x for x in s.exit_sparsity if x < sparsity), sparsity]:
            plan = _plan_with_exits(b, sparsity=sparsity, exits=exits)
            apart = _judged(b, "sweep separately", plan)
            rows.append(
                {
                    "sparsity": sparsity,
                    "exits": exits,
                    "share": apart["share"],
                    "early": pool["early"] - apart["early"],
                    "last": pool["last"] - apart["last"],
                    "pool_exits": pool["sparsity"],
                    "pool_share": pool["share"],
                    "kept": apart["kept"],
                    "pool_kept": pool["kept"],
                }
            )
    return rows


def kept_shares(net: EarlyExitNetwork, *, sparsity: float, exits: float) -> dict[str, float]:
    """The shares of their weights that backbone and exits keep.

    Args:
        net: a network.
        sparsity: of all weights together.
        exits: sparsity of the exits; the backbone makes up for it.
    """
    sizes = pruned_costs.sparsity_table(net).groupby("part").weights.sum()
    kept = {"exits": 1 - exits}
    kept["backbone"] = (1 - sparsity) * sizes.sum() - kept["exits"] * sizes["exits"]
    kept["backbone"] /= sizes["backbone"]
    return kept


def _plan_with_exits(b: Bench, *, sparsity: float, exits: float) -> list[Phase]:
    """Approach 2 with so many zeros in all, and another share of zeros in the exits."""
    rounds = b.s.sweep.rounds
    shares = kept_shares(b.net, sparsity=sparsity, exits=exits)
    rates = {part: 1 - share ** (1 / rounds) for part, share in shares.items()}
    return separately(rate=rates["backbone"], rounds=rounds, exits_rate=rates["exits"])


def _judged(b: Bench, name: str, plan: Sequence[Phase]) -> dict[str, float | int]:
    """The weights ``kept`` after a plan, the exits' ``share`` and ``sparsity``, and accuracies."""
    net, _ = pruned(b, name, plan, samples=b.s.sweep.samples)
    table = pruned_costs.sparsity_table(net)
    kept = (table.weights - table.zeros).groupby(table.part).sum()
    *early, last = pruning_schedule.accuracies(net, vision.batches(b.data.test))
    return {
        "sparsity": float(pruned_costs.pool_sparsity(table)["exits"]),
        "share": float(kept["exits"] / kept.sum()),
        "kept": int(kept.sum()),
        "early": statistics.mean(early),
        "last": last,
    }
