"""The settings of chapter 3, for every scale and for the study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """The sweep over pruning rates and over what the exits may keep."""

    rates: list[float]  # of the remaining weights, per round
    exit_sparsity: list[float]  # of separately pruned exits; "as all" is added to them
    rounds: int
    samples: int  # images per round


@dataclass(frozen=True)
class _Experiment:
    data: str
    train: int  # images
    val: int
    test: int
    depth: int  # 56 is the thesis's
    width: int  # channels of the first group; 16 is the published networks'
    exits: list[str]  # the blocks with an early exit after them
    epochs: int
    batch_size: int
    learning_rate: float
    rate: float  # of the remaining weights, per round
    rounds: int  # .1 in 20 rounds, the thesis's, and .23 in 8 both leave 12 %
    samples: int  # images per round
    tune_batch: int
    tune_learning_rate: float
    watched: int  # validation images on which every round is judged


@dataclass(frozen=True)
class Settings(_Experiment):
    """One run of the chapter."""

    sweep: Sweep
    timing_batch: int  # images


@dataclass(frozen=True)
class Published(_Experiment):
    """A published network of the study, with linear exits that are trained beside it."""

    flat: bool  # exits on whole feature maps, instead of on their averages
    backbone_rate: float  # peak learning rate of the published weights; the exits are new
    spared: float  # sparsity of the exits where they are spared
    seeds: int
    approaches: list[str]  # in the order in which they are run


@dataclass(frozen=True)
class StudySettings:
    """The many-seed runs behind the claims."""

    networks: dict[str, Published]  # by name, in the order in which they are run
