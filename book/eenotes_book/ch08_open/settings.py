"""The settings of chapter 8, one class an experiment; their values stand in settings.toml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Novelty:
    """Question 1: the split into known and unknown classes, and the gate."""

    unknown: int  # classes left out
    splits: int  # draws of these classes
    keep: float  # share of the validation images that each exit of the gate lets pass


@dataclass(frozen=True)
class Compact:
    """Question 2: smaller class means."""

    grids: list[int]  # cells per side of a pooled feature map
    bits: list[int]  # per number of a class mean; 32: nothing is rounded


@dataclass(frozen=True)
class Order:
    """Question 3: every operation and the short training after it."""

    rate: float  # share of the weights that is pruned
    bits: list[int]  # per rounded weight
    seeds: int
    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Channels:
    """Channels of each modality's network."""

    image: int
    depth: int


@dataclass(frozen=True)
class Streets:
    """Question 4: drawn streets, a network for each modality, and a cascade."""

    train: int  # scenes
    val: int
    test: int
    noise: float  # standard deviation of the depth map's noise
    channels: Channels
    blocks: list[int]  # of each of the three stages
    epochs: int
    batch_size: int
    learning_rate: float
    budgets: list[float]  # 1 is the whole image network


@dataclass(frozen=True)
class Clusters:
    """Question 5: a deep embedded clustering, and what is dropped."""

    widths: list[int]  # of the encoder's layers
    epochs: int  # of the autoencoder, on all points
    batch_size: int
    steps: int  # of the refinement
    distortion: float  # share of the inputs that the autoencoder has to fill in
    ratio: float  # share of the points that is dropped
    seeds: int


@dataclass(frozen=True)
class Text:
    """Questions 5 and 6: a text and a language model, see `eenotes_book.language_models`."""

    data: str
    hub: str  # a pretrained model; "": an OPT of our own
    vocabulary: int
    length: int  # tokens per row
    train: int  # tokens
    val: int
    test: int
    layers: int
    width: int
    heads: int
    at: int  # decoders before the exit
    phases: list[int]  # epochs of each phase of the training
    batch_size: int
    learning_rate: float
    statistics: int  # training rows behind the class means


@dataclass(frozen=True)
class Reading:
    """Question 5: fresh language models on a part of the rows."""

    ratio: float  # share of the rows that is dropped
    seeds: int
    reads: int  # rows that each model reads


@dataclass(frozen=True)
class Tuning:
    """Question 6: fine-tuning on another text."""

    train: int  # rows
    test: int  # rows
    memory: float  # positions that a carried mean stands for at most
    epochs: int
    batch_size: int
    learning_rate: float
    looks: list[float]  # shares of the training at which the exit is measured
    seeds: int


@dataclass(frozen=True)
class Reward:
    """Question 6: rounds of reward-ranked fine-tuning."""

    samples: int  # continuations per round
    prompt: int  # tokens that are given
    new: int  # tokens that are written
    keep: int  # continuations that are trained on
    rounds: int
    epochs: int  # of each round
    batch_size: int
    learning_rate: float
    seeds: int


@dataclass(frozen=True)
class Settings:
    """The images and the network of questions 1 to 3, and a section for each experiment."""

    data: str  # one of eenotes_book.data.vision's names
    train: int  # images
    val: int
    test: int
    width: int  # channels of the first stage
    epochs: int
    batch_size: int
    learning_rate: float
    seeds: int
    budget: float  # mean cost of an image; 1 is the backbone without exits
    novelty: Novelty
    compact: Compact
    order: Order
    streets: Streets
    clusters: Clusters
    text: Text
    reading: Reading
    tuning: Tuning
    reward: Reward
