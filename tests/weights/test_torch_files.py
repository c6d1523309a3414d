"""PyTorch's files: exact both ways, found in published directories, and nothing in them is run."""

import importlib.util
import json
import os
import pickle
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from published_keys import SMALL, audio, gram, numbers

from weavejax import convert
from weavejax.errors import UserError
from weavejax.weights.sources import open_source
from weavejax.weights.torch_files import has_torch, read_torch, write_torch


def needs_torch(test: Any) -> Any:
    """Marks a test that only runs where the parity extra is installed."""
    there = importlib.util.find_spec("torch")
    skip = pytest.mark.skipif(not there, reason="needs the parity extra")
    return pytest.mark.parity(skip(test))


ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(3).astype(ml_dtypes.bfloat16),
    "temperature": np.float32(0.07)[...],
    "ids": np.arange(4)[None],
}


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(np.asarray(found[key]), array, strict=True, err_msg=key)


class Wicked:
    """What a pickle may do when it is opened."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder / "run"),)


@needs_torch
@pytest.mark.parametrize("entry", ["", "model"])
def test_what_is_written_is_read(entry: str, tmp_path: Any) -> None:
    beside = json.dumps({"cfg": {"encoder_layers": 12, "deep_norm": True}}) if entry else "{}"
    write_torch(tmp_path / "a.pt", ARRAYS, entry=entry, beside=beside)
    found = read_torch(tmp_path / "a.pt")
    same(found.arrays, ARRAYS)
    assert (found.entry, found.beside) == (entry, beside)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@needs_torch
def test_files_of_old_and_with_other_things_beside(tmp_path: Any) -> None:
    import torch

    layer = torch.nn.Linear(2, 3)
    content = {
        "state_dict": layer.state_dict(),
        "optimiser": {"state": {0: torch.zeros(3)}},
        "step": 7,
    }
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    found = read_torch(tmp_path / "old.ckpt")
    same(found.arrays, {key: x.numpy() for key, x in layer.state_dict().items()})
    assert (found.entry, json.loads(found.beside)) == ("state_dict", {"step": 7})


@needs_torch
def test_nothing_in_a_file_is_run(tmp_path: Any) -> None:
    import torch

    torch.save({"a": Wicked(tmp_path)}, tmp_path / "new.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": Wicked(tmp_path)}))
    for name in ("new.pt", "bare.pt"):
        with pytest.raises(UserError, match="it is not opened"):
            read_torch(tmp_path / name)
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict but a list"):
        read_torch(tmp_path / "list.pt")
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="holds no tensors; it has step"):
        read_torch(tmp_path / "empty.pt")
    whole = (tmp_path / "new.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.pt"):
        read_torch(tmp_path / "cut.pt")
    assert not (tmp_path / "run").exists()


def test_without_pytorch_it_says_what_to_install(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\3\4")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not has_torch()
    with pytest.raises(UserError, match=r"pip install 'weavejax\[torch\]'"):
        open_source(tmp_path / "a.pt")


def test_places_without_weights_are_named(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"neither ckpt/model_step_<N>\.pt nor model.safetensors"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="no file of weights"):
        open_source(tmp_path / "none.pt")
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "log").mkdir()
    (tmp_path / "ckpt/model_step_3.pt").touch()
    (tmp_path / "log/hps.json").write_text("{")
    with pytest.raises(UserError, match=r"hps\.json cannot be read"):
        open_source(tmp_path)


@needs_torch
def test_a_gram_directory_comes_back_whole(tmp_path: Any) -> None:
    """The largest step is taken; the directory written has the settings and the step's name."""
    state = numbers(gram(SMALL))
    there = tmp_path / "gram"
    (there / "ckpt").mkdir(parents=True)
    (there / "log").mkdir()
    (there / "log/hps.json").write_text('{"model_cfg": {"audio_melbins": 64}}')
    write_torch(there / "ckpt/model_step_9.pt", {"a": np.zeros(1)})
    write_torch(there / "ckpt/model_step_459.pt", state)
    convert.main(["--from", str(there), "--out", str(tmp_path / "ours")])
    convert.main(["--from", str(tmp_path / "ours"), "--back", "--out", str(tmp_path / "again")])
    files = {
        p.relative_to(tmp_path / "again").as_posix() for p in (tmp_path / "again").rglob("*.*")
    }
    assert files == {"ckpt/model_step_459.pt", "log/hps.json"}
    same(read_torch(tmp_path / "again/ckpt/model_step_459.pt").arrays, state)
    assert (tmp_path / "again/log/hps.json").read_text() == (there / "log/hps.json").read_text()


@needs_torch
def test_beats_comes_back_with_its_settings(tmp_path: Any) -> None:
    prefix = "audio_encoder."
    state = {key.removeprefix(prefix): x for key, x in numbers(audio(SMALL)).items()}
    settings = json.dumps({"cfg": {"layer_wise_gradient_decay_ratio": 1.0}})
    write_torch(tmp_path / "BEATs.pt", state, entry="model", beside=settings)
    convert.main(["--from", str(tmp_path / "BEATs.pt"), "--out", str(tmp_path / "ours")])
    convert.main(["--from", str(tmp_path / "ours"), "--back", "--out", str(tmp_path / "again.pt")])
    found = read_torch(tmp_path / "again.pt")
    same(found.arrays, state)
    assert (found.entry, found.beside) == ("model", settings)
