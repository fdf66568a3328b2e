"""Seconds: several computations are timed side by side, and medians count.

The clock is that of ``torch.utils.benchmark``, which waits for the GPU before it reads the time.
"""

import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from torch.utils import benchmark

Result = TypeVar("Result")


def timed(statement: Callable[[], Result]) -> tuple[float, Result]:
    """The seconds that one computation takes, and its result."""
    start = benchmark.timer()
    result = statement()
    return benchmark.timer() - start, result


def median_seconds(
    statements: Mapping[Hashable, Callable[[], object]], *, rounds: int, repeats: int = 3
) -> dict[Hashable, float]:
    """The median seconds of each of several computations.

    They run in turns, round after round, so that a slow moment of the machine slows all of them.
    In each round a statement runs once unmeasured, because it finds the memory as another one left
    it, and then ``repeats`` times.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in statements}
    for _ in range(rounds):
        for name, statement in statements.items():
            statement()
            seconds[name] += [timed(statement)[0] for _ in range(repeats)]
    return {name: statistics.median_low(values) for name, values in seconds.items()}
