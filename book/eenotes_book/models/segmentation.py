"""A convolutional segmentation network with exits, which skips the work of finished places.

It works in the manner of ADP-C (Liu et al., 2022).  All exits look at one resolution, a quarter of
the image's; one position there is called a **place**.  Later stages look further: each has a
dilation, the distance between the places that a 3 × 3 convolution reads.  What "finished" means:

1. A place is finished at the first exit where the rule lets it stop.  From then on its logits and
   its features stay those of that exit.
2. No convolution after that exit computes it.
3. A place still **active** reads its 3 × 3 neighbourhood as always.  In the first convolution of a
   stage a finished neighbour shows the features with which it finished.  Inside the stage, where it
   has none, it shows a filled-in value: the average of the active places around that neighbour
   (3 × 3, at the stage's dilation), with weights exp(-κ² d²) for distance d in steps.

Only the **halo**, the finished places that some active place reads, is ever read.  So only the halo
is filled.

`dense_then_mask` is this definition in its simplest form: compute everything, then discard.
`SegmentationNetwork.segment` gives the same logits without the work.
`eenotes_book.models.segmentation_training` trains a network with such filled-in values.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes.network import EarlyExitNetwork
from eenotes.rules import Rule
from eenotes_book.models.progress import Progress, Segmentation, downscaling_macs, weights
from eenotes_book.models.sparse_convolution import (
    ConvNorm,
    Neighbours,
    PlaceFeatures,
    affine,
    as_rows,
    neighbour_weights,
)


class _Block(nn.Module):
    """Two convolutions of equal width and a shortcut."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, dilation=dilation)
        self.conv2 = ConvNorm(channels, channels, dilation=dilation)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


class _Stem(nn.Module):
    """From the image to a quarter of its resolution.

    Channels are last in memory, which is also the layout that the sparse path gathers from.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(3, channels // 2, stride=2)
        self.conv2 = ConvNorm(channels // 2, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class SegmentationNetwork(EarlyExitNetwork):
    """Images ``(B, 3, H, W)`` → for each exit logits ``(B, K, h, w)`` at a quarter of the size.

    ``crossover`` is the share of active places above which `segment` computes a stage densely; it
    depends on the machine, and chapter 4 measures it.

    Args:
        num_classes: K.
        channels: width of every stage, an even number.
        blocks: residual blocks in each stage; as many exits as numbers.
        dilations: of the convolutions of each stage; by default all 1.
        sharpness: κ of the filling, per step of distance; in [0, 5].

    Raises:
        ValueError: fewer than two stages, an empty stage, an odd width, not one dilation of at
            least 1 for each stage, or another sharpness.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] | None = None,
        sharpness: float = 1.0,
    ):
        if len(blocks) < 2 or min(blocks) < 1 or channels % 2 or channels < 2:
            raise ValueError(
                "need an even width and at least two stages of at least one block, "
                f"got {channels}, {tuple(blocks)}"
            )
        # beyond that the weight of a diagonal neighbour, exp(-2 κ²), is hardly a float32 any more
        if not 0 <= sharpness <= 5:
            raise ValueError(f"sharpness={sharpness} must be in [0, 5]")
        dilations = [1] * len(blocks) if dilations is None else list(dilations)
        if len(dilations) != len(blocks) or min(dilations) < 1:
            raise ValueError(
                f"need a dilation of at least 1 for each of {len(blocks)} stages, got {dilations}"
            )
        stages = [
            nn.Sequential(*(_Block(channels, dilation) for _ in range(count)))
            for count, dilation in zip(blocks, dilations, strict=True)
        ]
        heads = [nn.Conv2d(channels, num_classes, 1) for _ in blocks]
        first = nn.Sequential(_Stem(channels), stages[0])
        last = nn.Sequential(stages[-1], heads[-1])
        super().__init__([first, *stages[1:-1], last], heads[:-1])
        self.num_classes, self.sharpness, self.crossover = num_classes, sharpness, 0.7
        self.to(memory_format=torch.channels_last)

    def parts(self, j: int) -> tuple[nn.Sequential, nn.Conv2d]:
        """The residual blocks of stage j and the head after them."""
        if j == 0:
            return self.stages[0][1], self.exits[0]
        if j == self.num_exits - 1:
            return self.stages[j][0], self.stages[j][1]
        return self.stages[j], self.exits[j]

    def forward(self, x: Tensor, *, stop: Tensor | None = None) -> list[Tensor]:
        """The logits ``(B, K, h, w)`` of all exits, computed everywhere.

        Args:
            x: ``(B, 3, H, W)``.
            stop: ``(B,)``: places of which an exit is surer than this are finished, and what comes
                after sees them filled in.  The later exits' logits mean nothing there;
                `still_active` gives the other places.  At 1 nothing finishes.
        """
        if stop is None:
            return super().forward(x)
        features = self.stages[0](x)
        logits = [self.parts(0)[1](features)]
        for j in range(1, self.num_exits):
            blocks, head = self.parts(j)
            active = still_active(logits, stop)[-1]
            features = _masked_stage(blocks, features, active, self.sharpness)
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
                ``"dense"``, everywhere; ``"auto"``, dense above ``crossover``.  The logits are the
                same.

        Raises:
            ValueError: a network in training mode, no image, a rule that does not fit, NaN logits,
                or an unknown mode.
        """
        if mode not in ("auto", "sparse", "dense"):
            raise ValueError(f"mode={mode!r} must be 'auto', 'sparse' or 'dense'")
        progress = Progress(self, x, rule, exit_index)
        first = self.stages[0](x)
        B, _, h, w = first.shape
        progress.begin(B, h, w)
        progress.spend(self._stem_macs(x) + h * w * weights(self.parts(0)[0]))
        features = PlaceFeatures(first)
        for j in range(self.num_exits):
            head = self.parts(j)[1]
            progress.test(j, affine(features.at(progress.active), head.weight, head.bias))
            if progress.finished:
                break
            blocks = self.parts(j + 1)[0]
            places = Neighbours(progress.active, (B, h, w), self.sharpness, blocks[0].dilation)
            share = len(progress.active) / (B * h * w)
            progress.spend(_filling_macs(blocks, first.shape[1], places) / B)
            progress.spend(share * h * w * weights(blocks))
            if mode == "dense" or (mode == "auto" and share > self.crossover):
                progress.spend((1 - share) * h * w * weights(blocks), needed=False)
                features.dense_stage(blocks, places)
            else:
                features.sparse_stage(blocks, places)
        return progress.result()

    def _stem_macs(self, x: Tensor) -> int:
        stem = self.stages[0][0]
        return downscaling_macs([stem.conv1, stem.conv2], x)


def _filling_macs(blocks: nn.Sequential, channels: int, places: Neighbours) -> int:
    """Nine products for every channel of every place in the halo, between any two convolutions."""
    return (2 * len(blocks) - 1) * 9 * channels * len(places.halo)


@torch.inference_mode()
def dense_then_mask(
    net: SegmentationNetwork, x: Tensor, rule: Rule | None, *, exit_index: Tensor | None = None
) -> Segmentation:
    """Segment by the plain definition: compute everywhere, then overwrite what is finished.

    It is slower than the plain network; `SegmentationNetwork.segment` is compared with it.

    Args:
        net: in evaluation mode.
        x: ``(B, 3, H, W)``.
        rule: as in `SegmentationNetwork.segment`.
        exit_index: ``(B, h, w)``: instead of a rule, where each place shall finish.

    Raises:
        ValueError: as `SegmentationNetwork.segment`.
    """
    progress = Progress(net, x, rule, exit_index)
    features = net.stages[0](x)
    B, _, h, w = features.shape
    progress.begin(B, h, w)
    for j in range(net.num_exits):
        progress.test(j, as_rows(net.parts(j)[1](features))[progress.active])
        if progress.finished:
            break
        active = torch.zeros(B * h * w, dtype=torch.bool, device=x.device)
        active = active.index_fill_(0, progress.active, True).view(B, h, w)
        features = _masked_stage(net.parts(j + 1)[0], features, active, net.sharpness)
    return progress.result()


def _masked_stage(
    blocks: nn.Sequential, features: Tensor, active: Tensor, sharpness: float
) -> Tensor:
    """A stage everywhere, overwriting finished places after every convolution.

    ``active`` is ``(B, h, w)``.  Finished places keep the features with which they came.
    """
    d = blocks[0].dilation
    mask = active[:, None].to(features.dtype)
    kernel = neighbour_weights(sharpness, dtype=mask.dtype, device=mask.device).view(1, 1, 3, 3)
    total = F.conv2d(mask, kernel, padding=d, dilation=d)
    # nothing reads places with no active one around them; NaN would spread
    total = total.clamp_min(torch.finfo(total.dtype).tiny)
    kernel = kernel.expand(features.shape[1], 1, 3, 3)

    def filled(y: Tensor) -> Tensor:
        around = F.conv2d(y * mask, kernel, padding=d, dilation=d, groups=len(kernel))
        return torch.where(active[:, None], y, around / total)

    x = features
    for i, block in enumerate(blocks):
        hidden = filled(torch.relu(block.conv1(x)))
        x = torch.relu(block.conv2(hidden) + x)
        x = filled(x) if i + 1 < len(blocks) else x
    return torch.where(active[:, None], x, features)


def still_active(logits: Sequence[Tensor], stop: Tensor) -> list[Tensor]:
    """The places that are active after each exit: no exit so far is surer of them than ``stop``.

    Args:
        logits: ``(B, K, h, w)`` for each exit.
        stop: ``(B,)``, a probability for each image.

    Returns:
        For each exit ``(B, h, w)`` bool.
    """
    active, found = stop.new_ones((), dtype=torch.bool), []
    for z in logits:
        confidence = z.detach().float().softmax(1).amax(1)
        active = active & (confidence <= stop[:, None, None])
        found.append(active)
    return found
