"""What a computation costs: seconds, and joules where a meter can be read."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class Cost:
    """Seconds and joules; the joules are NaN without a meter."""

    seconds: float = 0.0
    joules: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.joules + other.joules)


class Stopwatch:
    """Counts from when it is made."""

    def __init__(self):
        self._seconds, self._joules = time.perf_counter(), meter()

    def read(self) -> Cost:
        """The cost since the start."""
        joules = math.nan if self._joules is None else meter() - self._joules
        return Cost(time.perf_counter() - self._seconds, joules)


def meter() -> float | None:
    """Joules from the GPU's meter (NVML) or the processor's (RAPL); ``None`` without one."""
    if torch.cuda.is_available():
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except Exception:  # no NVML, no such counter, no permission: there is no meter then
            return None
    try:
        return int(_RAPL.read_text()) / 1e6
    except (OSError, ValueError):
        return None
