"""The scale at which the book computes (tiny, reduced or full), the device, and how both are named.

Environment: ``EENOTES_SCALE`` (one of `SCALES`; unset: tiny).
"""

import os
import platform

import torch

SCALES = ("tiny", "reduced", "full")


def current() -> str:
    """The scale of this process: ``EENOTES_SCALE``, else ``tiny``.

    Raises:
        ValueError: for any other word.
    """
    name = os.environ.get("EENOTES_SCALE") or "tiny"
    if name not in SCALES:
        raise ValueError(f"EENOTES_SCALE={name!r} must be one of {', '.join(SCALES)}")
    return name


def choose() -> str:
    """Set ``EENOTES_SCALE`` by the device, if it is not set:

    ``reduced`` with a GPU, ``tiny`` without.

    The first cell of a chapter calls it in Colab, where a GPU is as easy to have as none.

    Returns:
        A sentence for the reader: which scale, why, and how to have another.

    Raises:
        ValueError: if ``EENOTES_SCALE`` is set to something else than a scale.
    """
    already_set, gpu = os.environ.get("EENOTES_SCALE"), torch.cuda.is_available()
    if not already_set:
        os.environ["EENOTES_SCALE"] = "reduced" if gpu else "tiny"
    reason = (
        "as EENOTES_SCALE says"
        if already_set
        else f"because this machine has {'a' if gpu else 'no'} GPU"
    )
    return (
        f"Scale {current()}, {reason}. To have another: restart, and set "
        "os.environ['EENOTES_SCALE'] before this cell runs."
    )


def device() -> torch.device:
    """Where the book computes: the device that accelerate picks."""
    from eenotes.training import accelerator

    return accelerator().device


def device_name() -> str:
    """The device in words: a GPU's name, or the processor's capability and threads."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    plural = "s" * (threads > 1)
    return f"CPU ({platform.machine()}, {capability}, {threads} thread{plural})"
