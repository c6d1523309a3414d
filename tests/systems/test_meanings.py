"""SyncFusion's condition: frozen CLAP on hits in training, on texts or hits in generation."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runs.assemble import recipe
from weavejax.runtime import tree
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out
from weavejax.systems.meanings import make_meaning
from weavejax.systems.syncfusion import Networks

FRAMES, MELS = 32, 16


def syncfusion(variant):
    path = Path(__file__).parents[2] / "configs/syncfusion.py"
    spec = importlib.util.spec_from_file_location("syncfusion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.fixture
def config():
    found = syncfusion("smoke")
    found.model.meaning = "clap"
    blocks = {"width": 16, "layers": 1, "heads": 2, "mlp": 16, "projection": 16}
    found.model.text = ConfigDict(
        {"kind": "roberta", "vocab": 32, "positions": 16, "types": 1, **blocks}
    )
    swin = {"side": 32, "patch": 2, "window": 4, "width": 8, "depths": (2,), "heads": (2,)}
    found.model.audio = ConfigDict({"kind": "htsat", "projection": 16, **swin})
    found.inputs.update({"seconds": 0.1, "onsets": 3, "text_length": 8})
    found.inputs.update({"audio_frames": FRAMES, "mels": MELS})
    levels = {"channels": (8, 8), "factors": (1, 4), "items": (1, 1), "context": (2, 4)}
    found.model.unet.update({**levels, "attentions": (False, False)})
    found.steps, found.optim.warmup = 4, 0
    return found


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "sound": rng.normal(size=(8, 800, 1)).astype(np.float32) * 0.05,
        "onsets": np.tile(np.array([0.01, 0.05, -1], np.float32), (8, 1)),
        "text": rng.integers(2, 30, (8, 8)).astype(np.int32),
        "heard": rng.normal(-40, 20, (8, FRAMES, MELS)).astype(np.float32),
    } | {f"{name}_mask": np.ones(8, bool) for name in ("sound", "onsets", "text", "heard")}


def drawn(init):
    """Parameters at random, without compiling how they are made."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), shapes)


def test_training_looks_at_hits_and_leaves_clap_as_it_is(config, batch):
    system = systems.build(config)
    layout = lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))
    for path, leaf in tree.flatten(layout.shapes.params).items():
        assert system.frozen(path) == path.startswith(("text/", "audio/"))
        assert (leaf.dtype == jnp.bfloat16) == system.frozen(path)

    @jax.jit
    def slopes(params, batch):
        return jax.grad(lambda p: system.loss(p, batch, jax.random.key(1), jnp.int32(0))[0])(params)

    params = drawn(system.init)
    one = tree.flatten(slopes(params, batch))
    assert not any(np.any(leaf) for path, leaf in one.items() if system.frozen(path))
    path = "network/unet/level_0/down_0/cross/value/kernel"
    assert np.any(one[path])
    for name, matters in (("text", False), ("heard", True)):
        other = slopes(params, {**batch, name: batch[name][::-1].copy()})
        assert np.any(tree.flatten(other)[path] != one[path]) == matters
    assert system.batch_spec["heard"].shape == (8, FRAMES, MELS)
    assert recipe(config).empty()["heard"].shape == (FRAMES, MELS)


def test_the_token_is_of_the_hit_in_training_and_of_the_text_in_generation(config, batch):
    made, key = make_meaning(config), jax.random.key(1)
    params = drawn(made.init)
    token = jax.jit(made.token)
    other = {**batch, "text": batch["text"][::-1].copy()}
    heard, read = np.asarray(token(params, batch, key)), np.asarray(token(params, batch, None))
    for found in (heard, read):
        assert found.shape == (8, 1, 16)
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-5)
    assert np.abs(heard - read).max() > 1e-2
    np.testing.assert_array_equal(heard, token(params, other, key))
    assert np.abs(np.asarray(token(params, other, None)) - read).max() > 1e-3
    # Where there is no text, the hit; of that alone as well, and where it is what is asked for.
    some = {**batch, "text_mask": np.arange(8) < 4}
    mixed = np.asarray(token(params, some, None))
    np.testing.assert_allclose(mixed[:4], read[:4], rtol=1e-5)
    np.testing.assert_allclose(mixed[4:], heard[4:], rtol=1e-5)
    alone = {"heard": batch["heard"], "heard_mask": batch["heard_mask"]}
    np.testing.assert_allclose(token(params, alone, None), heard, rtol=1e-5)
    config.sample.prompt = "audio"
    asked = make_meaning(config).token(params, batch, None)
    np.testing.assert_allclose(asked, heard, rtol=1e-4, atol=1e-6)


def test_whether_there_is_a_meaning(config, batch):
    made = make_meaning(config)
    given = {**batch, "heard_mask": np.arange(8) < 2, "text_mask": np.arange(8) % 4 == 0}
    np.testing.assert_array_equal(made.known(given, training=True), given["heard_mask"])
    either = given["heard_mask"] | given["text_mask"]
    np.testing.assert_array_equal(made.known(given, training=False), either)
    texts = {"text_mask": given["text_mask"]}
    np.testing.assert_array_equal(made.known(texts, training=False), given["text_mask"])


def test_the_published_variant_has_the_published_sizes():
    config = syncfusion("published")
    networks = Networks(config)
    assert (networks.rate, networks.samples, networks.length) == (48_000, 2**18, 2**18)
    system = systems.build(config)
    layout = lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))
    network = jax.tree.leaves(layout.shapes.params["network"])
    assert sum(leaf.size for leaf in network) == 215_444_808
    assert system.batch_spec["heard"].shape == (8, 1001, 64)
    shapes = {n: x.shape for n, x in recipe(config).empty().items()}
    assert all(spec.shape[1:] == shapes[name] for name, spec in system.batch_spec.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.meaning": "mood"}, "model.meaning 'mood' is none of text, clap"),
        ({"model.audio.projection": 8}, "model.audio.projection, the width of CLAP's space"),
        ({"inputs.audio_frames": 0}, "needs the sound of hits: set inputs.audio_frames"),
        ({"sample.prompt": "video"}, "sample.prompt 'video' is none of text, audio"),
    ],
)
def test_what_cannot_be_is_one_line(config, change, words):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        systems.build(config)


def test_clap_without_an_audio_tower_is_one_line():
    config = syncfusion("smoke")
    config.model.meaning = "clap"
    with pytest.raises(UserError, match="needs an audio tower"):
        systems.build(config)
