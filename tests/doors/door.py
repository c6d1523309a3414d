"""The doors as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = ("--config", "configs/gram.py:smoke")


def run(door, *arguments, check=True, devices=1, environment=None):
    """A door as a user runs it: a process of its own, on CPU devices."""
    result = subprocess.run(
        [sys.executable, "-m", f"weavejax.{door}", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result
