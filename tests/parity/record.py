"""Write the recordings that parity tests use where PyTorch is absent.

Needs the ``parity`` extra: ``python tests/parity/record.py``.
"""

from pathlib import Path
from typing import Any

import conftest  # noqa: F401  (the import shim, before torchvision and torchaudio)
import numpy as np
import sound_references
import torch_references
import torch_samplers
import torch_stable_audio
import torch_towers
import torch_when

FOLDER = Path(__file__).parent / "recordings"


def main() -> None:
    for references, folder in (
        (torch_references, FOLDER),
        (torch_towers, FOLDER / "towers"),
        (sound_references, FOLDER / "sound"),
        (torch_stable_audio, FOLDER / "stable_audio"),
        (torch_samplers, FOLDER / "samplers"),
        (torch_when, FOLDER / "when"),
    ):
        folder.mkdir(exist_ok=True, parents=True)
        for name in references.REFERENCES:
            path = folder / f"{name}.npz"
            arrays: dict[str, Any] = references.run(name)
            np.savez_compressed(path, **arrays)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
