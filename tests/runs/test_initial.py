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
from weavejax.runtime import tree
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out
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
