"""The autoencoder as a system: its loss, silence, masks, learning, any mesh, and its reports."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from weavejax import systems
from weavejax.errors import UserError
from weavejax.losses import spectral
from weavejax.models.oobleck import decode, encode
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.sharding import shardings
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems import oobleck
from weavejax.systems.levels import draw_levels
from weavejax.testing import no_wishes, tiny_gram

SAMPLES, BATCH = 256, 8


def tiny(**changes):
    """An autoencoder of one stride, 8 samples a latent: programs that compile fast."""
    config = tiny_gram()
    config = ConfigDict(
        {
            "system": "oobleck",
            "seed": 0,
            "steps": 25,
            "batch": BATCH,
            "inputs": {"seconds": SAMPLES / 16_000, "rate": 16_000, "stereo": True},
            "model": {
                "channels": 8,
                "multiples": (1,),
                "strides": (8,),
                "latent": 4,
                "dtype": "float32",
                "remat": False,
            },
            "loss": {
                "sizes": (64, 16),
                "epsilon": 1e-5,
                "spectral": 1.0,
                "waveform": 10.0,
                "level": 20.0,
                "divergence": 1e-4,
                "levels": (0.0,),
            },
            "init": {"weights": "", "partial": ()},
            "optim": {**config.optim, "lr": 5e-3, "weight_decay": 0.0},
            "guard": config.guard.to_dict(),
        }
    )
    for path, value in changes.items():
        section, key = path.split("__")
        config[section][key] = value
    return config


def batch_of(known=None, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(SAMPLES) / 16_000
    pitch = rng.uniform(300, 2000, (BATCH, 1, 1))
    sound = 0.3 * np.sin(2 * np.pi * pitch * time[None, :, None]) * rng.uniform(0, 1, (BATCH, 1, 2))
    mask = np.ones(BATCH, bool) if known is None else np.array(known)
    return {"sound": sound.astype(np.float32), "sound_mask": mask}


@pytest.fixture(scope="module")
def made():
    """(system, parameters, jitted loss with its gradient)."""
    system = systems.build(tiny())
    loss = jax.jit(
        jax.value_and_grad(
            lambda p, b: system.loss(p, b, jax.random.key(1), jnp.int32(0)), has_aux=True
        )
    )
    return system, jax.jit(system.init)(jax.random.key(0)), loss


def test_a_clip_is_learnt_at_the_level_that_is_drawn(made):
    _, params, loss = made
    louder = systems.build(tiny(loss__levels=(0.0, 20.0)))
    found, _ = jax.jit(louder.loss)(params, batch_of(), jax.random.key(1), jnp.int32(0))
    chosen = np.asarray(draw_levels(jax.random.key(1), 2, BATCH))
    assert 0 < chosen.sum() < BATCH
    batch = batch_of()
    batch["sound"] *= np.float32(10) ** chosen[:, None, None]
    (wanted, _), _ = loss(params, batch)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def norm(grads):
    return float(np.sqrt(sum(np.square(np.float64(g)).sum() for g in jax.tree.leaves(grads))))


def test_the_loss_is_the_weighted_sum_of_its_terms(made):
    _, params, loss = made
    batch, config = batch_of(), tiny()
    (value, metrics), _ = loss(params, batch)
    sizes = oobleck.network(config.model, stereo=True)

    @jax.jit
    def sampled(params):
        latents = encode(params["oobleck"], sizes, batch["sound"])
        noise = jax.random.normal(jax.random.key(1), latents.mean.shape)
        sound = decode(params["oobleck"], sizes, latents.mean + latents.deviation * noise)
        return latents, sound

    (mean, deviation), sound = jax.device_get(sampled(params))
    assert sound.shape == (BATCH, SAMPLES, 2)
    assert mean.shape == (BATCH, SAMPLES // 8, 4)
    waveform = np.abs(batch["sound"] - sound).mean()
    variance = np.float64(deviation) ** 2
    divergence = (mean**2 + variance - np.log(variance) - 1).sum(2).mean()
    distance = jax.jit(lambda a, b: spectral.stereo_spectral_distance(a, b, (64, 16), 1e-5).mean())(
        batch["sound"], sound
    )
    rms = [
        np.sqrt(np.square(x).reshape(BATCH, SAMPLES // 128, 128, 2).mean(2) + 1e-8)
        for x in (batch["sound"], sound)
    ]
    level = np.abs(rms[0] - rms[1]).mean()
    want = distance + 10.0 * waveform + 20.0 * level + 1e-4 * divergence
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for name, each in {"waveform": waveform, "level": level, "divergence": divergence}.items():
        total, weight = metrics[f"loss/{name}"]
        np.testing.assert_allclose(total / weight, each, rtol=1e-5)
    assert float(metrics["loss"][1]) == BATCH


def test_clips_without_sound_have_no_weight(made):
    _, params, loss = made
    batch = batch_of([True] * 5 + [False] * 3)
    garbage = {"sound": batch["sound"].copy(), "sound_mask": batch["sound_mask"]}
    garbage["sound"][5:] = np.nan
    (clean, metrics), clean_grads = loss(params, batch)
    (dirty, _), dirty_grads = loss(params, garbage)
    assert float(metrics["loss"][1]) == 5.0
    assert float(clean) == float(dirty)
    jax.tree.map(np.testing.assert_array_equal, clean_grads, dirty_grads)
    (nothing, metrics), grads = loss(params, batch_of([False] * BATCH))
    assert float(nothing) == float(metrics["loss"][1]) == norm(grads) == 0.0


def test_silence_is_an_ordinary_batch(made):
    _, params, loss = made
    (_, _), sounding = loss(params, batch_of())
    batch = batch_of()
    batch["sound"][:] = 0.0
    (value, _), grads = loss(params, batch)
    assert np.isfinite(float(value))
    assert 0 < norm(grads) < 100 * norm(sounding)


def test_a_memorised_batch_is_learnt():
    config = tiny()
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    system = systems.build(config)
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    state = layout.init(jax.random.key(0))
    batch = put_batch(batch_of(), batch_sharding(mesh))
    losses = []
    for _ in range(config.steps):
        state, metrics, told = step(state, batch, no_wishes(mesh))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
        assert told.accepted
    assert losses[-1] < 0.7 * losses[0]


def test_eight_devices_give_the_loss_and_the_gradient_of_one(made):
    system, params, loss = made
    batch = batch_of([True] * 6 + [False] * 2)
    (one, _), one_grads = loss(params, batch)
    mesh = make_mesh({"data": 8})
    placed = shardings(params, mesh, system.rules)
    spread = {n: jax.device_put(x, batch_sharding(mesh)) for n, x in batch.items()}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        (many, metrics), many_grads = loss(jax.device_put(params, placed), spread)
    assert float(metrics["loss"][1]) == 6.0
    np.testing.assert_allclose(many, one, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(many_grads), jax.tree.leaves(one_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def found(truth, made, **changes):
    clips = len(truth)
    given = {
        "truth": truth,
        "made": made,
        "known": np.ones(clips, bool),
        "valid": np.ones(clips, bool),
        "manifest": np.array("0123456789abcdef"),
    }
    return {**given, **changes}


def test_the_report_of_sounds_with_a_known_distance(made):
    system, _, _ = made
    rng = np.random.default_rng(0)
    truth = (0.1 * rng.normal(size=(4, 4000, 2))).astype(np.float32)
    noise = (0.01 * rng.normal(size=truth.shape)).astype(np.float32)
    truth[2] = noise[2] = 0.0  # silent: nothing to compare
    report = system.evaluators["sound"](
        found(truth, truth + noise, valid=np.array([True, True, True, False]))
    )
    by_name = {result.variant: result for result in report.measured}
    for name in ("si_sdr_mid", "si_sdr_side"):
        result = by_name[name]
        assert (result.count, dict(result.skipped)) == (2, {"truth is silent": 1})
        assert abs(result.value - 20.0) < 0.5
        assert result.interval is not None
    assert set(by_name) == {
        "si_sdr_mid",
        "si_sdr_side",
        "stft_distance_mid_2048_512_128",
        "log_mel_distance_mid_64_1024",
        "e_l1_16k_rms512_128",
        "envelope_correlation_16k_rms512_128",
    }
    exact = system.evaluators["sound"](found(truth, truth)).scalars
    assert (exact[system.headline.split("/")[1]], exact["si_sdr_mid"]) == (1.0, 100.0)
    for name in ("stft_distance_mid_2048_512_128", "e_l1_16k_rms512_128"):
        assert exact[name] == 0.0 < report.scalars[name]
    # Half as loud: the same to SI-SDR; 6.02 dB in every band; half of the level in E-L1.
    half = system.evaluators["sound"](found(truth[:2], truth[:2] / 2)).scalars
    assert half["si_sdr_mid"] == 100.0
    assert abs(half["log_mel_distance_mid_64_1024"] - 20 * np.log10(2)) < 0.01
    silent = half["e_l1_16k_rms512_128/silence"]
    np.testing.assert_allclose(half["e_l1_16k_rms512_128"], silent / 2, rtol=1e-5)


def test_the_report_of_latents_says_how_to_scale_them(made):
    system, _, _ = made
    rng = np.random.default_rng(0)
    spread, noise = np.array([1.0, 3.0]), np.array([0.5, 4.0])
    mean = (5.0 + spread * rng.normal(size=(50, 200, 2))).astype(np.float32)
    deviation = np.broadcast_to(noise, mean.shape).astype(np.float32)
    given = found(np.zeros((50, 1, 2)), np.zeros((50, 1, 2)), mean=mean, deviation=deviation)
    scalars = system.evaluators["latents"](given).scalars
    np.testing.assert_allclose(scalars["channel 0/std"], np.hypot(1.0, 0.5), rtol=0.03)
    np.testing.assert_allclose(scalars["channel 1/std"], 5.0, rtol=0.03)
    np.testing.assert_allclose(scalars["std"], np.sqrt((1.25 + 25.0) / 2), rtol=0.03)
    np.testing.assert_allclose(scalars["scale"], 1 / scalars["std"])


def test_embeddings_hold_what_the_reports_need(made):
    system, params, _ = made
    shapes = jax.eval_shape(system.embed, params, system.batch_spec)
    assert shapes["made"].shape == shapes["truth"].shape == (BATCH, SAMPLES, 2)
    assert shapes["mean"].shape == shapes["deviation"].shape == (BATCH, SAMPLES // 8, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__strides": (4, 4)}, "config.model: strides"),
        ({"inputs__rate": 0}, "inputs.rate is 0"),
        ({"inputs__seconds": 4 / 16_000}, "4 samples are too few"),
        ({"loss__sizes": (1024,)}, "each must be divisible by 4 and below 512"),
        ({"loss__levels": ()}, "loss.levels must begin with 0.0"),
        ({"loss__sizes": ()}, "each must be divisible by 4"),
    ],
)
def test_impossible_configs_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        systems.build(tiny(**change))


def test_the_published_size_has_its_parameters_and_flops():
    published = {
        "model__channels": 128,
        "model__multiples": (1, 2, 4, 8, 16),
        "model__strides": (2, 4, 4, 8, 8),
        "model__latent": 64,
        "inputs__rate": 44_100,
        "inputs__seconds": 65_536 / 44_100,
    }
    system = systems.build(tiny(**published))
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 77_989_888 + 78_122_626
    shardings(shapes, make_mesh({"data": 8}), system.rules)  # no rule missing, none idle
    assert dataclasses.asdict(oobleck.network(tiny(**published).model, stereo=True))["audio"] == 2
    assert system.flops["encoder"] > 1e11
