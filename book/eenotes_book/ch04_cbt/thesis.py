"""The thesis's numbers on class based thresholding, to stand beside ours.

Mean IoU in points and GFLOPs at every exit.  The first row of a group is one threshold for all.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from eenotes_book import statistics
from eenotes_book.ch04_cbt.experiment import PAIRS, TOKEN_PAIRS, cbt_of, single

Exits = list[tuple[float | None, float | None]]  # mean IoU and GFLOPs

TABLES: dict[str, dict[str, Exits]] = {
    "Cityscapes, HRNetV2-W48": {
        "single 0.998": [(44.3, 41.9), (60.1, 93.9), (76.8, 259), (81.31, 387.8)],
        "CBT [0.99, 0.998]": [(44.3, 42), (59.8, 84), (76.1, 206), (80.69, 299.1)],
    },
    "Cityscapes, HRNetV2-W18": {
        "single 0.998": [(40.83, 23.5), (48.19, 33), (68.26, 45), (77.02, 59)],
        "CBT [0.99, 0.998]": [(40.8, 23.5), (48, 31.8), (68.1, 41.3), (76.6, 51.2)],
    },
    "ADE20K, HRNetV2-W48": {
        "single 0.998": [(4.12, 6.20), (5.16, 15.42), (12.15, 52.47), (42.82, 100.28)],
        "CBT [0.9, 0.998]": [(4.12, 6.20), (5.15, 15.07), (12.09, 50.48), (41.85, 94.31)],
        "CBT-ns [0.9, 0.998]": [(4.12, 6.20), (5.15, 15.06), (12.08, 50.48), (41.87, 94.34)],
        "CBT [0.8, 0.998]": [(None, None), (5.14, 14.80), (11.90, 48.81), (40.17, 90.25)],
        "CBT [0.7, 0.998]": [(None, None), (5.12, 14.55), (11.58, 47.27), (37.54, 86.52)],
    },
    "ADE20K, HRNetV2-W18": {
        "single 0.998": [(4.89, 5.88), (6.83, 7.84), (8.94, 12.73), (9.74, 19.04)],
        "CBT [0.9, 0.998]": [(None, None), (6.80, 7.73), (10.07, 12.24), (11.78, 17.89)],
        "CBT [0.8, 0.998]": [(None, None), (6.75, 7.67), (10.17, 11.98), (11.95, 17.26)],
        "CBT [0.7, 0.998]": [(None, None), (6.70, 7.62), (10.09, 11.75), (11.88, 16.71)],
    },
    "ADE20K, DToP, ViT-B": {
        "single 0.9": [(41.79, 55.70), (45.85, 66.60), (49.21, 83.52)],
        "CBT [0.85, 0.9]": [(None, None), (45.52, 65.60), (49.04, 80.80)],
    },
    "ADE20K, DToP, ViT-L": {
        "single 0.95": [(37.86, 208.96), (47.97, 352.32), (52.18, 452.3)],
        "CBT [0.9, 0.95]": [(None, None), (47.82, 336.01), (51.69, 421.93)],
    },
    "COCO-Stuff-10K, DToP, ViT-L": {
        "single 0.95": [(31.89, 124.94), (41.71, 205.14), (45.64, 266.17)],
        "CBT [0.9, 0.95]": [(None, None), (41.09, 197.53), (45.29, 252.04)],
    },
}
_MAIN = {  # the host with which the thesis introduces each pair
    PAIRS[0]: "Cityscapes, HRNetV2-W48",
    **dict.fromkeys(PAIRS[1:], "ADE20K, HRNetV2-W48"),
    TOKEN_PAIRS[0]: "ADE20K, DToP, ViT-B",
    TOKEN_PAIRS[1]: "ADE20K, DToP, ViT-L",
}


def row(pair: tuple[float, float]) -> dict:
    """What a pair saves (``saved``, a share) and loses (``lost``, points), and ``where``."""
    where = _MAIN[pair]
    rules = TABLES[where]
    return {"where": where, **_against(next(iter(rules.values())), rules[cbt_of(pair)])}


def table() -> pd.DataFrame:
    """Every comparison of the thesis: ``where``, ``rule``, exits, ``saved`` and ``lost``."""
    rows = []
    for where, rules in TABLES.items():
        first = next(iter(rules.values()))
        for name, exits in rules.items():
            found = {"where": where, "rule": name}
            for j, (miou, gflops) in enumerate(exits):
                known = miou is not None
                found[f"exit {j + 1}"] = f"{miou:g} @ {gflops:g}" if known else ""
            rows.append(found | (_against(first, exits) if exits is not first else {}))
    return pd.DataFrame(rows)


def ours(runs: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """The same of recorded runs: ``where``, ``rule``, ``saved`` and ``lost``, means over seeds.

    Args:
        runs: name of a network → its runs, from `experiment.conv_run` or `experiment.vit_run`.
    """
    rows = []
    for where, seeds in runs.items():
        for name in seeds[0]["anytime"]:
            if not name.startswith("CBT"):
                continue
            beta = float(name.split()[-1].rstrip("]"))
            pairs = [(run["anytime"][single(beta)], run["anytime"][name]) for run in seeds]
            lost = [100 * (one["miou"][-1] - two["miou"][-1]) for one, two in pairs]
            saved = [1 - two["cost"][-1] / one["cost"][-1] for one, two in pairs]
            found = {"saved": statistics.mean(saved), "lost": statistics.mean(lost)}
            rows.append({"where": where, "rule": name, "seeds": len(seeds)} | found)
    return pd.DataFrame(rows)


def _against(first: Exits, exits: Exits) -> dict[str, float]:
    return {"saved": 1 - exits[-1][1] / first[-1][1], "lost": first[-1][0] - exits[-1][0]}
