"""Fol·AI's sound: any length, clips for themselves, spans, guidance, and what evaluation reports."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_folai import random_params, tiny

from weavejax import systems
from weavejax.dials.controls import Envelope, When
from weavejax.dials.when import conditioning_curve
from weavejax.diffusion.windows import plan_windows
from weavejax.errors import UserError
from weavejax.systems import folai
from weavejax.systems.folai_generation import guided, renewed_latents
from weavejax.systems.folai_networks import Networks

LONG = 699  # samples: 21 latents and a part of one; two windows of 16 of them
FPS, FRAMES = 125.0, 11


@pytest.fixture(scope="module")
def made():
    """(system, networks, parameters) with pictures, 8 frames a window."""
    config = tiny(inputs__side=28, inputs__fps=FPS)
    config.model.vision.update({"width": 8, "mlp": 8, "heads": 1})
    system = systems.build(config)
    params = jax.tree.map(jnp.asarray, random_params(system))
    return system, Networks(config), params


def request(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "envelope": rng.random((2, LONG, 2)).astype("f"),
        "text": rng.integers(1, 30, (2, 6)).astype(np.int32),
        "text_mask": np.ones(2, bool),
        "video": rng.integers(0, 255, (2, FRAMES, 28, 28, 3)).astype(np.uint8),
        "video_mask": np.ones(2, bool),
    }


@pytest.fixture(scope="module")
def make(made):
    """Jitted: (request, keys, scales, sound, renew) → sound."""
    system, _, params = made
    sample = partial(system.generator.sample, params, samples=LONG, steps=2)
    return jax.jit(lambda asked, keys, scales, *known: sample(asked, keys, scales, known=known))


KEYS = jax.random.split(jax.random.key(5), 2)
SCALES = np.array([1.5, 2.0], np.float32)
SOUND = np.random.default_rng(9).normal(size=(2, LONG, 2)).astype("f")
ALL = np.ones((2, LONG), bool)


def test_sound_of_an_odd_length_longer_than_a_window(make):
    whole = np.asarray(make(request(), KEYS, SCALES, SOUND, ALL))
    assert whole.shape == (2, LONG, 2)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    assert whole.std() > 1e-3
    # With all of it renewed, the sound that was there has no say.
    np.testing.assert_allclose(make(request(), KEYS, SCALES, 0 * SOUND, ALL), whole, atol=1e-5)


def test_a_clip_sounds_the_same_beside_any_other(make):
    whole = np.asarray(make(request(), KEYS, SCALES, SOUND, ALL))
    other = request(1)
    beside = {
        name: np.stack([each[0], array[0]])
        for (name, array), each in zip(request().items(), other.values(), strict=True)
    }
    keys = jnp.stack([jax.random.key(8), KEYS[0]])
    again = make(beside, keys, np.stack([SCALES + 1, SCALES]), SOUND, ALL)
    assert again.shape == whole.shape
    shared = make(beside, keys, SCALES, SOUND, ALL)
    np.testing.assert_allclose(shared[1], whole[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(again[1], whole[0], rtol=1e-3, atol=1e-5)


def test_every_dial_has_a_say_and_none_at_scales_of_0(make):
    whole = np.asarray(make(request(), KEYS, SCALES, SOUND, ALL))
    nothing = np.asarray(make(request(), KEYS, 0 * SCALES, SOUND, ALL))
    other = request(1)
    for name in ("envelope", "text", "video"):
        changed = {**request(), name: other[name]}
        assert np.abs(make(changed, KEYS, SCALES, SOUND, ALL) - whole).max() > 3e-5, name
    np.testing.assert_allclose(make(other, KEYS, 0 * SCALES, SOUND, ALL), nothing, atol=1e-6)


def test_what_a_clip_lacks_is_not_heard(make):
    asked = request() | {"video_mask": np.array([False, True])}
    first = np.asarray(make(asked, KEYS, SCALES, SOUND, ALL))
    moved = np.abs(make({**asked, "video": request(1)["video"]}, KEYS, SCALES, SOUND, ALL) - first)
    np.testing.assert_array_equal(moved.max((1, 2)) > 1e-5, [False, True])


def test_outside_a_span_the_latents_stay(made, make):
    _, networks, params = made
    renew = np.zeros((2, LONG), bool)
    renew[:, 100:140] = True
    found = np.asarray(make(request(), KEYS, SCALES, SOUND, renew))
    padded = np.pad(SOUND, ((0, 0), (0, 704 - LONG), (0, 0)))
    through = jax.jit(lambda x: networks.decode(params, networks.encode(params, x)))(padded)
    off = np.abs(found - np.asarray(through)[:, :LONG]).max((0, 2))
    # Latents 2 to 5 are new; the decoder's filters reach a few latents further.
    np.testing.assert_allclose(off[352:], 0, atol=1e-6)
    assert off[100:140].max() > 1e-3


def test_latents_of_a_span_have_a_margin():
    renew = np.zeros((2, 8 * 4), bool)
    renew[0, 13] = True
    renew[1, :1] = renew[1, -1:] = True
    found = renewed_latents(jnp.asarray(renew), 4).astype(jnp.int32)
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1]])


def test_equal_scales_are_the_published_guidance(made):
    _, networks, params = made
    rng = np.random.default_rng(2)
    condition = {
        "cross": rng.normal(size=(2, 9, 8)).astype("f"),
        "seconds": rng.normal(size=(2, 16)).astype("f"),
        "control": rng.normal(size=(2, 16, 4)).astype("f"),
        "what": np.ones(2, bool),
        "when": np.ones(2, bool),
    }
    x, time = rng.normal(size=(2, 16, 4)).astype("f"), np.array([0.3, 0.8], "f")

    @jax.jit
    def both(scales, switches):
        velocity = partial(networks.velocity, params, x, time)
        off = [velocity({**condition, **switch}) for switch in switches]
        return guided(networks, params, condition, scales)(x, time), *off, velocity(condition)

    none = np.zeros(2, bool)
    switches = [{"what": none, "when": none}, {"what": none, "when": np.ones(2, bool)}]
    found, nothing, control, full = both(np.array([3.0, 3.0], "f"), switches)
    np.testing.assert_allclose(found, nothing + 3 * (full - nothing), rtol=1e-4, atol=1e-4)
    # Fol·AI's own: the control in both branches, one scale for the rest.
    found, *_ = both(np.array([1.0, 2.0], "f"), switches)
    np.testing.assert_allclose(found, control + 2 * (full - control), rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(full - control)).max() > 1e-2
    assert np.abs(np.asarray(control - nothing)).max() > 1e-2


def test_a_clip_shorter_than_a_window_is_cut_to_its_length(made):
    system, _, params = made
    asked = request()
    asked["envelope"] = asked["envelope"][:, :130]
    sample = partial(system.generator.sample, samples=130, steps=2)
    assert jax.eval_shape(sample, params, asked, KEYS).shape == (2, 130, 2)


def test_frames_of_a_later_window_are_those_of_its_time(made):
    _, networks, _ = made
    seen = {
        "meaning": jnp.full((1, 1, 1), -1.0),
        "frames": jnp.arange(FRAMES, dtype=jnp.float32).reshape(1, -1, 1),
    }
    found = networks.cross(seen, plan_windows(22, 16, 6))[..., 0]
    # The second window begins 6 latents on: 0.024 s, three frames; after the last frame it stays.
    np.testing.assert_array_equal(found[0], [-1, *range(8)])
    np.testing.assert_array_equal(found[1], [-1, *range(3, 11)])


def test_the_control_of_a_controls_file_is_what_the_network_learnt_from(made):
    system, networks, _ = made
    generator = system.generator
    assert (generator.rate, generator.channels, generator.unit) == (8000, 2, 32)
    assert (generator.when, generator.dials) == ("envelope", ("when", "what"))
    envelope = Envelope(50.0, (-20.0,) * 20 + (-6.0,) * 20)
    found = generator.condition(When(envelope=envelope), 5000)["envelope"]
    wanted = conditioning_curve(envelope, 5000, 8000, "better", 2)
    np.testing.assert_array_equal(found, wanted)
    # The envelope of a sound of these levels is that curve, but for its noise.
    sound = 10 ** (np.where(np.arange(5000) < 19.5 * 160, -20, -6) / 20)
    sound = sound * np.sqrt(2) * np.sin(np.arange(5000) * 0.7)
    heard = networks.envelope(np.repeat(sound.astype("f")[None, :, None], 2, axis=2))[0]
    assert np.abs(heard - wanted).max() < 0.05 * wanted.max()
    with pytest.raises(UserError, match="hold no envelope"):
        generator.condition(When(), 5000)
    assert systems.build(tiny("smoke-base")).generator is None


def test_the_parity_profile_samples_and_the_better_one_does_not(made):
    _, better, params = made
    parity = Networks(tiny(model__profile="parity"))
    sound, keys = SOUND[:, :512], [jax.random.key(0), jax.random.key(1)]

    @jax.jit
    def latents(sound):
        found = [net.encode(params, sound, key) for net in (better, parity) for key in keys]
        fixed = [net.encode_envelope(params, sound) for net in (better, parity)]
        return found, fixed

    (mean, same, one, other), (plain, fixed) = latents(sound)
    np.testing.assert_array_equal(mean, same)
    np.testing.assert_array_equal(mean, plain)
    assert np.abs(np.asarray(one - other)).max() > 1e-3
    # One clip's sample does not depend on its place: the two clips have the same noise.
    (*_, twice), (_, fixed_twice) = latents(np.stack([sound[0], sound[0]]))
    np.testing.assert_array_equal(fixed_twice[0], fixed_twice[1])
    np.testing.assert_allclose(fixed[0], fixed_twice[1], atol=1e-5)
    assert np.abs(np.asarray(twice[0] - twice[1])).max() > 1e-3


def found_of(rng):
    """What `embed` gives of a model that obeys: 8 clips of 1 s."""
    truth = np.zeros((8, 8000), "f")
    for row, start in zip(truth, rng.integers(500, 4000, 8), strict=True):
        row[start : start + 800] = rng.normal(size=800)
    late = np.pad(truth, ((0, 0), (round(8000 * folai.LATER), 0)))[:, :8000]
    return {
        "truth": truth,
        "controlled": truth,
        "doubled": 2 * truth,
        "delayed": late,
        "uncontrolled": truth[::-1],
        "known": np.arange(8) < 7,
        "valid": np.arange(8) > 0,
        "manifest": np.array("0123"),
    }


def test_reports_of_a_model_that_obeys(made):
    system, _, _ = made
    found = found_of(np.random.default_rng(0))
    reports = {name: evaluate(found) for name, evaluate in system.evaluators.items()}
    evaluator, _, scalar = system.headline.partition("/")
    assert reports[evaluator].scalars[scalar] == 1.0
    assert reports["controlled"].scalars["e_l1_16k_rms512_128"] == 0.0
    assert reports["uncontrolled"].scalars["e_l1_16k_rms512_128"] > 0.0
    assert reports["doubled"].scalars["gain_error_6db"] < 1e-3
    assert reports["delayed"].scalars["lag_error_100ms"] < 0.005
    assert reports["doubled"].measured[0].count == 6
    louder = reports["doubled"].histograms["louder"].groups["clips"]
    later = reports["delayed"].histograms["later"].groups["clips"]
    np.testing.assert_allclose(louder, folai.LOUDER, atol=1e-3)
    np.testing.assert_allclose(later, folai.LATER, atol=0.005)
    assert len(louder) == len(later) == 6
    base = systems.build(tiny("smoke-base"))
    error = {**found, "error": np.full(8, 0.25), "power": np.full(8, 1.0)}
    evaluator, _, scalar = base.headline.partition("/")
    assert base.evaluators[evaluator](error).scalars[scalar] == 0.75


def test_evaluation_changes_the_envelope_alone(made):
    config = tiny(model__latent_scale=1.0)
    system = systems.build(config)
    params = random_params(system)
    rng = np.random.default_rng(1)
    batch = {
        "sound": rng.normal(size=(2, 512, 2)).astype("f"),
        "sound_mask": np.array([True, False]),
        "text": rng.integers(1, 30, (2, 6)).astype(np.int32),
        "text_mask": np.ones(2, bool),
    }
    embed = jax.jit(system.embed)
    found = jax.device_get(embed(params, batch))
    np.testing.assert_allclose(found["truth"][0], batch["sound"][0].mean(1), rtol=1e-5)
    assert not found["truth"][1].any()
    sounds = [found[name] for name in folai.SOUNDS]
    for n, one in enumerate(sounds):
        for other in sounds[n + 1 :]:
            assert np.abs(one[0] - other[0]).max() > 1e-4
    # Without a way out of the control network the envelope has no say: all are from the same noise.
    params["control"]["blocks"]["residual"]["kernel"] *= 0
    mute = jax.device_get(embed(params, batch))
    for name in folai.SOUNDS:
        np.testing.assert_allclose(mute[name], found["uncontrolled"], rtol=1e-3, atol=1e-5)
