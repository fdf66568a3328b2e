"""Settings of chapter 7: which recorded networks, what is promised, and how often it is tried."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    runs: list[str]  # recorded exits, "network/method"; the first is the one in the figures
    draws: int  # calibration samples, in ten groups
    samples: list[int]  # images in each
    delta: float  # probability of a broken promise
    disagreement: float  # the level of that risk
    lost_accuracy: float
    error: float  # above the error of the last exit
    vectors: int  # calibration samples on which vectors of thresholds are tried
    classes: int  # looks of the test of two classes are drawn for so many samples
    train: int  # digits that the network of the last exercise is trained on
    epochs: int


@dataclass(frozen=True)
class StudySettings:
    runs: list[str]
    draws: int
    samples: list[int]
    delta: float
    disagreement: float
    lost_accuracy: float
    error: float
