"""What the settings of chapter 6 say."""

from dataclasses import dataclass


@dataclass
class Settings:
    """The settings of a scale; up to ``statistics`` those of `eenotes_book.language_models`."""

    data: str
    hub: str
    vocabulary: int
    length: int
    train: int
    val: int
    test: int
    layers: int
    width: int
    heads: int
    at: int
    phases: list[int]
    widths: list[int]  # of further models among the suspected causes
    batch_size: int
    learning_rate: float
    statistics: int
    tune: int  # rows to train the exit on
    epochs: int
    head_rate: float  # learning rate of the exit alone
    tune_rate: float  # learning rate of all weights
    prompts: int  # texts to write
    prompt: int  # tokens that each of them begins with


@dataclass
class StudySettings(Settings):
    """The settings of the study: those of a scale, and the number of runs."""

    seeds: int
