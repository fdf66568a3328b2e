"""Time of masked inference in chapter 4: against the plain backbone, skipped or masked."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from eenotes.rules import Rule
from eenotes_book import scale, timing
from eenotes_book.ch04_cbt.bench import Bench, Net


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
    images, rows = _batch(bench, batch), []
    for share in shares:
        plan = share_plan(bench, images, share)
        ways = {
            mode: partial(bench.net.segment, images, None, exit_index=plan, mode=mode)
            for mode in ("sparse", "dense")
        }
        plain = {"backbone": partial(backbone, bench.net, images)}
        times = timing.median_seconds(plain | ways, rounds=2)
        macs = ways["sparse"]().macs[-1].item() / bench.costs.backbone
        relative = {mode: times[mode] / times["backbone"] for mode in ways}
        rows.append({"share": share, "MACs": macs, **relative})
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
    images = _batch(bench, batch)
    ways = {
        "backbone": partial(backbone, bench.net, images),
        "masked": partial(bench.net.segment, images, rule),
    }
    times = timing.median_seconds(ways, rounds=5)
    macs = ways["masked"]().macs[-1].item()
    return {
        "speed_up": times["backbone"] / times["masked"],
        "macs": bench.costs.backbone / macs,
        "batch": batch,
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
