"""Decoding a clip and drawing examples from it."""

import dataclasses

import numpy as np
import pytest
from making_media import counting_movie, movie, numbered, quadrants, read_number, sound_file, tone

from weavejax.data.clip import Clip
from weavejax.data.decode import DecodeError, decode_audio
from weavejax.data.example import ExampleSpec, decode_clip, empty_example, sample_example
from weavejax.data.order import example_rng
from weavejax.data.text import encode, train_tokenizer
from weavejax.errors import UserError
from weavejax.ops.fbank import kaldi_fbank
from weavejax.ops.log_mel import log_mel, repeat_pad

TOKENIZER = train_tokenizer(["one small drum", "two large drums", "hello"], 60)
SPEC = ExampleSpec(size=64, text_length=8)


def draw(clip: Clip, spec: ExampleSpec = SPEC, seed: int | None = None) -> dict[str, np.ndarray]:
    rng = None if seed is None else example_rng(seed, 0)
    decoded = decode_clip(clip, spec)
    return sample_example(decoded, clip.captions, clip.subtitle, spec, TOKENIZER, rng)


def test_candidates_are_the_middles_of_equal_parts() -> None:
    decoded = decode_clip(Clip("a", counting_movie(32)), SPEC)
    assert decoded["video"].shape == (8, 64, 64, 3)
    assert [read_number(p) for p in decoded["video"]] == [2, 6, 10, 14, 18, 22, 26, 30]


def test_evaluation_takes_the_published_frames() -> None:
    example = draw(Clip("a", counting_movie(32)))
    # Segments 0–3 and 4–7 of the candidates: element (4 + 1) // 2 - 1 = 1 of each.
    assert [read_number(p) for p in example["video"]] == [6, 22]


def test_evaluation_may_see_more_frames_than_training() -> None:
    spec = dataclasses.replace(SPEC, candidates=24, frames=4, test_frames=8)
    decoded = decode_clip(Clip("a", counting_movie(48)), spec)
    shown = sample_example(decoded, (), "", spec, TOKENIZER, None)["video"]
    # The middle of each eighth, as without candidates beside it.
    assert [read_number(p) for p in shown] == [3, 9, 15, 21, 27, 33, 39, 45]
    assert (
        sample_example(decoded, (), "", spec, TOKENIZER, example_rng(0, 0))["video"].shape[0] == 4
    )
    assert spec.empty()["video"].shape == shown.shape


def test_training_draws_a_frame_of_each_segment() -> None:
    clip = Clip("a", counting_movie(32))
    decoded = decode_clip(clip, SPEC)
    drawn = [
        [
            read_number(p)
            for p in sample_example(decoded, (), "", SPEC, TOKENIZER, example_rng(3, i))["video"]
        ]
        for i in range(60)
    ]
    assert {first for first, _ in drawn} == {2, 6, 10, 14}
    assert {second for _, second in drawn} == {18, 22, 26, 30}


def test_mel_chunks_follow_the_published_rule() -> None:
    wave = 0.3 * np.random.default_rng(0).standard_normal(64000)
    media = sound_file(wave)
    mel = kaldi_fbank(decode_audio(media, 16000))
    assert len(mel) == 398
    chunks = decode_clip(Clip("a", audio=media), SPEC)["audio"]
    assert chunks.shape == (1, 400, 64)
    np.testing.assert_allclose(chunks[0, :398], (mel - 15.41663) / (2 * 6.55582), atol=1e-6)
    assert not chunks[0, 398:].any()  # zeros after normalisation
    exact = ExampleSpec(audio_frames=398)
    assert decode_clip(Clip("a", audio=media), exact)["audio"].shape == (2, 398, 64)


def test_longer_sounds_keep_chunks_from_all_over() -> None:
    spec = ExampleSpec(audio_frames=10, chunk_candidates=3)
    media = sound_file(np.concatenate([np.full(1600, 0.0), tone(2.0)]))
    whole = decode_clip(Clip("a", audio=media), ExampleSpec(audio_frames=10, chunk_candidates=99))
    kept = decode_clip(Clip("a", audio=media), spec)
    assert len(whole["audio"]) == 21
    assert np.array_equal(kept["audio"], whole["audio"][[3, 10, 17]])


@pytest.mark.parametrize(("front_end", "scale"), [("clap", "slaney"), ("clap_fused", "htk")])
def test_clap_hears_pieces_of_one_length(front_end: str, scale: str) -> None:
    spec = ExampleSpec(
        front_end=front_end, rate=48000, audio_frames=51, chunk_candidates=3, mean=-20.0, std=10.0
    )
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 24000 + 7000).astype(np.float32)

    def heard(length: int) -> tuple[np.ndarray, np.ndarray]:
        media = sound_file(wave[:length], rate=48000)
        chunks = decode_clip(Clip("a", audio=media), spec)["audio"]
        return chunks, decode_audio(media, 48000)

    def wanted(piece: np.ndarray) -> np.ndarray:
        return (log_mel(piece, scale=scale) + 20) / 20

    chunks, samples = heard(9000)
    assert chunks.shape == (1, 51, 64)
    np.testing.assert_allclose(chunks[0], wanted(repeat_pad(samples, 24000)), atol=1e-5)
    assert np.array_equal(repeat_pad(samples, 24000)[9000:18000], samples)
    chunks, samples = heard(30000)  # two pieces, from both ends
    ends = [samples[:24000], samples[-24000:]]
    np.testing.assert_allclose(chunks, [wanted(piece) for piece in ends], atol=1e-5)
    chunks, samples = heard(len(wave))  # three of five
    starts = np.linspace(0, len(wave) - 24000, 5).round().astype(int)[[0, 2, 4]]
    pieces = [samples[start : start + 24000] for start in starts]
    np.testing.assert_allclose(chunks, [wanted(piece) for piece in pieces], atol=1e-5)
    assert heard(1000)[0].shape == (0, 51, 64)  # too short to be heard


def test_evaluation_takes_the_middle_chunk_and_training_any() -> None:
    spec = ExampleSpec(audio_frames=50, chunk_candidates=4, size=64)
    clip = Clip("a", audio=sound_file(np.random.default_rng(0).uniform(-0.5, 0.5, 24000)))
    chunks = decode_clip(clip, spec)["audio"]
    assert len(chunks) == 3
    assert np.array_equal(draw(clip, spec)["audio"][0], chunks[1])
    drawn = {draw(clip, spec, seed)["audio"].tobytes() for seed in range(20)}
    assert drawn == {chunk.tobytes() for chunk in chunks}


def test_several_chunks_repeat_when_there_are_fewer() -> None:
    spec = ExampleSpec(audio_frames=50, chunks=3, size=64)
    example = draw(Clip("a", audio=sound_file(tone(0.7))), spec)
    assert example["audio"].shape == (3, 50, 64)
    assert not np.array_equal(example["audio"][0], example["audio"][1])
    assert np.array_equal(example["audio"][1], example["audio"][2])


@pytest.mark.parametrize(
    ("clip", "present"),
    [
        (Clip("a", movie([numbered(1)] * 15, sound=tone(1.0)), captions=("one",)), "vat"),
        (Clip("a", counting_movie(15), sound_file(tone(1.0)), ("one",)), "vat"),
        (Clip("a", counting_movie(15), captions=("one",)), "vt"),
        (Clip("a", audio=sound_file(tone(1.0))), "a"),
        (Clip("a", video=sound_file(tone(1.0)), captions=(" ",)), "a"),
        (Clip("a", counting_movie(15), sound_file(tone(0.02))), "v"),
    ],
)
def test_missing_modalities_are_masked(clip: Clip, present: str) -> None:
    example = draw(clip)
    for key in ("video", "audio", "text"):
        assert bool(example[f"{key}_mask"]) == (key[0] in present)
        assert example[key].any() == (key[0] in present)
        assert example[f"{key}_mask"].shape == ()
    shapes = {key: (value.shape, value.dtype) for key, value in example.items()}
    assert shapes == {k: (v.shape, v.dtype) for k, v in empty_example(SPEC).items()}


def test_broken_media_is_an_error_not_a_mask() -> None:
    whole = counting_movie(15)
    for clip in (
        Clip("a", whole[:-200]),
        Clip("a", b"rubbish"),
        Clip("a", whole, b"rubbish"),
        Clip("a", whole, whole),  # an audio file without sound
    ):
        with pytest.raises(DecodeError):
            decode_clip(clip, SPEC)


def test_captions_and_subtitle() -> None:
    spec = ExampleSpec(size=64, text_length=8, subtitle_length=6)
    captions = ("", "one small drum", "two large drums")
    clip = Clip("a", counting_movie(15), captions=captions, subtitle="hello")
    first = encode(TOKENIZER, captions[1], 8)
    assert np.array_equal(draw(clip, spec)["text"], first)
    drawn = {draw(clip, spec, seed)["text"].tobytes() for seed in range(20)}
    assert drawn == {encode(TOKENIZER, c, 8).tobytes() for c in captions[1:]}
    assert np.array_equal(draw(clip, spec)["subtitle"], encode(TOKENIZER, "hello", 6))
    silent = draw(Clip("a", clip.video), spec)
    assert not silent["subtitle_mask"]
    assert not silent["subtitle"].any()


def test_crop_flip() -> None:
    spec = ExampleSpec(size=48, crop="crop_flip")
    wide = np.concatenate([np.zeros((48, 16, 3), np.uint8)] * 2, axis=1)
    picture = np.concatenate([wide[:, :8], quadrants(48, 48), wide[:, :8]], axis=1)
    clip = Clip("a", movie([picture] * 4))
    middle = draw(clip, spec)["video"][0].astype(int)
    assert np.abs(middle - quadrants(48, 48)).mean() < 12
    drawn = [draw(clip, spec, seed)["video"] for seed in range(12)]
    assert all(v.shape == (2, 48, 48, 3) for v in drawn)
    red_left = {bool(v[0, 4, 4, 0] > 128 and v[0, 4, 4, 1] < 128) for v in drawn}
    assert red_left == {True, False}
    assert len({v.tobytes() for v in drawn}) == len(drawn)


def test_same_seed_same_example() -> None:
    clip = Clip("a", counting_movie(32), captions=("one", "two"))
    once, again, other = (draw(clip, SPEC, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(once[k], again[k]) for k in once)
    assert not np.array_equal(once["video"], other["video"])


@pytest.mark.parametrize(
    "options",
    [
        {"front_end": "mel"},
        {"front_end": "clap"},
        {"resize": "cubic"},
        {"crop": "round"},
        {"frames": 9},
        {"test_frames": 9},
        {"chunks": 0},
        {"text_length": 1},
        {"subtitle_length": 1},
    ],
)
def test_impossible_specs(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        ExampleSpec(**options)  # type: ignore[arg-type]
