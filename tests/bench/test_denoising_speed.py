"""Stable Audio's transformer against diffusers' in PyTorch, side by side in one run.

pytest tests/bench/test_denoising_speed.py -m bench -n 0 -s        # needs the parity extra
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench
ROUNDS = 2
SCRIPT = Path(__file__).with_name("published_denoising.py")


def measured(kind):
    # On the CPU both, with as many threads as either takes by itself.
    environment = {k: x for k, x in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, str(SCRIPT), kind]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, check=True, env=environment
    )
    return json.loads(result.stdout.splitlines()[-1])


def fastest(rounds):
    return {name: min(found[name] for found in rounds) for name in ("train", "sample")}


def test_training_and_sampling_steps_beside_those_in_pytorch():
    pytest.importorskip("diffusers")
    # In turns, so that what else the machine does falls on both.
    rounds = [{kind: measured(kind) for kind in ("torch", "jax")} for _ in range(ROUNDS)]
    published, ours = (fastest([found[kind] for found in rounds]) for kind in ("torch", "jax"))
    ratios = {name: published[name] / ours[name] for name in ours}
    print(
        f"\n6 layers of 256, 4 × 215 latents, seconds a step: training {published['train']:.3f} in "
        f"PyTorch, {ours['train']:.3f} here ({ratios['train']:.2f}×); sampling with guidance "
        f"{published['sample']:.3f}, {ours['sample']:.3f} ({ratios['sample']:.2f}×)"
    )
    for name in ("loss", "spread", "corner"):  # the same work
        found, wanted = (rounds[0][kind][name] for kind in ("jax", "torch"))
        assert found == pytest.approx(wanted, rel=1e-4), name
    assert min(ratios.values()) >= 0.5  # a guard; what it is worth is printed
