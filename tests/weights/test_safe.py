"""Safetensors files: exact both ways, every kind of faulty header named; pickles are refused."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from weavejax.errors import UserError
from weavejax.weights.pickles import refuse_pickle
from weavejax.weights.safe import DTYPES, SafeFile, open_safetensors, save_safetensors

ARRAYS: dict[str, np.ndarray] = {
    "layer.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer.0.bias": np.arange(3, dtype=np.float16),
    "steps": np.array(7, np.int64),
    "none": np.zeros((0, 5), np.float64),
    "mask": np.array([True, False, True]),
    "é": np.arange(5, dtype=np.uint8),
}


def write(path: Path, header: Any, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", ARRAYS, {"format": "weavejax", "ü": "é"})
    theirs = load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array, strict=True)
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "weavejax", "ü": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "b.safetensors", {"a": "b"})
    ours = open_safetensors(tmp_path / "b.safetensors")
    assert ours.metadata == {"a": "b"}
    assert set(ours) == set(ARRAYS)
    assert len(ours) == len(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(np.asarray(ours[name]), array, strict=True)
        assert not array.size or not ours[name].flags.writeable or name == "none"


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_there_and_back(tmp_path: Path, name: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2, 48).astype(np.uint8)
    array = bits.view(np.bool_) if name == "BOOL" else np.repeat(bits, 8).view(DTYPES[name])
    save_safetensors(tmp_path / "w.safetensors", {"w": array})
    kept = open_safetensors(tmp_path / "w.safetensors")
    assert kept.tensors["w"].dtype == DTYPES[name]
    assert np.asarray(kept["w"]).tobytes() == array.tobytes()
    assert kept["w"].dtype == array.dtype


def test_bytes_do_not_depend_on_the_order_or_layout(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a", {"x": np.ones((2, 3), ">f4"), "y": np.eye(3)})
    save_safetensors(tmp_path / "b", {"y": np.eye(3).T, "x": np.ones((3, 2), "<f4").T})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_opening_reads_no_values(tmp_path: Path) -> None:
    """A file of 64 GB, all holes: opened, and one value read, in no time and memory."""
    many = 16 * 2**30
    header = json.dumps({"w": {"dtype": "F32", "shape": [many], "data_offsets": [0, 4 * many]}})
    path = write(tmp_path / "large.safetensors", header.encode())
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + 4 * many)
    assert open_safetensors(path)["w"][many - 1] == 0.0


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FAULTY: dict[str, tuple[Any, bytes]] = {
    "not a JSON object": ([], b""),
    "header is not JSON": (b"{" * 100_000, b""),
    "is not JSON": (b"\xff\xfe{}", b""),
    "stands twice": (b'{"a": {}, "a": {}}', b""),
    "metadata is not texts": ({"__metadata__": {"a": 1}}, b""),
    "metadata is not": ({"__metadata__": {"a": {"b": "c"}}}, b""),
    "needs dtype, shape and data_offsets": ({"w": {"dtype": "F32"}}, b""),
    "and nothing else": ({"w": {**ENTRY, "extra": 1}}, b"8 bytes.."),
    "unknown dtype 'Q77'": ({"w": {**ENTRY, "dtype": "Q77"}}, b"12345678"),
    "unknown dtype \\['F32'\\]": ({"w": {**ENTRY, "dtype": ["F32"]}}, b"12345678"),
    "no shape of whole numbers": ({"w": {**ENTRY, "shape": [-2]}}, b"12345678"),
    "'w' has no shape": ({"w": {**ENTRY, "shape": [2.0]}}, b"12345678"),
    "array 'w' has no shape of": ({"w": {**ENTRY, "shape": [True, 2]}}, b"12345678"),
    "has no shape of whole": ({"w": {**ENTRY, "shape": [1] * 40}}, b"12345678"),
    "has no two data_offsets": ({"w": {**ENTRY, "data_offsets": [0, 8, 8]}}, b"12345678"),
    "no two data_offsets": ({"w": {**ENTRY, "data_offsets": [-8, 0]}}, b"12345678"),
    "'w' lies outside": ({"w": ENTRY}, b"1234"),
    "lies outside the file": ({"w": {**ENTRY, "data_offsets": [8, 0]}}, b"12345678"),
    "which its shape and dtype do not": ({"w": {**ENTRY, "shape": [3]}}, b"12345678"),
    "has 8 bytes": ({"w": {**ENTRY, "shape": [2**62, 2**62]}}, b"12345678"),
    "leaves a gap": ({"w": {**ENTRY, "data_offsets": [4, 12]}}, b"123456781234"),
    "'b' overlaps": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, b"123456781234"),
    "overlaps another": ({"a": ENTRY, "b": ENTRY}, b"12345678"),
    "end at byte": ({"w": ENTRY}, b"12345678 and more"),
    "impossible name": ({"a\nb": ENTRY}, b"12345678"),
    "has an impossible name": ({"n" * 2000: ENTRY}, b"12345678"),
}


@pytest.mark.parametrize("message", FAULTY)
def test_faulty_headers_are_named(tmp_path: Path, message: str) -> None:
    path = write(tmp_path / "w.safetensors", *FAULTY[message])
    with pytest.raises(UserError, match=message) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 200_000_000), bytes(100)],
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"not a (sound )?safetensors file"):
        open_safetensors(tmp_path / "w.safetensors")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        open_safetensors(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="is not a file of weights"):
        open_safetensors(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        save_safetensors(tmp_path / "no" / "folder.safetensors", {})


def test_what_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="complex128"):
        save_safetensors(tmp_path / "w", {"w": np.zeros(2, np.complex128)})
    with pytest.raises(UserError, match="object"):
        save_safetensors(tmp_path / "w", {"w": np.array([None])})
    with pytest.raises(UserError, match="impossible name"):
        save_safetensors(tmp_path / "w", {"": np.zeros(2)})
    with pytest.raises(UserError, match="metadata"):
        save_safetensors(tmp_path / "w", {}, {"a": 1})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "Q"]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-4, 40), min_size=2, max_size=2) | json_values,
    }
)
headers = st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4) | json_values


@settings(max_examples=300, deadline=None)
@given(headers, st.binary(max_size=40))
def test_no_header_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, header: Any, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write(path, header, body)
    try:
        file = open_safetensors(path)
    except UserError:
        return
    assert sum(np.asarray(array).nbytes for array in file.values()) == len(body)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3))
def test_no_spoilt_file_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoilt.safetensors"
    save_safetensors(path, ARRAYS, {"a": "b"})
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + len(patch)] = patch
    path.write_bytes(content)
    try:
        file: SafeFile | None = open_safetensors(path)
    except UserError:
        file = None
    if file is not None:
        assert all(np.asarray(file[name]).nbytes >= 0 for name in file)


class Evil:
    """Unpickling this would make a file: the proof that nothing unpickled it."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def zipped(content: bytes, name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/version", "3")
        archive.writestr(name, content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("storages")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def objects(save: Any, witness: Path) -> bytes:
    file = io.BytesIO()
    save(file, np.array([Evil(witness)], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ""])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, "zip", "hidden zip", "tar", "npy", "npz"])
def test_pickles_are_known_by_their_content(tmp_path: Path, kind: int | str, suffix: str) -> None:
    witness = tmp_path / "witness"
    plain = pickle.dumps(Evil(witness), 2)
    forms = {
        "zip": lambda: zipped(plain, "archive/data.pkl"),
        "hidden zip": lambda: zipped(plain, "archive/weights"),
        "tar": lambda: tarred(plain),
        "npy": lambda: objects(np.save, witness),
        "npz": lambda: objects(np.savez, witness),
    }
    content = pickle.dumps(Evil(witness), kind) if isinstance(kind, int) else forms[kind]()
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"convert it first with python -m weavejax\.convert"):
        open_safetensors(path)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.ckpt", "w.PTH", "w.bin", "w.pkl", "w.pth.tar"])
def test_pickles_are_known_by_their_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UserError, match="is a Python pickle, which can run code"):
        refuse_pickle(tmp_path / name)


def test_a_spoilt_archive_is_refused_too(tmp_path: Path) -> None:
    content = zipped(pickle.dumps([1]), "archive/data.pkl")
    for cut in (content[:-30], content[: len(content) // 2], content.replace(b"PK\1\2", b"PK\1\3")):
        (tmp_path / "w").write_bytes(cut)
        with pytest.raises(UserError, match="Python pickle"):
            refuse_pickle(tmp_path / "w")


def test_plain_arrays_are_not_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    np.savez(tmp_path / "b.npz", a=np.zeros(3), b=np.array(["text"]))
    np.save(tmp_path / "c.npy", np.zeros(2, [("a", "<f4"), ("b", "<i4")]))
    save_safetensors(tmp_path / "d.safetensors", ARRAYS)
    (tmp_path / "e.txt").write_text("(some text) in a file.\n" * 10)
    (tmp_path / "f.json").write_text('{"a": [1, 2]}')
    (tmp_path / "g").write_bytes(np.random.default_rng(0).bytes(10_000))
    (tmp_path / "h").write_bytes(np.zeros(100, ml_dtypes.bfloat16).tobytes())
    for path in sorted(tmp_path.iterdir()):
        refuse_pickle(path)
    refuse_pickle(tmp_path)
    assert len(list(tmp_path.iterdir())) == 8
