"""Clips per second through the loader; prints the table when run alone.

OPENBLAS_NUM_THREADS=1 python tests/bench/test_loader.py
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from weavejax.data.cache import DecodedCache
from weavejax.data.clip import Clip
from weavejax.data.example import ExampleSpec, decode_clip, sample_example
from weavejax.data.order import example_rng
from weavejax.data.pipeline import train_batches
from weavejax.data.text import train_tokenizer

CLIPS, SECONDS, FPS, SIDE, RATE = 64, 4, 15, 112, 44100
SPEC = ExampleSpec()


class MadeSource:
    """Moving patterns, 4 s of 112×112 at 15 fps (H.264, GOP 12), and hits ringing in stereo FLAC."""

    def __init__(self, clips: int = CLIPS) -> None:
        self._clips = [_clip(number) for number in range(clips)]
        self.fingerprint = "made"

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]

    def id(self, index: int) -> str:
        return self._clips[index].id

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        return self._clips[index].captions, ""

    def captions(self) -> list[str]:
        return [caption for clip in self._clips for caption in clip.captions]


def _clip(number: int) -> Clip:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (16, 16, 3), np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        for step in range(SECONDS * FPS):
            shifted = np.ascontiguousarray(np.roll(picture, step, axis=1)[:SIDE, :SIDE])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, "rgb24")))
        container.mux(stream.encode())
    sound = io.BytesIO()
    time_s = np.arange(SECONDS * RATE) / RATE
    ringing = np.exp(-8 * (time_s % 0.5)) * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
    noise = 1e-3 * rng.standard_normal((len(time_s), 2))
    soundfile.write(sound, 0.5 * ringing[:, None] + noise, RATE, format="FLAC")
    return Clip(f"clip{number}", file.getvalue(), sound.getvalue(), (f"moving pattern {number}",))


def measure_core(source: MadeSource, cache_dir: Path) -> dict[str, float]:
    """Milliseconds per clip on one core: decoded and transformed, without and with the cache."""
    tokenizer = train_tokenizer(source.captions(), 100)
    cache = DecodedCache(cache_dir, source.fingerprint, SPEC, len(source))

    def one(record: int, cached: bool) -> None:
        clip = source[record]
        decode = lambda: decode_clip(clip, SPEC)  # noqa: E731
        decoded = cache.get(record, decode) if cached else decode()
        sample_example(decoded, clip.captions, "", SPEC, tokenizer, example_rng(0, record))

    results = {}
    for name, cached in (("uncached", False), ("filling", True), ("cached", True)):
        start = time.perf_counter()
        for record in range(len(source)):
            one(record, cached)
        results[name] = 1e3 * (time.perf_counter() - start) / len(source)
    return results


def measure_batches(source: MadeSource, workers: int, cache_dir: str) -> float:
    """Clips per second of the whole pipeline, after its first batches."""
    tokenizer = train_tokenizer(source.captions(), 100)
    batch, steps, warm = 16, 16, 4
    with train_batches(
        source, SPEC, tokenizer, batch=batch, seed=0, workers=workers, cache_dir=cache_dir
    ) as batches:
        for _ in range(warm):
            next(batches)
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
        return batch * steps / (time.perf_counter() - start)


@pytest.mark.bench
def test_loader_speed(tmp_path: Path) -> None:
    core = measure_core(MadeSource(16), tmp_path)
    print(core)
    # A ratio of one run: absolute times say more about who else uses the machine.
    assert core["cached"] < core["uncached"] / 5, core


def main() -> None:
    source = MadeSource()
    with tempfile.TemporaryDirectory() as folder:
        core = measure_core(source, Path(folder))
        print(f"one core, {CLIPS} clips of {SECONDS} s, {SIDE}×{SIDE} at {FPS} fps, FLAC stereo")
        for name, milliseconds in core.items():
            print(f"  {name:9s} {milliseconds:6.2f} ms/clip  {1e3 / milliseconds:7.0f} clips/s")
        print("pipeline, batches of 16")
        for workers in (0, 1, 2):
            for name, cache_dir in (("uncached", ""), ("cached", folder)):
                speed = measure_batches(source, workers, cache_dir)
                print(f"  {workers} workers {name:9s} {speed:7.0f} clips/s")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
