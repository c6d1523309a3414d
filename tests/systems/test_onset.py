"""The onset system: labels, loss, learning, report."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax import systems
from weavejax.dials import onsets as rules
from weavejax.metrics.measured import manifest_hash
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.onset import frame_labels
from weavejax.testing import no_wishes

FPS = 15.0


def config_of(name, variant="smoke"):
    path = Path(__file__).parents[2] / f"configs/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.fixture(scope="module")
def config():
    found = config_of("onset")
    found.inputs.update({"size": 16, "side": 16, "onsets": 4})
    found.loss.jitter = (0.0, 0.0, 0.0, 0.0)
    found.optim.update({"lr": 2e-2, "warmup": 0, "schedule": "constant"})
    return found


def flashes(count, seed=0):
    """Dark films in which a square lights up at each onset, and those onsets."""
    rng = np.random.default_rng(seed)
    video = np.full((count, 30, 16, 16, 3), 40, np.uint8)
    onsets = np.full((count, 4), -1.0, np.float32)
    for clip in range(count):
        frames = np.sort(rng.choice(np.arange(1, 29), 3, replace=False))
        for number, frame in enumerate(frames):
            top, left = rng.integers(0, 9, 2)
            video[clip, frame, top : top + 7, left : left + 7] = 250
            onsets[clip, number] = (frame + rng.uniform(0.05, 0.95)) / FPS
    masks = {"video_mask": np.ones(count, bool), "onsets_mask": np.ones(count, bool)}
    return {"video": video, "onsets": onsets, **masks}


def test_labels_are_those_of_the_published_rule():
    times = np.random.default_rng(0).uniform(0, 2.2, (5, 6)).astype(np.float32)
    times[2, 3:] = -1.0
    found = frame_labels(jnp.asarray(times), 30, FPS)
    for row, given in zip(np.asarray(found), times, strict=True):
        np.testing.assert_array_equal(row, rules.frame_labels(given[given >= 0], 30, FPS))


def test_positive_frames_weigh_as_much_as_negative_ones_and_masked_clips_nothing(config):
    system = systems.build(config)
    params = jax.jit(system.init)(jax.random.key(0))
    batch = flashes(8)
    batch["video_mask"][5:] = False
    loss, metrics = jax.jit(system.loss)(params, batch, jax.random.key(1), jnp.int32(0))
    other = {**batch, "video": batch["video"].copy(), "onsets": batch["onsets"].copy()}
    other["onsets"][5:] = 0.5
    again, _ = jax.jit(system.loss)(params, other, jax.random.key(1), jnp.int32(0))
    assert float(again) == float(loss)
    # At logits of 0 every frame costs log 2, and the positive ones as much as the negative together.
    flat = jax.tree.map(lambda x: x, params)
    flat["fc2"] = jax.tree.map(jnp.zeros_like, params["fc2"])
    level, _ = jax.jit(system.loss)(flat, batch, jax.random.key(1), jnp.int32(0))
    positive = 3 / 30
    np.testing.assert_allclose(level, 2 * (1 - positive) * np.log(2), rtol=1e-5)
    assert metrics["loss"][1] == 5 * 30
    assert metrics["frames with an onset %"][0] == 100 * 5 * 3


def test_flashes_are_learnt_and_found(config):
    system = systems.build(config)
    mesh = make_mesh({"data": -1})
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    state, first = layout.init(jax.random.key(0)), None
    for number in range(30):
        state, metrics, _ = step(state, flashes(8, number), no_wishes(mesh))
        first = first or float(metrics["loss"][0] / metrics["loss"][1])
    assert float(metrics["loss"][0] / metrics["loss"][1]) < 0.5 * first
    held_out = flashes(8, 1000)
    found = jax.device_get(jax.jit(system.embed)(state.params, held_out))
    found |= {"valid": np.ones(8, bool), "manifest": np.array(manifest_hash("abcdefgh"))}
    report = system.evaluators["onsets"](found)
    assert report.scalars["detector_ap_clips_50ms"] > 0.8
    assert system.headline.removeprefix("onsets/") in report.scalars
    found["known"] = np.arange(8) < 3
    assert system.evaluators["onsets"](found).measured[0].count == 3
