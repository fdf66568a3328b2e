"""Early exit neural networks: the package behind the book *Early Exit Notes*.

The parts are modules of their own: ``network`` and ``cutting`` (a backbone as stages), ``exits``,
``rules``, ``inference``, ``streaming``, ``costs``, ``class_statistics``, ``thresholds`` and
``saving``.  What is built from them lies in ``methods`` and ``language``.  Each name below is
imported from its module when it is first used, so ``import eenotes`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "split": "cutting",
    "cut_points": "cutting",
    "EarlyExitNetwork": "network",
    "LinearExit": "exits",
    "ClassMeanExit": "exits",
    "linear_exits": "exits",
    "ScoreRule": "rules",
    "Confidence": "rules",
    "ClassMeanConfidence": "rules",
    "Entropy": "rules",
    "Patience": "rules",
    "PerClass": "rules",
    "predict": "inference",
    "predict_stream": "streaming",
    "simulate": "inference",
    "collect": "inference",
    "ClassMeans": "class_statistics",
    "count_macs": "costs",
    "save": "saving",
    "load": "saving",
    "load_rule": "saving",
}
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
