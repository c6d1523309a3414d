"""Moments of a clip: frames on time, sound of the right length, onsets of the window."""

import json

import numpy as np
import pytest
from making_media import ListSource, counting_movie, read_number, sound_file

from weavejax.data.cache import DecodedCache
from weavejax.data.clip import Clip
from weavejax.data.decode import probe
from weavejax.data.moments import NO_TIME, MomentSpec
from weavejax.data.pipeline import eval_batches, train_batches
from weavejax.data.windows import WindowedSource
from weavejax.errors import UserError

SPEC = MomentSpec(seconds=0.5, fps=8, side=64, size=64, rate=8000, onsets=4)


def controls(*times):
    onsets = [{"time": time} for time in times]
    return json.dumps({"version": 1, "duration": 4.0, "when": {"onsets": onsets}})


def clip(seconds=1.0, **fields):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * 16000)) / 16000)
    return Clip("a", audio=sound_file(wave), **fields)


def draw(given, spec=SPEC, seed=None):
    rng = None if seed is None else np.random.default_rng(seed)
    return spec.sample(spec.decode(given), given.captions, "", None, rng)


def test_frames_are_those_on_display_in_the_window():
    film = counting_movie(32)  # at how many frames a second, the decoder says
    fps = probe(film).video.fps
    spec = MomentSpec(seconds=8 / fps, fps=fps, side=64, size=64, rate=0, onsets=0)
    for window in range(3):
        example = draw(Clip("a", film, start=window * 8 / fps), spec)
        assert [read_number(p) for p in example["video"]] == list(range(8 * window, 8 * window + 8))
    beyond = draw(Clip("a", film, start=100.0), spec)
    assert not beyond["video_mask"]


def test_sound_is_cut_to_the_window_and_filled_up_with_silence():
    spec = MomentSpec(seconds=0.5, side=0, rate=8000, onsets=0, stereo=False)
    whole, half = draw(clip(), spec), draw(clip(0.75, start=0.5), spec)
    assert whole["sound"].shape == (4000, 1)
    assert whole["sound"].dtype == np.float32
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    np.testing.assert_allclose(whole["sound"][50:3950, 0], wanted[50:3950], atol=2e-3)
    assert half["sound"][:1990].any()
    assert not half["sound"][2010:].any()
    assert not draw(clip(0.25, start=0.5), spec)["sound_mask"]
    assert draw(clip(), MomentSpec(seconds=0.5, side=0, rate=8000))["sound"].shape == (4000, 2)


def test_onsets_are_those_in_the_window():
    spec = MomentSpec(seconds=0.5, side=0, rate=8000, onsets=4)
    given = controls(0.1, 0.49, 0.5, 0.9)
    first, second = (draw(clip(controls=given, start=start), spec) for start in (0.0, 0.5))
    np.testing.assert_allclose(first["onsets"], [0.1, 0.49, NO_TIME, NO_TIME], atol=1e-6)
    np.testing.assert_allclose(second["onsets"], [0.0, 0.4, NO_TIME, NO_TIME], atol=1e-6)
    none, unknown = draw(clip(controls=controls()), spec), draw(clip(), spec)
    assert none["onsets_mask"]
    assert not unknown["onsets_mask"]
    with pytest.raises(ValueError, match=r"5 onsets in 0\.5 s; room for 4"):
        spec.decode(clip(controls=controls(0.1, 0.2, 0.3, 0.4, 0.45)))
    with pytest.raises(ValueError, match="its controls"):
        spec.decode(clip(controls="{"))


def test_onsets_can_be_heard():
    wave = np.zeros(16000, np.float32)
    for time in (0.2, 0.6):
        wave[int(time * 16000) :][:800] += 0.5 * np.random.default_rng(0).normal(size=800)
    spec = MomentSpec(seconds=1.0, side=0, rate=16000, onsets=8, labels="sound", delta=0.3)
    found = draw(Clip("a", audio=sound_file(wave)), spec)["onsets"]
    np.testing.assert_allclose(found[found >= 0], [0.2, 0.6], atol=0.03)


def test_crops_are_random_in_training_and_central_in_evaluation():
    film = counting_movie(32)
    spec = MomentSpec(seconds=0.5, fps=4, side=32, size=24, rate=0, onsets=0)
    whole = MomentSpec(seconds=0.5, fps=4, side=32, size=32, rate=0, onsets=0)
    kept, middle = draw(Clip("a", film), whole)["video"], draw(Clip("a", film), spec)["video"]
    np.testing.assert_array_equal(middle, kept[:, 4:28, 4:28])
    drawn = {draw(Clip("a", film), spec, seed)["video"].tobytes() for seed in range(8)}
    assert len(drawn) > 4


def test_windows_come_in_order_and_the_cache_changes_nothing(tmp_path):
    clips = [clip(controls=controls(0.1 * k + 0.05, 0.9)) for k in range(3)]
    source = WindowedSource(ListSource(clips), 2, 0.5)
    spec = MomentSpec(seconds=0.5, side=0, rate=8000, onsets=4)
    assert source.id(3) == "a@0.5s"
    batches = []
    for cache in ("", tmp_path, tmp_path):
        with eval_batches(source, spec, None, batch=6, cache_dir=cache) as found:
            batches.append(next(found))
    for name, array in batches[0].items():
        np.testing.assert_array_equal(array, batches[1][name])
        np.testing.assert_array_equal(array, batches[2][name])
    np.testing.assert_allclose(batches[0]["onsets"][[0, 2, 4], 0], [0.05, 0.15, 0.25], atol=1e-6)
    np.testing.assert_allclose(batches[0]["onsets"][[1, 3, 5], 0], 0.4, atol=1e-6)
    with train_batches(source, spec, None, batch=2, seed=0) as found:
        assert next(found)["sound"].shape == (2, 4000, 2)
    assert DecodedCache(tmp_path, source.fingerprint, spec, 6).path.exists()


def tones(*frequencies):
    """A second at 16 kHz in equal parts, each a sine."""
    count = 16000 // len(frequencies)
    parts = [0.3 * np.sin(2 * np.pi * f * np.arange(count) / 16000) for f in frequencies]
    return sound_file(np.concatenate(parts))


def test_a_hit_reaches_from_its_onset_to_the_next_and_is_repeated():
    spec = MomentSpec(
        seconds=1.0, side=0, rate=16000, stereo=False, onsets=4, audio_frames=101, mels=16
    )
    frequencies = (500, 1500, 3000, 6000)
    given = Clip("a", audio=tones(*frequencies), controls=controls(0.25, 0.5, 0.75))
    seen = {draw(given, spec, seed)["heard"].tobytes() for seed in range(12)}
    assert len(seen) == 3
    example = draw(given, spec)
    assert example["heard"].shape == (101, 16)
    # The first onset's, again and again: one band is loudest all the time, as of that tone alone.
    alone = draw(Clip("b", audio=tones(1500), controls=controls(0.0)), spec)["heard"]
    loudest = alone[50].argmax()
    assert (example["heard"][2:-2].argmax(1) == loudest).mean() > 0.9
    assert not draw(Clip("a", audio=tones(500), controls=controls()), spec)["heard_mask"]
    assert not spec.empty()["heard_mask"]
    short = Clip("a", audio=sound_file(0.3 * np.ones(8000)), controls=controls(0.6))
    assert not draw(short, spec)["heard_mask"]


def test_all_of_a_window_may_be_heard():
    spec = MomentSpec(
        seconds=1.0, side=0, rate=48000, stereo=True, audio_frames=101, mels=16, listens="window"
    )
    wave = 0.3 * np.sin(np.arange(48000) / 9)
    example = draw(Clip("a", audio=sound_file(wave, 48000)), spec)
    heard = spec.heard(example["sound"].mean(1), 48000)
    np.testing.assert_array_equal(example["heard"], heard)
    assert example["heard_mask"]
    assert not spec.empty()["heard_mask"]
    # What is heard ends with the clip, and is repeated: silence is no part of it.
    short = draw(Clip("a", audio=sound_file(wave[:24000], 48000)), spec)
    assert short["heard"][60:90].mean() == pytest.approx(short["heard"][10:40].mean(), abs=1.0)


def test_training_windows_are_shifted_with_their_onsets():
    spec = MomentSpec(seconds=0.5, side=0, rate=16000, stereo=False, onsets=4, shift=0.3)
    wave = np.zeros(16000)
    wave[[4800, 11200]] = 0.9
    given = Clip("a", audio=sound_file(wave), controls=controls(0.3, 0.7))
    fixed = draw(given, spec)
    np.testing.assert_allclose(fixed["onsets"], [0.3, NO_TIME, NO_TIME, NO_TIME], atol=1e-6)
    starts = set()
    for seed in range(6):
        example = draw(given, spec, seed)
        times = example["onsets"][example["onsets"] >= 0]
        peaks = np.flatnonzero(example["sound"][:, 0] > 0.5)
        np.testing.assert_allclose(times * 16000, peaks, atol=1.5)
        starts.add(round(float(0.3 - times[0]), 4) if len(times) else None)
    assert len(starts) > 3
    # A clip that ends with its window stays where it is.
    short = Clip("a", audio=sound_file(wave[:8000]), controls=controls(0.3))
    np.testing.assert_array_equal(draw(short, spec, 1)["sound"], draw(short, spec)["sound"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 200}, "size is 200: it must be from 1 to side, 128"),
        ({"labels": "guess"}, "labels is 'guess'"),
        ({"side": 0, "rate": 0}, "neither pictures nor sound"),
        ({"seconds": 0}, "must be above 0"),
        ({"shift": 1.0}, "shift must not be below 0, and needs sound without pictures"),
        ({"audio_frames": 100, "onsets": 0}, "audio_frames, of a hit, must be above 1"),
        ({"listens": "song"}, "listens is 'song': it must be one of hit, window"),
    ],
)
def test_impossible_specs_are_one_line(fields, words):
    with pytest.raises(UserError, match=words):
        MomentSpec(**fields)
