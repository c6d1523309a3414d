"""Fol·AI's two stages: what the second starts from, what moves, what a dial does, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_onset import config_of

from weavejax import systems
from weavejax.errors import UserError
from weavejax.models.torch_names import separate_blocks
from weavejax.runs import initial
from weavejax.runtime import tree
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.sharding import shardings
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.folai_networks import Networks, start_control
from weavejax.testing import no_wishes
from weavejax.weights.converted import Origin, write_converted

BATCH, SAMPLES = 4, 512


def tiny(variant="smoke", **changes):
    """16 latents of 32 samples in one stride; two of the base's three blocks copied; no pictures."""
    config = config_of("folai", variant)
    config.batch = BATCH
    config.inputs.update({"seconds": SAMPLES / 8000, "side": 0, "text_length": 6})
    config.model.latent_scale = 3.0
    config.model.oobleck.update({"channels": 2, "multiples": (1,), "strides": (32,), "gain": 1.0})
    config.model.dit.update({"width": 16, "mlp": 16, "cross_width": 8, "features": 8, "rotary": 4})
    config.model.seconds.features = 8
    config.model.text.update({"width": 16, "heads": 2, "mlp": 16, "positions": 8, "vocab": 32})
    config.sample.overlap = 6
    config.optim.update({"lr": 2e-2, "warmup": 0, "schedule": "constant", "average": 0.0})
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[key] = value
    return config


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    rise = np.linspace(0, 1, SAMPLES)[None, :, None]
    return {
        "sound": (rise * rng.normal(size=(BATCH, SAMPLES, 2))).astype(np.float32),
        "sound_mask": np.ones(BATCH, bool),
        "text": rng.integers(1, 30, (BATCH, 6)).astype(np.int32),
        "text_mask": np.ones(BATCH, bool),
    }


def random_params(system, seed=1):
    """Parameters off their initial values, some of which are zero; nothing is compiled."""
    rng = np.random.default_rng(seed)
    around = {"scale": 1.0, "gain": 0.4}
    shapes = tree.flatten(jax.eval_shape(system.init, jax.random.key(0)))
    return tree.unflatten(
        {
            path: np.asarray(
                0.2 * rng.normal(size=x.shape) + around.get(path.rpartition("/")[2], 0), "f"
            )
            for path, x in shapes.items()
        }
    )


def laid_out(config):
    system = systems.build(config)
    return system, lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(file of a base's parameters off zero, those by path)."""
    leaves = tree.flatten(random_params(systems.build(tiny("smoke-base"))))
    file = tmp_path_factory.mktemp("base") / "params.safetensors"
    write_converted(file, leaves, Origin("folai", "a.pt", "0", {}))
    return file, leaves


@pytest.fixture(scope="module")
def started(base):
    """(config, system, layout, state at step 0) of the second stage on that base."""
    config = tiny(init__weights=str(base[0]))
    system, layout = laid_out(config)
    return config, system, layout, initial.state(system, layout, config.init, jax.random.key(7))


def copies(leaves):
    """Path → wanted array, of all that the control network copies."""
    made = {}
    for path, leaf in leaves.items():
        part, _, rest = path.partition("/")
        if part == "dit" and rest.startswith("embed/"):
            made[f"control/{rest}"] = leaf
        if part == "dit" and rest.startswith("blocks/"):
            made[f"control/blocks/copy/{rest.removeprefix('blocks/')}"] = leaf[:2]
    return made


def test_the_control_starts_as_a_copy_of_the_base_that_was_given(base, started):
    _, leaves = base
    config, system, layout, state = started
    found = tree.flatten(state.params)
    wanted = copies(leaves)
    assert len(wanted) > 20
    zeros = {"control/control/kernel", "control/blocks/residual/kernel"}
    assert {path for path in found if path.startswith("control/")} == wanted.keys() | zeros
    for path, leaf in wanted.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    for path in zeros:
        assert not np.asarray(found[path]).any()
    for path, leaf in leaves.items():
        kept = np.asarray(jnp.asarray(leaf, found[path].dtype))
        np.testing.assert_array_equal(found[path], kept, err_msg=path)
        frozen = not path.startswith("project_")
        assert (found[path].dtype == jnp.bfloat16) == frozen
    said = initial.describe(initial.check(system, layout, config.init))
    assert f"{len(wanted)} arrays of control/ are copies from dit/" in said
    assert "at random: control/blocks/residual/kernel, control/control/kernel" in said


def test_from_nothing_it_is_a_copy_too(base):
    leaves = tree.flatten(random_params(systems.build(tiny()), seed=2))
    fresh = {path[8:]: leaf for path, leaf in leaves.items() if path.startswith("control/")}
    dit = {path[4:]: leaf for path, leaf in base[1].items() if path.startswith("dit/")}
    made = tree.flatten(start_control(tree.unflatten(fresh), tree.unflatten(dit)))
    wanted = {path[8:]: leaf for path, leaf in copies(base[1]).items()}
    assert made.keys() == fresh.keys()
    for path, leaf in made.items():
        np.testing.assert_array_equal(leaf, wanted.get(path, fresh[path]), err_msg=path)


def test_a_copy_is_read_piece_by_piece_from_separate_blocks_too(base, started, tmp_path):
    # As converted weights have them: dit/blocks_0/…
    leaves = {path: np.asarray(leaf) for path, leaf in separate_blocks(base[1]).items()}
    assert "dit/blocks_2/mlp/fc1/kernel" in leaves
    write_converted(tmp_path / "params.safetensors", leaves, Origin("f", "a", "0", {}))
    _, system, layout, _ = started
    init = tiny(init__weights=str(tmp_path)).init
    fit = initial.check(system, layout, init)
    whole = base[1]["dit/blocks/mlp/fc1/kernel"]
    read = fit.found["control/blocks/copy/mlp/fc1/kernel"]
    every = slice(None)
    np.testing.assert_array_equal(read((every, every, slice(0, 8))), whole[:2, :, :8])
    np.testing.assert_array_equal(read((slice(1, 2), every, every)), whole[1:2])


def test_a_control_network_that_is_given_is_not_made_again(base, started, tmp_path):
    _, leaves = base
    config, _, layout, state = started
    own = {
        path: np.asarray(leaf) + np.float32(1)
        for path, leaf in tree.flatten(state.params).items()
        if path.startswith("control/")
    }
    config = tiny(init__weights=str(tmp_path / "params.safetensors"))
    write_converted(tmp_path / "params.safetensors", {**leaves, **own}, Origin("f", "a", "0", {}))
    system, layout = laid_out(config)
    again = tree.flatten(initial.state(system, layout, config.init, jax.random.key(7)).params)
    for path, leaf in own.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    own.pop("control/embed/input/kernel")
    write_converted(tmp_path / "params.safetensors", {**leaves, **own}, Origin("f", "a", "0", {}))
    with pytest.raises(UserError, match="control/embed/input/kernel is missing"):
        initial.check(system, layout, config.init)


@pytest.fixture(scope="module")
def asked():
    """(networks of the second stage, jitted velocity of (params, condition), conditions)."""
    networks = Networks(tiny())
    rng = np.random.default_rng(3)
    x, time = rng.normal(size=(BATCH, 16, 4)).astype("f"), np.linspace(0.1, 0.9, BATCH, dtype="f")
    condition = {
        "cross": rng.normal(size=(BATCH, 1, 8)).astype("f"),
        "seconds": rng.normal(size=(BATCH, 16)).astype("f"),
        "control": rng.normal(size=(BATCH, 16, 4)).astype("f"),
        "what": np.array([True, True, False, False]),
        "when": np.array([True, False, True, False]),
    }
    velocity = jax.jit(lambda params, told: networks.velocity(params, x, time, told))
    return networks, velocity, condition, (x, time)


def test_at_first_the_base_sounds_as_it_did(started, asked):
    state = started[3]
    _, velocity, condition, (x, time) = asked
    with_it = velocity(state.params, {**condition, "when": np.ones(BATCH, bool)})
    without = velocity(state.params, {**condition, "when": np.zeros(BATCH, bool)})
    np.testing.assert_array_equal(with_it, without)
    base = Networks(tiny("smoke-base"))
    alone = jax.jit(lambda params: base.velocity(params, x, time, condition))(state.params)
    np.testing.assert_array_equal(with_it, alone)
    assert np.abs(np.asarray(alone)).max() > 0.1


def test_a_dial_that_is_left_out_is_not_heard(started, asked):
    _, velocity, condition, _ = asked
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda x: (np.float32(x) + 0.2 * rng.normal(size=x.shape)).astype(x.dtype),
        jax.device_get(started[3].params),
    )
    first = np.asarray(velocity(params, condition))
    for name, dial in (("cross", "what"), ("control", "when")):
        changed = velocity(params, {**condition, name: condition[name] + 1.0})
        moved = np.abs(np.asarray(changed) - first).max((1, 2)) > 1e-4
        np.testing.assert_array_equal(moved, condition[dial])


def test_the_second_stage_trains_the_control_and_the_projections_alone(started):
    config, system, layout, state = started
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    before = {path: np.array(leaf) for path, leaf in tree.flatten(state.params).items()}
    state = layout.begin(jax.tree.map(jnp.copy, state.params))
    step = make_train_step(system, layout, mesh, config)
    batch, losses = batch_of(), []
    for _ in range(30):
        state, metrics, _ = step(state, batch, no_wishes(mesh))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])
    for path, leaf in tree.flatten(state.params).items():
        still = np.array_equal(np.array(leaf), before[path])
        trained = path.startswith(("control/", "project_"))
        assert still != trained, path


def test_the_projections_can_stay():
    networks = Networks(tiny(model__train_projections=False))
    assert networks.frozen("project_meaning/kernel")
    assert not networks.frozen("control/control/kernel")
    base = Networks(tiny("smoke-base"))
    assert base.frozen("oobleck/encoder/last/kernel")
    assert not base.frozen("dit/output/kernel")


def test_the_first_stage_learns():
    config = tiny("smoke-base")
    system, layout = laid_out(config)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    params = jax.device_get(random_params(system, seed=5))
    params["oobleck"] = jax.tree.map(jnp.bfloat16, params["oobleck"])
    state = layout.begin(jax.tree.map(jnp.asarray, params))
    frozen = np.array(state.params["oobleck"]["encoder"]["last"]["kernel"])
    step = make_train_step(system, layout, mesh, config)
    batch, losses = batch_of(), []
    for _ in range(25):
        state, metrics, _ = step(state, batch, no_wishes(mesh))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    np.testing.assert_array_equal(state.params["oobleck"]["encoder"]["last"]["kernel"], frozen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__stage": "third"}, "model.stage 'third' is none of base, control"),
        ({"model__levels": (6.0,)}, "model.levels must begin with 0.0"),
        ({"model__profile": "best"}, "model.profile 'best' is none of parity, better"),
        ({"inputs__seconds": 0.0641}, "513 samples at 8000 Hz must be a multiple of the 32"),
        ({"inputs__text_length": 0}, "the meaning of a sound is its caption's"),
        ({"model__oobleck__strides": (3,)}, "must be even"),
        ({"model__dit__kv_heads": 3}, "do not share"),
        ({"model__control__layers": 4}, "4 of 3 blocks cannot be copied"),
        ({"loss__times": "soon"}, "loss.times 'soon' is none of"),
        ({"sample__sampler": "magic"}, "no sampler is called 'magic'"),
        ({"sample__scales": (1.0,)}, "a number for each of when, what"),
        ({"sample__overlap": 16}, "sample.overlap is 16 latents"),
        ({"sample__lowest": 600.0}, "want 0 < lowest < highest"),
    ],
)
def test_what_cannot_be_is_one_line(change, words):
    with pytest.raises(UserError, match=words):
        systems.build(tiny(**change))


def test_a_config_of_another_version_is_one_line():
    config = tiny()
    del config.model.levels
    with pytest.raises(
        UserError, match="the config lacks an entry, 'levels': it was made for another"
    ):
        systems.build(config)


def test_the_published_size_has_its_parameters():
    system = systems.build(config_of("folai", "published"))
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert count["control"] == 192_859_264
    assert count["dit"] == 1_056_828_544
    assert count["oobleck"] == 77_989_888 + 78_122_626
    assert count["seconds_start"] == count["seconds_total"] == 198_272
    assert system.batch_spec["video"].shape[1] == 40
    shardings(shapes, make_mesh({"data": 8}), system.rules)  # no rule missing, none idle
