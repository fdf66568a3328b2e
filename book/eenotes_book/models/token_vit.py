"""A small vision transformer for segmentation whose finished tokens leave the sequence.

It follows DToP (Tang et al., 2023).  One token stands for one place.  What "finished" means here:

1. A token is finished at the first exit where the rule lets it exit; its logits stay those of that
   exit.
2. Of the finished tokens, the ``context`` surest per image and predicted class (those that
   finished before included) stay in the sequence, because the others attend to them.  They are
   computed on, but no exit tests them again.
3. All other finished tokens leave: the layers after that exit see a shorter sequence.

`dense_then_mask` is the same computed the long way: all tokens through all layers, with those that
have left hidden from attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes.network import EarlyExitNetwork
from eenotes.rules import Rule
from eenotes_book.models.segmentation import Run, Segmentation, weights
from eenotes_book.models.sparse_convolution import ConvNorm


class Layer(nn.Module):
    """A transformer layer, attention and MLP with normalisation before each; tokens ``(B, T, C)``."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.heads = heads

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` ``(B, 1, 1, T)``: which tokens can be looked at."""
        x = x + self.out(self.attend(self.qkv(self.norm1(x)), mask))
        return x + self.mlp(self.norm2(x))

    def packed(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The same for sequences of unequal lengths, one after the other in ``(sum(counts), C)``:
        only attention tells them apart.
        """
        mixed = self.qkv(self.norm1(rows)).split(counts)
        rows = rows + self.out(torch.cat([self.attend(part[None])[0] for part in mixed]))
        return rows + self.mlp(self.norm2(rows))

    def attend(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        B, T, _ = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            .transpose(1, 2)
            .reshape(B, T, -1)
        )


class Embedding(nn.Module):
    """Convolutions down to an eighth of the resolution, then positions:

    ``(B, 3, H, W)`` → ``(B, h, w, C)``.

    A transformer trained on a few hundred images needs the convolutions more than large ones do.
    """

    def __init__(self, channels: int, grid: tuple[int, int]):
        super().__init__()
        widths = (3, channels // 4, channels // 2, channels)
        self.convs = nn.ModuleList(
            ConvNorm(a, b, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.position = nn.Parameter(torch.randn(1, channels, *grid) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(x) if i == len(self.convs) - 1 else torch.relu(conv(x))
        position = self.position
        if position.shape[2:] != x.shape[2:]:
            position = F.interpolate(
                position, size=x.shape[2:], mode="bilinear", align_corners=False
            )
        return (x + position).permute(0, 2, 3, 1)


class Layers(nn.Sequential):
    """Transformer layers on a grid of tokens ``(B, h, w, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        for layer in self:
            tokens = layer(tokens)
        return tokens.view(x.shape)


class TokenHead(nn.Sequential):
    """Tokens ``(B, h, w, C)`` → logits ``(B, K, h, w)``."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__(nn.LayerNorm(channels), nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 3, 1, 2)

    def rows(self, rows: Tensor) -> Tensor:
        """``(M, C)`` → ``(M, K)``."""
        return super().forward(rows)


class TokenViT(EarlyExitNetwork):
    """Images ``(B, 3, H, W)`` → for each exit logits ``(B, K, h, w)`` at an eighth of the
    resolution (rounded up).

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
        if (
            len(layers) < 2
            or min(layers) < 1
            or heads < 1
            or channels % heads
            or channels % 4
            or context < 0
        ):
            raise ValueError(
                f"need at least two stages of at least one layer, a width that 4 and {heads} heads divide, and a context of 0 or more, "
                f"got {tuple(layers)}, {channels}, {context}"
            )
        stages = [Layers(*(Layer(channels, heads) for _ in range(count))) for count in layers]
        ends = [TokenHead(channels, num_classes) for _ in layers]
        embedding = Embedding(channels, tuple(-(-n // 8) for n in size))
        super().__init__(
            [
                nn.Sequential(embedding, stages[0]),
                *stages[1:-1],
                nn.Sequential(stages[-1], ends[-1]),
            ],
            ends[:-1],
        )
        self.num_classes, self.context = num_classes, context

    def parts(self, j: int) -> tuple[Layers, TokenHead]:
        """The transformer layers of stage j and the head after them."""
        if j == 0:
            return self.stages[0][1], self.exits[0]
        return (
            (self.stages[j][0], self.stages[j][1])
            if j == self.num_exits - 1
            else (self.stages[j], self.exits[j])
        )

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
        run = Run(self, x, rule, exit_index)
        grid = self.stages[0](x)
        B, h, w, C = grid.shape
        run.begin(B, h, w)
        run.spend(
            embedding_macs(self, x)
            + h * w * weights(self.parts(0)[0])
            + attention_macs(self.parts(0)[0], [h * w], C),
            needed=True,
        )
        rows = grid.reshape(-1, C)
        sequence = _Sequence(run.active)
        for j in range(self.num_exits):
            run.test(j, self.parts(j)[1].rows(rows[sequence.asked]))
            if run.finished:
                break
            keep = sequence.leave(run, self.context, self.num_classes)
            rows, counts = (
                rows[keep],
                torch.bincount(sequence.token // run.places, minlength=B).tolist(),
            )
            layers = self.parts(j + 1)[0]
            run.spend(
                len(rows) / B * weights(layers) + attention_macs(layers, counts, C) / B, needed=True
            )
            for layer in layers:
                rows = layer.packed(rows, counts)
        return run.result()


class _Sequence:
    """Which tokens are still there, and which of them are only looked at."""

    def __init__(self, active: Tensor):
        self.token = active  # (S,) number of each token among all B·h·w, in order
        self.asked = torch.ones_like(active, dtype=torch.bool)  # (S,) not finished yet
        # (S,) of the finished ones, when they finished
        self.confidence = torch.zeros(len(active), device=active.device)
        self.label = torch.zeros_like(active)

    def leave(self, run: Run, context: int, num_classes: int) -> Tensor:
        """After an exit: who stays, ``(S,)`` bool; the sequence is shortened accordingly."""
        gone = run.left
        logits = run.known[self.token[self.asked]]
        confidence, label = logits.softmax(1).max(1)
        self.confidence[self.asked], self.label[self.asked] = confidence, label
        finished = ~self.asked
        finished[self.asked.nonzero().squeeze(1)[gone]] = True
        image = self.token // run.places
        keep = ~finished
        keep[
            _surest(
                finished.nonzero().squeeze(1),
                image * num_classes + self.label,
                self.confidence,
                context,
            )
        ] = True
        self.token, self.asked = self.token[keep], ~finished[keep]
        self.confidence, self.label = self.confidence[keep], self.label[keep]
        return keep


def _surest(rows: Tensor, group: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Of ``rows``, the ``count`` with the highest confidence in each group; of equal ones the
    first.
    """
    rows = rows[confidence[rows].argsort(descending=True, stable=True)]
    rows = rows[group[rows].argsort(stable=True)]
    _, sizes = group[rows].unique_consecutive(return_counts=True)
    rank = torch.arange(len(rows), device=rows.device) - (
        sizes.cumsum(0) - sizes
    ).repeat_interleave(sizes)
    return rows[rank < count]


def attention_macs(layers: Layers, counts: Sequence[int], channels: int) -> int:
    """MACs of the two products of attention for sequences of these lengths."""
    return len(layers) * sum(2 * count * count * channels for count in counts)


def embedding_macs(net: TokenViT, x: Tensor) -> int:
    """MACs per image of the convolutions before the first layer, for images ``(B, 3, H, W)``."""
    total, (height, width) = 0, x.shape[2:]
    for conv in net.stages[0][0].convs:
        height, width = -(-height // 2), -(-width // 2)
        total += height * width * weights(conv)
    return total


@torch.inference_mode()
def dense_then_mask(
    net: TokenViT, x: Tensor, rule: Rule | None, *, exit_index: Tensor | None = None
) -> Segmentation:
    """The definition, plainly: all tokens through all layers; those that have left are hidden from
    the others' attention.

    Args:
        net: in evaluation mode.
        x: ``(B, 3, H, W)``.
        rule: as in `TokenViT.segment`.
        exit_index: ``(B, h, w)``: instead of a rule, where each token shall finish.

    Raises:
        ValueError: as `TokenViT.segment`.
    """
    run = Run(net, x, rule, exit_index)
    grid = net.stages[0](x)
    B, h, w, C = grid.shape
    run.begin(B, h, w)
    tokens, there = grid.flatten(1, 2), torch.ones(B * h * w, dtype=torch.bool, device=x.device)
    for j in range(net.num_exits):
        run.test(j, net.parts(j)[1].rows(tokens.reshape(-1, C)[run.active]))
        if run.finished:
            break
        active = torch.zeros_like(there).index_fill_(0, run.active, True)
        confidence, label = run.known.softmax(1).max(1)
        stays = active.clone()
        for b in range(B):
            for k in range(net.num_classes):
                mine = torch.zeros_like(there)
                mine[b * h * w : (b + 1) * h * w] = True
                finished = (mine & there & ~active & (label == k)).nonzero().squeeze(1)
                order = confidence[finished].argsort(descending=True, stable=True)
                stays[finished[order[: net.context]]] = True
        there = stays
        for layer in net.parts(j + 1)[0]:
            tokens = layer(tokens, there.view(B, 1, 1, h * w))
    return run.result()
