"""The settings of chapter 4, for every scale and for the study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convolutional:
    """The convolutional network and its training."""

    channels: int  # of every stage
    blocks: list[int]  # residual blocks before each exit
    dilations: list[int]  # of the convolutions before each exit
    epochs: int
    batch_size: int  # images
    learning_rate: float


@dataclass(frozen=True)
class Transformer:
    """The transformer and its training."""

    channels: int
    layers: list[int]  # before each exit
    heads: int  # of attention
    epochs: int
    batch_size: int  # images
    learning_rate: float


@dataclass(frozen=True)
class Settings:
    """One run of the chapter."""

    data: str  # one of eenotes_book.data.scenes.NAMES
    train: int  # images
    val: int
    test: int
    thresholds: list[float]  # single thresholds that are measured on test
    budgets: list[float]  # relative costs for which thresholds are chosen on validation
    shares: list[float]  # of active places, at which skipping is timed
    timing_batch: int  # images
    conv: Convolutional
    vit: Transformer


@dataclass(frozen=True)
class StudySettings(Settings):
    """The many-seed runs behind the claims."""

    seeds: int
    timing_threads: list[int]  # at which the clock is read on larger maps
