"""Recorded logits: what every exit of published networks says of the test images of CIFAR-10.

Thresholds, fronts, calibration and sliders run on them in seconds, without the network, its
training or the images.  One safetensors file a network and method, in half precision, with labels,
costs and where it comes from; written by ``eenotes_book.ch02_e2cm.recording``.  A few of the images
are there, too (`thumbnails`).

What is the same is kept once, because the files travel with the book: of a frozen backbone the
last exit stands with `PLAIN` alone, and where a softmax reads the logits only their distance to the
largest counts.  The first and the second bytes of all numbers lie apart: so they compress better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eenotes.checkpoints import load_tensors
from eenotes.costs import Costs
from eenotes.rules import ClassMeanConfidence, Confidence, Entropy, ScoreRule

VERSION = 2  # of the files' content
PLAIN = "e2cm"  # plain class means: their file has the backbone's own exit for the others
_FROZEN = ("whitened", "sdn1", "sdn")  # methods that leave the backbone as it is
_LOWEST = -16.0  # for trained exits, a probability of 1e-7 beside the largest
_FOLDER = Path(__file__).parent / "logits"
THUMBNAILS = Path(__file__).with_name("thumbnails.safetensors")


@dataclass(frozen=True)
class Recorded:
    """The exits' answers on one split."""

    logits: Tensor  #: ``(J, N, K)`` float32
    labels: Tensor  #: ``(N,)`` int64
    costs: Costs
    rule: ScoreRule  #: the rule of the method's authors, its thresholds still open
    facts: dict[str, Any]  #: network, method, data, counts, classes, device, date

    def halves(self) -> tuple["Recorded", "Recorded"]:
        """The first and the second half of the samples: one to choose on, one to report on."""
        middle = len(self.labels) // 2
        parts = [(self.logits[:, :middle], self.labels[:middle])]
        parts.append((self.logits[:, middle:], self.labels[middle:]))
        first, second = (Recorded(z, y, self.costs, self.rule, self.facts) for z, y in parts)
        return first, second


def names() -> list[tuple[str, str]]:
    """What has been recorded: network and method."""
    return sorted(tuple(path.stem.split("-", 1)) for path in _FOLDER.glob("*.safetensors"))


def load(network: str, method: str) -> Recorded:
    """The recorded logits of a network's exits.

    Args:
        network: ``"resnet20"`` or ``"resnet56"``.
        method: see `names`.

    Raises:
        ValueError: nothing recorded under this name, or a file of another version.
    """
    path = path_of(network, method)
    if not path.exists():
        known = ", ".join("/".join(pair) for pair in names())
        raise ValueError(
            f"nothing is recorded for {network}/{method}; there is {known or 'nothing'}"
        )
    tensors, facts = load_tensors(path)
    if facts.get("version") != VERSION:
        raise ValueError(
            f"{path.name} is of version {facts.get('version')}, and this package reads {VERSION}: "
            "install both from one release"
        )
    costs = Costs(tuple(facts["stages"]), tuple(facts["exits"]))
    labels = tensors["labels"].long()
    logits = _joined(tensors["logits"], method)
    if method in _FROZEN:
        plain = load_tensors(path_of(network, PLAIN))[0]["logits"]
        logits = torch.cat([logits, _joined(plain, PLAIN)[-1:]])
    return Recorded(logits, labels, costs, _rule(tensors, facts), facts)


def packed(logits: Tensor, method: str) -> Tensor:
    """Logits ``(J, N, K)`` as they are kept: bytes of half-precision numbers, ``(2, J, N, K)``.

    Distances to class means stay as they are: their rule divides every class by its own number.
    Of a frozen backbone the last exit is left out.
    """
    if method in _FROZEN:
        logits = logits[:-1]
    if method != PLAIN:
        logits = logits - logits.amax(2, keepdim=True)
    if method not in (PLAIN, "whitened"):  # whose logits need temperatures far above 1
        logits = logits.clamp_min(_LOWEST)
    numbers = logits.to(_kind(method)).contiguous()
    return numbers.view(torch.uint8).reshape(*numbers.shape, 2).movedim(-1, 0).contiguous()


def _joined(parts: Tensor, method: str) -> Tensor:
    return parts.movedim(0, -1).contiguous().view(_kind(method)).squeeze(-1).float()


def _kind(method: str) -> torch.dtype:
    """Near the largest logit bfloat16 is the finer one."""
    return torch.float16 if method == PLAIN else torch.bfloat16


def thumbnails() -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A few of the test images: for each exit of ResNet-56 the first that leave there.

    They leave by whitened class means with one threshold for all exits.

    Returns:
        Their indices among the recorded samples ``(M,)``, in order of their exit; the images
        ``(M, 32, 32, 3)`` uint8; and the facts: ``threshold``, ``exits`` (the exit of each image),
        ``terms``.
    """
    tensors, facts = load_tensors(THUMBNAILS)
    return tensors["indices"], tensors["images"], facts


def images_of(classes: Sequence[str]) -> list[Tensor]:
    """The first of the `thumbnails` of each class, ``(32, 32, 3)`` uint8.

    Raises:
        ValueError: a class of which there is none.
    """
    run = load("resnet56", "whitened")
    rows, images, _ = thumbnails()
    names = [run.facts["classes"][k] for k in run.labels[rows].tolist()]
    missing = [name for name in classes if name not in names]
    if missing:
        raise ValueError(f"there is no image of {', '.join(missing)}")
    return [images[names.index(name)] for name in classes]


def path_of(network: str, method: str) -> Path:
    """Where the logits of a network's exits are kept."""
    return _FOLDER / f"{network}-{method}.safetensors"


def _rule(tensors: dict[str, Tensor], facts: dict[str, Any]) -> ScoreRule:
    if facts["method"].startswith("branchynet"):
        return Entropy(0.0)
    early = range(len(facts["exits"]))
    if "normaliser.0" in tensors:
        return ClassMeanConfidence(1.0, tuple(tensors[f"normaliser.{j}"] for j in early))
    return Confidence(1.0)
