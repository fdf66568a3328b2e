"""Several long jobs at once, with a line now and then on how far they are.

A job runs in processes of its own, so that threads are enough to wait for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

EVERY = 30  # seconds between two lines
MEMORY = 2 * 2**30  # bytes that a job may take


def workers() -> int:
    """How many jobs fit this machine: one a processor core, and 2 GB of memory each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores or 1, memory // MEMORY))


def run(
    jobs: Mapping[str, Callable[[], bool]], expected: Mapping[str, float], *, at_once: int
) -> bool:
    """Run every job, the longest first; whether all of them succeeded.

    Args:
        jobs: each says whether it succeeded; one that fails ends no other.
        expected: the seconds that jobs take, for the order and the estimate; a job that is not
            there counts as the mean of the others.
    """
    usual = sum(expected.values()) / len(expected) if expected else 60.0
    weights = {name: expected.get(name, usual) for name in jobs}
    start, good = time.monotonic(), True
    with ThreadPoolExecutor(at_once) as pool:
        ordered = sorted(jobs, key=weights.get, reverse=True)
        waiting = {pool.submit(jobs[name]): name for name in ordered}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=EVERY, return_when=FIRST_COMPLETED)
                good &= all(future.result() for future in done)
                finished = [waiting.pop(future) for future in done]
                if waiting:
                    _say(weights, waiting.values(), finished, time.monotonic() - start, at_once)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return good


def _say(weights, left, finished, seconds: float, at_once: int) -> None:
    """How many are done, and about how long the rest takes, at the pace so far."""
    total, rest = sum(weights.values()), sum(weights[name] for name in left)
    if rest < total:
        remaining = f"about {minutes(seconds * rest / (total - rest))} left"
    else:
        remaining = f"about {minutes(total / at_once)} in all on a machine with nothing else to do"
    done = f"{len(weights) - len(left)} of {len(weights)} done"
    print(f"  {seconds:.0f} s: {done}, {remaining}", flush=True)


def minutes(seconds: float) -> str:
    """A length of time in words, rounded up."""
    count = max(1, round(seconds / 60 + 0.49))
    return f"{count} minute{'s' * (count > 1)}"
