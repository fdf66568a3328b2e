"""Time of masked inference in chapter 4: against the plain backbone, skipped or masked."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import count_macs
from eenotes.rules import Rule
from eenotes_book import scale, timing
from eenotes_book.ch04_cbt.bench import Bench, Net
from eenotes_book.models.progress import resize


def share_plan(bench: Bench, images: Tensor, share: float) -> Tensor:
    """Where each place finishes, ``(B, h, w)``, so that a share of them stays active to the end.

    The surest places of each image finish at the first exit.
    """
    with torch.inference_mode():
        confidence = bench.net(images)[0].softmax(1).amax(1)
    count = round(share * confidence[0].numel())
    active = confidence.flatten(1).argsort(1)[:, :count]
    plan = torch.zeros_like(confidence, dtype=torch.int64).flatten(1)
    return plan.scatter_(1, active, bench.net.num_exits - 1).view_as(confidence)


def crossover(bench: Bench, shares: Sequence[float], *, batch: int) -> pd.DataFrame:
    """Time with a share of the places active behind the first exit, one row per ``share``.

    ``sparse`` and ``dense`` are times relative to the plain backbone's; ``MACs`` is what the sparse
    way needs, relative to the backbone.
    """
    return _crossover(bench, _batch(bench, batch), shares)


def _crossover(bench: Bench, images: Tensor, shares: Sequence[float]) -> pd.DataFrame:
    backbone_macs, rows = count_macs(bench.net, images[:1]).backbone, []
    for share in shares:
        plan = share_plan(bench, images, share)
        ways = {
            mode: partial(bench.net.segment, images, None, exit_index=plan, mode=mode)
            for mode in ("sparse", "dense")
        }
        plain = {"backbone": partial(backbone, bench.net, images)}
        times = timing.median_seconds(plain | ways, rounds=2)
        macs = ways["sparse"]().macs[-1].item() / backbone_macs
        relative = {mode: times[mode] / times["backbone"] for mode in ways}
        rows.append({"share": share, "MACs": macs, **relative})
    return pd.DataFrame(rows)


def break_even(table: pd.DataFrame) -> tuple[float, float] | None:
    """Where skipping takes as long as the plain backbone: share of active places, and MACs.

    Both are interpolated between the measured shares, and are the last ones if skipping is faster
    at all of them; ``None`` if it is slower already at the first.

    Args:
        table: from `crossover`.
    """
    slower = (table["sparse"] > 1).tolist()
    if slower[0]:
        return None
    last = table.iloc[-1]
    if not any(slower):
        return float(last["share"]), float(last["MACs"])
    low, high = table.iloc[slower.index(True) - 1], table.iloc[slower.index(True)]
    part = (1 - low["sparse"]) / (high["sparse"] - low["sparse"])
    share, macs = (low[name] + part * (high[name] - low[name]) for name in ("share", "MACs"))
    return float(share), float(macs)


def larger(
    bench: Bench, rule: Rule, *, batches: Sequence[int], threads: Sequence[int], zoom: int = 2
) -> pd.DataFrame:
    """`speed` on images enlarged ``zoom`` times, for the clock alone: more places, the same rule.

    One row per number of ``threads`` and size of the ``batch``; ``crossover`` is measured before.
    """
    known, given = torch.get_num_threads(), bench.net.crossover
    rows = []
    try:
        for count in threads:
            torch.set_num_threads(count)
            for batch in batches:
                images = resize(_batch(bench, batch), [zoom * n for n in bench.data.size])
                table = _crossover(bench, images, bench.settings.shares)
                bench.net.crossover = crossing(table)
                rows.append({"threads": count, **_speed(bench.net, images, rule)})
                even = break_even(table)
                rows[-1] |= {"crossover": bench.net.crossover, "break_even": even and even[1]}
    finally:
        torch.set_num_threads(known)
        bench.net.crossover = given
    return pd.DataFrame(rows)


def crossing(table: pd.DataFrame) -> float:
    """The share of active places at which sparse and dense take equally long.

    It lies between the measured shares; 0 or 1 if the two do not cross there.

    Args:
        table: from `crossover`.
    """
    gain = (table["dense"] - table["sparse"]).tolist()  # table.sparse would be pandas' own
    for i in range(len(gain) - 1, -1, -1):
        if gain[i] > 0:
            if i + 1 == len(gain):
                return 1.0
            low, high = table.share[i], table.share[i + 1]
            return float(low + (high - low) * gain[i] / (gain[i] - gain[i + 1]))
    return 0.0


def speed(bench: Bench, rule: Rule, *, batch: int) -> dict[str, float]:
    """The plain backbone against masked inference on the same test images.

    ``speed_up`` is the backbone's time over that of masked inference, ``macs`` the same ratio in
    MACs.
    """
    return _speed(bench.net, _batch(bench, batch), rule)


def _speed(net: Net, images: Tensor, rule: Rule) -> dict[str, float]:
    ways = {
        "backbone": partial(backbone, net, images),
        "masked": partial(net.segment, images, rule),
    }
    times = timing.median_seconds(ways, rounds=5)
    macs = ways["masked"]().macs[-1].item()
    return {
        "speed_up": times["backbone"] / times["masked"],
        "macs": count_macs(net, images[:1]).backbone / macs,
        "batch": len(images),
    }


@torch.inference_mode()
def backbone(net: Net, images: Tensor) -> Tensor:
    """The network without its early exits."""
    features = images
    for stage in net.stages:
        features = stage(features)
    return features


def _batch(bench: Bench, count: int) -> Tensor:
    """Test images from all over the split."""
    rows = torch.linspace(0, len(bench.data.test) - 1, count).long().tolist()
    return torch.stack([bench.data.test[i][0] for i in rows]).to(scale.device())
