"""The cache of decoded clips: never wrong data, whatever happens to its files."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weavejax.data.cache import DecodedCache
from weavejax.data.example import ExampleSpec
from weavejax.errors import UserError

SPEC = ExampleSpec(size=8, candidates=3, mels=4, audio_frames=10, chunk_candidates=3)


class Decoder:
    """Makes a random clip and counts how often it was asked."""

    def __init__(self, row: int = 0, video: bool = True, chunks: int = 2) -> None:
        rng = np.random.default_rng(row)
        self.calls = 0
        self.made: dict[str, Any] = {
            "video": rng.integers(0, 255, (3, 8, 8, 3), np.uint8) * np.uint8(video),
            "video_mask": video,
            "audio": rng.standard_normal((chunks, 10, 4)).astype(np.float32),
            "audio_mask": chunks > 0,
        }

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        return self.made


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        np.array_equal(one[key], other[key]) and np.shape(one[key]) == np.shape(other[key])
        for key in ("video", "video_mask", "audio", "audio_mask")
    )


def open_cache(folder: Path, fingerprint: str = "f", rows: int = 5) -> DecodedCache:
    return DecodedCache(folder, fingerprint, SPEC, rows)


@pytest.mark.parametrize(("video", "chunks"), [(True, 2), (False, 3), (True, 0), (False, 0)])
def test_decodes_once_and_returns_the_same_bits(tmp_path: Path, video: bool, chunks: int) -> None:
    decoder = Decoder(1, video, chunks)
    first = open_cache(tmp_path).get(1, decoder)
    again = open_cache(tmp_path).get(1, decoder)
    assert decoder.calls == 1
    assert same(first, again)
    assert np.array_equal(first["video"], decoder.made["video"])
    assert first["audio"].dtype == np.float16
    assert np.array_equal(first["audio"], decoder.made["audio"].astype(np.float16))


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    decoder = Decoder(2)
    cache = open_cache(tmp_path)
    first = {k: np.copy(v) for k, v in cache.get(2, decoder).items()}
    rng = np.random.default_rng(0)
    row_bytes = {"video": 3 * 8 * 8 * 3, "audio": 2 * 10 * 4 * 2, "rows": 12}
    for name, size in row_bytes.items():
        stride = (cache.path / name).stat().st_size // 5
        for offset in rng.choice(size, min(size, 8), replace=False):
            before = decoder.calls
            content = bytearray((cache.path / name).read_bytes())
            content[2 * stride + offset] ^= 1 << int(rng.integers(8))
            (cache.path / name).write_bytes(content)
            assert same(open_cache(tmp_path).get(2, decoder), first)
            assert decoder.calls == before + 1


def test_a_row_moved_to_another_place_is_not_taken(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.get(0, Decoder(0))
    for name in ("video", "audio", "rows"):
        content = bytearray((cache.path / name).read_bytes())
        stride = len(content) // 5
        content[stride : 2 * stride] = content[:stride]
        (cache.path / name).write_bytes(content)
    other = Decoder(1)
    open_cache(tmp_path).get(1, other)
    assert other.calls == 1


def test_a_kill_while_writing_leaves_an_empty_row(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)

    class Killed(BaseException):
        pass

    class Halfway(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            if key == "audio" and self.touched:
                raise Killed
            self.touched = self.touched or key == "video"
            return super().__getitem__(key)

        touched = False

    decoder = Decoder(3)
    cache.get(3, Decoder(4))  # an older row, to be overwritten in part
    cache._map("rows")[3]["crc"] ^= 1
    torn = Halfway(decoder.made)
    with pytest.raises(Killed):
        cache.get(3, lambda: torn)
    cached = open_cache(tmp_path).get(3, decoder)
    assert decoder.calls == 1
    assert np.array_equal(cached["video"], decoder.made["video"])


def test_errors_are_not_stored(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)

    def fail() -> dict[str, Any]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.get(0, fail)
    decoder = Decoder(0)
    cache.get(0, decoder)
    assert decoder.calls == 1


def test_parallel_use(tmp_path: Path) -> None:
    decoders = [Decoder(row) for row in range(5)]
    expected = [open_cache(tmp_path / "alone").get(row, decoders[row]) for row in range(5)]

    def read(job: int) -> bool:
        row = job % 5
        return same(open_cache(tmp_path / "shared").get(row, decoders[row]), expected[row])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(80)))


def test_key_depends_on_what_decoding_depends_on(tmp_path: Path) -> None:
    def path(fingerprint: str = "f", rows: int = 5, **options: Any) -> Path:
        fields = {**vars(SPEC), **options}
        return DecodedCache(tmp_path, fingerprint, ExampleSpec(**fields), rows).path

    assert path() == path(frames=3, text_length=9, chunks=2)
    distinct = [
        path(),
        path("g"),
        path(rows=6),
        path(size=9),
        path(crop="crop_flip"),
        path(resize="bicubic"),
        path(candidates=4),
        path(std=1.0),
        path(front_end="clap", rate=48000),
        path(front_end="clap_fused", rate=48000),
    ]
    assert len(set(distinct)) == len(distinct)


def test_all_space_is_taken_at_once(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for name in ("video", "audio", "rows"):
        stat = (cache.path / name).stat()
        assert stat.st_blocks * 512 >= stat.st_size > 0


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"needs .* GB and the disk has .* GB free") as caught:
        open_cache(tmp_path)
    assert "\n" not in str(caught.value)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) == 0


def test_an_unusable_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the cache"):
        open_cache(tmp_path / "file")


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    decoder = Decoder(0)
    cache.get(0, decoder)
    blob = pickle.dumps(cache)
    assert len(blob) < 2000
    pickle.loads(blob).get(0, decoder)
    assert decoder.calls == 1
