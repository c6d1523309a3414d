"""SyncFusion's waveform network, beyond its parity with the published one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.waveform_unet import WaveformUNet, WaveformUNetConfig

TINY = WaveformUNetConfig(
    channels=(4, 8),
    factors=(1, 2),
    items=(1, 1),
    attentions=(False, True),
    context=(2, 4),
    heads=2,
    head_width=4,
    groups=2,
    modulation=8,
    embedding=6,
    encoder_blocks=1,
)


def test_a_condition_of_one_token_is_what_attention_would_make_of_it():
    """The token once, which is not attended to, is the same as the token twice, which is."""
    random = np.random.default_rng(0)
    sound, track = random.standard_normal((2, 3, 10, 1)).astype(np.float32)
    inputs = (sound, np.array([0.1, 0.5, 0.9], np.float32))
    token = random.standard_normal((3, 1, 6)).astype(np.float32)
    here = np.array([True, False, True])
    init = jax.jit(WaveformUNet(TINY).init)
    params = init(jax.random.key(0), *inputs, token, here, track)["params"]
    twice = {**params, "null": jnp.repeat(params["null"], 2, axis=0)}

    def run(config, params, token):
        apply = jax.jit(WaveformUNet(config).apply)
        return apply({"params": params}, *inputs, token, here, track)

    once = run(TINY, params, token)
    again = run(replace(TINY, tokens=2), twice, np.repeat(token, 2, axis=1))
    np.testing.assert_allclose(once, again, rtol=1e-5, atol=1e-6)
    assert np.abs(once - run(TINY, params, token[..., ::-1])).max() > 1e-3


def test_a_silent_onset_track_has_gradients_from_the_start():
    """Through sixteen norms of nothing at all they would overflow."""
    config = replace(TINY, context=(2, 8), encoder_blocks=2)
    inputs = (jnp.ones((1, 64, 1)), jnp.full(1, 0.5), jnp.ones((1, 1, 6)), jnp.ones(1, bool))
    silence = jnp.zeros((1, 64, 1))
    params = jax.jit(WaveformUNet(config).init)(jax.random.key(0), *inputs, silence)["params"]

    def loss(params):
        return jnp.square(WaveformUNet(config).apply({"params": params}, *inputs, silence)).mean()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert np.abs(leaf).max() < 1e3
