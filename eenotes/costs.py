"""Costs: multiply-accumulate operations (MACs) of every stage and of every exit test."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes._checks import entering
from eenotes.network import EarlyExitNetwork, for_doubles, in_mode
from eenotes.operations import count
from eenotes.rules import Rule, open_exits


@dataclass(frozen=True)
class Costs:
    """MACs of one sample.

    J stages, which together are the backbone without exits, have J-1 exit tests.

    Raises:
        ValueError: another number of exit tests, or a negative number.  In what is relative to the
            `backbone`: stages that cost nothing, or indices that are no whole numbers in 0..J-1.
    """

    stages: tuple[int, ...]
    exits: tuple[int, ...]

    def __post_init__(self):
        if len(self.exits) != len(self.stages) - 1:
            needed = f"{len(self.stages)} stages have {len(self.stages) - 1} exit tests"
            raise ValueError(f"{needed} between them, got {len(self.exits)}")
        if not all(0 <= macs < math.inf for macs in (*self.stages, *self.exits)):
            given = f"{self.stages}, {self.exits}"
            raise ValueError(f"costs must be finite and not negative, got {given}")

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

        The indices ``(N,)`` say where each sample exits, from 0.  The cost is in double precision,
        on the CPU if their device has none.
        """
        return self._at(self.cumulative, exit_index)

    def overhead(self, exit_index: Tensor) -> Tensor:
        """The part of `relative_cost` that the exit tests alone take, ``(N,)``."""
        return self._at(self._up_to((*self.exits, 0)), exit_index)

    def _at(self, macs: Tensor, exit_index: Tensor) -> Tensor:
        whole = not (exit_index.is_floating_point() or exit_index.dtype == torch.bool)
        if not whole or ((exit_index < 0) | (exit_index >= len(self.stages))).any():
            wanted = f"whole numbers in 0..{len(self.stages) - 1}"
            raise ValueError(f"exit indices must be {wanted}, got {exit_index}")
        exit_index = for_doubles(exit_index)
        return (macs / self.backbone).to(exit_index.device)[exit_index.long()]

    @staticmethod
    def _up_to(macs: tuple[int, ...]) -> Tensor:
        return torch.tensor(macs, dtype=torch.float64).cumsum(0)


@torch.no_grad()
def count_macs(net: EarlyExitNetwork, x: Tensor) -> Costs:
    """Count each stage and each exit test on a sample batch ``x`` ``(B, ...)``, for one sample.

    Matrix and outer products, convolutions, recurrent layers and distances are counted, and nothing
    else: no scaling, as ``x * y`` is.

    Raises:
        ValueError: an empty batch, or an operation whose multiplications cannot be counted (see
            `eenotes.operations.register_macs`).
        TypeError: inputs of a type that the network does not take.
    """
    if len(x) == 0:
        raise ValueError("the batch is empty: there is nothing to count")
    stages, exits = [], []
    with in_mode(net), entering(x, net) as x:
        for j, stage in enumerate(net.stages):
            macs, x = count(stage, x)
            stages.append(macs)
            if j < len(net.exits):
                exits.append(count(net.exits[j], x)[0])
    return Costs(tuple(stages), tuple(exits))
