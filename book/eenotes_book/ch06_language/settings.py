"""The settings of chapter 6, for every scale and for the study."""

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
class PretrainedSettings:
    """The settings of epoch 0 on a pretrained model."""

    model: str  # one of eenotes_book.data.pretrained_language.MODELS
    precision: str  # of the forward pass; everything after it is float32
    length: int  # tokens per row
    exits: list[int]  # decoders before each
    train: int  # rows for the statistics at the first exit, per draw
    others: int  # the same at the other exits, and on raw output
    val: int  # rows for the choice of N₀ and α, per draw
    test: int  # rows for the report, per draw
    few: int  # test rows per draw where a whole report would take too long
    raw: list[int]  # exits that are also measured on raw output
    lens: list[int]  # exits that also get a tuned lens
    lens_rows: int  # that the lens is trained on, per draw
    lens_epochs: int
    lens_rate: float  # learning rate


@dataclass
class TrainingSettings:
    """The settings of frozen training of a pretrained model's exit."""

    at: int  # decoders before the exit
    train: int  # rows of training text, per draw
    val: int  # rows for the choice of N₀ and α, per draw
    test: int  # rows for the report, per draw
    least: int  # times that a token occurs in the training text, for the head to know it
    batch: int  # positions per step
    epochs: int
    rates: list[float]  # learning rates


@dataclass
class DraftingSettings:
    """The settings of drafting by a pretrained model's exits."""

    exits: list[int]  # decoders before each
    rows: int  # of training text, for the statistics and the training of the heads
    texts: int  # that are written, for the choice of a draft and as many for the report
    prompt: int  # tokens that each begins with
    new: int  # tokens that come to them
    factor: float  # on N₀ of class means
    whitened_factor: float  # the same, whitened
    steps: int  # of training a head
    batch: int  # positions per step
    rate: float  # learning rate
    drafts: list[int]  # lengths to choose from
    thresholds: list[float]  # of the exit's probability, to choose from
    clock: list[int]  # exits at which seconds are measured


@dataclass
class CalmSettings:
    """The settings of leaving early with a promise about whole texts."""

    at: int  # decoders before the exit
    texts: int  # to calibrate with, and as many to test
    new: int  # tokens that come to each prompt
    thresholds: list[float]  # of the exit's probability, falling
    level: float  # of the mean distance to the whole model's text
    delta: float  # how likely the promise may be broken


@dataclass
class StudySettings(Settings):
    """The settings of the study: of the small models and their runs, and of the pretrained one."""

    seeds: int
    pretrained: PretrainedSettings
    training: TrainingSettings
    drafting: DraftingSettings
    calm: CalmSettings
