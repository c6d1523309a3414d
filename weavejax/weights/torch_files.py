"""PyTorch's files of tensors, read without running what is in them, and written.

Needs the ``torch`` extra. Only tensors and plain values are accepted (``weights_only``): a pickle
of anything else is refused by PyTorch before it is built.
"""

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from weavejax.errors import UserError

# Where checkpoints keep their tensors, when not at the top.
ENTRIES = ("state_dict", "model", "module", "model_state_dict")


class TorchFile(NamedTuple):
    """The tensors of a file and what stood around them.

    Attributes:
        arrays: key → array, read-only views of the file where PyTorch can map it.
        entry: the name in the file under which they stand; "" = at the top.
        beside: other plain values at the top, as JSON.
    """

    arrays: dict[str, np.ndarray]
    entry: str
    beside: str


def has_torch() -> bool:
    """Whether PyTorch can be imported."""
    try:
        return bool(_torch())
    except UserError:
        return False


def read_torch(path: Path) -> TorchFile:
    """Reads a `.pt`, `.pth`, `.bin` or `.ckpt` file.

    Raises:
        UserError: PyTorch is not installed; the file is none of its, holds more than tensors and
            plain values, or holds no tensors.
    """
    torch = _torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on strange pickles, which it then refuses
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is no PyTorch file: it is not opened "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # PyTorch raises what it likes on damaged files
        raise UserError(f"{path} is not a sound PyTorch file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict but a {type(content).__name__}")
    at = next((name for name in ENTRIES if isinstance(content.get(name), Mapping)), "")
    state = content[at] if at else content
    tensors = {str(key): x for key, x in state.items() if isinstance(x, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; it has {', '.join(map(str, list(content)[:8]))}")
    beside = {key: x for key, x in content.items() if key != at and str(key) not in tensors}
    return TorchFile({key: _array(x) for key, x in tensors.items()}, at, _json(beside))


def write_torch(
    path: Path, arrays: Mapping[str, np.ndarray], *, entry: str = "", beside: str = "{}"
) -> None:
    """Writes what `read_torch` reads.

    Raises:
        UserError: PyTorch is not installed, or the file cannot be written.
    """
    torch = _torch()
    made: dict[int, Any] = {}  # one tensor for keys that share an array
    for array in arrays.values():
        if id(array) not in made:
            made[id(array)] = _tensor(torch, array)
    tensors = {key: made[id(array)] for key, array in arrays.items()}
    content = {**json.loads(beside), **({entry: tensors} if entry else tensors)}
    part = path.with_name(f"{path.name}.part")
    try:
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer turns a full disk into this
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "PyTorch's files need PyTorch: pip install 'weavejax[torch]' (a CPU build will do)"
        ) from error
    return torch


def _array(tensor: Any) -> np.ndarray:
    torch = _torch()
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not know by itself
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _tensor(torch: ModuleType, array: np.ndarray) -> Any:
    whole = np.array(array, order="C")  # PyTorch takes no read-only arrays
    if whole.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(whole.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(whole)


def _json(values: Mapping[Any, Any]) -> str:
    """The values that JSON can hold; optimiser states and the like are no part of the weights."""
    kept = {}
    for key, value in values.items():
        try:
            if json.loads(json.dumps({key: value})) == {key: value}:
                kept[key] = value
        except (TypeError, ValueError):
            continue
    return json.dumps(kept)
