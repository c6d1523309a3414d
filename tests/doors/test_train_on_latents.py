"""A run of Fol·AI that learns from extracted latents, from one door to the other; what is refused."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from door import run

from weavejax import extract, systems
from weavejax.data.clip import DecodeError
from weavejax.data.features import FeatureClip, FeatureSpec, open_features
from weavejax.data.pipeline import train_batches
from weavejax.errors import UserError
from weavejax.runs import learning
from weavejax.runtime import cli, tree
from weavejax.runtime.digest import digests
from weavejax.weights.converted import Origin, write_converted

TINY = (
    "--config=configs/folai.py:smoke",
    "--config.inputs.side=0",
    "--config.model.flip=False",
    "--config.model.oobleck.channels=8",
    "--config.model.oobleck.latent=8",
    "--config.model.oobleck.strides=(32,)",
    "--config.model.oobleck.multiples=(1,)",
    "--config.model.control.layers=1",
    "--config.runtime.evaluate_batch=8",
    "--config.steps=4",
)


@pytest.fixture(scope="module")
def flags(world, tmp_path_factory):
    """Of a second stage that starts from a base of random numbers, without pictures."""
    config = cli.parse([*TINY, "--config.model.stage=base"], "", {}, takes_config=True).config
    shapes = tree.flatten(jax.eval_shape(systems.build(config).init, jax.random.key(0)))
    draw = np.random.default_rng(0)
    leaves = {
        name: 0.2 * draw.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in shapes.items()
    }
    file = tmp_path_factory.mktemp("weights") / "params.safetensors"
    write_converted(file, leaves, Origin("folai", "a.pt", "0", {}))
    return (*TINY, *world, f"--config.init.weights={file}")


@pytest.fixture(scope="module")
def features(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "train"
    extract.main([*flags, "--out", str(out), "--shard", "8"])
    return out


@pytest.fixture
def opened(flags, features, tmp_path):
    """opened(flag, …) → the data that a run with these further flags learns from."""

    def opening(*more, root=features):
        told = [*flags, "--config.inputs.kind=latents", f"--config.inputs.root={root}", *more]
        config = cli.parse(told, "", {}, takes_config=True).config
        return learning.open_learning(systems.build(config), config, tmp_path)

    return opening


def test_a_run_learns_from_latents_and_is_evaluated_on_sound(flags, features, tmp_path):
    # One device here, several where the features were made.
    chosen = ("--config.inputs.kind=latents", f"--config.inputs.root={features}")
    printed = run("train", *flags, *chosen, "--workdir", tmp_path / "run").stdout
    assert "24 training clips, 16 evaluation clips (held out)" in printed
    results = json.loads((tmp_path / "run/results.json").read_text())["results"]
    assert np.isfinite(results["controlled/control_skill_16k_rms512_128"])
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses
    assert all(0 < loss < 10 for loss in losses)


def test_they_come_in_the_order_and_with_the_names_of_the_clips(opened, features):
    data, source = opened(), open_features(features)
    assert [data.train.id(i) for i in range(24)] == [source.id(i) for i in range(24)]
    with train_batches(data.train, data.train_spec, None, batch=8, seed=0) as batches:
        batch = next(batches)
    assert batch["latent"].shape == (8, 3, 128, 8)  # at three levels
    assert np.std(batch["latent"]) > 0
    np.testing.assert_array_equal(batch["wanted"], batch["index"])
    row = int(batch["index"][3])
    np.testing.assert_array_equal(batch["meaning"][3], source[row]["meaning"])
    assert not np.array_equal(batch["meaning"][3], batch["meaning"][0])
    assert data.spec.samples == 4096  # of evaluation


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.inputs.root=", "inputs.root is empty: give the directory"),
        ("--config.inputs.root=/nowhere", "/nowhere holds no features to read"),
        ("--config.inputs.windows=2", "holds features of another clips and inputs.windows: run"),
        (
            "--config.model.profile=parity",
            "of another model.profile and envelope.windows and arrays: run",
        ),
    ],
)
def test_features_of_something_else_are_refused(opened, flag, words):
    with pytest.raises(UserError, match=words):
        opened(flag)


def test_features_of_another_vocabulary_are_refused(opened, features, tmp_path):
    shutil.copytree(features, tmp_path / "other")
    manifest = json.loads((features / "manifest.json").read_text())
    text = json.dumps({**manifest, "vocabulary": "0"})
    (tmp_path / "other/manifest.json").write_text(text)
    with pytest.raises(UserError, match="other holds features of another tokenizer: run"):
        opened(root=tmp_path / "other")


def test_features_of_other_networks_are_refused(opened):
    data = opened()
    made = data.train.networks
    assert set(made) == {"oobleck", "text"}
    params = {name: {"kernel": jax.numpy.ones((2, 3), jax.numpy.bfloat16)} for name in made}
    found = digests(params)
    data.train.networks = found
    learning.check_networks(data, params)
    data.train.networks = {**found, "text": made["text"]}
    with pytest.raises(UserError, match="made by another text than this run starts from"):
        learning.check_networks(data, params)


def test_a_clip_that_could_not_be_read_is_replaced():
    spec = FeatureSpec((("a", (2,)),))
    arrays = {**spec.empty(), "valid": np.array(True)}
    assert spec.decode(FeatureClip("x", arrays=arrays)).keys() == {"a", "a_mask"}
    with pytest.raises(DecodeError, match="could not be read when its features were made"):
        spec.decode(FeatureClip("x", arrays={**arrays, "valid": np.array(False)}))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_digest_knows_every_number_and_its_place(dtype):
    leaf = jax.numpy.arange(12, dtype=jax.numpy.int32).reshape(3, 4).astype(dtype)
    whole = digests({"part": {"a": leaf, "b": leaf}})["part"]
    mesh = jax.make_mesh((3,), ("x",), devices=jax.devices()[:3])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    divided = partial(jax.device_put, device=place)
    assert digests({"part": {"a": divided(leaf), "b": leaf}})["part"] == whole
    for other in (leaf[::-1], leaf.T, leaf.at[2, 1].add(1), leaf.at[0, 1].set(-1), leaf * 0):
        assert digests({"part": {"a": other, "b": leaf}})["part"] != whole
    assert digests({"part": {"a": leaf, "c": leaf}})["part"] != whole
