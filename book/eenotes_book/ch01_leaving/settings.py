"""Settings of chapter 1: the data, the network with exits, its training, and what is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    data: str  # "digits", or a data set of torchvision
    train: int  # images
    val: int  # images: thresholds are chosen on them
    test: int  # images
    depth: int  # layers of the residual network: 6n + 2
    width: int  # channels of the first of three groups
    exits: list[str]  # the blocks with an early exit after them
    epochs: int
    batch_size: int
    learning_rate: float  # of SGD at its peak, with a warm-up and a cosine
    timing_batch: int  # a quarter of the images that the clock sees
