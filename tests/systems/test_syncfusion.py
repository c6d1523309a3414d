"""SyncFusion's diffusion: its conditions, its loss, its generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_onset import config_of

from weavejax import systems
from weavejax.dials import onsets as rules
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
