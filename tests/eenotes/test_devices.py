"""The package on a device that stands in for an accelerator, in a process of its own."""

import subprocess
import sys
from pathlib import Path


def test_a_device_without_double_precision_gives_the_numbers_of_the_cpu():
    # PyTorch counts the devices at its first backward pass, and DataParallel uses what it finds.
    tests = str(Path(__file__).with_name("devices.py"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
