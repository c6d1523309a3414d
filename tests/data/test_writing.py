"""Films and sounds that are written, and the exact length of clips."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from making_media import movie, numbered, quadrants, read_number, sound_file, tone

from weavejax.data.clip import DecodeError
from weavejax.data.decode import Media, decode_audio, decode_frames, probe
from weavejax.data.writing import check_film, write_film, write_sound
from weavejax.dials.envelope import sample_count
from weavejax.errors import UserError

NTSC = Fraction(24000, 1001)


def packets(path):
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [(bytes(p), p.pts * p.time_base) for p in found if p.size]


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(movie([numbered(n) for n in range(36)], NTSC, sound=tone(1.7)))
    return path


def clicks(samples, places):
    wave = np.zeros((samples, 1), np.float32)
    for place in places:
        wave[place : place + 40] = 0.5
    return wave


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_picture_is_copied_packet_by_packet(film, tmp_path, suffix):
    out = tmp_path / f"made{suffix}"
    wave = clicks(24024, (3000, 20000))
    write_film(out, wave, 16000, film)
    old, new = packets(film), packets(out)
    assert [data for data, _ in new] == [data for data, _ in old]
    for (_, was), (_, now) in zip(old, new, strict=True):
        assert float(now) == pytest.approx(float(was), abs=1e-3)
    found = decode_audio(out, 16000)
    assert 0 <= len(found) - 24024 <= 1024  # AAC's last block is whole
    for place in (3000, 20000):  # where it was, but for what AAC blurs
        near = np.abs(found[place - 800 : place + 800])
        assert abs(int(near.argmax()) - 800 - 20) < 40
    assert str(probe(out)).count("audio") == 1


def test_the_film_may_take_the_place_of_the_one_it_was_made_from(film):
    before = packets(film)
    write_film(film, clicks(24024, ()), 16000, film)
    assert [data for data, _ in packets(film)] == [data for data, _ in before]
    assert list(film.parent.iterdir()) == [film]


def test_a_turned_film_stays_turned(tmp_path):
    source, out = tmp_path / "portrait.mp4", tmp_path / "made.mp4"
    source.write_bytes(movie([quadrants()] * 6, rotation=90))
    write_film(out, clicks(6400, ()), 16000, source)
    old, new = (decode_frames(path, [0.2]) for path in (source, out))
    assert old.shape == (1, 64, 48, 3)
    np.testing.assert_array_equal(old, new)


def test_a_film_that_begins_late_begins_at_once(tmp_path):
    source, out = tmp_path / "late.mkv", tmp_path / "made.mp4"
    late = movie([numbered(n) for n in range(8)], form="matroska", video_start=2.0)
    source.write_bytes(late)
    write_film(out, clicks(8533, (4000,)), 16000, source)
    assert [read_number(each) for each in decode_frames(out, [0.03, 0.3])] == [0, 4]
    assert abs(int(np.abs(decode_audio(out, 16000)).argmax()) - 4020) < 40


def test_sound_alone_and_a_rate_that_aac_lacks(tmp_path):
    out = tmp_path / "made.mp4"
    write_film(out, np.tile(clicks(9000, (5000,)), (1, 2)), 10_000, None)
    info = probe(out)
    assert (info.video, info.audio.rate, info.audio.channels) == (None, 48_000, 2)
    assert abs(int(np.abs(decode_audio(out, 10_000)).argmax()) - 5020) < 40


def test_the_samples_of_a_wav_are_exact(tmp_path):
    wave = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    write_sound(tmp_path / "made.wav", wave, 44_100)
    found, rate = soundfile.read(tmp_path / "made.wav", dtype="float32")
    assert rate == 44_100
    np.testing.assert_array_equal(found, wave)


def test_a_codec_that_cannot_stand_there_is_told_before(tmp_path):
    source = tmp_path / "film.mkv"
    source.write_bytes(movie([numbered(0)] * 3, form="matroska", codec="libvpx"))
    with pytest.raises(UserError, match=r"picture \(vp8\) cannot stand in .mp4; .*\.mkv"):
        check_film(tmp_path / "made.mp4", source)
    check_film(tmp_path / "made.mkv", source)
    with pytest.raises(UserError, match=r"films are written as \.mp4"):
        check_film(tmp_path / "made.webm", source)


def test_what_fails_leaves_nothing(film, tmp_path):
    film.write_bytes(film.read_bytes()[:2000])
    with pytest.raises((DecodeError, UserError)):
        write_film(tmp_path / "made.mp4", clicks(24024, ()), 16000, film)
    assert list(tmp_path.iterdir()) == [film]


@pytest.mark.parametrize("rate", [NTSC, Fraction(43, 2), Fraction(15), Fraction(30000, 1001)])
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_lengths_are_those_of_the_frames(rate, form):
    with Media(movie([numbered(n) for n in range(19)], rate, form=form)) as media:
        length = media.length()
        assert len(media.frames([0.0])) == 1  # and it can still be read
    assert length == 19 / rate  # whatever the time stamps were rounded to
    for hertz in (16000, 44100, 48000):
        assert sample_count(1, 1 / length, hertz) == sample_count(19, rate, hertz)


def test_uneven_frames_last_as_long_as_they_say():
    times = [Fraction(0), Fraction(1, 10), Fraction(1), Fraction(5, 2)]
    film = movie([numbered(n) for n in range(4)], times, form="matroska", codec="ffv1")
    with Media(film) as media:
        assert 2.5 < float(media.length()) < 2.8


def test_lengths_without_a_picture():
    with Media(sound_file(np.zeros(12345), 16000)) as media:
        assert media.length() == Fraction(12345, 16000)
    picture = io.BytesIO()
    with av.open(picture, "w", format="image2pipe") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1), "rgb24")))
        container.mux(stream.encode())
    with Media(picture.getvalue()) as media, pytest.raises(DecodeError, match="no length"):
        media.length()
