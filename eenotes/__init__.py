"""Early exit neural networks: the package behind the book *Early Exit Notes*.

Parts are modules of their own, and what is built from them lies in ``methods`` and ``language``.
Each name below is imported when it is first used, so ``import eenotes`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_NAMES = {
    "class_statistics": ["ClassMeans"],
    "costs": ["count_macs"],
    "cutting": ["split", "cut_points"],
    "exits": ["LinearExit", "ClassMeanExit", "linear_exits"],
    "inference": ["predict", "simulate", "collect"],
    "network": ["EarlyExitNetwork"],
    "rules": ["ScoreRule", "Confidence", "ClassMeanConfidence", "Entropy", "Patience", "PerClass"],
    "saving": ["save", "load", "load_rule"],
    "streaming": ["predict_stream"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from eenotes.class_statistics import ClassMeans
    from eenotes.costs import count_macs
    from eenotes.cutting import cut_points, split
    from eenotes.exits import ClassMeanExit, LinearExit, linear_exits
    from eenotes.inference import collect, predict, simulate
    from eenotes.network import EarlyExitNetwork
    from eenotes.rules import (
        ClassMeanConfidence,
        Confidence,
        Entropy,
        Patience,
        PerClass,
        ScoreRule,
    )
    from eenotes.saving import load, load_rule, save
    from eenotes.streaming import predict_stream


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'eenotes' has no attribute {name!r}")
    value = getattr(import_module(f"eenotes.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
