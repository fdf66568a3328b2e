"""The early exit network: stages of a backbone, with an exit after each of them but the last."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn


class EarlyExitNetwork(nn.Module):
    """J stages and J-1 exits, one after each stage but the last.

    Each stage maps the features of the one before, ``(B, ...)``, to its own, from which its exit
    makes logits ``(B, K)``; the last stage ends in the backbone's own classifier.

    Raises:
        ValueError: there is not exactly one stage more than there are exits.
    """

    def __init__(self, stages: Iterable[nn.Module], exits: Iterable[nn.Module]):
        super().__init__()
        self.stages, self.exits = nn.ModuleList(stages), nn.ModuleList(exits)
        if len(self.exits) != len(self.stages) - 1 or not self.stages:
            needed = f"{len(self.stages)} stages need {max(len(self.stages) - 1, 1)} exits"
            raise ValueError(f"{needed} (the classifier is in the last), got {len(self.exits)}")
        # New exits take the mode of the stages they join; inside a stage all modes stay.
        self.training = self.stages.training = self.stages[0].training
        self.exits.train(self.training)

    @property
    def num_exits(self) -> int:
        """J: the exits and the classifier."""
        return len(self.stages)

    def step(self, j: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """The features ``(B, ...)`` of stage ``j`` (from 0) and the logits ``(B, K)`` there.

        Raises:
            ValueError: the exit changes the features in place.
        """
        features = self.stages[j](features)
        if j == len(self.exits):
            return features, features
        version = version_of(features)
        logits = self.exits[j](features)
        if version_of(features) != version:
            raise ValueError(
                f"exit {j} changes its features in place, and the next stage would go on with "
                "them: let its first layer work on a copy, as nn.ReLU(inplace=False) does"
            )
        return features, logits

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits ``(B, K)`` of all J exits, first to last, for training and calibration."""
        logits = []
        for j in range(self.num_exits):
            x, exit_logits = self.step(j, x)
            logits.append(exit_logits)
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of every stage but the last, ``(B, ...)`` each: what the J-1 exits see."""
        return [x := stage(x) for stage in self.stages[:-1]]

    def __deepcopy__(self, memo: dict) -> "EarlyExitNetwork":
        """An independent copy in the same modes, masks of pruning included."""
        detach_computed(self, memo)
        twin = memo[id(self)] = self.__new__(type(self))
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return in_modes_of(self, twin)


def version_of(x: Tensor) -> int | None:
    """How often ``x`` ``(...)`` was changed in place; ``None`` where PyTorch does not count it."""
    return x._version if isinstance(x, Tensor) and not x.is_inference() else None


@contextmanager
def in_mode(*modules: nn.Module, training: bool = False) -> Iterator[None]:
    """Put modules into one mode, and afterwards every submodule back into the mode it had."""
    before = modes_of(*modules)
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        put_back(before)


@contextmanager
def kept_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put the buffers of modules, such as running statistics, back afterwards."""
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def full_precision(x: Tensor) -> Tensor:
    """Half precision ``(...)`` in float32, in which logits are stored; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def for_doubles(x: Tensor) -> Tensor:
    """The numbers ``(...)`` where there is double precision: on their device, or else the CPU."""
    try:
        torch.zeros((), dtype=torch.float64, device=x.device)
    except (TypeError, RuntimeError):  # as Apple's and some of Intel's say it
        return x.cpu()
    return x


def modes_of(*modules: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Every submodule with its mode, for `put_back`."""
    return [(part, part.training) for module in modules for part in module.modules()]


def put_back(modes: list[tuple[nn.Module, bool]]) -> None:
    """Give modules the modes that `modes_of` found."""
    for part, mode in modes:
        if isinstance(part, fx.GraphModule):
            # a stage changes its graph there, and takes along parts that it shares with others
            part.train(mode)
    for part, mode in modes:
        part.training = mode


def in_modes_of(module: nn.Module, twin: nn.Module) -> nn.Module:
    """A copy of a module, with every part put into the mode of the original's."""
    pairs = zip(twin.modules(), module.modules(), strict=True)
    put_back([(part, original.training) for part, original in pairs])
    return twin


def detach_computed(module: nn.Module, memo: dict) -> None:
    """Let a deep copy take computed tensors, such as masked weights, without their history."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
