"""Towers of every kind through one contract: GRAM on CLIP, HTS-AT and RoBERTa, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax import systems
from weavejax.errors import UserError
from weavejax.models import hugging_face
from weavejax.runtime import tree
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.sharding import device_bytes, shardings
from weavejax.systems.encoders import KINDS, make_tower
from weavejax.systems.towers import Towers
from weavejax.testing import fake_batch, tiny_gram

# Halves the compile time, which is nearly all of these tests' time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BLOCKS = {"width": 16, "layers": 1, "heads": 2, "mlp": 32}
SECTIONS = {
    "eva": {"patch": 16, **BLOCKS},
    "clip": {"patch": 16, "projection": 8, **BLOCKS},
    "siglip": {"patch": 16, "activation": "gelu_pytorch_tanh", **BLOCKS},
    "htsat": {
        "side": 32,
        "patch": 2,
        "window": 4,
        "width": 8,
        "depths": (2,),
        "heads": (2,),
        "projection": 8,
    },
    "roberta": {"vocab": 64, "positions": 16, "types": 1, "projection": 8, **BLOCKS},
    "clip text": {"vocab": 64, "positions": 16, "end": 63, **BLOCKS},
}


def config_of(vision="eva", audio=None, text=None):
    config = tiny_gram()
    for part, kind in (("vision", vision), ("audio", audio), ("text", text)):
        if kind:
            section = SECTIONS.get(f"{kind} {part}", SECTIONS.get(kind))
            config.model[part] = {"kind": kind, **section}
    return config


def test_gram_trains_and_embeds_on_other_towers():
    system = systems.build(config_of("clip", "htsat", "roberta"))
    params = quick_jit(system.init)(jax.random.key(0))
    placed = shardings(params, make_mesh({"data": 2}, jax.devices()[:2]), system.rules)
    assert device_bytes(params, placed) < 0.7 * sum(x.nbytes for x in jax.tree.leaves(params))
    batch = fake_batch(system.batch_spec)
    loss = quick_jit(
        jax.value_and_grad(lambda p: system.loss(p, batch, jax.random.key(1), jnp.int32(9))[0])
    )
    before, grads = loss(params)
    moved = {path for path, leaf in tree.flatten(grads).items() if np.abs(leaf).max() > 0}
    still = tree.flatten(params).keys() - moved
    assert all(
        path.split("/")[1] in ("projection", "pooler") or "key/bias" in path for path in still
    )
    after, _ = loss(jax.tree.map(lambda leaf, slope: leaf - 0.05 * slope, params, grads))
    assert after < before
    vectors = quick_jit(system.embed)(params, batch)
    for name in ("text", "video", "audio"):
        assert vectors[name].shape == (8, 16)
        np.testing.assert_allclose(np.linalg.norm(vectors[name], axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_are_normalised_as_their_tower_saw_them(kind):
    tower = make_tower("vision", config_of(kind))
    grey = jnp.full((1, 32, 32, 3), 51, jnp.uint8)
    (images,) = tower.prepare(grey)
    mean, std = {
        "clip": (
            np.array([0.48145466, 0.4578275, 0.40821073]),
            [0.26862954, 0.26130258, 0.27577711],
        ),
        "siglip": (np.array([0.5] * 3), [0.5] * 3),
    }[kind]
    np.testing.assert_allclose(images[0, 3, 4], (0.2 - mean) / std, rtol=1e-5)


def test_texts_are_masked_and_summed_up_as_their_tower_does():
    tokens = jnp.array([[0, 9, 2, 1, 1], [0, 2, 1, 1, 1]])
    _, mask = make_tower("text", config_of(text="roberta")).prepare(tokens)
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    tower = make_tower("text", config_of(text="clip"))
    tokens = jnp.array([[0, 9, 63, 63, 63], [0, 63, 63, 63, 63]])
    _, mask = tower.prepare(tokens)
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    x = jnp.arange(10.0).reshape(2, 5, 1)
    assert tower.pool(x, tokens, mask).tolist() == [[2.0], [6.0]]


def test_encode_gives_the_tokens_that_the_summaries_are_of():
    config = config_of("siglip", "htsat")
    config.inputs.update({"frames": 3, "chunks": 2})
    towers = Towers(config)
    params = jax.eval_shape(towers.init, jax.random.key(0))
    batch = {
        "video": jax.ShapeDtypeStruct((4, 3, 32, 32, 3), jnp.uint8),
        "audio": jax.ShapeDtypeStruct((4, 2, 32, 16), jnp.float32),
        "text": jax.ShapeDtypeStruct((4, 12), jnp.int32),
    }
    shapes = {
        name: [
            array.shape
            for array in jax.eval_shape(
                lambda p, b, n=name: towers.encode(n, p, b, None), params, batch
            )
        ]
        for name in batch
    }
    assert shapes == {
        "video": [(4, 3, 1 + 4, 16), (4, 3, 16)],
        "audio": [(4, 2, 16 * 16, 8), (4, 2, 8)],
        "text": [(4, 1, 12, 16), (4, 1, 16)],
    }


@pytest.mark.parametrize(
    ("part", "kind"),
    [("vision", "eva"), ("vision", "clip"), ("vision", "siglip"), ("audio", "htsat")]
    + [("text", kind) for kind in KINDS["text"]],
)
def test_flops_are_those_of_the_compiled_products(part, kind):
    """XLA counts norms, softmax and activations besides: never less, and not much more."""
    config = config_of(**({part: kind} if kind != "bert" else {}))
    section = config.model[part]
    section.update({"width": 64} | ({"mlp": 128} if "mlp" in section else {}))
    tower = make_tower(part, config)
    inputs = {
        "vision": jnp.zeros((1, 32, 32, 3), jnp.uint8),
        "audio": jnp.zeros((1, 32, 16)),
        "text": jnp.zeros((1, 12), jnp.int32),
    }[part]
    init = partial(tower.network.init, deterministic=True)
    params = jax.eval_shape(lambda x: init(jax.random.key(0), *tower.prepare(x)), inputs)
    run = partial(tower.network.apply, deterministic=True)
    lowered = jax.jit(lambda p, x: run(p, *tower.prepare(x))).lower(params, inputs)
    assert 1.0 <= lowered.cost_analysis()["flops"] / tower.flops(12) < 1.3


def test_a_published_model_is_a_section_of_a_config():
    config = tiny_gram()
    config.inputs.update({"mels": 64, "audio_frames": 1001, "text_length": 77, "size": 224})
    made = hugging_face.sections("clap", {}) | {
        "vision": hugging_face.sections("clip", {})["vision"]
    }
    for part, section in made.items():
        config.model[part] = {**section, "scan": True}
    params = jax.eval_shape(Towers(config).init, jax.random.key(0))
    sizes = {part: sum(x.size for x in jax.tree.leaves(params[part])) for part in made}
    assert sizes == {"vision": 87_849_216, "audio": 28_190_872, "text": 125_302_016}


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("vision", {"kind": "resnet"}, "model.vision.kind 'resnet' is none of eva, clip, siglip"),
        ("vision", {"kind": "clip", "pos": 3}, r"model.vision \(clip\): unknown pos"),
        ("audio", {"kind": "htsat"}, "missing depths, side, window"),
        ("text", {"kind": "clip"}, "unknown cross_attention, types"),
        ("text", {"kind": "roberta", "position_offset": 3}, "unknown position_offset"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(part, changes, words):
    config = tiny_gram()
    config.model[part].unlock()
    config.model[part].update(changes)
    with pytest.raises(UserError, match=words):
        systems.build(config)


def test_a_tower_that_does_not_fit_together_is_refused():
    config = config_of(audio="htsat")
    config.model.audio.window = 3
    with pytest.raises(UserError, match=r"model.audio \(htsat\): grids of \[16\] patches"):
        systems.build(config)
