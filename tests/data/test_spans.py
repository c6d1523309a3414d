"""Clips cut out of longer films begin and end where they are told to, to the frame."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from making_media import counting_movie, movie, numbered, read_number, sound_file, tone

from weavejax.data.clip import DecodeError
from weavejax.data.decode import decode_frames, probe
from weavejax.data.spans import cut_audio, cut_video


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds: frame k, at k/15 s, shows the number k; the sound is 0.1·k in second k."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    levels = np.repeat(0.1 * np.arange(4), 16000)
    path.write_bytes(counting_movie(60, form="matroska", gop=30, sound=levels))
    return path


@pytest.mark.parametrize("span", [(1.0, 3.0), (0.0, 0.4), (23 / 15, 29 / 15), (3.0, 4.0)])
def test_the_pictures_are_those_of_the_span(film: Path, span: tuple[float, float]) -> None:
    video, audio = cut_video(film, span)
    info = probe(video)
    assert info.video is not None
    assert info.audio is None
    assert (info.video.fps, info.video.codec) == (15.0, "h264")
    first, last = round(span[0] * 15), round(span[1] * 15)
    pictures = decode_frames(video, [k / 15 for k in range(last - first)])
    assert [read_number(picture) for picture in pictures] == list(range(first, last))
    wave, rate = soundfile.read(io.BytesIO(audio))
    assert (len(wave), rate) == (round(span[1] * 16000) - round(span[0] * 16000), 16000)
    assert wave[10] == pytest.approx(0.1 * int(span[0]), abs=1e-3)
    assert wave[-10] == pytest.approx(0.1 * int(span[1] - 0.001), abs=1e-3)


def test_the_same_span_gives_the_same_bytes(film: Path) -> None:
    assert len({cut_video(film, (0.5, 3.5)) for _ in range(12)}) == 1


def test_sides_are_even_and_rates_exact(tmp_path: Path) -> None:
    ntsc = Fraction(30000, 1001)
    (tmp_path / "film.mp4").write_bytes(movie([numbered(k, 50) for k in range(12)], ntsc))
    video, audio = cut_video(tmp_path / "film.mp4", (0.0, 0.2), side=23)
    info = probe(video).video
    assert info is not None
    assert (info.height, info.width) == (24, 30)
    assert info.fps == pytest.approx(30000 / 1001, rel=1e-6)
    assert audio == b""


def test_an_end_beyond_the_film_is_brought_forward(film: Path) -> None:
    info = probe(cut_video(film, (3.5, 13.5))[0]).video
    assert info is not None
    assert info.duration == pytest.approx(0.5, abs=0.07)
    with pytest.raises(DecodeError, match=r"over at 4\.00 s, before the clip starts at 9 s"):
        cut_video(film, (9.0, 19.0))


def test_sound_files(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(sound_file(tone(2.0), form="WAV"))
    wave, rate = soundfile.read(io.BytesIO(cut_audio(path, (0.5, 1.25))))
    assert rate == 16000
    np.testing.assert_allclose(wave, tone(2.0)[8000:20000], atol=1e-4)
    assert cut_video(path, (0.5, 1.25)) == (b"", cut_audio(path, (0.5, 1.25)))
    with pytest.raises(DecodeError, match="the sound is over before the clip starts at 3 s"):
        cut_audio(path, (3.0, 4.0))
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(DecodeError):
        cut_video(tmp_path / "broken.mp4", (0.0, 1.0))
