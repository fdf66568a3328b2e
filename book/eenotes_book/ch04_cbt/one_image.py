"""One test image of chapter 4: the answers of the exits, and where its places finish."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from eenotes.rules import Confidence, Rule
from eenotes_book import scale, slider
from eenotes_book.ch04_cbt.bench import Bench
from eenotes_book.ch04_cbt.experiment import SINGLE, evaluate
from eenotes_book.models.progress import resize

Step = tuple[np.ndarray, np.ndarray]  # labels (H, W) after an exit, places (h, w) active before it


def richest(bench: Bench) -> int:
    """The test image with the most classes among the first 60; of several the first."""
    images = range(min(len(bench.data.test), 60))
    kinds = [len(bench.data.test[i][1].unique()) for i in images]
    return kinds.index(max(kinds))


def on_one_image(bench: Bench, index: int, rules: dict[str, Rule]) -> dict[str, list[Step]]:
    """A test image under several rules: for each exit the map after it, and what was active."""
    image, labels = bench.data.test[index]
    found = {}
    for name, rule in rules.items():
        out = bench.net.segment(image[None].to(scale.device()), rule)
        found[name] = [
            (
                out.labels(labels.shape, exit_index=j)[0].cpu().numpy(),
                (out.exit_index[0] >= j).cpu().numpy(),
            )
            for j in range(bench.net.num_exits)
        ]
    return found


def first_look(bench: Bench, index: int) -> dict[str, Tensor]:
    """A test image at the first and the last exit, all ``(H, W)``.

    ``first`` and ``last`` are labels, ``sure`` is the first exit's confidence, and ``differ`` says
    where the two labels differ.
    """
    image, labels = bench.data.test[index]
    with torch.inference_mode():
        logits = bench.net(image[None].to(scale.device()))
    first, last = (resize(z, labels.shape)[0].softmax(0).cpu() for z in (logits[0], logits[-1]))
    return {
        "first": first.argmax(0),
        "sure": first.amax(0),
        "last": last.argmax(0),
        "differ": first.argmax(0) != last.argmax(0),
    }


def slider_rows(bench: Bench, index: int, *, count: int = 24) -> list[slider.Row]:
    """One threshold, moved: scores on ``count`` test images, and where places of one image stop."""
    few = replace(bench, data=replace(bench.data, test=Subset(bench.data.test, range(count))))
    image = bench.data.test[index][0][None].to(scale.device())
    rows = []
    positions = slider.positions(bench.validation.score[:-1], count=12)
    for threshold in sorted({SINGLE, *positions}):
        rule = Confidence(threshold)
        score = evaluate(few, rule)
        at = bench.net.segment(image, rule).exit_index[0]
        rows.append(slider.Row(threshold, score.miou[-1], score.cost[-1], score.left, at))
    return rows
