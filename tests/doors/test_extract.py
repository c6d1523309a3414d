"""`weavejax.extract`: features of a trained run, once, resumable; and reading them back."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from weavejax import extract
from weavejax.data.features import FeatureClips, FeatureSpec, open_features
from weavejax.data.order import record_order
from weavejax.data.pipeline import eval_batches, train_batches
from weavejax.errors import UserError
from weavejax.runs import assemble
from weavejax.runs.restore import restore
from weavejax.runtime import tree
from weavejax.weights.safe import save_safetensors

WIDTH = 32  # of each tower of the smoke variant


@pytest.fixture(scope="module")
def model(trained):
    """(working directory, trained model, its data)."""
    workdir = trained[0]
    made = restore(workdir)
    return workdir, made, assemble.open_data(made.config, workdir)


@pytest.fixture(scope="module")
def features(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "train"
    extract.main(["--workdir", str(model[0]), "--out", str(out), "--shard", "1"])
    return out


def shard_times(directory):
    return {p.name: p.stat().st_mtime_ns for p in directory.glob("*array_record*")}


def small_batches(workdir, size):
    """A copy of a run that evaluates in smaller batches, so that there are several shards."""
    config = json.loads((workdir / "config.json").read_text())
    config["runtime"]["evaluate_batch"] = size
    (workdir / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def trained(trained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "small"
    shutil.copytree(trained[0], workdir)
    small_batches(workdir, 8)
    return workdir, trained[1]


def test_features_are_what_the_towers_give(model, features):
    _, made, data = model
    source = open_features(features)
    assert len(source) == len(data.train) == 24
    assert len(shard_times(features)) == 3
    assert [source.id(i) for i in range(24)] == [data.train.id(i) for i in range(24)]
    assert source.text(5) == data.train.text(5)
    assert source.captions() == list(data.train.captions())
    batches = eval_batches(data.train, data.spec, data.tokenizer, batch=24)
    host = next(batches)
    batches.close()
    inputs = {name: host[name] for name in made.system.batch_spec}
    wanted = jax.device_get(jax.jit(made.system.features)(made.params, inputs))
    for name in ("video", "audio", "text"):
        found = np.stack([source[i][name] for i in range(24)])
        assert found.shape == (24, WIDTH)
        np.testing.assert_allclose(
            found, wanted[name], rtol=1e-3, atol=2e-4
        )  # of one device, not eight
        assert np.std(found) > 0
        assert all(source[i][f"{name}_mask"] for i in range(24))
    assert all(source[i]["valid"] for i in range(24))


def test_the_manifest_says_by_what_and_of_what(model, features):
    manifest = json.loads((features / "manifest.json").read_text())
    assert manifest["weights"]["step"] == 12
    assert len(manifest["weights"]["sha256"]) == 64
    assert manifest["source"] == model[2].train.fingerprint
    assert manifest["config"]["model"]["vision"]["width"] == WIDTH
    assert manifest["arrays"] == {name: [WIDTH] for name in ("video", "audio", "text")}


def test_started_again_it_computes_only_what_is_missing(model, features, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(features, out)
    wanted = {path.name: path.read_bytes() for path in out.glob("*array_record*")}
    (out / "dataset_info.json").unlink()
    (out / "features-clips.array_record-00001-of-00003").unlink()
    with pytest.raises(UserError, match="they are not finished: start the same command again"):
        open_features(out)
    kept = shard_times(out)
    command = ["--workdir", str(model[0]), "--out", str(out), "--shard", "1"]
    extract.main(command)
    assert {path.name: path.read_bytes() for path in out.glob("*array_record*")} == wanted
    assert kept.items() < shard_times(out).items()
    before = shard_times(out)
    extract.main(command)
    assert shard_times(out) == before
    assert open_features(out).fingerprint == open_features(features).fingerprint


def test_features_of_something_else_are_not_mixed_in(model, features):
    command = ["--workdir", str(model[0]), "--out", str(features), "--shard", "1"]
    with pytest.raises(UserError, match=r"holds features of another .*split"):
        extract.main([*command, "--split", "test"])
    with pytest.raises(UserError, match=r"holds features of another .*weights"):
        extract.main([*command, "--step", "6"])


def test_parameters_of_a_file_give_the_same(model, features, tmp_path, world):
    workdir, made, _ = model
    leaves = {name: np.asarray(leaf) for name, leaf in tree.flatten(made.params).items()}
    save_safetensors(tmp_path / "params.safetensors", leaves)
    command = ["--config", "configs/gram.py:smoke", *world, "--config.runtime.evaluate_batch=8"]
    command += [f"--config.inputs.tokenizer={workdir / 'tokenizer.json'}", "--shard", "1"]
    command += ["--weights", str(tmp_path / "params.safetensors"), "--out", str(tmp_path / "out")]
    extract.main(command)
    one, other = open_features(features), open_features(tmp_path / "out")
    for index in (0, 9, 23):
        np.testing.assert_array_equal(one[index]["audio"], other[index]["audio"])
    assert one.fingerprint != other.fingerprint
    leaves["head/text/kernel"] = leaves["head/text/kernel"][:, :-1]
    del leaves["temperature"]
    save_safetensors(tmp_path / "params.safetensors", {**leaves, "more": np.zeros(1)})
    with pytest.raises(UserError) as caught:
        extract.main(command)
    for words in ("temperature is missing", "more is not in the model", "head/text/kernel is (32,"):
        assert words in str(caught.value)


def test_batches_of_features_come_in_the_order_of_training(features, tmp_path):
    source = open_features(features)
    arrays = tuple((name, (WIDTH,)) for name in ("video", "audio", "text"))
    how = {"batch": 6, "seed": 3, "cache_dir": tmp_path}
    learnt = partial(train_batches, FeatureClips(source), FeatureSpec(arrays), None, **how)
    with learnt() as batches:
        first = [next(batches) for _ in range(5)]
    order = record_order(24, 3)
    assert [int(i) for b in first for i in b["index"]] == [int(order[k]) for k in range(30)]
    assert first[0]["video"].shape == (6, WIDTH)
    np.testing.assert_array_equal(first[2]["text"][4], source[int(first[2]["index"][4])]["text"])
    with learnt(start_step=3, rows=(1, 4)) as batches:
        resumed = next(batches)
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, first[3][name][[1, 4]])
    assert not list(tmp_path.iterdir())  # what is on disk is not kept again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out is missing"),
        (["--out", "x"], "give --workdir, or --config with --weights or config.init"),
        (["--out", "x", "--weights", "y"], "give --workdir, or --config with --weights"),
        (["--out", "x", "--config", "configs/gram.py:smoke"], "config.init names no weights"),
        (["--out", "x", "--workdir", "y", "--split", "val"], "--split 'val' is neither train nor"),
        (["--out", "x", "--workdir", "y", "--shard", "no"], "--shard 'no' is not a number"),
        (["--out", "s3://x", "--workdir", "y"], "--out must be a directory that is mounted"),
        (
            ["--out", "x", "--config", "configs/gram.py:smoke", "--weights", "y"],
            "the vocabulary of the weights is that of a run's captions",
        ),
    ],
)
def test_what_is_asked_for_must_be_possible(arguments, words):
    with pytest.raises(UserError) as caught:
        extract.main(arguments)
    assert words in str(caught.value)
