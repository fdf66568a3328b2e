"""The early exit network: stages of a backbone, with an exit after each of them but the last."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn


class EarlyExitNetwork(nn.Module):
    """Stages with an exit after each of them but the last.

    The last stage ends in the backbone's own classifier.

    Args:
        stages: J modules; stage j maps the features of stage j-1, ``(B, ...)``, to its own.  The
            last one returns logits ``(B, K)``.
        exits: J-1 modules, each mapping the features of its stage to logits ``(B, K)``.

    Raises:
        ValueError: unless there is exactly one stage more than there are exits.
    """

    def __init__(self, stages: Iterable[nn.Module], exits: Iterable[nn.Module]):
        super().__init__()
        self.stages, self.exits = nn.ModuleList(stages), nn.ModuleList(exits)
        if len(self.exits) != len(self.stages) - 1 or not self.stages:
            raise ValueError(
                f"{len(self.stages)} stages need {max(len(self.stages) - 1, 1)} exits (the "
                f"last stage ends in the backbone's own classifier), got {len(self.exits)}"
            )
        # New exits take the mode of the stages they join; inside a stage all modes stay as they
        # are.
        self.training = self.stages.training = self.stages[0].training
        self.exits.train(self.training)

    @property
    def num_exits(self) -> int:
        """J: the exits and the classifier."""
        return len(self.stages)

    def step(self, j: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Run stage ``j`` (from 0) and its exit test.

        Returns:
            The new features ``(B, ...)`` and the logits ``(B, K)``.
        """
        features = self.stages[j](features)
        return features, self.exits[j](features) if j < len(self.exits) else features

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
        pairs = zip(twin.modules(), modes_of(self), strict=True)
        put_back([(part, mode) for part, (_, mode) in pairs])
        return twin


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


def full_precision(x: Tensor) -> Tensor:
    """Half-precision numbers ``(...)`` in float32; others as they are.

    Whether a sample leaves must not depend on whether its logits were stored in between, which this
    book does in float32.
    """
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


def detach_computed(module: nn.Module, memo: dict) -> None:
    """Prepare a deep copy of tensors that are computed from parameters, such as masked weights.

    ``torch.nn.utils.prune`` keeps ``weight`` as a product with a history, which PyTorch refuses to
    copy.  The copy computes its own with the next forward pass.
    """
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
