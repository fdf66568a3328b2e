"""Costs: multiply-accumulate operations (MACs) of every stage and of every exit test."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes.network import EarlyExitNetwork, for_doubles, in_mode
from eenotes.operations import count
from eenotes.rules import Rule, open_exits


@dataclass(frozen=True)
class Costs:
    """MACs of one sample.

    Args:
        stages: J numbers, one per stage; together they are the backbone without exits.
        exits: J-1 numbers, one per exit test.

    Raises:
        ValueError: another number of exit tests than stages that have one, or a negative number.
            In `backbone` and what is relative to it: stages that together cost nothing.  In
            `relative_cost` and `overhead`: exit indices that are no whole numbers in 0..J-1.
    """

    stages: tuple[int, ...]
    exits: tuple[int, ...]

    def __post_init__(self):
        if len(self.exits) != len(self.stages) - 1:
            raise ValueError(
                f"{len(self.stages)} stages have {len(self.stages) - 1} exit tests between them, "
                f"got {len(self.exits)}"
            )
        if not all(0 <= macs < math.inf for macs in (*self.stages, *self.exits)):
            raise ValueError(
                f"costs must be finite and not negative, got {self.stages}, {self.exits}"
            )

    @property
    def backbone(self) -> int:
        """The whole backbone without exits: the unit of relative cost."""
        if not sum(self.stages):
            raise ValueError("the stages cost nothing: relative to that, no cost is defined")
        return sum(self.stages)

    @property
    def cumulative(self) -> Tensor:
        """MACs of a sample that exits at j, ``(J,)`` (1.3): all stages and exit tests up to it."""
        return self._up_to(self.stages) + self._up_to((*self.exits, 0))

    def under(self, rule: Rule) -> "Costs":
        """What a rule pays: the test of an exit that no sample can take is not run."""
        is_open = open_exits(rule, len(self.stages))
        return Costs(self.stages, tuple(a * b for a, b in zip(self.exits, is_open, strict=False)))

    def relative_cost(self, exit_index: Tensor) -> Tensor:
        """The cost of stages and exit tests (1.3), ``(N,)``; 1.0 is the backbone without exits.

        It is in double precision, and on the CPU if the device of the indices has none.

        Args:
            exit_index: where each sample exits, ``(N,)``, from 0.
        """
        return self._at(self.cumulative, exit_index)

    def overhead(self, exit_index: Tensor) -> Tensor:
        """The part of `relative_cost` that the exit tests alone take, ``(N,)``."""
        return self._at(self._up_to((*self.exits, 0)), exit_index)

    def _at(self, macs: Tensor, exit_index: Tensor) -> Tensor:
        whole = not (exit_index.is_floating_point() or exit_index.dtype == torch.bool)
        if not whole or (
            len(exit_index)
            and not 0 <= int(exit_index.min()) <= int(exit_index.max()) < len(self.stages)
        ):
            raise ValueError(
                f"exit indices must be whole numbers in 0..{len(self.stages) - 1}, got {exit_index}"
            )
        exit_index = for_doubles(exit_index)
        return (macs / self.backbone).to(exit_index.device)[exit_index.long()]

    @staticmethod
    def _up_to(macs: tuple[int, ...]) -> Tensor:
        return torch.tensor(macs, dtype=torch.float64).cumsum(0)


@torch.no_grad()
def count_macs(net: EarlyExitNetwork, x: Tensor) -> Costs:
    """Count each stage and each exit test on a sample batch ``x`` ``(B, ...)``, for one sample.

    Matrix products, convolutions, recurrent layers and distances are counted; additions,
    normalisation and activations count as nothing, as everywhere in the literature.

    Raises:
        ValueError: an empty batch, or an operation whose multiplications cannot be counted (see
            `eenotes.operations.register_macs`).
    """
    if len(x) == 0:
        raise ValueError("the batch is empty: there is nothing to count")
    stages, exits = [], []
    with in_mode(net):
        for j, stage in enumerate(net.stages):
            macs, x = count(stage, x)
            stages.append(macs)
            if j < len(net.exits):
                exits.append(count(net.exits[j], x)[0])
    return Costs(tuple(stages), tuple(exits))
