"""Fol·AI learns the same from what its frozen networks gave as from the clips themselves."""

import jax
import numpy as np
import pytest
from test_folai import BATCH, batch_of, random_params, tiny

from weavejax import systems
from weavejax.dials.envelope import WINDOWS
from weavejax.errors import UserError
from weavejax.testing import fake_batch

LEVELS = 3  # of the config
LOST = np.array([True, True, False, True])


def pictured(variant="smoke", **changes):
    """With a vision tower, none that learns: four frames of 28 pixels in a window."""
    seen = {"inputs__side": 32, "inputs__fps": 60.0, "model__train_towers": False}
    return tiny(variant, model__flip=False, **seen, **changes)


def clips():
    """A batch whose clips each lack something else, but the first."""
    rng = np.random.default_rng(5)
    return batch_of() | {
        "sound_mask": np.roll(LOST, 1),
        "text_mask": LOST,
        "video": rng.integers(0, 255, (BATCH, 4, 28, 28, 3)).astype(np.uint8),
        "video_mask": np.roll(LOST, 2),
    }


def kept(features):
    """As records keep them: nothing of what a clip lacks."""
    found = {name: np.array(value) for name, value in features.items()}
    for name, mask in found.items():
        if name.endswith("_mask"):
            found[name.removesuffix("_mask")][~mask] = 0.0
    return found


@pytest.mark.parametrize(
    ("variant", "profile"), [("smoke", "better"), ("smoke", "parity"), ("smoke-base", "better")]
)
def test_the_loss_of_latents_is_that_of_sound(variant, profile):
    system = systems.build(pictured(variant, model__profile=profile))
    latent = systems.build(pictured(variant, model__profile=profile, inputs__kind="latents"))
    params, batch = random_params(system), clips()
    features = kept(jax.jit(system.features)(params, batch))
    kinds = 2 if profile == "parity" else 1
    assert features["latent"].shape == (BATCH, LEVELS * kinds, 16, 4)
    assert features["frames"].shape == (BATCH, 4, 16)
    spec = latent.train_spec
    assert {n: (x.shape, x.dtype) for n, x in features.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
    }
    learn = jax.jit(lambda batch, key: system.loss(params, batch, key, 0)[0])
    for number in range(3):
        key = jax.random.key(number)
        loss = float(learn(batch, key))
        assert float(learn(features, key)) == pytest.approx(loss, rel=1e-5)
    listened = ("envelope_latent",) if variant == "smoke" else ()
    for name in ("latent", *listened, "meaning", "frames"):
        other = {**features, name: features[name][[3, 0, 0, 0]]}
        assert abs(float(learn(other, key)) - loss) > 1e-4 * loss, name


@pytest.mark.parametrize("variant", ["smoke", "smoke-base"])
def test_the_second_stage_learns_from_louder_and_quieter_sound(variant):
    system = systems.build(pictured(variant, inputs__kind="latents"))
    params = random_params(system)
    features = dict(jax.jit(system.features)(params, clips()))
    factors = (1.0, 10 ** (-6 / 20), 10 ** (6 / 20))
    for number, factor in enumerate(factors):
        sound = clips() | {"sound": (factor * clips()["sound"]).astype(np.float32)}
        one = systems.build(pictured(variant, model__levels=(0.0,)))
        alone = jax.jit(one.features)(params, sound)
        for name in ("latent", "envelope_latent"):
            np.testing.assert_allclose(features[name][:, number], alone[name][:, 0], atol=1e-5)
    learn = jax.jit(lambda features, key: system.loss(params, features, key, 0)[0])
    told = features["latent"]
    heard = []
    for number in range(LEVELS):
        # A loss that is not finite where a clip was learnt at this level.
        marked = {**features, "latent": told.at[:, number].set(np.nan)}
        losses = [float(learn(marked, jax.random.key(seed))) for seed in range(8)]
        heard.append(not np.isfinite(losses).all())
    assert heard == ([True] * LEVELS if variant == "smoke" else [True, False, False])


def test_latents_of_envelopes_with_other_windows_are_others(monkeypatch):
    before = systems.build(tiny()).latents.key
    monkeypatch.setitem(WINDOWS, "better", (4_000, 1_000))
    after = systems.build(tiny()).latents.key
    assert [name for name in after if after[name] != before[name]] == ["envelope.windows"]


def test_the_scale_of_latents_is_not_kept():
    system, other = (systems.build(tiny(model__latent_scale=s)) for s in (1.0, 3.0))
    assert system.latents.key == other.latents.key
    different = systems.build(tiny(model__oobleck__channels=4)).latents.key
    assert [name for name in different if different[name] != system.latents.key[name]] == [
        "model.oobleck.channels"
    ]


def test_both_stages_learn_from_the_same_features():
    control, base = (systems.build(pictured(variant)) for variant in ("smoke", "smoke-base"))
    assert base.latents == control.latents
    assert {"oobleck", "text", "vision"} == set(base.latents.parts)
    for part in base.latents.parts:
        assert base.frozen(f"{part}/x")
        assert control.frozen(f"{part}/x")
    assert not base.frozen("project_vision/kernel")
    towers = systems.build(tiny("smoke-base"))  # which learn
    assert not towers.frozen("text/x")
    assert towers.features is None


def test_training_runs_no_frozen_network():
    config = tiny(inputs__kind="latents", model__flip=False)
    system = systems.build(config)
    assert set(system.flops) == {"dit", "control"}
    assert "sound" in system.batch_spec  # of evaluation
    batch = fake_batch(system.train_spec)
    params = jax.eval_shape(system.init, jax.random.key(0))
    frozen = {name: part for name, part in params.items() if name in system.latents.parts}
    rest = {name: part for name, part in params.items() if name not in frozen}
    assert set(frozen) == {"oobleck", "text"}
    loss, _ = jax.eval_shape(system.loss, rest, batch, jax.random.key(0), 0)
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("variant", "change", "words"),
    [
        ("smoke", {}, "give --config.model.flip=False"),
        ("smoke-base", {"model__flip": False}, "the system trains all that they would come from"),
    ],
)
def test_what_only_sound_can_have_is_refused(variant, change, words):
    with pytest.raises(UserError, match=words):
        systems.build(tiny(variant, inputs__kind="latents", **change))
