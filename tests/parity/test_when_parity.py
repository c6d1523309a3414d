"""The networks of SyncFusion, Video-Foley and CAVP against PyTorch, live or from recordings."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from recorded import LIVE, Recording, live, quick_jit, recorded, relative_error
from recorded import cases as all_cases

from weavejax.errors import UserError
from weavejax.models import envelope_net, r2plus1d, slow_only, waveform_unet, waveform_unet_names
from weavejax.ops.batch_norm import follows
from weavejax.runtime import tree

ONSET = r2plus1d.R2Plus1DConfig(widths=(8, 12), blocks=(2, 1), hidden=6)
UNET = waveform_unet.WaveformUNetConfig(
    channels=(8, 16, 16),
    factors=(1, 4, 2),
    items=(1, 2, 2),
    attentions=(False, False, True),
    context=(2, 8, 16),
    heads=2,
    head_width=8,
    groups=4,
    modulation=32,
    embedding=12,
)
ENVELOPE = envelope_net.EnvelopeNetConfig(
    features=12, frames=7, steps=11, classes=5, width=12, hidden=3, onset=True
)
CAVP = slow_only.SlowOnlyConfig(width=4, blocks=(1, 2, 1, 2), embedding=6)


@pytest.fixture(params=["recorded", LIVE])
def reference(request: pytest.FixtureRequest, name: str) -> Recording:
    return recorded(f"when/{name}") if request.param == "recorded" else live(f"when/{name}")


def state_of(reference: Recording) -> Recording:
    values = seeded.weights(seeded.unpack(reference["shapes"]))
    for pair in reference["aliases"].tolist():
        key, source = pair.split("=")
        values[key] = values[source]
    return values


def cases(reference: Recording) -> dict[str, Recording]:
    named = {key: value for key, value in reference.items() if "/" in key}
    return all_cases(named)


@pytest.mark.parametrize("name", ["onset"])
def test_onset_network_in_evaluation_and_in_training(reference: Recording) -> None:
    state = state_of(reference)
    params = r2plus1d.from_torch(state, ONSET)
    back = r2plus1d.to_torch(params, ONSET)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)

    def logits(leaves: Any, video: jax.Array, deterministic: bool) -> jax.Array:
        network: Any = r2plus1d.R2Plus1D(ONSET)
        return network.apply({"params": leaves}, video, deterministic=deterministic)

    @partial(quick_jit, static_argnums=2)
    def run(leaves: Any, video: jax.Array, deterministic: bool) -> jax.Array:
        return logits(leaves, video, deterministic)

    @quick_jit
    def moved(leaves: Any, video: jax.Array) -> Any:
        grads = jax.grad(lambda p: logits(p, video, False).sum())(leaves)
        return jax.tree.map(lambda leaf, grad: leaf - grad, leaves, grads)

    for case in cases(reference).values():
        assert relative_error(np.asarray(run(params, case["video"], True)), case["output"]) < 1e-4
        trained = np.asarray(run(params, case["video"], False))
        assert relative_error(trained, case["training"]) < 1e-4
        after = moved(params, case["video"])["stem_norm1"]
        for key in ("running_mean", "running_var"):
            assert relative_error(np.asarray(after[key]), case[f"stem.1.{key}"]) < 1e-4


@pytest.mark.parametrize("name", ["unet"])
def test_waveform_network_and_its_guidance(reference: Recording) -> None:
    state = state_of(reference)
    params = waveform_unet_names.from_torch(state, UNET)
    back = waveform_unet_names.to_torch(params, UNET)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)

    @quick_jit
    def run(x: jax.Array, noise: jax.Array, e: jax.Array, present: jax.Array, t: jax.Array) -> Any:
        return waveform_unet.WaveformUNet(UNET).apply({"params": params}, x, noise, e, present, t)

    for case in cases(reference).values():
        given = [case[key] for key in ("sound", "noise", "embedding")]
        ones = np.ones(len(given[0]), bool)
        with_it = np.asarray(run(*given, ones, case["track"]))
        without = np.asarray(run(*given, ~ones, case["track"]))
        assert relative_error(with_it, case["output"]) < 1e-4
        assert relative_error(without + 3.0 * (with_it - without), case["guided"]) < 1e-4
    short = jnp.zeros((1, 12, 1))
    with pytest.raises(ValueError, match="multiple of 8"):
        run(short, jnp.zeros(1), jnp.zeros((1, 1, 12)), jnp.ones(1, bool), short)


@pytest.mark.parametrize("name", ["envelope"])
def test_envelope_network(reference: Recording) -> None:
    state = state_of(reference)
    params = envelope_net.from_torch(state, ENVELOPE)
    back = envelope_net.to_torch(params, ENVELOPE)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)

    @quick_jit
    def run(features: jax.Array) -> Any:
        network: Any = envelope_net.EnvelopeNet(ENVELOPE)
        return network.apply({"params": params}, features, deterministic=True)

    for case in cases(reference).values():
        found = run(case["features"])
        assert relative_error(np.asarray(found["envelope"]), case["output"]) < 1e-4
        assert relative_error(np.asarray(found["onset"]), case["onset"]) < 1e-4
    del state["BiLSTM.bias_hh_l1"]
    with pytest.raises(UserError, match=r"missing BiLSTM\.bias_hh_l1"):
        envelope_net.from_torch(state, ENVELOPE)


@pytest.mark.parametrize("name", ["cavp"])
def test_video_tower_of_cavp(reference: Recording) -> None:
    state = state_of(reference)
    params = slow_only.from_torch(state, CAVP)
    back = slow_only.to_torch(params, CAVP)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)

    @quick_jit
    def run(video: jax.Array) -> Any:
        network: Any = slow_only.SlowOnly(CAVP)
        return network.apply({"params": params}, video, deterministic=True)

    for case in cases(reference).values():
        found = np.asarray(run(case["video"]))
        assert relative_error(found, case["output"]) < 1e-4
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-5)
    # Three convolutions over 3 frames: a frame is seen from as far as that, and no further.
    video = np.abs(np.random.default_rng(0).normal(size=(1, 6, 32, 32, 3))).astype(np.float32)
    changed = video.copy()
    changed[:, 0] = 0.5
    difference = np.abs(np.asarray(run(video)) - np.asarray(run(changed))).max((0, 2))
    assert (difference[:4] > 1e-7).all()
    assert not difference[4:].any()
    del state["video_encoder.layer3.0.conv1.bn.bias"]
    with pytest.raises(UserError, match=r"missing video_encoder\.layer3\.0\.conv1\.bn\.bias"):
        slow_only.from_torch(state, CAVP)


def test_flops_of_cavp_grow_with_frames_and_pictures() -> None:
    one = slow_only.flops(slow_only.CAVP, 1)
    assert slow_only.flops(slow_only.CAVP, 40) == 40 * one
    # SlowOnly-ResNet50 is published at 54.5 GFLOPs (multiply-adds) for 8 frames of 256².
    assert 8 * slow_only.flops(slow_only.CAVP, 1, 256) / 2 == pytest.approx(54.5e9, rel=0.05)
    assert all(pattern == "" for pattern, _ in slow_only.rules(slow_only.CAVP))


PUBLISHED = {
    "onset_published": (r2plus1d, r2plus1d.SYNCFUSION, 31_365_918),
    "unet_published": (waveform_unet_names, waveform_unet.SYNCFUSION, 215_444_808),
    "cavp_published": (slow_only, slow_only.CAVP, 32_683_584),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_name_by_name(reference: Recording, name: str) -> None:
    module, config, parameters = PUBLISHED[name]
    wanted = seeded.unpack(reference["shapes"])
    ours = module.shapes(config)
    count = sum(int(np.prod(shape)) for path, shape in ours.items() if not follows(path))
    assert count == parameters == int(reference["parameters"])
    named = {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")}
    blank = {path: np.broadcast_to(np.float32(0), shape) for path, shape in ours.items()}
    back = module.to_torch(tree.unflatten(blank), config)
    assert {key: value.shape for key, value in back.items()} == named


def test_the_envelope_network_has_the_published_size() -> None:
    shapes = envelope_net.shapes(envelope_net.VIDEO_FOLEY)
    assert sum(int(np.prod(s)) for path, s in shapes.items() if not follows(path)) == 80_168_442
