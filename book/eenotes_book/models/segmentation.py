"""A convolutional segmentation network with exits that skips finished pixels (Liu et al., 2022).

All exits look at one resolution, a quarter of the image's; one position there is called a
**place**.  What "finished" means:

1. A place is finished at the first exit where the rule lets it exit, and from then on: its logits
   stay those of that exit.
2. No convolution after that exit computes it.
3. A place still **active** reads its 3 × 3 neighbourhood as always.  Where a neighbour is finished
   it finds a filled-in value: the average of the active places around that neighbour (3 × 3), with
   weights exp(-κ² d²) for distance d.  Only the **halo**, the finished places next to an active
   one, is ever read, so only the halo is filled.  The first convolution of a stage reads what the
   stage before has left: the values that places had when they finished there are real.

`dense_then_mask` is this definition in its plainest form: compute everything, then throw away.
`SegmentationNetwork.segment` gives the same logits without the work.  `masked_loss` trains a
network to live with what is filled in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes._checks import require_eval
from eenotes.inference import check_answers
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule
from eenotes_book.models.sparse_convolution import (
    OFFSETS,
    ConvNorm,
    Neighbours,
    affine,
    as_rows,
    dense_stage,
    sparse_stage,
    take_rows,
)


@dataclass(frozen=True)
class Segmentation:
    """What became of a batch of images.

    Args:
        final: ``(B·h·w, K)``, the logits of each place at the exit where it finished.
        asked: for each exit which places were asked there, ``(M,)``, and what it said of them,
            ``(M, K)``.
        exit_index: ``(B, h, w)`` where each place finished, from 0.
        macs: ``(J,)`` float64, MACs per image that are needed up to each exit, fillings and exit
            tests included.
        spent: MACs per image that were really computed up to the last exit; more than needed where
            the dense path was faster.
    """

    final: Tensor
    asked: list[tuple[Tensor, Tensor]]
    exit_index: Tensor
    macs: Tensor
    spent: float

    @cached_property
    def logits(self) -> list[Tensor]:
        """One map ``(B, K, h, w)`` per exit: what is known after it, finished places with the
        logits of their own exit.
        """
        B, h, w = self.exit_index.shape
        # Whoever finished before an exit has its final logits already; the others have what that
        # exit says.
        maps = [
            self.final.clone().index_copy_(0, places, logits) for places, logits in self.asked[:-1]
        ]
        maps += [self.final] * (len(self.macs) - len(maps))
        return [rows.view(B, h, w, -1).permute(0, 3, 1, 2) for rows in maps]

    def labels(self, size: tuple[int, int], *, exit_index: int = -1) -> Tensor:
        """The class of every pixel ``(B, H, W)`` after an exit (the last by default): the logits,
        resized, and their argmax.
        """
        return resize(self.logits[exit_index], size).argmax(1)


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits ``(B, K, h, w)`` at another resolution, bilinearly."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


class Block(nn.Module):
    """Two convolutions of equal width and a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(channels, channels), ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


class Stem(nn.Module):
    """From the image to a quarter of its resolution; channels last, which is also the layout that
    the sparse path gathers from.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (
            ConvNorm(3, channels // 2, stride=2),
            ConvNorm(channels // 2, channels, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class SegmentationNetwork(EarlyExitNetwork):
    """Images ``(B, 3, H, W)`` → for each exit logits ``(B, K, h, w)`` at a quarter of the
    resolution (rounded up).

    Args:
        num_classes: K.
        channels: width of every stage, an even number.
        blocks: residual blocks in each stage; as many exits as numbers.
        sharpness: κ of the filling, per place of distance; in [0, 5].

    ``crossover`` is the share of active places above which ``segment`` computes a stage densely; it
    depends on the machine, and the
    chapter measures it.

    Raises:
        ValueError: fewer than two stages, an empty stage, an odd width, or another sharpness.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        sharpness: float = 1.0,
    ):
        if len(blocks) < 2 or min(blocks) < 1 or channels % 2 or channels < 2:
            raise ValueError(
                f"need an even width and at least two stages of at least one block, got {channels}, {tuple(blocks)}"
            )
        # beyond that the weight of a diagonal neighbour, exp(-2 κ²), is hardly a float32 any more
        if not 0 <= sharpness <= 5:
            raise ValueError(f"sharpness={sharpness} must be in [0, 5]")
        stages = [nn.Sequential(*(Block(channels) for _ in range(count))) for count in blocks]
        heads = [nn.Conv2d(channels, num_classes, 1) for _ in blocks]
        super().__init__(
            [
                nn.Sequential(Stem(channels), stages[0]),
                *stages[1:-1],
                nn.Sequential(stages[-1], heads[-1]),
            ],
            heads[:-1],
        )
        self.num_classes, self.sharpness, self.crossover = num_classes, sharpness, 0.7
        self.to(memory_format=torch.channels_last)

    def parts(self, j: int) -> tuple[nn.Sequential, nn.Conv2d]:
        """The residual blocks of stage j and the head after them."""
        if j == 0:
            return self.stages[0][1], self.exits[0]
        return (
            (self.stages[j][0], self.stages[j][1])
            if j == self.num_exits - 1
            else (self.stages[j], self.exits[j])
        )

    def forward(self, x: Tensor, *, stop: Tensor | None = None) -> list[Tensor]:
        """The logits ``(B, K, h, w)`` of all exits, computed everywhere.

        Args:
            x: ``(B, 3, H, W)``.
            stop: ``(B,)``: places of which an exit is surer than this are finished, and what comes
                after sees them filled in.  The later exits' logits say nothing there; `unfinished`
                tells which places these are.  At 1 nothing finishes.
        """
        if stop is None:
            return super().forward(x)
        features = self.stages[0](x)
        logits = [self.parts(0)[1](features)]
        for j in range(1, self.num_exits):
            blocks, head = self.parts(j)
            features = _masked_stage(blocks, features, unfinished(logits, stop)[-1], self.sharpness)
            logits.append(head(features))
        return logits

    @torch.inference_mode()
    def segment(
        self,
        x: Tensor,
        rule: Rule | None,
        *,
        exit_index: Tensor | None = None,
        mode: Literal["auto", "sparse", "dense"] = "auto",
    ) -> Segmentation:
        """Segment a batch; a place that is finished is not computed any more.

        Args:
            x: ``(B, 3, H, W)``.
            rule: from `eenotes.rules`; its samples are the active places of all images, one logit
                vector ``(K,)`` each.
            exit_index: ``(B, h, w)``: instead of a rule, where each place shall finish.
            mode: how stages with finished places are computed: ``"sparse"``, at active places only;
                ``"dense"``, everywhere; ``"auto"``, dense above `crossover`.  The logits are the
                same.

        Raises:
            ValueError: a network in training mode, no image, a rule that does not fit, NaN logits,
                or an unknown mode.
        """
        if mode not in ("auto", "sparse", "dense"):
            raise ValueError(f"mode={mode!r} must be 'auto', 'sparse' or 'dense'")
        run = Run(self, x, rule, exit_index)
        features = self.stages[0](x)
        B, C, h, w = features.shape
        run.begin(B, h, w)
        run.spend(stem_macs(self, x) + run.places * weights(self.parts(0)[0]), needed=True)
        rows, layout, spare = as_rows(features), None, None
        for j in range(self.num_exits):
            head = self.parts(j)[1]
            held = (
                rows[: len(run.active)]
                if layout or len(run.active) == len(rows)
                else take_rows(rows, run.active)
            )
            run.test(j, affine(held, head.weight, head.bias))
            if run.finished:
                break
            places, blocks = Neighbours(run.active, (B, h, w), self.sharpness), self.parts(j + 1)[0]
            share = len(run.active) / (B * run.places)
            run.fill(places, blocks, C)
            run.spend(share * run.places * weights(blocks), needed=True)
            if layout is None and (mode == "dense" or (mode == "auto" and share > self.crossover)):
                run.spend((1 - share) * run.places * weights(blocks), needed=False)
                rows = dense_stage(blocks, rows, places, (B, h, w))
            else:
                # From here on two arrays take turns: fresh ones of this size cost their weight in
                # page faults.
                fresh, spare = (
                    rows.new_empty(2, places.zero + 1, C) if layout is None else (spare, rows)
                )
                rows, layout = places.gather(rows, layout, out=fresh[: places.zero + 1]), places
                sparse_stage(blocks, rows, spare[: places.zero + 1], places)
        return run.result()


class Run:
    """One batch on its way through the exits of either segmentation network: who is active, what is
    known, what it has cost.

    Args:
        net: in evaluation mode.
        x: ``(B, 3, H, W)``.
        rule: who may leave, or ``None``.
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
            raise ValueError(
                f"need a batch of at least one image, (B, 3, H, W), got {tuple(x.shape)}{' (empty)' * (not len(x))}"
            )
        if (rule is None) == (exit_index is None):
            raise ValueError(
                "give either a rule or an exit_index, which says where each place finishes"
            )
        if rule is not None:
            rule.check(net.num_exits)
        self.net, self.rule, self.plan, self.state = net, rule, exit_index, None

    def begin(self, B: int, h: int, w: int) -> None:
        if self.plan is not None and self.plan.shape != (B, h, w):
            raise ValueError(
                f"exit_index must be {(B, h, w)}, one number per place, got {tuple(self.plan.shape)}"
            )
        last = self.net.num_exits - 1
        if self.plan is not None and (
            self.plan.is_floating_point()
            or not 0 <= int(self.plan.min()) <= int(self.plan.max()) <= last
        ):
            raise ValueError(
                f"exit_index must hold whole numbers in 0..{last}, got {self.plan.dtype} {self.plan.unique().tolist()}"
            )
        self.B, self.h, self.w, self.places = B, h, w, h * w
        device = next(self.net.parameters()).device
        self.active = torch.arange(B * h * w, device=device)
        self.known, self.asked, self.finished = None, [], False
        self.exit_index = torch.zeros(B * h * w, dtype=torch.int64, device=device)
        self.needed, self.wasted, self.macs = 0.0, 0.0, []
        self.left = None  # (M,) bool: who left at the last exit, among those asked there

    def spend(self, macs: float, *, needed: bool) -> None:
        """Add MACs per image."""
        if needed:
            self.needed += macs
        else:
            self.wasted += macs

    def fill(self, places: Neighbours, blocks: nn.Sequential, channels: int) -> None:
        """The filling: nine products for every channel of every halo place, after every
        convolution.
        """
        self.spend(2 * len(blocks) * 9 * channels * len(places.halo) / self.B, needed=True)

    def test(self, j: int, logits: Tensor) -> None:
        """Take in the logits ``(M, K)`` of the active places at exit j, and let go whom the rule
        lets go.
        """
        self.spend(len(self.active) / self.B * weights(self.net.parts(j)[1]), needed=True)
        if self.known is None:
            self.known = logits.new_empty(self.B * self.places, logits.shape[1])
        self.known.index_copy_(0, self.active, logits)
        leave = self._leave(j, logits)
        self.exit_index.index_fill_(0, self.active, j)
        self.asked.append((self.active, logits))
        self.macs.append(self.needed)
        if j == self.net.num_exits - 1 or bool(leave.all()):
            self.finished = True
            return
        stay = (~leave).nonzero().squeeze(1)
        self.left, self.active = leave, self.active[stay]
        self.state = None if self.state is None else self.state[stay]

    def _leave(self, j: int, logits: Tensor) -> Tensor:
        said = logits
        if self.plan is not None:
            leave = self.plan.flatten().to(logits.device)[self.active] <= j
        # everybody leaves, whatever the rule would say: it is not asked
        elif j == self.net.num_exits - 1:
            leave = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        else:
            _, said, leave, self.state = self.rule(j, full_precision(logits), self.state)
        check_answers(j, said)
        return leave

    def result(self) -> Segmentation:
        # where everybody has left, later exits know nothing more and cost nothing more
        missing = self.net.num_exits - len(self.macs)
        macs = torch.tensor(self.macs + [self.needed] * missing, dtype=torch.float64)
        return Segmentation(
            self.known,
            self.asked,
            self.exit_index.view(self.B, self.h, self.w),
            macs,
            self.needed + self.wasted,
        )


def weights(module: nn.Module) -> int:
    """MACs per place of the convolutions and linear layers in a module: one for each of their
    weights.
    """
    return sum(
        part.weight.numel() for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))
    )


def stem_macs(net: SegmentationNetwork, x: Tensor) -> int:
    """MACs per image of the two convolutions that bring an image ``(B, 3, H, W)`` to a quarter of
    its resolution.
    """
    total, (height, width) = 0, x.shape[2:]
    for conv in (net.stages[0][0].conv1, net.stages[0][0].conv2):
        height, width = -(-height // 2), -(-width // 2)
        total += height * width * weights(conv)
    return total


@torch.inference_mode()
def dense_then_mask(
    net: SegmentationNetwork, x: Tensor, rule: Rule | None, *, exit_index: Tensor | None = None
) -> Segmentation:
    """The definition, plainly: every convolution everywhere, then every finished place overwritten
    by the filling.

    Slower than the plain network; it is what `SegmentationNetwork.segment` is compared with.

    Args:
        net: in evaluation mode.
        x: ``(B, 3, H, W)``.
        rule: as in `SegmentationNetwork.segment`.
        exit_index: ``(B, h, w)``: instead of a rule, where each place shall finish.

    Raises:
        ValueError: as `SegmentationNetwork.segment`.
    """
    run = Run(net, x, rule, exit_index)
    features = net.stages[0](x)
    B, _, h, w = features.shape
    run.begin(B, h, w)
    for j in range(net.num_exits):
        run.test(j, as_rows(net.parts(j)[1](features))[run.active])
        if run.finished:
            break
        active = torch.zeros(B * h * w, dtype=torch.bool, device=x.device).index_fill_(
            0, run.active, True
        )
        features = _masked_stage(net.parts(j + 1)[0], features, active.view(B, h, w), net.sharpness)
    return run.result()


def _masked_stage(
    blocks: nn.Sequential, features: Tensor, active: Tensor, sharpness: float
) -> Tensor:
    """A stage everywhere, with the finished places overwritten by the filling after every
    convolution; ``active`` is ``(B, h, w)``.
    """
    mask = active[:, None].to(features.dtype)
    distance = torch.tensor(
        [dy * dy + dx * dx for dy, dx in OFFSETS], dtype=mask.dtype, device=mask.device
    )
    kernel = torch.exp(-(sharpness**2) * distance).view(1, 1, 3, 3)
    total = F.conv2d(mask, kernel, padding=1)
    # nobody looks at places with no active one around them; NaN would spread
    total = total.clamp_min(torch.finfo(total.dtype).tiny)
    kernel = kernel.expand(features.shape[1], 1, 3, 3)

    def filled(y: Tensor) -> Tensor:
        around = F.conv2d(y * mask, kernel, padding=1, groups=len(kernel))
        return torch.where(active[:, None], y, around / total)

    for block in blocks:
        hidden = filled(torch.relu(block.conv1(features)))
        features = filled(torch.relu(block.conv2(hidden) + features))
    return features


def unfinished(logits: Sequence[Tensor], stop: Tensor) -> list[Tensor]:
    """After each exit, the places that no exit so far is surer of than ``stop`` ``(B,)``:

    ``(B, h, w)`` bool, from ``(B, K, h, w)``.
    """
    active, found = stop.new_ones((), dtype=torch.bool), []
    for z in logits:
        active = active & (z.detach().float().softmax(1).amax(1) <= stop[:, None, None])
        found.append(active)
    return found
