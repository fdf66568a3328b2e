"""The comparison at the thesis's setting: accuracy within a cost, on recorded logits.

Thresholds are chosen on one half of the test images and reported on the other, and then the halves
are swapped: so every image is reported once, with thresholds that have not seen it.

``python -m eenotes_book.ch02_e2cm.at_costs`` compares all methods that are recorded, and writes
``at_costs.json``.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from eenotes.costs import Costs
from eenotes.rules import ClassMeanConfidence, Score, ScoreRule
from eenotes_book.at_budgets import BUDGETS, Reported, lead, report
from eenotes_book.cache import write_json
from eenotes_book.ch02_e2cm.experiment import beside
from eenotes_book.data import recorded
from eenotes_book.data.recorded import Recorded

POSTERIOR, BOTH = "E²CM, posterior", "E²CM + SDN"
TITLES = {"resnet20": "ResNet-20", "resnet56": "ResNet-56", "resnet50": "ResNet-50, ImageNet stem"}
NAMES = {
    "e2cm": "E²CM",
    "whitened": "E²CM, whitened",
    "sdn1": "SDN, one epoch",
    "sdn": "SDN",
    "branchynet1": "BranchyNet, one epoch",
    "branchynet": "BranchyNet",
}
BACKBONE, WHITENED = "backbone", "E²CM, whitened"
LEADS = (  # of, over, at a budget or on average over all
    ("E²CM", BACKBONE, 0.36),
    (WHITENED, BACKBONE, 0.3),
    (WHITENED, "E²CM", None),
    (BOTH, "SDN", None),
    (POSTERIOR, "E²CM", None),
)
_PATH = Path(__file__).with_suffix(".json")


def combined(class_means: Recorded, trained: Recorded) -> Recorded:
    """E²CM + SDN: after each stage first the class-mean exit, then the trained one."""
    early = len(class_means.costs.exits)
    pairs = zip(class_means.logits[:-1], trained.logits[:-1], strict=True)
    logits = [logits for pair in pairs for logits in pair] + [trained.logits[-1]]
    stages = [macs for stage in trained.costs.stages[:-1] for macs in (stage, 0)]
    exits = zip(class_means.costs.exits, trained.costs.exits, strict=True)
    costs = Costs(
        (*stages, trained.costs.stages[-1]), tuple(macs for pair in exits for macs in pair)
    )
    scales = [scale for j in range(early) for scale in (class_means.rule.normaliser[j], None)]
    rule = ClassMeanConfidence(1.0, tuple(scales))
    facts = class_means.facts | {"method": "e2cm+sdn"}
    return Recorded(torch.stack(logits), trained.labels, costs, rule, facts)


def report_combined(
    class_means: Recorded, trained: Recorded, *, parts: tuple[Reported, Reported]
) -> Reported:
    """`report` of E²CM + SDN; the search also starts from the thresholds of its two ``parts``."""
    parts = zip(*(part.thresholds for part in parts), strict=True)
    starts = tuple(beside(*pair) for pair in parts)
    return report(combined(class_means, trained), starts=starts)


@dataclass(frozen=True)
class PosteriorConfidence(ScoreRule):
    r"""E²CM with the posterior (6.10) as its score: $\max_k \operatorname{softmax}_k(-d_k^2/N_0)$.

    The features are Gaussian around their class mean; ``noise`` has one $N_0$ per early exit.
    """

    thresholds: float | Sequence[float]
    noise: Sequence[float]

    def score(self, j: int, logits: Tensor) -> Score:
        if j < len(self.noise):
            logits = -logits.square() / self.noise[j]
        confidence, prediction = logits.softmax(1).max(1)
        return Score(prediction, confidence, confidence)


def posterior_rule(half: Recorded) -> PosteriorConfidence:
    """The posterior with the $N_0$ under which the labels of one half are most likely."""
    noise = [_likeliest_noise(logits, half.labels) for logits in half.logits[:-1]]
    return PosteriorConfidence(1.0, tuple(noise))


def _likeliest_noise(logits: Tensor, labels: Tensor) -> float:
    """$N_0$ of one exit from its logits $-d$, ``(N, K)``."""
    squared = logits.double().square()

    def loss(exponent: float) -> float:
        return cross_entropy(-squared / math.exp(exponent), labels).item()

    middle = math.log(squared.min(1).values.mean())
    return math.exp(minimize_scalar(loss, bounds=(middle - 8, middle + 3), method="bounded").x)


def measure() -> dict[str, Any]:
    """All recorded methods of all networks at `BUDGETS`.

    Returns:
        network → ``"methods"``: name → rows of `Reported.table`; ``"leads"``: the `LEADS` with
        their `lead`; ``"backbone"``: its accuracy; and ``"images"``.
    """
    found = {}
    for network in sorted({network for network, _ in recorded.names()}):
        runs = {m: recorded.load(network, m) for n, m in recorded.names() if n == network}
        results = {NAMES[method]: report(run) for method, run in runs.items()}
        results[POSTERIOR] = report(runs["e2cm"], rule_of=posterior_rule)
        if "sdn" in runs:
            parts = (results["E²CM"], results["SDN"])
            results[BOTH] = report_combined(runs["e2cm"], runs["sdn"], parts=parts)
        first = runs["e2cm"]
        right = (first.logits[-1].argmax(1) == first.labels).double().expand(len(BUDGETS), -1)
        results[BACKBONE] = Reported(right, torch.ones_like(right), ([], []))
        found[network] = {
            "backbone": first.facts["accuracy"][-1],
            "images": len(first.labels),
            "methods": {
                name: result.table().to_dict("records")
                for name, result in results.items()
                if name != BACKBONE
            },
            "leads": [
                {"of": of, "over": over, "at": at, "tenths": lead(results[of], results[over], at)}
                for of, over, at in LEADS
                if {of, over} <= results.keys()
            ],
        }
    return found


def kept() -> dict[str, Any]:
    """What `measure` found, from ``at_costs.json``."""
    return json.loads(_PATH.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_json(_PATH, measure())
