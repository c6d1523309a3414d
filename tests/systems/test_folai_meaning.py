"""Fol·AI's meaning from CLAP: the very sound in training, a text or another sound in generation."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_folai import BATCH, batch_of, random_params, tiny

from weavejax import systems
from weavejax.errors import UserError
from weavejax.systems.folai_networks import Networks

FRAMES, MELS, JOINT = 32, 16, 8


def with_clap(variant="smoke", **changes):
    config = tiny(variant, model__meaning="clap", model__flip=False, model__train_towers=False)
    blocks = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "projection": JOINT}
    config.model.text = ConfigDict(
        {"kind": "roberta", "vocab": 32, "positions": 16, "types": 1, **blocks}
    )
    swin = {"side": 32, "patch": 2, "window": 4, "width": 8, "depths": (2,), "heads": (2,)}
    config.model.audio = ConfigDict({"kind": "htsat", "projection": JOINT, **swin})
    config.inputs.update({"audio_frames": FRAMES, "mels": MELS, "text_length": 6})
    for path, value in changes.items():
        section, key = path.split("__")
        config[section][key] = value
    return config


def heard(seed=0):
    rng = np.random.default_rng(seed)
    hit = rng.normal(-40, 20, (BATCH, FRAMES, MELS)).astype(np.float32)
    return batch_of() | {"heard": hit, "heard_mask": np.ones(BATCH, bool)}


@pytest.fixture(scope="module")
def told():
    """(system, its networks, parameters, (batch, training) → meaning and mask)."""
    config = with_clap()
    system, networks = systems.build(config), Networks(config)
    params = random_params(system)

    def meaning(batch, training=False):
        found = jax.jit(lambda b: networks.pooled(params, b, None, training=training))(batch)
        return np.asarray(found["meaning"]), np.asarray(found["meaning_mask"])

    return system, params, meaning


def test_training_listens_and_does_not_read(told):
    system, params, meaning = told
    batch = heard()
    said, known = meaning(batch, training=True)
    assert said.shape == (BATCH, JOINT)
    np.testing.assert_allclose(np.linalg.norm(said, axis=1), 1.0, rtol=1e-5)
    assert known.all()
    loss = jax.jit(lambda b: system.loss(params, b, jax.random.key(1), 0)[0])
    usual = float(loss(batch))
    other = {**batch, "text": batch["text"][::-1], "text_mask": np.zeros(BATCH, bool)}
    assert float(loss(other)) == usual
    assert abs(float(loss({**batch, "heard": batch["heard"][::-1]})) - usual) > 1e-5 * usual
    features = jax.jit(system.features)(params, batch)
    np.testing.assert_allclose(features["meaning"], said, atol=1e-6)
    assert float(loss(features)) == pytest.approx(usual, rel=1e-5)


def test_generation_reads_and_listens_where_there_is_no_text(told):
    _, _, meaning = told
    batch = heard()
    alone = {name: x for name, x in batch.items() if not name.startswith("heard")}
    read, _ = meaning(alone)
    heard_, _ = meaning(batch, training=True)
    np.testing.assert_allclose(meaning(batch)[0], read, atol=1e-6)
    some = np.arange(BATCH) % 2 == 0
    mixed, known = meaning({**batch, "text_mask": some})
    np.testing.assert_allclose(mixed, np.where(some[:, None], read, heard_), atol=1e-6)
    assert known.all()
    silent = {**batch, "text_mask": some, "heard_mask": np.zeros(BATCH, bool)}
    np.testing.assert_array_equal(meaning(silent)[1], some)


def test_evaluation_may_mean_by_the_very_sound(told):
    _, params, meaning = told
    networks = Networks(with_clap(sample__prompt="audio"))
    batch = heard()
    found = jax.jit(lambda b: networks.pooled(params, b, None, training=False))(batch)
    np.testing.assert_allclose(found["meaning"], meaning(batch, training=True)[0], atol=1e-6)


def test_clap_is_frozen_in_both_stages_and_kept_with_the_features():
    for variant in ("smoke", "smoke-base"):
        system = systems.build(with_clap(variant))
        assert system.frozen("audio/x")
        assert system.frozen("text/x")
        assert system.latents.parts == ("oobleck", "audio")
        assert system.latents.key["model.audio.projection"] == JOINT
        assert {"heard", "heard_mask"} < set(system.batch_spec)
        assert "text" not in system.flops


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs__audio_frames": 0}, "set inputs.audio_frames"),
        ({"model__train_towers": True}, "CLAP stays as it is"),
        ({"sample__prompt": "words"}, "sample.prompt 'words' is none of text, audio"),
        ({"model__meaning": "song"}, "model.meaning 'song' is none of text, clap"),
    ],
)
def test_what_cannot_be_heard_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        systems.build(with_clap("smoke-base", **change))


def test_towers_of_different_spaces_are_refused():
    config = with_clap()
    config.model.audio.projection = 4
    with pytest.raises(UserError, match="that of CLAP's space"):
        systems.build(config)
