r"""A tuned lens: a trained affine map between an exit and the model's own norm and head.

Belrose et al., 2023: $W\,\mathrm{norm}(r + A r + b)$ with the copied head W.  A and b begin at 0,
where the lens is the copied head behind the final norm.  Here it learns the next tokens
themselves, from the very text that the class means are taken from.
"""

import time

import torch
from torch import Tensor, nn

from eenotes_book.ch06_language.features import DRAWS, Pretrained, collected

_BATCH = 256  # positions
_OTHERS = 4096  # random tokens per step, besides those of the text
_POSITIONS = 128  # at once, when all V logits are computed


def measured(p: Pretrained, *, at: int) -> dict:
    """The lens of every draw, trained on its own text and reported on its own test text."""
    found = []
    for draw in range(DRAWS):
        features, labels = collected(
            p.features("train", draw, at=at, norm=False, rows=p.settings.lens_rows)
        )
        start = time.process_time()
        lens = trained(p, features, labels, seed=draw)
        seconds = time.process_time() - start
        x, y = collected(p.features("test", draw, at=at, norm=False))
        ordinary = p.ordinary("test", draw).flatten()
        marks = right(p, lens, x, y)
        found.append(
            {
                "positions": [len(y), int(ordinary.sum())],
                "right": [int(marks.sum()), int((marks & ordinary).sum())],
                "tokens": len(labels),
                "seconds": round(seconds, 1),
            }
        )
    return {"at": at, "draws": found}


def trained(p: Pretrained, features: Tensor, labels: Tensor, *, seed: int) -> nn.Linear:
    """The affine map, trained for some epochs of AdamW; the rate falls to 0.

    The cross-entropy of a step sees the tokens of the text and some random ones, not all V.
    """
    s, generator = p.settings, torch.Generator().manual_seed(seed)
    lens = nn.Linear(features.shape[1], features.shape[1])
    nn.init.zeros_(lens.weight), nn.init.zeros_(lens.bias)
    weight, own = p.anatomy.head.weight.detach(), labels.unique()
    whole = len(labels) // _BATCH
    optimizer = torch.optim.AdamW(lens.parameters(), lr=s.lens_rate, weight_decay=0.0)
    steps = s.lens_epochs * whole
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        if step % whole == 0:
            order = torch.randperm(len(labels), generator=generator).split(_BATCH)
        batch = order[step % whole]
        others = torch.randint(len(weight), (_OTHERS,), generator=generator)
        known = torch.cat([own, others]).unique()
        x, y = features[batch], torch.searchsorted(known, labels[batch])
        logits = p.anatomy.final_norm(x + lens(x)) @ weight[known].T
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, y).backward()
        optimizer.step(), schedule.step()
    return lens


@torch.no_grad()
def right(p: Pretrained, lens: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    """Where the lens names the label, ``(N,)``."""
    weight, norm = p.anatomy.head.weight, p.anatomy.final_norm
    parts = zip(features.split(_POSITIONS), labels.split(_POSITIONS), strict=True)
    return torch.cat([(norm(x + lens(x)) @ weight.T).argmax(1) == y for x, y in parts])
