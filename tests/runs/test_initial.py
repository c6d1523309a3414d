"""Starting from converted weights: every number in its place on any mesh, misfits named at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from published_keys import SMALL, gram, numbers, small_gram

from weavejax import systems
from weavejax.errors import UserError
from weavejax.models import fusion, vit
from weavejax.runs import initial
from weavejax.runs.stored import below, open_stored
from weavejax.runtime import tree
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out
from weavejax.runtime.workdir import open_workdir
from weavejax.weights.converted import Origin, open_converted, write_converted
from weavejax.weights.gram import GRAM
from weavejax.weights.published import convert_file


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(path, leaves) of a small converted GRAM checkpoint."""
    path = tmp_path_factory.mktemp("weights") / "params.safetensors"
    made = convert_file(numbers(gram(SMALL)), GRAM)
    write_converted(path, made.leaves, Origin("gram", "a.pt", "0", made.sizes))
    return path, made.leaves


def config_of(path, *, partial=(), **inputs):
    config = small_gram(init=ConfigDict({"weights": str(path), "partial": partial}))
    config.inputs.update(inputs)
    return config


def started(config, mesh=None):
    system = systems.build(config)
    mesh = mesh or make_mesh({"data": 1}, jax.devices()[:1])
    layout = lay_out(system, config, mesh)
    return system, layout, initial.state(system, layout, config.init, jax.random.key(3))


def test_every_number_is_in_its_place_on_a_mesh(converted):
    file, leaves = converted
    config = config_of(file)
    config.optim.average = 0.9
    mesh = make_mesh({"data": 2, "model": 2}, jax.devices()[:4])
    _, layout, state = started(config, mesh)
    assert int(state.step) == 0
    found = tree.flatten(state.params)
    assert found.keys() == tree.flatten(layout.shapes.params).keys()
    for path, leaf in found.items():
        if "/blocks/" in path:
            parts = [leaves[path.replace("blocks/", f"blocks_{i}/")] for i in range(2)]
            np.testing.assert_array_equal(leaf, np.stack(parts), err_msg=path)
        else:
            np.testing.assert_array_equal(leaf, leaves[path], err_msg=path)
        np.testing.assert_array_equal(state.average[path], leaf)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(layout.placed), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    # Every step donates the state: what comes of it must not be written into the file.
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x + x, tree), donate_argnums=0)
    np.testing.assert_array_equal(double(state.params)["temperature"], 2 * leaves["temperature"])
    np.testing.assert_array_equal(open_converted(file)["temperature"], leaves["temperature"])


def test_other_inputs_resize_what_follows_them(converted):
    path, leaves = converted
    config = config_of(path, size=24, frames=5)
    system, layout, state = started(config)
    np.testing.assert_array_equal(
        state.params["vision"]["position"],
        vit.resize_position(leaves["vision/position"], (1, 37, SMALL.vision)),
    )
    frames = leaves["fusion/video/frames"]
    np.testing.assert_array_equal(
        state.params["fusion"]["video"]["frames"], frames[fusion.nearest(2, 5)]
    )
    said = initial.describe(initial.check(system, layout, config.init))
    assert "parameters from" in said
    assert "(a.pt)" in said
    assert "vision/position (1, 17, 24) to (1, 37, 24)" in said


def test_all_that_does_not_fit_is_named_at_once(converted):
    config = config_of(converted[0])
    config.model.text.update({"layers": 3, "vocab": 32})
    config.model.fusion = False
    with pytest.raises(UserError) as error:
        started(config)
    words = str(error.value)
    assert "text/word/embedding is (64, 16), needed (32, 16)" in words
    assert "text/blocks/mlp/fc1/kernel is missing" in words
    assert "match/dense1/kernel is left over" in words
    assert "published" not in words
    assert " audio/" not in words
    blocks, matching = 26, 17 + 6  # leaves of a block of BERT, and of the matching path
    assert f"({1 + blocks + matching} parameters)" in words


def test_what_may_differ_starts_at_random_or_is_left_out(converted, tmp_path):
    leaves = {path: x for path, x in converted[1].items() if not path.startswith("match/")}
    leaves["head/depth/kernel"] = np.zeros((24, 16), np.float32)
    file = tmp_path / "other.safetensors"
    write_converted(file, leaves, Origin("gram", "b.pt", "0", {}))
    config = config_of(file, partial=("^match/", "^head/depth"))
    system, layout, state = started(config)
    random = jax.jit(lambda key: system.init(key)["match"])(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, state.params["match"], random)
    np.testing.assert_array_equal(
        state.params["head"]["text"]["kernel"], leaves["head/text/kernel"]
    )
    said = initial.describe(initial.check(system, layout, config.init))
    assert "at random: match/dense1/bias, " in said
    assert "left out: head/depth/kernel" in said


def test_half_precision_files_make_float32_parameters(converted, tmp_path):
    leaves = {path: x.astype(np.float16) for path, x in converted[1].items()}
    path = tmp_path / "half.safetensors"
    write_converted(path, leaves, Origin("gram", "a.pt", "0", {}))
    _, _, state = started(config_of(path))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(
        state.params["temperature"], leaves["temperature"].astype(np.float32)
    )


def test_a_run_that_goes_on_needs_its_weights_no_more(tmp_path, capsys):
    config = config_of(tmp_path / "gone.safetensors")
    system = systems.build(config)
    layout = lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))
    with pytest.raises(UserError, match="cannot be read"):
        initial.announce(system, layout, config.init, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    initial.announce(system, layout, config.init, tmp_path)
    assert not capsys.readouterr().out


def small_oobleck(**init):
    return ConfigDict(
        {
            "system": "oobleck",
            "seed": 0,
            "steps": 4,
            "batch": 8,
            "inputs": {"seconds": 0.016, "rate": 16_000, "stereo": True},
            "model": {"channels": 4, "multiples": (1,), "strides": (4,), "latent": 2},
            "loss": {"sizes": (64,), "levels": (0.0,)},
            "optim": small_gram().optim.to_dict() | {"groups": (), "average": 0.9},
            "guard": small_gram().guard.to_dict(),
            "init": {"weights": "", "partial": (), "parts": {"oobleck": ""}, **init},
            "runtime": {"keep": 1},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(working directory of a run of the autoencoder with an average, that average by path)."""
    workdir = tmp_path_factory.mktemp("runs") / "oobleck"
    config = small_oobleck()
    open_workdir(workdir, config)
    _, _, state = started(config)
    average = {path: x + 1.0 for path, x in state.average.items()}
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    checkpoints.save(state._replace(step=jnp.int32(3), average=average))
    checkpoints.finish(state)
    checkpoints.close()
    return workdir, {path: np.array(x) for path, x in average.items()}


def test_what_a_run_has_learnt_starts_a_part_of_another_model(run, tmp_path, capsys):
    workdir, average = run
    config = small_oobleck(parts={"oobleck": str(workdir)})
    system, layout, state = started(config, make_mesh({"data": 2}, jax.devices()[:2]))
    assert int(state.step) == 0
    found = tree.flatten(state.params)
    assert found.keys() == average.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, average[path], err_msg=path)
    initial.announce(system, layout, config.init, tmp_path)
    assert f"arrays of parameters from {workdir}, step 3" in capsys.readouterr().out


def test_a_part_comes_before_the_whole(run, tmp_path):
    workdir, average = run
    config = small_oobleck()
    _, _, random = started(config)
    leaves = {p: np.array(x) for p, x in tree.flatten(random.params).items()}
    file = tmp_path / "params.safetensors"
    write_converted(file, leaves, Origin("oobleck", "a.pt", "0", {}))
    parts = {"oobleck/encoder": str(workdir)}
    _, _, state = started(small_oobleck(weights=str(tmp_path), parts=parts))
    for path, leaf in tree.flatten(state.params).items():
        want = average if path.startswith("oobleck/encoder/") else leaves
        np.testing.assert_array_equal(leaf, want[path], err_msg=path)
    # Without the rest's weights, the rest starts at random.
    _, _, state = started(small_oobleck(parts=parts))
    for path, leaf in tree.flatten(state.params).items():
        want = average if path.startswith("oobleck/encoder/") else leaves
        np.testing.assert_array_equal(leaf, want[path], err_msg=path)


def test_all_of_a_source_goes_below_a_prefix_it_does_not_know(run):
    workdir, average = run
    part = below(open_stored(str(workdir)), "base")
    assert part.shapes.keys() == {f"base/{path}" for path in average}
    np.testing.assert_array_equal(
        part.read("base/oobleck/decoder/last/kernel"), average["oobleck/decoder/last/kernel"]
    )


def test_parts_that_do_not_fit_are_refused_in_one_line(run, tmp_path):
    workdir, _ = run
    config = small_oobleck(parts={"oobleck": str(workdir)})
    config.model.latent = 3
    with pytest.raises(UserError) as error:
        started(config)
    words = str(error.value)
    assert f"{workdir}, step 3 does not fit the config (4 parameters): " in words
    assert "oobleck/encoder/last/kernel is (3, 4, 4), needed (3, 4, 6)" in words
    assert "\n" not in words
    with pytest.raises(UserError, match="the system has no parameters dit/"):
        started(small_oobleck(parts={"dit": str(workdir)}))
    with pytest.raises(UserError, match="cannot be read"):
        started(small_oobleck(parts={"oobleck": str(tmp_path / "none")}))
    open_workdir(tmp_path / "empty", small_oobleck())
    with pytest.raises(UserError, match="holds no finished checkpoint: train it first"):
        started(small_oobleck(parts={"oobleck": str(tmp_path / "empty")}))
