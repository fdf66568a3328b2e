"""A small vision transformer for segmentation whose finished tokens leave the sequence.

It works in the manner of DToP (Tang et al., 2023).  One token stands for one place.  What
"finished" means here:

1. A token is finished at the first exit where the rule lets it stop; its logits stay those of that
   exit.
2. Of the finished tokens, the ``context`` surest per image and predicted class (those that finished
   before included) stay in the sequence, so that the others can attend to them.  They are still
   computed, but no later exit tests them.
3. All other finished tokens leave: the layers after that exit see a shorter sequence.

`dense_then_mask` computes the same in the simplest way: all tokens through all layers, with
those that have left hidden from attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eenotes.network import EarlyExitNetwork
from eenotes.rules import Rule
from eenotes_book.models.progress import Progress, Segmentation, downscaling_macs, weights
from eenotes_book.models.token_layers import Embedding, Layer, Layers, TokenHead


class TokenViT(EarlyExitNetwork):
    """Images ``(B, 3, H, W)`` → for each exit logits ``(B, K, h, w)`` at an eighth of the size.

    Args:
        num_classes: K.
        size: (H, W) of the training images; other sizes work, with interpolated positions.
        channels: width, a multiple of 4 and of ``heads``.
        layers: transformer layers before each exit, as many exits as numbers.
        heads: of attention.
        context: how many finished tokens per class stay in the sequence.

    Raises:
        ValueError: fewer than two stages, an empty one, a width that does not divide, or a negative
            context.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: tuple[int, int],
        channels: int = 96,
        layers: Sequence[int] = (3, 1, 2),
        heads: int = 3,
        context: int = 5,
    ):
        divides = heads >= 1 and channels % heads == 0 and channels % 4 == 0
        if len(layers) < 2 or min(layers) < 1 or not divides or context < 0:
            raise ValueError(
                "need at least two stages of at least one layer, a width that 4 and "
                f"{heads} heads divide, and a context of 0 or more, "
                f"got {tuple(layers)}, {channels}, {context}"
            )
        stages = [Layers(*(Layer(channels, heads) for _ in range(count))) for count in layers]
        ends = [TokenHead(channels, num_classes) for _ in layers]
        embedding = Embedding(channels, tuple(-(-n // 8) for n in size))
        first = nn.Sequential(embedding, stages[0])
        last = nn.Sequential(stages[-1], ends[-1])
        super().__init__([first, *stages[1:-1], last], ends[:-1])
        self.num_classes, self.context = num_classes, context

    def parts(self, j: int) -> tuple[Layers, TokenHead]:
        """The transformer layers of stage j and the head after them."""
        if j == 0:
            return self.stages[0][1], self.exits[0]
        if j == self.num_exits - 1:
            return self.stages[j][0], self.stages[j][1]
        return self.stages[j], self.exits[j]

    def forward(self, x: Tensor, *, stop: Tensor | None = None) -> list[Tensor]:
        """The logits ``(B, K, h, w)`` of all exits, computed everywhere.

        Args:
            x: ``(B, 3, H, W)``.
            stop: ``(B,)``: tokens of which an exit is surer than this are finished, and what comes
                after does not see those that leave.  The later exits' logits mean nothing there;
                `eenotes_book.models.segmentation.still_active` gives the other tokens.
        """
        if stop is None:
            return super().forward(x)
        grid = self.stages[0](x)
        logits = [self.parts(0)[1](grid)]
        seen = torch.ones_like(logits[0][:, 0], dtype=torch.bool).flatten(1)
        sure, label = torch.zeros_like(seen, dtype=torch.float32), torch.zeros_like(seen).long()
        active = seen
        for j in range(1, self.num_exits):
            confidence, likeliest = logits[-1].detach().float().softmax(1).flatten(2).max(1)
            sure, label = (
                torch.where(active, confidence, sure),
                torch.where(active, likeliest, label),
            )
            active = active & (sure <= stop[:, None])
            group = label + self.num_classes * torch.arange(len(x), device=x.device)[:, None]
            finished = (seen & ~active).flatten().nonzero().squeeze(1)
            context = _surest(finished, group.flatten(), sure.flatten(), self.context)
            seen = active.flatten().index_fill(0, context, True).view_as(active)
            layers, head = self.parts(j)
            grid = layers(grid, seen)
            logits.append(head(grid))
        return logits

    @torch.inference_mode()
    def segment(
        self, x: Tensor, rule: Rule | None, *, exit_index: Tensor | None = None
    ) -> Segmentation:
        """Segment a batch; finished tokens leave the sequence.

        Args:
            x: ``(B, 3, H, W)``.
            rule: from `eenotes.rules`; its samples are the active tokens of all images.
            exit_index: ``(B, h, w)``: instead of a rule, where each token shall finish.

        Raises:
            ValueError: as `SegmentationNetwork.segment`.
        """
        progress = Progress(self, x, rule, exit_index)
        grid = self.stages[0](x)
        B, h, w, C = grid.shape
        progress.begin(B, h, w)
        first = self.parts(0)[0]
        progress.spend(downscaling_macs(self.stages[0][0].convs, x))
        progress.spend(h * w * weights(first) + _attention_macs(first, [h * w], C))
        rows = grid.reshape(-1, C)
        sequence = _Sequence(progress.active)
        for j in range(self.num_exits):
            progress.test(j, self.parts(j)[1].rows(rows[sequence.active]))
            if progress.finished:
                break
            rows = rows[sequence.shorten(progress, self.context, self.num_classes)]
            counts = torch.bincount(sequence.token // (h * w), minlength=B).tolist()
            layers = self.parts(j + 1)[0]
            progress.spend(len(rows) / B * weights(layers))
            progress.spend(_attention_macs(layers, counts, C) / B)
            for layer in layers:
                rows = layer.packed(rows, counts)
        return progress.result()


class _Sequence:
    """The tokens that are still there, and which of them are only context."""

    def __init__(self, tokens: Tensor):
        self.token = tokens  # (S,) number of each token among all B·h·w, in order
        self.active = torch.ones_like(tokens, dtype=torch.bool)  # (S,) not finished yet
        # (S,) of the finished ones, when they finished
        self.confidence = torch.zeros(len(tokens), device=tokens.device)
        self.label = torch.zeros_like(tokens)

    def shorten(self, progress: Progress, context: int, num_classes: int) -> Tensor:
        """Drop the tokens that leave after an exit; returns those that stay, ``(S,)`` bool."""
        logits = progress.known[self.token[self.active]]
        confidence, label = logits.softmax(1).max(1)
        self.confidence[self.active], self.label[self.active] = confidence, label
        finished = ~self.active
        finished[self.active.nonzero().squeeze(1)[progress.left]] = True
        group = self.token // progress.places * num_classes + self.label  # image and class
        stay = ~finished
        stay[_surest(finished.nonzero().squeeze(1), group, self.confidence, context)] = True
        self.token, self.active = self.token[stay], ~finished[stay]
        self.confidence, self.label = self.confidence[stay], self.label[stay]
        return stay


def _surest(rows: Tensor, group: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Of ``rows``, the ``count`` most confident in each group; of equal ones the first."""
    rows = rows[confidence[rows].argsort(descending=True, stable=True)]
    rows = rows[group[rows].argsort(stable=True)]
    _, sizes = group[rows].unique_consecutive(return_counts=True)
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    rank = torch.arange(len(rows), device=rows.device) - first
    return rows[rank < count]


def _attention_macs(layers: Layers, counts: Sequence[int], channels: int) -> int:
    """MACs of the two products of attention for sequences of these lengths."""
    return len(layers) * sum(2 * count * count * channels for count in counts)


@torch.inference_mode()
def dense_then_mask(
    net: TokenViT, x: Tensor, rule: Rule | None, *, exit_index: Tensor | None = None
) -> Segmentation:
    """Segment by the plain definition: all tokens pass through all layers.

    Those that have left are hidden from the others' attention.

    Args:
        net: in evaluation mode.
        x: ``(B, 3, H, W)``.
        rule: as in `TokenViT.segment`.
        exit_index: ``(B, h, w)``: instead of a rule, where each token shall finish.

    Raises:
        ValueError: as `TokenViT.segment`.
    """
    progress = Progress(net, x, rule, exit_index)
    grid = net.stages[0](x)
    B, h, w, C = grid.shape
    progress.begin(B, h, w)
    tokens = grid.flatten(1, 2)
    there = torch.ones(B * h * w, dtype=torch.bool, device=x.device)
    for j in range(net.num_exits):
        progress.test(j, net.parts(j)[1].rows(tokens.reshape(-1, C)[progress.active]))
        if progress.finished:
            break
        there = _those_that_stay(net, progress, there)
        for layer in net.parts(j + 1)[0]:
            tokens = layer(tokens, there.view(B, 1, 1, h * w))
    return progress.result()


def _those_that_stay(net: TokenViT, progress: Progress, there: Tensor) -> Tensor:
    """After an exit: the active tokens and the surest finished ones of every image and class."""
    active = torch.zeros_like(there).index_fill_(0, progress.active, True)
    image = torch.arange(len(there), device=there.device) // progress.places
    confidence, label = progress.known.softmax(1).max(1)
    stay = active.clone()
    for b in range(progress.B):
        for k in range(net.num_classes):
            finished = (image == b) & (label == k) & there & ~active
            tokens = finished.nonzero().squeeze(1)
            order = confidence[tokens].argsort(descending=True, stable=True)
            stay[tokens[order[: net.context]]] = True
    return stay
