"""Progress of a batch of images through the exits of a segmentation network.

All exits of a network look at one resolution; one position there is called a **place**.  Which
places are still active, what is known of each, and what that has cost is kept here, for
`eenotes_book.models.segmentation` and `eenotes_book.models.token_vit` alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes._checks import require_answers, require_eval
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule


@dataclass(frozen=True)
class Segmentation:
    """The result of segmenting a batch of images.

    Args:
        final: ``(B·h·w, K)``, the logits of each place at the exit where it finished.
        tested: for each exit the places that were active there, ``(M,)``, and their logits,
            ``(M, K)``.
        exit_index: ``(B, h, w)`` where each place finished, from 0.
        macs: ``(J,)`` float64, MACs per image that are needed up to each exit, fillings and exit
            tests included.
        spent: MACs per image that were really computed up to the last exit; more than needed where
            the dense path was faster.
    """

    final: Tensor
    tested: list[tuple[Tensor, Tensor]]
    exit_index: Tensor
    macs: Tensor
    spent: float

    @cached_property
    def logits(self) -> list[Tensor]:
        """What is known after each exit: one map ``(B, K, h, w)`` per exit.

        Finished places have the logits of the exit where they finished.
        """
        B, h, w = self.exit_index.shape
        # A place that finished before an exit has its final logits already; the others get those
        # of that exit.
        maps = [
            self.final.clone().index_copy_(0, places, logits) for places, logits in self.tested[:-1]
        ]
        maps += [self.final] * (len(self.macs) - len(maps))
        return [rows.view(B, h, w, -1).permute(0, 3, 1, 2) for rows in maps]

    def labels(self, size: tuple[int, int], *, exit_index: int = -1) -> Tensor:
        """The class of every pixel ``(B, H, W)`` after an exit, the last by default.

        It is the argmax of the resized logits.
        """
        return resize(self.logits[exit_index], size).argmax(1)


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits ``(B, K, h, w)`` at another resolution, bilinearly."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def weights(module: nn.Module) -> int:
    """MACs per place of a module: one for each weight of its convolutions and linear layers."""
    return sum(
        part.weight.numel() for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))
    )


def downscaling_macs(convs: Sequence[nn.Module], x: Tensor) -> int:
    """MACs per image of convolutions that each halve the resolution of ``(B, 3, H, W)``."""
    total, (height, width) = 0, x.shape[2:]
    for conv in convs:
        height, width = -(-height // 2), -(-width // 2)
        total += height * width * weights(conv)
    return total


class Progress:
    """One batch on its way through the exits.

    Args:
        net: in evaluation mode, with ``parts(j)``: the blocks of stage j and the head after them.
        x: ``(B, 3, H, W)``.
        rule: says which places finish, or ``None``.
        exit_index: ``(B, h, w)``: instead of a rule, where each place finishes.

    Raises:
        ValueError: a network in training mode, something else than a batch of colour images, both
            or none of rule and exit_index, or one that does not fit; NaN logits.
    """

    def __init__(
        self, net: EarlyExitNetwork, x: Tensor, rule: Rule | None, exit_index: Tensor | None
    ):
        require_eval(net.modules(), what="network", before="segment")
        if x.ndim != 4 or x.shape[1] != 3 or len(x) == 0:
            empty = "" if len(x) else " (empty)"
            raise ValueError(
                f"need a batch of at least one image, (B, 3, H, W), got {tuple(x.shape)}{empty}"
            )
        if (rule is None) == (exit_index is None):
            raise ValueError(
                "give either a rule or an exit_index, which says where each place finishes"
            )
        if rule is not None:
            rule.check(net.num_exits)
        self.net, self.rule, self.plan, self.state = net, rule, exit_index, None

    def begin(self, B: int, h: int, w: int) -> None:
        """All places are active, and nothing is known of them."""
        self._check_plan((B, h, w))
        self.B, self.h, self.w, self.places = B, h, w, h * w
        device = next(self.net.parameters()).device
        self.active = torch.arange(B * h * w, device=device)
        self.known, self.tested, self.finished = None, [], False
        self.exit_index = torch.zeros(B * h * w, dtype=torch.int64, device=device)
        self.needed, self.wasted, self.macs = 0.0, 0.0, []
        self.left = None  # (M,) bool: which of the places tested last finished there

    def spend(self, macs: float, *, needed: bool = True) -> None:
        """Add MACs per image."""
        if needed:
            self.needed += macs
        else:
            self.wasted += macs

    def test(self, j: int, logits: Tensor) -> None:
        """Take in the logits ``(M, K)`` of the active places at exit j; some places finish."""
        self.spend(len(self.active) / self.B * weights(self.net.parts(j)[1]))
        if self.known is None:
            self.known = logits.new_empty(self.B * self.places, logits.shape[1])
        self.known.index_copy_(0, self.active, logits)
        leave = self._leave(j, logits)
        self.exit_index.index_fill_(0, self.active, j)
        self.tested.append((self.active, logits))
        self.macs.append(self.needed)
        if j == self.net.num_exits - 1 or bool(leave.all()):
            self.finished = True
            return
        stay = (~leave).nonzero().squeeze(1)
        self.left, self.active = leave, self.active[stay]
        self.state = None if self.state is None else self.state[stay]

    def result(self) -> Segmentation:
        """The finished batch."""
        # Where all places have finished, later exits know nothing more and cost nothing more.
        missing = self.net.num_exits - len(self.macs)
        macs = torch.tensor(self.macs + [self.needed] * missing, dtype=torch.float64)
        exit_index = self.exit_index.view(self.B, self.h, self.w)
        spent = self.needed + self.wasted
        return Segmentation(self.known, self.tested, exit_index, macs, spent)

    def _leave(self, j: int, logits: Tensor) -> Tensor:
        """Which of the active places finish at exit j, ``(M,)`` bool."""
        confidence = logits
        if self.plan is not None:
            leave = self.plan.flatten().to(logits.device)[self.active] <= j
        elif j == self.net.num_exits - 1:  # all places finish, whatever the rule would say
            leave = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        else:
            _, confidence, leave, self.state = self.rule(j, full_precision(logits), self.state)
        require_answers(j, confidence)
        return leave

    def _check_plan(self, shape: tuple[int, int, int]) -> None:
        plan, last = self.plan, self.net.num_exits - 1
        if plan is None:
            return
        if plan.shape != shape:
            raise ValueError(
                f"exit_index must be {shape}, one number per place, got {tuple(plan.shape)}"
            )
        if plan.is_floating_point() or not 0 <= int(plan.min()) <= int(plan.max()) <= last:
            raise ValueError(
                f"exit_index must hold whole numbers in 0..{last}, "
                f"got {plan.dtype} {plan.unique().tolist()}"
            )
