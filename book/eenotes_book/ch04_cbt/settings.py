"""The settings of chapter 4, for every scale and for the study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convolutional:
    """The convolutional network and its training."""

    channels: int  # of every stage
    blocks: list[int]  # residual blocks before each exit
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
    beta: float  # the highest threshold, DToP's
    alphas: list[float]  # lowest thresholds that are tried; the thesis's range is .85 to .9


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
