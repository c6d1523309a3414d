"""What Fol·AI says of frames: of length 1, frame by frame or, by CAVP, with their neighbours."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_folai import tiny
from test_onset import config_of

from weavejax import systems
from weavejax.errors import UserError
from weavejax.models import slow_only
from weavejax.models.slow_only import SlowOnlyConfig
from weavejax.runtime import tree
from weavejax.systems.frame_towers import make_frame_tower

SMALL = {
    "kind": "cavp",
    "width": 4,
    "blocks": (1, 1),
    "temporal": (False, True),
    "embedding": 6,
    "dtype": "float32",
    "remat": False,
}


def with_cavp(variant="smoke", **changes):
    config = tiny(variant, inputs__side=32, inputs__fps=60.0, **changes)
    config.model.vision = ConfigDict(SMALL)
    return config


def pictures(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (2, 5, 28, 28, 3)).astype(np.uint8)


@pytest.mark.parametrize(("config", "near"), [(tiny(), 0), (with_cavp(), 1)], ids=["eva", "cavp"])
def test_a_frame_has_a_direction_and_sees_no_further_than_its_neighbours(config, near):
    tower = make_frame_tower(config)
    params = jax.jit(tower.init)(jax.random.key(0))
    see = jax.jit(lambda video: tower.see(params, video, None))
    video = pictures()
    found = np.asarray(see(video))
    assert found.shape == (2, 5, tower.width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-5)
    video[:, 2] = 255 - video[:, 2]
    changed = np.abs(np.asarray(see(video)) - found).max((0, 2)) > 1e-5
    assert changed.tolist() == [abs(place - 2) <= near for place in range(5)]


def test_cavp_stands_where_its_converted_weights_do():
    system = systems.build(with_cavp())
    shapes = tree.flatten(jax.eval_shape(system.init, jax.random.key(0))["vision"])
    config = SlowOnlyConfig(4, (1, 1), (False, True), 6)
    assert {path: leaf.shape for path, leaf in shapes.items()} == slow_only.shapes(config)
    assert system.frozen("vision/head/kernel")
    assert system.latents.spec["frames"].shape[2] == 6
    assert system.latents.key["model.vision.kind"] == "cavp"


def test_the_published_system_has_41_tokens_and_cavp():
    system = systems.build(config_of("folai", "published"))
    video = system.batch_spec["video"].shape
    assert video[1:] == (40, 224, 224, 3)
    assert system.latents.spec["frames"].shape[1:] == (40, 512)
    assert system.latents.spec["meaning"].shape[1:] == (512,)
    other = systems.build(config_of("folai", "published-eva"))
    assert other.latents.spec["frames"].shape[1:] == (40, 1408)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="CAVP stays as it is: give --config"):
        systems.build(with_cavp("smoke-base"))
    config = with_cavp()
    config.model.vision.patch = 4
    with pytest.raises(UserError, match=r"model\.vision \(cavp\): unknown patch"):
        systems.build(config)
