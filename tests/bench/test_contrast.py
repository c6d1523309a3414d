"""The contrastive loss against its published formulation in PyTorch, side by side in one run.

pytest tests/bench/test_contrast.py -m bench -n 0 -s        # the first needs the parity extra
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench
SCRIPT = Path(__file__).with_name("published_contrast.py")


def measured(kind, batch, k):
    command = [sys.executable, str(SCRIPT), kind, str(batch), str(k)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_at_batch_2048_it_is_lighter_and_faster_than_published():
    pytest.importorskip("torch")
    published, ours = measured("torch", 2048, 4), measured("jax", 2048, 4)
    memory = published["bytes"] / ours["bytes"]
    speed = published["seconds"] / ours["seconds"]
    print(
        f"\nB = 2048, k = 4, forward and backward: published {published['seconds']:.2f} s, "
        f"{published['bytes'] / 2**20:.0f} MiB; ours {ours['seconds']:.2f} s, "
        f"{ours['bytes'] / 2**20:.0f} MiB: {speed:.1f}× faster, {memory:.1f}× less memory"
    )
    assert ours["loss"] == pytest.approx(published["loss"], rel=1e-5)
    assert memory >= 8
    assert speed >= 3


def test_batch_16384_runs_in_four_gigabytes():
    ours = measured("jax", 16384, 4)
    print(f"\nB = 16384, k = 4: {ours['seconds']:.1f} s, {ours['bytes'] / 2**20:.0f} MiB")
    assert ours["bytes"] < 4 * 2**30
