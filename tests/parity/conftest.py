"""Makes torchvision and torchaudio importable beside a CPU build of PyTorch.

Their wheels hold CUDA extensions that cannot load there; the Python parts used as references do not
need them. Acts only where PyTorch is installed, and before anything imports either package.
"""

import importlib.util
import sys
import types

if importlib.util.find_spec("torch"):
    import torch

    if not torch.cuda.is_available() and "torchvision" not in sys.modules:
        # torchvision registers a fake kernel for these operators and fails if they do not exist.
        LIBRARY = torch.library.Library("torchvision", "DEF")  # lives as long as this module
        for name in ("nms", "qnms"):
            LIBRARY.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        extension = types.ModuleType("torchaudio._extension")
        extension.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            fail_if_no_align=lambda function: function,
            _check_cuda_version=lambda *_: None,
        )
        sys.modules["torchaudio._extension"] = extension
