"""SyncFusion's diffusion: its conditions, its loss, its generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_onset import config_of

from weavejax import systems
from weavejax.dials import onsets as rules
from weavejax.dials.controls import Onset, When
from weavejax.errors import UserError
from weavejax.systems import syncfusion
from weavejax.systems.syncfusion import Networks, after_first, impulse_track

RATE = 8000


@pytest.fixture(scope="module")
def config():
    found = config_of("syncfusion")
    found.inputs.update({"seconds": 0.1, "onsets": 3, "text_length": 8})
    found.model.text.update({"width": 16, "layers": 1, "mlp": 16, "positions": 8, "vocab": 32})
    found.sample.steps = 3
    return found


@pytest.fixture(scope="module")
def made(config):
    """(system, networks, parameters, a batch)."""
    system = systems.build(config)
    rng = np.random.default_rng(0)
    batch = {
        "sound": rng.normal(size=(4, 800, 1)).astype(np.float32) * 0.05,
        "sound_mask": np.ones(4, bool),
        "onsets": np.array([[0.01, 0.05, -1], [0.03, -1, -1], [-1, -1, -1], [0.0, 0.09, -1]]),
        "onsets_mask": np.ones(4, bool),
        "text": rng.integers(1, 30, (4, 8)).astype(np.int32),
        "text_mask": np.ones(4, bool),
    }
    batch["onsets"] = batch["onsets"].astype(np.float32)
    return system, Networks(config), jax.jit(system.init)(jax.random.key(0)), batch


def test_the_track_is_the_published_one():
    times = np.array([[0.0, 0.0123, 0.0999], [0.05, -1.0, -1.0]], np.float32)
    found = np.asarray(impulse_track(jnp.asarray(times), 800, RATE))
    for row, given in zip(found, times, strict=True):
        wanted = rules.impulse_track(given[given >= 0], 800, RATE)
        np.testing.assert_array_equal(row[:, 0], wanted)


def test_before_the_first_onset_there_is_silence():
    sound, onsets = jnp.ones((2, 800, 1)), jnp.asarray([[0.05, 0.02], [-1.0, -1.0]])
    found = np.asarray(after_first(sound, onsets, RATE))
    assert not found[0, :160].any()
    assert found[0, 160:].all()
    assert found[1].all()


def test_clips_of_which_nothing_is_known_have_no_weight(made):
    system, _, params, batch = made
    loss = jax.jit(system.loss)
    given = {**batch, "onsets_mask": np.array([True, True, False, True])}
    other = {**given, "sound": given["sound"].copy()}
    other["sound"][2] = 7.0
    one, metrics = loss(params, given, jax.random.key(0), jnp.int32(0))
    two, _ = loss(params, other, jax.random.key(0), jnp.int32(0))
    assert float(one) == float(two)
    assert float(metrics["loss"][1]) == 3.0
    assert np.isfinite(float(one))


def test_generation_hangs_on_key_onsets_and_text_and_on_no_neighbour(config, made):
    _, networks, params, batch = made
    keys = jax.random.split(jax.random.key(5), 4)

    @jax.jit
    def make(batch, keys, scales):
        return syncfusion.generate(networks, config.sample, params, batch, keys, scales=scales)

    scales = jnp.array([1.5, 2.0])
    whole = np.asarray(make(batch, keys, scales))
    assert whole.shape == (4, 800, 1)
    order = np.array([2, 0, 3, 1])
    turned = make({name: array[order] for name, array in batch.items()}, keys[order], scales)
    np.testing.assert_allclose(turned, whole[order], rtol=1e-3, atol=1e-5)
    for change in (
        {"onsets": np.full((4, 3), 0.02, np.float32)},
        {"text": batch["text"][::-1].copy()},
    ):
        assert np.abs(np.asarray(make({**batch, **change}, keys, scales)) - whole).max() > 1e-4
    # At scales of 0 neither dial has a say.
    none = make(batch, keys, jnp.zeros(2))
    other = {**batch, "onsets": np.full((4, 3), 0.02, np.float32), "text": batch["text"][::-1]}
    np.testing.assert_allclose(make(other, keys, jnp.zeros(2)), none, rtol=1e-3, atol=1e-5)
    assert make._cache_size() == 1


def test_longer_clips_are_made_in_windows_that_have_their_own_onsets(config, made):
    """Far beyond the windows that hold an onset, the sound is that without it."""
    system, _, params, _ = made
    maker, samples = system.generator, 1900
    assert (maker.rate, maker.unit, maker.when, maker.dials) == (
        RATE,
        1,
        "onsets",
        ("when", "what"),
    )
    near, far = 0.03, 0.2
    request = [
        maker.condition(When(tuple(Onset(t) for t in times)), samples)["onsets"]
        for times in ((near,), (near, far), ())
    ]
    texts = {"text": np.ones((3, 8), np.int32), "text_mask": np.ones(3, bool)}
    keys = jax.vmap(jax.random.key)(np.zeros(3, np.uint32))
    scales = jnp.ones(2)

    @jax.jit
    def make(onsets):
        return maker.sample(
            params, {"onsets": onsets, **texts}, keys, scales, samples=samples, steps=2
        )

    one, both, none = np.asarray(make(np.stack(request)))
    assert one.shape == (samples, 1)
    # Windows of 800 begin at 0, 400, 800 and 1100; in two steps an onset reaches one window further.
    np.testing.assert_allclose(both[:400], one[:400], atol=1e-6)
    assert np.abs(both[1100:] - one[1100:]).max() > 1e-4
    np.testing.assert_allclose(one[1200:], none[1200:], atol=1e-6)
    assert np.abs(one[:800] - none[:800]).max() > 1e-4


def test_parts_of_the_batch_change_nothing(config, made):
    _, networks, params, batch = made
    keys = jax.random.split(jax.random.key(5), 4)
    less = config.sample.copy_and_resolve_references()
    with less.unlocked():
        less.together = 3
    whole, parts = (
        syncfusion.generate(networks, each, params, batch, keys, steps=1)
        for each in (config.sample, less)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-6)


def test_what_is_known_stays(config, made):
    _, networks, params, batch = made
    keys = jax.random.split(jax.random.key(5), 4)
    renew = np.zeros((4, 800), bool)
    renew[:, 200:300] = True
    sound = batch["sound"]
    found = np.asarray(
        jax.jit(
            lambda sound: syncfusion.generate(
                networks, config.sample, params, batch, keys, known=(sound, renew)
            )
        )(sound)
    )
    np.testing.assert_allclose(found[~renew], sound[~renew], rtol=1e-5, atol=1e-7)
    assert np.abs(found[renew] - sound[renew]).max() > 1e-3


def test_more_onsets_than_the_network_has_learnt_of(made):
    maker = made[0].generator
    when = When(tuple(Onset(0.01 * n) for n in range(9)))
    assert list(maker.condition(When(when.onsets[:2]), 800)["onsets"][:3]) == pytest.approx(
        [0, 0.01, -1]
    )
    with pytest.raises(UserError, match=r"9 onsets in 0\.10 s.* at most 3 in 0\.1 s"):
        maker.condition(when, 800)


def test_what_cannot_be_is_one_line(config):
    for key, value, words in (
        ("inputs.stereo", True, "of one channel"),
        ("loss.times", "soon", "loss.times 'soon' is none of"),
        ("sample.sampler", "magic", "no sampler is called 'magic'"),
        ("sample.scales", (1.0,), "a number for each of when, what"),
    ):
        changed = config.copy_and_resolve_references()
        changed.unlock()
        with changed.ignore_type():
            changed.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=words):
            systems.build(changed)


def test_told_onsets_are_followed_as_annotated_ones_are(made):
    system, _, params, batch = made
    found = jax.jit(system.embed)(params, {**batch, "told_onsets": batch["onsets"]})
    np.testing.assert_array_equal(found["predicted"], found["generated"])
    none = np.full_like(batch["onsets"], -1.0)
    found = jax.jit(system.embed)(params, {**batch, "told_onsets": none})
    np.testing.assert_array_equal(found["predicted"], found["uncontrolled"])
    assert "predicted" not in jax.eval_shape(system.embed, params, batch)
