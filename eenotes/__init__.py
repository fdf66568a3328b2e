"""Early exit neural networks: the package behind the book *Early Exit Notes*.

The seven words of the book are seven modules: ``network``, ``heads``, ``rules``, ``inference``, ``costs``, ``means`` and
``calibration``.  Each name below is imported from its module when it is first used, so ``import eenotes`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "split": "network",
    "cut_points": "network",
    "EarlyExitNetwork": "network",
    "LinearExit": "heads",
    "ClassMeanExit": "heads",
    "linear_exits": "heads",
    "Confidence": "rules",
    "Entropy": "rules",
    "Patience": "rules",
    "PerClass": "rules",
    "predict": "inference",
    "predict_stream": "inference",
    "simulate": "inference",
    "collect": "inference",
    "ClassMeans": "means",
    "count_macs": "costs",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from eenotes.costs import count_macs
    from eenotes.heads import ClassMeanExit, LinearExit, linear_exits
    from eenotes.inference import collect, predict, predict_stream, simulate
    from eenotes.means import ClassMeans
    from eenotes.network import EarlyExitNetwork, cut_points, split
    from eenotes.rules import Confidence, Entropy, Patience, PerClass


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'eenotes' has no attribute {name!r}")
    value = getattr(import_module(f"eenotes.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
