"""The parts of the token host: transformer layers, the embedding of places, and a head.

A sequence may be packed: the tokens that are left of every image in one row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes_book.models.sparse_convolution import ConvNorm


class Layer(nn.Module):
    """A transformer layer on tokens ``(B, T, C)``: attention and MLP, normalised before each."""

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
        """The same for sequences of unequal lengths, one after the other: ``(sum(counts), C)``.

        Only attention tells them apart.
        """
        mixed = self.qkv(self.norm1(rows)).split(counts)
        rows = rows + self.out(torch.cat([self.attend(part[None])[0] for part in mixed]))
        return rows + self.mlp(self.norm2(rows))

    def attend(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        B, T, _ = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:  # written out: in bfloat16 a CPU trains it twice as fast as the fused kernel
            scores = q @ k.mT * q.shape[-1] ** -0.5
            hidden = torch.finfo(scores.dtype).min
            mixed = scores.masked_fill(~mask, hidden).softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(B, T, -1)


class Embedding(nn.Module):
    """Convolutions down to an eighth of the resolution, then positions.

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

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """``there`` ``(B, h·w)`` bool: which tokens can be looked at; by default all."""
        tokens = x.flatten(1, 2)
        mask = None if there is None else there[:, None, None]
        for layer in self:
            tokens = layer(tokens, mask)
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
