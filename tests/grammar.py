"""Random backbones: a small grammar whose steps know their multiply-accumulates and their axes.

Features have one of three kinds: ``flat`` ``(B, C)``, ``tokens`` ``(B, T, C)`` and ``map``
``(B, C, *space)``.
"""

import math
import random
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F


class Do(nn.Module):
    """Modules, and what ``forward`` makes of them."""

    def __init__(self, body, *parts):
        super().__init__()
        self.body, self.parts = body, nn.ModuleList(parts)

    def forward(self, x):
        return self.body(x, *self.parts)


class Backbone(nn.Module):
    """Steps in a row, with an argument that nobody gives."""

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x, scale=None):
        for step in self.steps:
            x = step(x)
        return x if scale is None else x * scale


class Step(NamedTuple):
    """A step, the MACs that it takes for one sample, and the kind of its features."""

    module: nn.Module
    macs: int
    kind: str


class Case(NamedTuple):
    """A backbone, its steps with their names, and a batch for it."""

    backbone: nn.Module
    steps: list[Step]
    x: torch.Tensor
    classes: int
    names: list[str]


def halves(x, f):
    one, other = x.chunk(2, 1)[0], x.chunk(2, 1)[1]
    return torch.cat([f(one), f(other)], 1)


def shuffled(x):
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def flat(c):
    """name → (module, MACs, kind) for features ``(B, c)``."""
    found = {
        "relu": lambda: (nn.ReLU(), 0),
        "linear": lambda: (nn.Linear(c, 6), 6 * c),
        "in place": lambda: (Do(lambda x, f: f(x).relu_(), nn.Linear(c, 4)), 4 * c),
        "norm": lambda: (nn.BatchNorm1d(c), 0),
        "dropout": lambda: (
            Do(lambda x, f: F.dropout(f(x), 0.5, f.training), nn.Linear(c, c)),
            c * c,
        ),
        "skip": lambda: (Do(lambda x, f: x + f(x), nn.Linear(c, c)), c * c),
        "add in place": lambda: (Do(lambda x, f: f(x).add_(x), nn.Linear(c, c)), c * c),
        "gate": lambda: (Do(lambda x, f: F.glu(f(x), 1), nn.Linear(c, 2 * c)), 2 * c * c),
        "twice": lambda: (Do(lambda x, f: f(f(x).tanh()), nn.Linear(c, c)), 2 * c * c),
        "functional": lambda: (Do(lambda x, f: F.linear(x, f.weight), nn.Linear(c, 5)), 5 * c),
        "einsum": lambda: (
            Do(lambda x, f: torch.einsum("bi,oi->bo", x, f.weight), nn.Linear(c, 5)),
            5 * c * (c > 1),
        ),
        "pairs": lambda: (Do(lambda x: torch.einsum("bi,bj->bij", x, x)), c * c * (c > 1), "map"),
        "kronecker": lambda: (Do(lambda x, f: torch.kron(x, f.weight), nn.Linear(3, 1)), 3 * c),
        "angles": lambda: (
            Do(lambda x, f: F.cosine_similarity(x[:, None], f.weight, -1), nn.Linear(c, 5)),
            5 * c,
        ),
        "raised": lambda: (
            Do(lambda x, f: torch.addr(f(x), x[:, 0], f.bias), nn.Linear(c, c)),
            c * c + c,
        ),
        "bilinear": lambda: (Do(lambda x, f: f(x, x), nn.Bilinear(c, c, 4)), 4 * c * c),
        "sum": lambda: (Do(lambda x, f: f(x).addmm_(x, f.weight), nn.Linear(c, c)), 2 * c * c),
        "distances": lambda: (Do(lambda x, f: -torch.cdist(x, f.weight), nn.Linear(c, 5)), 5 * c),
        "outer": lambda: (
            Do(lambda x, f: x[:, :, None] @ f(x)[:, None], nn.Linear(c, 3)),
            6 * c,
            "map",
        ),
        "length": lambda: (Do(lambda x: x[:, None]), 0, "map"),
        "pixel": lambda: (Do(lambda x: x.view(x.size(0), -1, 1, 1)), 0, "map"),
        "batch softmax": lambda: (Do(lambda x: x.softmax(0)), 0),
        "centred": lambda: (Do(lambda x: x - x.mean(0)), 0),
    }
    if c % 2 == 0:
        found["halves"] = lambda: (Do(halves, nn.Linear(c // 2, 3)), 3 * c)
        found["two tokens"] = lambda: (nn.Unflatten(1, (2, -1)), 0, "tokens")
        found["view"] = lambda: (Do(lambda x: x.view(-1, c // 2, 2)), 0, "map")
    return found


def tokens(t, c):
    """The same for features ``(B, t, c)``."""
    heads = 2 if c % 2 == 0 else 1
    attention = 4 * t * c * c + 2 * t * t * c

    def recurrent(kind, gates, body, layers=1, both=False, first=True):
        net = kind(c, 4, layers, bidirectional=both, batch_first=first)
        ways = 1 + both
        widths = [c] + [4 * ways] * (layers - 1)
        return Do(body, net), sum(t * ways * gates * 4 * (width + 4) for width in widths)

    def attends(first=True):
        return nn.MultiheadAttention(c, heads, batch_first=first, dropout=0.1)

    return {
        "relu": lambda: (nn.ReLU(), 0),
        "linear": lambda: (nn.Linear(c, 6), 6 * t * c),
        "mean": lambda: (Do(lambda x: x.mean(1)), 0, "flat"),
        "first": lambda: (Do(lambda x: x[:, 0]), 0, "flat"),
        "flatten": lambda: (nn.Flatten(), 0, "flat"),
        "layer norm": lambda: (nn.LayerNorm(c), 0),
        "rms norm": lambda: (nn.RMSNorm(c), 0),
        "dropout": lambda: (nn.Dropout(0.3), 0),
        "attention": lambda: (Do(lambda x, a: a(x, x, x)[0], attends()), attention),
        "block": lambda: (
            Do(
                lambda x, n, a: x + a(n(x), x, x, need_weights=False)[0], nn.LayerNorm(c), attends()
            ),
            attention,
        ),
        "encoder": lambda: (
            nn.TransformerEncoderLayer(c, heads, 5, batch_first=True),
            attention + 10 * t * c,
        ),
        "scaled product": lambda: (
            Do(lambda x: F.scaled_dot_product_attention(x, x, x)),
            2 * t * t * c,
        ),
        "products": lambda: (Do(lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x), 2 * t * t * c),
        "lstm": lambda: recurrent(nn.LSTM, 4, lambda x, r: r(x)[0]),
        "deep gru": lambda: recurrent(nn.GRU, 3, lambda x, r: r(x)[0], layers=2, both=True),
        "state": lambda: (*recurrent(nn.GRU, 3, lambda x, r: r(x)[1][-1]), "flat"),
        "cell": lambda: (*recurrent(nn.LSTM, 4, lambda x, r: r(x)[1][0][-1], layers=2), "flat"),
        "class token": lambda: (Do(lambda x: torch.cat([x.mean(1, keepdim=True), x], 1)), 0),
        "positions": lambda: (Do(lambda x, f: x + f.weight[:t], nn.Embedding(t, c)), 0),
        "turned": lambda: (Do(lambda x: x.transpose(1, 2)), 0, "map"),
        "convolution": lambda: (
            Do(lambda x, f: f(x.transpose(1, 2)).transpose(1, 2), nn.Conv1d(c, 5, 3, padding=1)),
            15 * t * c,
        ),
        "folded": lambda: (
            Do(lambda x, f: f(x.reshape(-1, c)).relu().reshape(-1, t, 5), nn.Linear(c, 5)),
            5 * t * c,
        ),
        "second": lambda: (
            Do(lambda x, f: f(x.transpose(0, 1)).relu().transpose(0, 1), nn.Linear(c, 5)),
            5 * t * c,
        ),
        "lstm second": lambda: recurrent(nn.LSTM, 4, lambda x, r: r(x)[0], first=False),
        "attention second": lambda: (Do(lambda x, a: a(x, x, x)[0], attends(False)), 0),
        "noise": lambda: (Do(lambda x: x + torch.randn(c).to(x)), 0),
        "chance": lambda: (Do(lambda x: x.relu() if random.random() < 0.5 else x), 0),
    }


def maps(c, *space):
    """The same for features ``(B, c, *space)``."""
    d, size, axes = len(space), math.prod(space), tuple(range(2, 2 + len(space)))
    of = lambda name: getattr(nn, f"{name}{d}d")  # noqa: E731
    Conv, Norm = of("Conv"), of("BatchNorm")
    halved = math.prod((side + 1) // 2 for side in space)
    found = {
        "relu": lambda: (nn.ReLU(), 0),
        "conv": lambda: (Conv(c, 6, 3, padding=1), size * 3**d * c * 6),
        "mean": lambda: (Do(lambda x: x.mean(axes)), 0, "flat"),
        "flatten": lambda: (nn.Flatten(), 0, "flat"),
        "norm": lambda: (Norm(c), 0),
        "in place": lambda: (nn.Sequential(Conv(c, 4, 1), nn.ReLU(True)), size * c * 4),
        "narrowed": lambda: (
            Do(lambda x, f: f(x).narrow(1, 0, 2).relu_(), Conv(c, 3, 1)),
            size * 3 * c,
        ),
        "added": lambda: (
            Do(lambda x, f: f(x).swapaxes(1, 2).add_(1).swapaxes(1, 2), Conv(c, 3, 1)),
            size * 3 * c,
        ),
        "upsample": lambda: (nn.Upsample(scale_factor=2), 0),
        "stride": lambda: (Conv(c, 6, 3, stride=2, padding=1), halved * 3**d * c * 6),
        "depthwise": lambda: (Conv(c, c, 3, padding=1, groups=c, bias=False), size * 3**d * c),
        "dilated": lambda: (Conv(c, 3, 3, padding=2, dilation=2), size * 3**d * c * 3),
        "turned": lambda: (of("ConvTranspose")(c, 4, 2, stride=2), size * 2**d * c * 4),
        "group norm": lambda: (nn.GroupNorm(1, c), 0),
        "dropout": lambda: (of("Dropout")(0.4), 0),
        "residual": lambda: (
            Do(lambda x, f, n: x + n(f(x)).relu(), Conv(c, c, 3, padding=1), Norm(c)),
            size * 3**d * c * c,
        ),
        "dense": lambda: (Do(lambda x, f: torch.cat([x, f(x)], 1), Conv(c, 2, 1)), size * c * 2),
        "gate": lambda: (
            Do(lambda x, f: x * f(x.mean(axes, keepdim=True)).sigmoid(), Conv(c, c, 1)),
            c * c,
        ),
        "pool": lambda: (of("AdaptiveAvgPool")(2), 0),
        "max": lambda: (of("MaxPool")(2, ceil_mode=True), 0),
        "tokens": lambda: (Do(lambda x: x.flatten(2).transpose(1, 2)), 0, "tokens"),
        "last": lambda: (
            Do(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), nn.Linear(c, 5)),
            size * 5 * c,
        ),
        "own": lambda: (Do(lambda x, f: F.relu(f(x), inplace=True), Conv(c, 3, 1)), size * 3 * c),
        "twice": lambda: (Do(lambda x, f: f(f(x).tanh()), Conv(c, c, 1)), 2 * size * c * c),
        "centred": lambda: (Do(lambda x: x - x.mean(0)), 0),
    }
    if c % 2 == 0:
        found["shuffle"] = lambda: (Do(shuffled), 0)
        found["grouped"] = lambda: (Conv(c, 4, 1, groups=2), size * c * 2)
    return found


KINDS = {"flat": flat, "tokens": tokens, "map": maps}
ENDS = {
    "log": lambda z: z.log_softmax(1),
    "tuple": lambda z: (z, z),
    "dict": lambda z: {"logits": z},
    "single": lambda z: z[:, :1],
    "space": lambda z: z[:, :, None],
}
MIXES = {"batch softmax", "centred", "lstm second", "attention second", "noise", "chance"}
TRAPS = MIXES | {"folded", "second", "tuple", "dict", "single", "space"}
ROWS = 12


@st.composite
@torch.no_grad()
def cases(draw):
    """A `Case` in float32, in evaluation mode."""
    torch.manual_seed(draw(st.integers(0, 9999), label="seed"))
    kind = draw(st.sampled_from(["flat", "tokens", "map", "ids"]), label="input")
    dims = {"flat": 0, "map": draw(st.integers(1, 3))}.get(kind, 1)
    space, channels = [draw(st.integers(1, 4)) for _ in range(dims)], draw(st.integers(1, 6))
    x = torch.randn(ROWS, *([channels, *space] if kind == "map" else [*space, channels]))
    steps, names, y = [], [], x

    def add(name, module, macs, after):
        nonlocal y, kind
        y = y if name == "chance" else module.eval()(y)
        steps.append(Step(module, macs, after))
        names.append(name)
        kind = after

    if kind == "ids":
        x = y = torch.randint(9, (ROWS, *space))
        add("shift", Do(lambda x: x + 1), 0, "ids")
        add("embedding", nn.Embedding(10, 4), 0, "tokens")
    if kind != "ids" and draw(st.booleans(), label="input in place"):
        x = x.clone()
        add("overwrite", Do(lambda x: x.mul_(2)), 0, kind)
    classes = draw(st.integers(2, 4), label="classes")
    for _ in range(draw(st.integers(1, 5), label="length")):
        choices = KINDS[kind](*y.shape[1:])
        name = draw(st.sampled_from(list(choices)), label=kind)
        module, macs, *after = choices[name]()
        if y[0].numel() < 3000 or name not in ("turned", "dense"):
            add(name, module, macs, *(after or [kind]))
    if kind != "flat":
        axis = 1 if kind == "tokens" else 2
        add("mean", Do(lambda x: x.mean(1) if axis == 1 else x.flatten(2).mean(2)), 0, "flat")
    add("classifier", nn.Linear(y.shape[1], classes), y.shape[1] * classes, "flat")
    end = draw(st.sampled_from([*[""] * 20, *ENDS]), label="end")
    if end:
        add(end, Do(ENDS[end]), 0, "flat")
    backbone = Backbone([step.module for step in steps]).eval()
    for p in backbone.parameters():
        p *= 2 if p.ndim > 1 else 1  # else deep features of all samples are alike
    for norm in backbone.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return Case(backbone, steps, x, classes, names)
