"""The envelope system: its target and loss as published, learning, masks, its report, any mesh."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from weavejax import systems
from weavejax.dials.envelope import smooth_zero_phase
from weavejax.dials.quantise import class_levels, mu_law_edges, quantise, smoothed_targets
from weavejax.errors import UserError
from weavejax.ops.rms import rms_frames
from weavejax.runs.assemble import recipe
from weavejax.runs.initial import check
from weavejax.runtime import tree
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.sharding import shardings
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.envelope import changes, decode_levels, envelope_controls, target_levels
from weavejax.testing import fake_batch, no_wishes, tiny_gram
from weavejax.weights.converted import Origin, write_converted

TOWER = {"kind": "eva", "patch": 8, "width": 16, "layers": 1, "heads": 2, "mlp": 16}
ARGUMENTS = (jax.random.key(1), jnp.int32(0))


def tiny(**changed):
    """Clips of 0.4 s: 6 frames of 8 pixels, 50 steps."""
    net = {"width": 16, "convolutions": 1, "kernel": 3, "hidden": 8, "layers": 1}
    inputs = {"seconds": 0.4, "fps": 15.0, "size": 8, "rate": 16_000, "stereo": False, "onsets": 0}
    model = {
        "vision": TOWER,
        "cell": 4,
        "features": ("vision",),
        "frozen": False,
        "pool": "class",
        "together": 0,
        "mu": 63,
        "floor": 0.01,
        "decode": "argmax",
        "net": {"classes": 64, "dropout": 0.0, "onset": False, "rectify": False, **net},
    }
    optim = {"lr": 0.03, "warmup": 0, "schedule": "constant", "b1": 0.9, "b2": 0.99, "eps": 1e-8}
    config = ConfigDict(
        {
            "system": "envelope",
            "seed": 0,
            "steps": 40,
            "batch": 8,
            "inputs": inputs,
            "model": model,
            "loss": {"smoothing": "none", "reach": 2, "sigma": 1.0, "onset": 0.1},
            "optim": {**optim, "weight_decay": 0.0, "no_decay": "", "clip": 1.0, "groups": ()},
            "guard": {"window": 16, "warmup": 8, "sigmas": 6.0, "limit": 3},
        }
    )
    config.optim.average = 0.0
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changed.items()})
    return config


def full():
    """With everything on: motion, onsets, smoothing, frames in parts."""
    config = tiny(
        model__together=3, model__net__onset=True, inputs__onsets=3, loss__smoothing="zero_phase"
    )
    config.model.features = ("vision", "motion")
    return config


def sounding(system, seed=0, **given):
    """A batch whose sounds swell, and whose onsets lie in the clip."""
    batch = fake_batch(system.batch_spec, seed, **given)
    rng = np.random.default_rng(seed)
    shape = batch["sound"].shape
    swell = 0.2 + 0.2 * np.sin(
        np.linspace(0, 9, shape[1])[None, :, None] + np.arange(8)[:, None, None]
    )
    batch["sound"] = (swell * rng.uniform(-1, 1, shape)).astype(np.float32)
    if "onsets" in batch:
        batch["onsets"] = rng.uniform(-0.2, 0.4, batch["onsets"].shape).astype(np.float32)
    return batch


@pytest.fixture(scope="module")
def envelope():
    """The system, parameters, and (params, batch) → ((loss, metrics), gradients), compiled."""
    system = systems.build(full())
    step = jax.value_and_grad(lambda p, b: system.loss(p, b, *ARGUMENTS), has_aux=True)
    return system, jax.jit(system.init)(jax.random.key(0)), jax.jit(step)


def test_classes_on_the_device_are_those_on_the_host():
    rng = np.random.default_rng(0)
    edges = mu_law_edges().astype(np.float32)
    near = [np.nextafter(edges, np.float32(way)) for way in (-1, 2)]
    levels = np.concatenate([rng.uniform(-0.1, 1.2, 999).astype(np.float32), edges, *near])
    exact = np.minimum(np.searchsorted(mu_law_edges(), levels.astype(np.float64), "right"), 63)
    np.testing.assert_array_equal(quantise(levels), exact)
    on_device = jax.jit(quantise)(levels)
    assert on_device.dtype == jnp.int32
    np.testing.assert_array_equal(on_device, exact)


@pytest.mark.parametrize("smoothing", ["none", "zero_phase"])
def test_the_target_is_the_published_envelope(smoothing):
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 6400, 1)).astype(np.float32)
    sound[:, 3000:5000] *= 0.01
    wanted = rms_frames(sound[..., 0].astype(np.float64))
    if smoothing == "zero_phase":
        wanted = smooth_zero_phase(wanted)
    found = target_levels(jnp.asarray(sound), smoothing)
    assert found.shape == (2, 50)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_the_loss_is_the_published_one(envelope):
    """Against a literal cross-entropy in float64, from logits that the network itself gives."""
    system, params, step = envelope
    batch = sounding(system, missing=0.2)
    (loss, metrics), grads = step(params, batch)
    known = batch["video_mask"] & batch["sound_mask"]
    assert 2 < known.sum() < 8
    # One convolution's batch norm makes the only difference between training and evaluation here:
    # with the batch's own statistics as the running ones, `embed` sees what the loss saw.
    norm, follow = dict(params["envelope"]["norm_0"]), grads["envelope"]["norm_0"]
    share = np.float32(1 - 1 / (known.sum() * 6))
    norm["running_mean"] = norm["running_mean"] - 10 * follow["running_mean"]
    unbiased = norm["running_var"] - 10 * follow["running_var"]
    norm["running_var"] = unbiased * share
    still = {**params, "envelope": {**params["envelope"], "norm_0": norm}}
    found = jax.jit(system.embed)(still, batch)
    levels = smooth_zero_phase(rms_frames(batch["sound"][..., 0].astype(np.float64)))
    codes = quantise(levels)
    assert (found["target"] == codes).mean() > 0.99
    np.testing.assert_array_equal(found["known"], known)

    labels = np.zeros((8, 6))
    for clip, times in enumerate(batch["onsets"]):
        for time in times[times >= 0]:
            labels[clip, int(time * 15)] = 1
    np.testing.assert_array_equal(found["labels"], labels)
    heard = known & batch["onsets_mask"]
    x = np.float64(found["logits"])[heard]
    binary = np.logaddexp(0, x) - labels[heard] * x
    np.testing.assert_allclose(
        metrics["loss/onset"][0] / metrics["loss/onset"][1], binary.mean(), rtol=1e-4
    )
    entropy = float(metrics["loss/envelope"][0] / metrics["loss/envelope"][1])
    np.testing.assert_allclose(loss, entropy + 0.1 * binary.mean(), rtol=1e-4)
    right = (np.asarray(found["codes"]) == found["target"])[known].mean()
    share = metrics["classes right %"]
    assert float(share[0] / share[1]) == pytest.approx(100 * right, abs=0.5)


def test_the_cross_entropy_is_that_of_the_smoothed_targets(envelope):
    """From logits that are known: the network's last layer gives nothing but its bias."""
    system, params, step = envelope
    bias = np.random.default_rng(3).normal(size=64).astype(np.float32)
    head = params["envelope"]["envelope_channels"]
    head = {"kernel": jnp.zeros_like(head["kernel"]), "bias": jnp.asarray(bias)}
    params = {**params, "envelope": {**params["envelope"], "envelope_channels": head}}
    batch = sounding(system, missing=0.2)
    (_, metrics), _ = step(params, batch)
    known = batch["video_mask"] & batch["sound_mask"]
    codes = np.asarray(quantise(target_levels(jnp.asarray(batch["sound"]), "zero_phase")))
    logits = np.float64(bias)
    chances = logits - np.log(np.exp(logits).sum())
    wanted = -(np.float64(smoothed_targets(codes)) * chances).sum(-1)[known].mean()
    total, count = metrics["loss/envelope"]
    assert float(count) == known.sum() * 50
    np.testing.assert_allclose(total / count, wanted, rtol=1e-5)


def test_what_is_missing_has_no_weight_and_no_gradient(envelope):
    system, params, step = envelope
    batch = sounding(system, missing=0.3)
    garbage = {name: x.copy() for name, x in batch.items()}
    garbage["video"][~batch["video_mask"]] = 7
    garbage["sound"][~batch["sound_mask"]] = 0.9
    garbage["onsets"][~batch["onsets_mask"]] = 0.1
    assert not batch["video_mask"].all()
    assert not batch["sound_mask"].all()
    ((clean, _), clean_grads), ((dirty, _), dirty_grads) = (
        step(params, batch),
        step(params, garbage),
    )
    np.testing.assert_allclose(clean, dirty, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(clean_grads), jax.tree.leaves(dirty_grads), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    nothing = {**batch, "sound_mask": np.zeros(8, bool)}
    (loss, _), grads = step(params, nothing)
    assert loss == 0
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_frames_in_parts_are_encoded_as_all_at_once(envelope):
    system, params, step = envelope
    config = full()
    config.model.together = 0
    batch = sounding(system)
    whole, _ = jax.jit(systems.build(config).loss)(params, batch, *ARGUMENTS)
    np.testing.assert_allclose(step(params, batch)[0][0], whole, rtol=1e-6)


@pytest.mark.parametrize(("pool", "width"), [("class", 16), ("mean", 16), ("patches", 64)])
def test_a_frame_has_the_features_that_are_asked_for(pool, width):
    system = systems.build(tiny(inputs__size=16, model__pool=pool))
    params = jax.eval_shape(system.init, jax.random.key(0))
    assert params["envelope"]["conv_0"]["kernel"].shape == (3, width, 16)
    found = jax.eval_shape(system.embed, params, system.batch_spec)
    assert found["envelope"].shape == (8, 50)


def test_changes_are_those_of_each_part_in_either_direction():
    video = np.full((1, 3, 4, 4, 3), 100, np.uint8)
    video[0, 1, 0, 0] = 116  # a pixel of the first of four parts, for one frame
    video[0, 2, 3, 3] = 92
    found = np.asarray(changes(jnp.asarray(video), 2))
    wanted = np.zeros((1, 3, 8))
    wanted[0, 1, 0] = wanted[0, 2, 4] = 16 / 4 / 4
    wanted[0, 2, 7] = 8 / 4 / 4
    np.testing.assert_array_equal(found, wanted)


def test_an_aligned_network_starts_with_each_step_between_the_frames_around_it():
    system = systems.build(tiny(model__net__aligned=True))
    kernel = jax.jit(system.init)(jax.random.key(0))["envelope"]["envelope_time"]["kernel"]
    assert kernel.shape == (6, 50)
    np.testing.assert_allclose(kernel.sum(0), 1, rtol=1e-6)
    middles = np.asarray((np.arange(6) + 0.5) / 15) @ np.asarray(kernel)
    steps = (np.arange(50) + 0.5) / 125
    np.testing.assert_allclose(middles, np.clip(steps, 0.5 / 15, 5.5 / 15), rtol=1e-5)


def test_a_memorised_batch_is_learnt():
    config = tiny(model__net__hidden=16, steps=70)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    system = systems.build(config)
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    state, wishes = layout.init(jax.random.key(0)), no_wishes(mesh)
    batch = sounding(system)
    placed = put_batch(batch, batch_sharding(mesh))
    for _ in range(config.steps):
        state, metrics, _ = step(state, placed, wishes)
    near, count = metrics["classes within 5 %"]
    assert float(near / count) > 90
    # Running statistics have come close to the batch's: evaluation sees what training learnt.
    found = {name: np.asarray(x) for name, x in jax.jit(system.embed)(state.params, batch).items()}
    told = {**found, "valid": np.ones(8, bool), "manifest": np.array("m")}
    report = system.evaluators["envelopes"](told)
    assert system.headline.removeprefix("envelopes/") in report.scalars
    assert report.scalars["envelope_skill_16k_rms512_128_predicted"] > 0.5


def test_the_report_of_a_known_case():
    system = systems.build(tiny())
    levels = class_levels()
    target = np.zeros((3, 50), np.int32)
    target[0, 10:30], target[1, 20:] = 20, 40
    codes = target.copy()
    codes[0, 10:20] = 23
    codes[2], target[2] = 63, 5  # not to be looked at
    truth = levels[target]
    found = {
        "truth": truth,
        "envelope": levels[codes],
        "target": target,
        "codes": codes,
        "known": np.array([True, True, False]),
        "valid": np.array([True, True, True]),
        "manifest": np.array("m"),
    }
    scalars = system.evaluators["envelopes"](found).scalars
    name, end = "e_l1_16k_rms512_128_predicted", "16k_rms512_128_predicted"
    l1 = 10 * (levels[23] - levels[20]) / 100
    assert scalars[name] == pytest.approx(l1, rel=1e-5)
    assert scalars[f"{name}/silence"] == pytest.approx((20 * levels[20] + 30 * levels[40]) / 100)
    # Of two clips mean and median are the same curve, half their difference from either.
    half = np.abs(truth[0] - truth[1]).mean() / 2
    assert scalars[f"{name}/mean envelope"] == pytest.approx(half, rel=1e-5)
    assert scalars[f"{name}/median envelope"] == pytest.approx(half, rel=1e-5)
    assert scalars[f"{name}/true classes"] == 0
    assert scalars[f"envelope_skill_{end}"] == pytest.approx(1 - l1 / half, rel=1e-5)
    assert 0.9 < scalars[f"envelope_correlation_{end}"] < 1
    classes = "mu63_64"
    assert scalars[f"envelope_class_acc_{classes}_within_2"] == pytest.approx(0.9)
    assert scalars[f"envelope_class_acc_{classes}_within_5"] == 1
    assert scalars[f"envelope_class_mae_{classes}"] == pytest.approx(0.3)


def test_levels_are_those_of_the_likeliest_class_or_of_the_median_one():
    chances = np.zeros((1, 2, 64), np.float32)
    chances[0, 0, [0, 10, 20]] = 0.4, 0.3, 0.3
    chances[0, 1, 63] = 1
    logits = jnp.log(jnp.asarray(chances) + 1e-9)
    levels, even = class_levels(), np.ones(64)
    taught = np.where(np.arange(64) > 0, 2.0, 1.0)  # all but silence twice as often as they occur
    for how, mass, wanted in (("argmax", even, 0), ("median", even, 10), ("median", taught, 0)):
        codes, found = decode_levels(logits, (63, 64, 0.01), how, mass)
        assert codes.tolist() == [[0, 63]]
        np.testing.assert_array_equal(found, levels[[[wanted, 63]]])


def test_a_predicted_envelope_stands_in_a_controls_file():
    """At 50 values a second, in dB, where the sound has them: a step after 0.2 s stays there."""
    levels = np.zeros(50, np.float32)
    levels[25:] = 0.1
    envelope = envelope_controls(levels)
    assert envelope.rate == 50
    assert len(envelope.db) == 20
    assert envelope.db[:10] == (-80.0,) * 10
    np.testing.assert_allclose(envelope.db[11:], -20, atol=1e-4)
    assert -27 < envelope.db[10] < -25  # half way between two values: half the level


def test_a_frozen_encoder_is_kept():
    config = full()
    config.model.frozen = True
    system = systems.build(config)
    paths = tree.flatten(jax.eval_shape(system.init, jax.random.key(0)))
    assert {path.split("/")[0] for path in paths} == {"vision", "envelope"}
    assert {path.split("/")[0] for path in paths if system.frozen(path)} == {"vision"}
    assert set(system.flops) == {"vision", "envelope"}


def test_the_frame_encoder_of_gram_is_taken_over(tmp_path):
    """Converted weights of a GRAM: its image tower, and for more pixels here; nothing else of it."""
    gram = tree.flatten(jax.eval_shape(systems.build(tiny_gram()).init, jax.random.key(0)))
    leaves = {path: np.zeros(x.shape, x.dtype) for path, x in gram.items()}
    write_converted(tmp_path / "weights.safetensors", leaves, Origin("gram", "a.pt", "0", {}))
    config = tiny(inputs__size=48, model__frozen=True)
    config.model.vision = {**TOWER, "patch": 16, "heads": 4, "mlp": 32}
    system = systems.build(config)
    layout = lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))
    file, partial = str(tmp_path / "weights.safetensors"), (r"^(?!vision/)",)
    fit = check(system, layout, ConfigDict({"weights": file, "partial": partial}))
    vision = {path for path in leaves if path.startswith("vision/")}
    assert set(fit.found) == vision
    assert len(fit.resized) == 1
    assert all(path.startswith("envelope/") for path in fit.fresh)
    with pytest.raises(UserError, match="left over"):
        check(system, layout, ConfigDict({"weights": file, "partial": ()}))


@jax.numpy_dtype_promotion("standard")  # bfloat16 weights of a frozen tower
@pytest.mark.parametrize("variant", ["", "files", "smoke", "published"])
def test_every_variant_fits_its_data_and_a_mesh(variant):
    place = Path(__file__).parents[2] / "configs" / "envelope.py"
    config = runpy.run_path(str(place))["get_config"](variant)
    system, example = systems.build(config), recipe(config).empty()
    layout = lay_out(system, config, make_mesh({"data": 8}))  # no rule missing, none idle
    params = layout.shapes.params
    for name, leaf in system.batch_spec.items():
        assert (example[name].shape, example[name].dtype) == (leaf.shape[1:], leaf.dtype)
    loss, _ = jax.eval_shape(system.loss, params, system.batch_spec, *ARGUMENTS)
    assert loss.shape == ()
    if variant == "published":
        assert set(params) == {"vision", "envelope"}
        net = params["envelope"]
        assert net["conv_1"]["kernel"].shape == (5, 2048, 2048)
        assert net["envelope_time"]["kernel"].shape == (300, 1250)
        assert {str(x.dtype) for x in jax.tree.leaves(params["vision"])} == {"bfloat16"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model__features": ("flow",)}, "must name some of vision, motion"),
        ({"model__features": ("motion",), "model__cell": 3}, "model.cell must divide"),
        ({"model__pool": "max"}, "pool 'max' is none of class, mean, patches"),
        ({"loss__smoothing": "some"}, "smoothing 'some' is none of none, zero_phase"),
        ({"inputs__rate": 44_100}, "inputs.rate"),
        ({"inputs__seconds": 0.405}, "inputs.seconds"),
        ({"model__net__onset": True}, "set inputs.onsets"),
        ({"model__together": 4}, "must divide the 6 frames"),
    ],
)
def test_impossible_configs_are_refused_before_anything_compiles(changed, words):
    with pytest.raises(UserError, match=words):
        systems.build(tiny(**changed))


def test_a_mesh_gives_the_loss_of_one_device(envelope):
    """Batch norm included: its batch is the global one."""
    system, params, step = envelope
    batch = sounding(system, missing=0.2)
    (one, told), _ = step(params, batch)
    mesh = make_mesh({"data": 8})
    placed = shardings(params, mesh, system.rules)
    loss = jax.jit(
        lambda p, b: system.loss(p, b, *ARGUMENTS), in_shardings=(placed, batch_sharding(mesh))
    )
    many, retold = loss(jax.device_put(params, placed), put_batch(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(one, many, rtol=1e-5)
    for name, pair in told.items():
        np.testing.assert_allclose(pair, retold[name], rtol=1e-5, err_msg=name)


def test_the_loss_of_extracted_features_is_that_of_the_clips():
    config = full()
    config.model.frozen = True
    system = systems.build(config)
    config.inputs.kind = "latents"
    latent = systems.build(config)
    assert set(latent.flops) == {"envelope"}
    assert system.latents.key == latent.latents.key
    params = jax.jit(system.init)(jax.random.key(0))
    batch = sounding(system, missing=0.3)
    features = jax.device_get(jax.jit(system.features)(params, batch))
    spec = latent.train_spec
    assert {n: (x.shape, x.dtype) for n, x in features.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
    }
    loss = jax.jit(lambda batch: system.loss(params, batch, *ARGUMENTS)[0])
    wanted = float(loss(batch))
    assert float(loss(features)) == pytest.approx(wanted, rel=1e-5)
    for name in ("frames", "levels", "onsets"):
        other = {**features, name: np.roll(features[name], 1, axis=0)}
        assert abs(float(loss(other)) - wanted) > 1e-5 * wanted, name


def test_a_tower_that_learns_cannot_be_run_once():
    config = tiny()
    config.inputs.kind = "latents"
    with pytest.raises(UserError, match="the system trains all that they would come from"):
        systems.build(config)
