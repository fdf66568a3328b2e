"""The chapters on a device that stands in for an accelerator, in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_chapters_mix_no_devices_and_need_no_double_precision_there():
    # PyTorch counts the devices at its first backward pass.
    tests = str(Path(__file__).with_name("chapter_devices.py"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", tests],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
