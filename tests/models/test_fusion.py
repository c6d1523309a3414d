"""The matching path: sizes, sharding rules, what it takes and what it names."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.models import fusion

QUICK = {"xla_backend_optimization_level": 0}
TINY = fusion.FusionConfig(video=8, audio=16, text=24, width=24, frames=2, chunks=1)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_published_parameter_count_and_a_place_for_each() -> None:
    shapes = fusion.shapes(fusion.GRAM)
    assert sum(math.prod(shape) for shape in shapes.values()) == 2_866_178
    rules = fusion.rules(fusion.GRAM)
    used = set()
    for path, shape in shapes.items():
        matches = [rule for rule in rules if re.search(rule[0], path)]
        assert len(matches) == 1, path
        used.add(matches[0])
        for size, axis in zip(shape[len(shape) - len(matches[0][1]) :], matches[0][1], strict=True):
            assert axis is None or size % 128 == 0, (path, shape)
    assert used == set(rules)


def test_parameters_do_not_depend_on_what_came_first() -> None:
    clips = ({"video": normal(1, 5, 3, 8)}, {"audio": normal(2, 1, 4, 16)})
    first, second = (
        jax.eval_shape(fusion.Fusion(TINY).init, jax.random.key(0), clip) for clip in clips
    )
    assert jax.tree.map(lambda x: x.shape, first) == jax.tree.map(lambda x: x.shape, second)
    plain = fusion.shapes(replace(TINY, subtitles=False))
    assert set(fusion.shapes(TINY)) - set(plain) == {
        path for path in fusion.shapes(TINY) if path.startswith("fusion/subtitle/")
    }


def test_modalities_stand_in_one_order_and_depth_is_a_video() -> None:
    clip = {"audio": normal(2, 1, 3, 16), "video": normal(2, 2, 4, 8)}
    shapes = {path: shape for path, shape in fusion.shapes(TINY).items() if "fusion" in path}
    params = unflatten_dict({path: normal(*shape) for path, shape in shapes.items()}, sep="/")
    apply = jax.jit(fusion.Fusion(TINY).apply, compiler_options=QUICK)
    tokens = apply({"params": params["fusion"]}, clip | {"depth": clip["video"]})
    assert tokens.shape == (2, 8 + 3 + 8, 24)
    np.testing.assert_allclose(tokens[:, :8], tokens[:, -8:], rtol=1e-5)
    audio = apply({"params": params["fusion"]}, {"audio": clip["audio"]})
    np.testing.assert_allclose(tokens[:, 8:11], audio, rtol=1e-5)


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    half = replace(TINY, dtype="bfloat16")
    tokens, params = jax.eval_shape(
        lambda x: fusion.Fusion(half).init_with_output(jax.random.key(0), {"video": x}),
        normal(1, 2, 3, 8),
    )
    logits = jax.eval_shape(
        lambda x: fusion.MatchHead(half).init_with_output(jax.random.key(0), x)[0], normal(3, 24)
    )
    assert tokens.dtype == jnp.bfloat16
    assert {x.dtype for x in flatten_dict(params).values()} == {jnp.dtype(jnp.float32)}
    assert (logits.shape, logits.dtype) == ((3, 2), jnp.float32)


def test_what_it_cannot_take_is_named() -> None:
    module = fusion.Fusion(replace(TINY, subtitles=False))
    for clip, words in (({"subtitle": normal(1, 2, 24)}, "got subtitle"), ({}, "got none")):
        with pytest.raises(ValueError, match=f"are of video, audio, depth; {words}"):
            module.init(jax.random.key(0), clip)
