"""Chapter 4: one threshold for all classes, or one for each; a convolutional network and a
transformer that skip what is finished.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from eenotes.rules import Rule
from eenotes_book import scale, timing
from eenotes_book.ch04_cbt.experiment import Bench, Net


def share_plan(b: Bench, x: Tensor, share: float) -> Tensor:
    """The surest places of each image finish at the first exit, so that ``share`` of them stay
    active to the end: ``(B, h, w)``.
    """
    with torch.inference_mode():
        sure = b.net(x)[0].softmax(1).amax(1)
    count = round(share * sure[0].numel())
    active = sure.flatten(1).argsort(1)[:, :count]
    plan = torch.zeros_like(sure, dtype=torch.int64).flatten(1)
    return plan.scatter_(1, active, b.net.num_exits - 1).view_as(sure)


def crossover(b: Bench, shares: Sequence[float], *, batch: int) -> pd.DataFrame:
    """Time with a share of the places active behind the first exit, relative to the plain backbone:

    ``sparse`` and ``dense``.

    ``MACs`` is what the sparse way needs, relative to the backbone.
    """
    x = _batch(b, batch)
    rows = []
    for share in shares:
        plan = share_plan(b, x, share)
        ways = {"sparse": partial(b.net.segment, x, None, exit_index=plan, mode="sparse")}
        ways["dense"] = partial(b.net.segment, x, None, exit_index=plan, mode="dense")
        times = timing.median_seconds({"backbone": partial(backbone, b.net, x), **ways}, rounds=2)
        macs = (
            b.net.segment(x, None, exit_index=plan, mode="sparse").macs[-1].item()
            / b.costs.backbone
        )
        rows.append(
            {"share": share, "MACs": macs, **{way: times[way] / times["backbone"] for way in ways}}
        )
    return pd.DataFrame(rows)


def crossing(table: pd.DataFrame) -> float:
    """The share of active places at which sparse and dense take equally long, between the measured
    ones (0 or 1 beyond them).
    """
    gain = (table["dense"] - table["sparse"]).tolist()  # table.sparse would be pandas' own
    for i in range(len(gain) - 1, -1, -1):
        if gain[i] > 0:
            if i + 1 == len(gain):
                return 1.0
            low, high = table.share[i], table.share[i + 1]
            return float(low + (high - low) * gain[i] / (gain[i] - gain[i + 1]))
    return 0.0


def speed(b: Bench, rule: Rule, *, batch: int) -> dict[str, float]:
    """Plain backbone against masked inference on the same test images:

    ``speed_up`` in time, and ``macs`` saved as the same ratio.
    """
    x = _batch(b, batch)
    times = timing.median_seconds(
        {"backbone": partial(backbone, b.net, x), "masked": partial(b.net.segment, x, rule)},
        rounds=5,
    )
    macs = b.net.segment(x, rule).macs[-1].item()
    return {
        "speed_up": times["backbone"] / times["masked"],
        "macs": b.costs.backbone / macs,
        "batch": batch,
    }


@torch.inference_mode()
def backbone(net: Net, x: Tensor) -> Tensor:
    """The network without its early exits."""
    for stage in net.stages:
        x = stage(x)
    return x


def _batch(b: Bench, count: int) -> Tensor:
    rows = torch.linspace(0, len(b.data.test) - 1, count).long().tolist()  # from all over the split
    return torch.stack([b.data.test[i][0] for i in rows]).to(scale.device())
