"""Convolutions at some places of a map only: gather neighbourhoods, multiply, fill in the halo.

What is filled in, and why only the halo is, stands in `eenotes_book.models.segmentation`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Active places whose neighbourhoods a CPU gathers in one go, for each of its threads: 2.9 MB at 64
# channels.  Much fewer, and the calls cost more than the work; many more, and they leave the caches
# before the product reads them.
_AT_ONCE = 1280
_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class ConvNorm(nn.Module):
    """A 3 × 3 convolution and batch normalisation; in evaluation mode one convolution."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.bn(self.conv(x))
        weight, bias = self.folded()
        conv = self.conv
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight ``(C, C_in, 3, 3)`` and bias ``(C,)`` of the two together."""
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
        weight = self.conv.weight * scale[:, None, None, None]
        return weight, self.bn.bias - self.bn.running_mean * scale


def neighbour_weights(sharpness: float, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """exp(-κ² d²) for the nine places around one, row by row, ``(9,)``."""
    distance = torch.tensor([dy * dy + dx * dx for dy, dx in _OFFSETS], dtype=dtype, device=device)
    return torch.exp(-(sharpness**2) * distance)


def as_rows(features: Tensor) -> Tensor:
    """``(B, C, h, w)``, channels last → ``(B·h·w, C)``, one row per place, without a copy."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]``, three times as fast on a CPU.

    Rows ``(M, C)`` and an index ``(A, B)`` give ``(A, B, C)``; any shapes will do.
    """
    return rows.index_select(0, index.reshape(-1)).view(*index.shape, *rows.shape[1:])


def affine(rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Rows ``(M, C_in)`` times a kernel ``(C, C_in, 1, 1)``, plus the bias: ``(M, C)``.

    The matrix product is written as a 1 × 1 convolution, since the rows are a tall and narrow
    matrix: with 10,700 rows of 576 numbers and 64 outputs oneDNN's kernel took 4.2 ms, the BLAS
    product 6.4 (medians of 16; AMD EPYC, AVX512, two threads).
    """
    return as_rows(F.conv2d(rows.view(1, len(rows), 1, -1).permute(0, 3, 1, 2), kernel, bias))


class Neighbours:
    """Which places are next to which, worked out once per stage for all its convolutions.

    The rows of a stage's features are: the M active places, the halo, and one row of zeros for
    everything outside the image.

    Args:
        active: ``(M,)`` numbers of the active places among all B·h·w, in order.
        shape: (B, h, w).
        sharpness: κ of the filling.
        dilation: how many places apart neighbours are.
    """

    def __init__(
        self, active: Tensor, shape: tuple[int, int, int], sharpness: float, dilation: int = 1
    ):
        B, h, w = shape
        device, whole, edge = active.device, torch.int32, dilation
        self.active, self.halo = active, _halo(active, shape, dilation)
        self.places = torch.cat([self.active, self.halo])
        self.M, self.zero = len(active), len(self.places)
        # A grid with a border, so that a neighbour is a fixed step away: which row holds each
        # position.
        height, width = h + 2 * edge, w + 2 * edge
        grid = torch.arange(B * height * width, dtype=whole, device=device)
        inside = grid.view(B, height, width)[:, edge:-edge, edge:-edge]
        positions = take_rows(inside.flatten(), self.places)
        row = torch.full((grid.numel(),), self.zero, dtype=whole, device=device)
        rows = torch.arange(self.zero, dtype=whole, device=device)
        row.index_copy_(0, positions.long(), rows)
        steps = [dilation * (dy * width + dx) for dy, dx in _OFFSETS]
        steps = torch.tensor(steps, dtype=whole, device=device)
        self.neighbours = take_rows(row, positions[: self.M, None] + steps)
        around = take_rows(row, positions[self.M :, None] + steps)
        known = around < self.M
        weight = neighbour_weights(sharpness, dtype=torch.float32, device=device)
        weight = torch.where(known, weight, 0.0)
        self.sources = torch.where(known, around, 0)
        self.weight = weight / weight.sum(1, keepdim=True)

    def gather(self, rows: Tensor, *, out: Tensor) -> Tensor:
        """The rows of this stage from those of all B·h·w places, written to ``out``."""
        torch.index_select(rows, 0, self.places, out=out[: self.zero])
        out[self.zero] = 0
        return out

    def filled(self, rows: Tensor, *, everywhere: bool = False) -> Tensor:
        """Values for the halo, from the rows of the active places ``(M, C)``.

        With ``everywhere`` the rows are those of all B·h·w places.
        """
        sources = take_rows(self.active, self.sources) if everywhere else self.sources
        return F.embedding_bag(
            sources, rows, per_sample_weights=self.weight.to(rows.dtype), mode="sum"
        )


def _halo(active: Tensor, shape: tuple[int, int, int], dilation: int) -> Tensor:
    """Numbers of the finished places that have an active one among their eight neighbours."""
    d = dilation
    mask = torch.zeros(math.prod(shape), dtype=torch.bool, device=active.device)
    mask.index_fill_(0, active, True)
    bordered = F.pad(mask.view(shape), (d, d, d, d))
    tall = bordered[:, : -2 * d] | bordered[:, d:-d] | bordered[:, 2 * d :]
    near = tall[..., : -2 * d] | tall[..., d:-d] | tall[..., 2 * d :]
    return (near.flatten() & ~mask).nonzero().squeeze(1)


class PlaceFeatures:
    """The features of all places of a batch, from stage to stage.

    A finished place keeps those with which it finished.

    Args:
        features: ``(B, C, h, w)``, channels last; overwritten.
    """

    def __init__(self, features: Tensor):
        self._shape = features.shape
        self._rows = as_rows(features)  # (B·h·w, C)
        self._room = self._rows.new_empty(2, 0, features.shape[1])

    def at(self, active: Tensor) -> Tensor:
        """The rows ``(M, C)`` of the active places."""
        if len(active) == len(self._rows):
            return self._rows
        return take_rows(self._rows, active)

    def dense_stage(self, blocks: nn.Sequential, places: Neighbours) -> None:
        """Compute a stage everywhere, and overwrite the halo.

        No active place ever reads what lies further away.
        """
        B, _, h, w = self._shape
        x = self._rows.view(B, h, w, -1).permute(0, 3, 1, 2)

        def filled(y: Tensor) -> Tensor:
            y = y.contiguous(memory_format=torch.channels_last)
            if len(places.halo):
                out = as_rows(y)
                out.index_copy_(0, places.halo, places.filled(out, everywhere=True))
            return y

        for i, block in enumerate(blocks):
            hidden = filled(torch.relu(block.conv1(x)))
            x = torch.relu(block.conv2(hidden) + x)
            x = filled(x) if i + 1 < len(blocks) else x
        rows = as_rows(x.contiguous(memory_format=torch.channels_last))
        self._rows.index_copy_(0, places.active, take_rows(rows, places.active))

    def sparse_stage(self, blocks: nn.Sequential, places: Neighbours) -> None:
        """Compute a stage at the active places only."""
        count = places.zero + 1
        # two arrays for all stages: fresh ones of this size cost their weight in page faults
        if self._room.shape[1] < count:
            self._room = self._rows.new_empty(2, count, self._rows.shape[1])
        rows, hidden = self._room[:, :count]
        _convolve(blocks, places.gather(self._rows, out=rows), hidden, places)
        self._rows.index_copy_(0, places.active, rows[: places.M])


def _convolve(blocks: nn.Sequential, rows: Tensor, hidden: Tensor, places: Neighbours) -> None:
    """A stage at the active places, in place.

    ``rows`` and ``hidden``, an array to work in, are ``(M + halo + 1, C)``.
    """
    at_once = places.M if rows.is_cuda else min(places.M, _AT_ONCE * torch.get_num_threads())
    patches = rows.new_empty(9 * at_once, rows.shape[1])
    for i, block in enumerate(blocks):
        _sparse_conv(block.conv1, rows, places, patches, out=hidden)
        _sparse_conv(block.conv2, hidden, places, patches, out=rows, shortcut=True)
        if i + 1 < len(blocks):  # nothing reads what the last block would leave in the halo
            _fill(rows, places)


def _sparse_conv(
    conv: ConvNorm,
    rows: Tensor,
    places: Neighbours,
    patches: Tensor,
    *,
    out: Tensor,
    shortcut: bool = False,
) -> None:
    """Convolve at the active places, and apply ReLU.

    A shortcut adds what ``out`` held before; without one, the halo and the row of zeros are filled
    too.  As many neighbourhoods as ``patches`` has room for
    are gathered and multiplied at once.
    """
    weight, bias = conv.folded()
    kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)
    at_once = len(patches) // 9
    for start in range(0, places.M, at_once):
        index = places.neighbours[start : start + at_once]
        here = out[start : start + len(index)]
        near = torch.index_select(rows, 0, index.reshape(-1), out=patches[: index.numel()])
        value = affine(near.view(len(index), -1), kernel, bias)
        torch.clamp_min(value.add_(here) if shortcut else value, 0, out=here)
    if not shortcut:
        _fill(out, places)


def _fill(rows: Tensor, places: Neighbours) -> None:
    """Fill the halo from the active places, and the row of zeros."""
    if places.zero > places.M:
        rows[places.M : places.zero] = places.filled(rows[: places.M])
    rows[places.zero] = 0
