"""What the parity tests share: references from recordings or live, and how they are compared."""

import importlib
import importlib.util
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

RECORDINGS = Path(__file__).parent / "recordings"
# Halves the compile time, which is nearly all of these tests' time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
needs_torch = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="needs the parity extra"
)
# Folder of recordings → where they come from.
MODULES = {
    "": "torch_references",
    "towers": "torch_towers",
    "sound": "sound_references",
    "stable_audio": "torch_stable_audio",
    "samplers": "torch_samplers",
    "when": "torch_when",
}
LIVE = pytest.param("live", marks=[pytest.mark.parity, needs_torch])
needs_librosa = pytest.mark.skipif(
    not importlib.util.find_spec("librosa"), reason="needs the parity extra"
)
LIVE_SOUND = pytest.param("live", marks=[pytest.mark.parity, needs_librosa])

Recording = dict[str, np.ndarray]


def recorded(name: str) -> Recording:
    """A reference as it was written, by its name; in a folder of `MODULES`, folder/name."""
    with np.load(RECORDINGS / f"{name}.npz") as arrays:
        return dict(arrays)


def live(name: str) -> Recording:
    """The same reference computed now."""
    folder, _, reference = name.rpartition("/")
    # By name and late: the module imports PyTorch, which most environments lack.
    return importlib.import_module(MODULES[folder]).run(reference)


def state(reference: Recording) -> Recording:
    """The parameters by their PyTorch keys."""
    return {
        key.removeprefix("state/"): array
        for key, array in reference.items()
        if key.startswith("state/")
    }


def cases(reference: Recording) -> dict[str, Recording]:
    """Inputs and outputs by case."""
    found: dict[str, Recording] = {}
    for key, array in reference.items():
        case, _, part = key.partition("/")
        if case != "state":
            found.setdefault(case, {})[part] = array
    assert found
    return found


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
