"""Frames by time, rotation, aspect, stream choice and sound from awkward files."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from making_media import (
    counting_movie,
    movie,
    numbered,
    quadrants,
    read_number,
    sound_file,
    tone,
)

from weavejax.data import decode, frames, opening
from weavejax.data.decode import DecodeError, decode_audio, decode_frames, probe


def numbers(media: bytes, times: list[float]) -> list[int]:
    return [read_number(picture) for picture in decode_frames(media, times)]


@pytest.mark.parametrize("rate", [Fraction(15), Fraction(43, 2), Fraction(30000, 1001)])
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_frame_on_display_at_each_time(rate: Fraction, form: str) -> None:
    media = counting_movie(40, rate, form=form)
    middles = [float((i + Fraction(1, 2)) / rate) for i in range(40)]
    assert numbers(media, middles) == list(range(40))
    late = [float((i + Fraction(9, 10)) / rate) for i in (3, 17, 39)]
    assert numbers(media, late) == [3, 17, 39]


def test_times_in_any_order_and_outside() -> None:
    media = counting_movie(30)
    assert numbers(media, [1.0, 0.0, 99.0, -5.0, 1.0, 0.5]) == [15, 0, 29, 0, 15, 7]


def test_exact_time_stamps_show_the_new_frame() -> None:
    assert numbers(counting_movie(30), [i / 15 for i in range(30)]) == list(range(30))


def test_variable_frame_rate() -> None:
    times = [Fraction(t, 100) for t in (0, 10, 15, 60, 61, 100, 180)]
    media = movie([numbered(i) for i in range(7)], times)
    assert numbers(media, [0.05, 0.12, 0.5, 0.605, 0.99, 1.7, 1.81]) == [0, 1, 2, 3, 4, 5, 6]


def test_seeking_is_exact_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    media = counting_movie(250, Fraction(30), gop=10)
    times = [(i + 0.5) / 30 for i in (0, 5, 99, 100, 101, 249)]
    jumps = []
    seek = frames.FrameCursor._seek

    def counted(self: frames.FrameCursor, pts: int) -> None:
        jumps.append(pts)
        seek(self, pts)

    monkeypatch.setattr(frames.FrameCursor, "_seek", counted)
    assert numbers(media, times) == [0, 5, 99, 100, 101, 249]
    assert len(jumps) == 2
    monkeypatch.setattr(frames, "SEEK_COST", 10**9)
    assert numbers(media, times) == [0, 5, 99, 100, 101, 249]
    assert len(jumps) == 2


class LateSeeks:
    """A container whose index is wrong: its seeks land two seconds too late."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def decode(self, stream: Any) -> Any:
        return self._container.decode(stream)

    def seek(self, pts: int, **options: Any) -> None:
        late = round(2 / options["stream"].time_base) if pts > 0 else 0
        self._container.seek(pts + late, **options)


def test_seeks_that_land_too_late_are_made_good() -> None:
    with av.open(io.BytesIO(counting_movie(250, Fraction(30), gop=10))) as container:
        cursor = frames.FrameCursor(LateSeeks(container), container.streams.video[0])
        shown = [cursor.at((i + 0.5) / 30).to_ndarray(format="rgb24") for i in (3, 100, 180)]
    assert [read_number(picture) for picture in shown] == [3, 100, 180]


def test_count_takes_middles_of_equal_parts() -> None:
    pictures = decode_frames(counting_movie(30), count=5)
    assert [read_number(p) for p in pictures] == [3, 9, 15, 21, 27]


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_count_goes_by_the_video_stream_alone(form: str) -> None:
    media = counting_movie(30, form=form, sound=tone(5.0), video_start=1.0)
    assert [read_number(p) for p in decode_frames(media, count=4)] == [3, 11, 18, 26]


def test_streams_that_start_late_count_from_their_first_frame() -> None:
    media = counting_movie(30, form="matroska", video_start=3.0)
    assert numbers(media, [0.0, 1.0]) == [0, 15]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation: int) -> None:
    media = movie([quadrants()] * 3, rotation=rotation)
    shown = decode_frames(media, [0.0])[0].astype(int)
    info = probe(media).video
    assert info is not None
    expected = np.rot90(quadrants(), -info.rotation // 90).astype(int)
    assert (info.height, info.width) == shown.shape[:2] == expected.shape[:2]
    assert np.abs(shown - expected).mean() < 12
    # What players show: libavutil counts the display matrix anticlockwise.
    assert info.rotation == (-rotation) % 360
    assert "rotated" in str(probe(media))


def test_rotation_of_a_phone_held_upright() -> None:
    """The track matrix phones write, bytes as in their files: a quarter turn clockwise."""
    plain = movie([quadrants()] * 3)
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    track = plain.index(b"tkhd")
    media = plain[:track] + plain[track:].replace(identity, turned, 1)
    shown = decode_frames(media, [0.0])[0]
    assert shown.shape == (64, 48, 3)
    red, green, blue = shown[8, 40], shown[56, 40], shown[8, 8]  # top right, below it, top left
    assert (np.argmax(red), np.argmax(green), np.argmax(blue)) == (0, 1, 2)


def test_pixel_aspect_is_applied() -> None:
    media = movie([quadrants()] * 3, aspect=Fraction(4, 3))
    info = probe(media).video
    assert info is not None
    assert (info.width, info.height) == (85, 48)
    assert decode_frames(media, [0.0]).shape == (1, 48, 85, 3)


def test_squash_and_centre() -> None:
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, 24:72] = 255
    media = movie([wide] * 2, codec="libx264")
    centre = decode_frames(media, [0.0], size=(48, 48), crop="centre")[0]
    squashed = decode_frames(media, [0.0], size=(48, 48))[0]
    assert centre.mean() > 240
    assert 110 < squashed.mean() < 145


def test_centre_crop_is_taken_from_the_displayed_shape() -> None:
    narrow = np.zeros((48, 48, 3), np.uint8)
    narrow[:, 12:36] = 255
    media = movie([narrow] * 2, aspect=Fraction(2))  # displayed 96 wide, white in the middle 48
    assert decode_frames(media, [0.0], size=(48, 48), crop="centre").mean() > 240


def test_full_range_colours_are_kept() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((48 * 3 // 2, 64), 128, np.uint8), "yuv420p")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_range = 2
        luma = np.zeros((72, 64), np.uint8)
        luma[48:] = 128
        luma[:48] = 250
        frame = av.VideoFrame.from_ndarray(luma, "yuv420p")
        frame.color_range = 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    level = decode_frames(file.getvalue(), [0.0]).mean()
    assert 247 < level < 253  # limited range would stretch 250 to 255


def test_several_streams_and_their_description() -> None:
    media = counting_movie(15, copies=2, sound=tone(1.0))
    info = probe(media)
    assert info.video is not None
    assert info.audio is not None
    assert (info.more_video, info.more_audio) == (1, 0)
    assert info.audio.rate == 16000
    assert str(info).endswith("1 more video stream unused")


def test_missing_modalities() -> None:
    silent, heard = counting_movie(15), sound_file(tone())
    assert probe(silent).audio is None
    assert probe(heard).video is None
    with pytest.raises(DecodeError, match="no audio"):
        decode_audio(silent, 16000)
    with pytest.raises(DecodeError, match="no video"):
        decode_frames(heard, [0.0])


def test_wrong_extension(tmp_path: Path) -> None:
    file = tmp_path / "song.mp3"
    file.write_bytes(counting_movie(15))
    assert probe(file).video is not None
    assert read_number(decode_frames(file, [0.5])[0]) == 7
    (tmp_path / "movie.mp4").write_bytes(sound_file(tone(1.0)))
    assert decode_audio(tmp_path / "movie.mp4", 16000).shape == (16000,)


def test_cover_art_is_not_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(quadrants(), "rgb24").reformat(format="yuvj420p")
        samples = tone(1.0, 44100).astype(np.float32)[None]
        block = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        block.sample_rate = 44100
        for packet in sound.encode(block) + sound.encode():
            container.mux(packet)
        picture.pts = 0
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
    with av.open(io.BytesIO(file.getvalue())) as made:
        assert len(made.streams.video) == 1
    assert probe(file.getvalue()).video is None
    assert len(decode_audio(file.getvalue(), 16000)) > 15000


@pytest.mark.parametrize(
    "media", [b"", b"\0" * 5000, np.random.default_rng(0).bytes(20000), b"not a movie at all"]
)
def test_rubbish_is_a_decode_error(media: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_frames(media, [0.0])
    with pytest.raises(DecodeError):
        decode_audio(media, 16000)


def test_truncated_files_are_decode_errors() -> None:
    media = counting_movie(60, sound=tone(4.0))
    with pytest.raises(DecodeError):  # the index is at the end of the file
        decode_frames(media[: len(media) // 2], [0.0])
    transport = counting_movie(60, form="matroska")
    with pytest.raises(DecodeError, match=r"no frame|Invalid|End"):
        decode_frames(transport[:600], [3.9])
    flac = sound_file(tone(4.0))
    with pytest.raises(DecodeError):
        decode_audio(flac[: len(flac) // 2], 16000)


def test_a_video_that_breaks_off_is_a_decode_error() -> None:
    media = counting_movie(60, gop=10)
    start = media.index(b"mdat") + 4
    cut = start + (len(media) - start) // 3
    hole = (
        media[:cut] + b"\0" * (media.index(b"moov") - 4 - cut) + media[media.index(b"moov") - 4 :]
    )
    assert read_number(decode_frames(hole, [0.0])[0]) == 0
    with pytest.raises(DecodeError):
        decode_frames(hole, [3.9])


def test_missing_file_is_a_decode_error(tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        decode_frames(tmp_path / "nothing.mp4", [0.0])
    with pytest.raises(DecodeError):
        decode_audio(tmp_path / "nothing.flac", 16000)


def test_absurd_sizes_and_lengths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DecodeError, match="64×48"):
        decode_frames(counting_movie(5), [0.0])
    for media in (sound_file(tone(2.0)), movie([numbered(0)] * 5, sound=tone(2.0))):
        with pytest.raises(DecodeError, match=r"limit of 1 s"):
            decode_audio(media, 16000, limit=1.0)


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_lossless_sound_is_exact(form: str) -> None:
    samples = np.round(np.random.default_rng(0).uniform(-1, 1, (3000, 2)) * 32767) / 32768
    wave = decode_audio(sound_file(samples, form=form), 16000)
    np.testing.assert_array_equal(wave, samples.mean(axis=1).astype(np.float32))


def test_ffmpeg_and_libsndfile_agree() -> None:
    media = sound_file(np.stack([tone(0.5), -0.2 * tone(0.5)], axis=1))
    with decode.Media(media) as opened:
        through_ffmpeg = opened.audio(16000)
    np.testing.assert_allclose(through_ffmpeg, decode_audio(media, 16000), atol=1e-6)


def test_resampling_keeps_time_and_pitch() -> None:
    click = np.zeros(44100)
    click[22050] = 1.0
    wave = decode_audio(sound_file(click, 44100), 16000)
    assert wave.shape == (16000,)
    assert int(np.argmax(np.abs(wave))) == 8000


def clicks(at: float, seconds: float = 2.0) -> np.ndarray:
    sound = np.zeros(round(seconds * 16000))
    sound[round(at * 16000)] = 0.9
    return sound


@pytest.mark.parametrize(
    ("sound_start", "video_start", "expected"), [(0.0, 0.0, 1.0), (0.5, 0.0, 1.5), (0.0, 0.4, 0.6)]
)
def test_offset_between_sound_and_video(
    sound_start: float, video_start: float, expected: float
) -> None:
    media = counting_movie(
        30,
        form="matroska",
        sound=clicks(1.0),
        sound_start=sound_start,
        video_start=video_start,
    )
    wave = decode_audio(media, 16000)
    assert np.argmax(np.abs(wave)) / 16000 == pytest.approx(expected, abs=0.002)


def test_sound_that_is_not_finite_is_refused() -> None:
    file = io.BytesIO()
    wave = np.array([0.0, np.nan, 0.5] * 1000, np.float32)
    soundfile.write(file, wave, 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(DecodeError, match="finite"):
        decode_audio(file.getvalue(), 16000)
