"""Weights without a run: evaluated, embedded and trained on as a user would."""

import json

import numpy as np
import pytest
from door import ROOT, SMOKE, run

from weavejax import embed, evaluate
from weavejax.errors import UserError
from weavejax.runs.restore import restore
from weavejax.runtime import tree
from weavejax.weights.safe import save_safetensors


@pytest.fixture
def weights(trained, tmp_path):
    """The parameters of the small run as a file of weights, and the flag for their vocabulary."""
    leaves = {path: np.asarray(x) for path, x in tree.flatten(restore(trained[0]).params).items()}
    save_safetensors(tmp_path / "params.safetensors", leaves)
    return tmp_path / "params.safetensors", f"--config.inputs.tokenizer={trained[0]}/tokenizer.json"


def results(directory):
    return json.loads((directory / "results.json").read_text())["results"]


def test_evaluate_finds_of_the_weights_what_training_found_of_the_run(
    trained, weights, world, tmp_path
):
    file, vocabulary = weights
    out = tmp_path / "results"
    printed = run("evaluate", *SMOKE, *world, "--weights", file, vocabulary, "--out", out).stdout
    assert f"parameters from {file}" in printed
    assert results(out) == results(trained[0])


def test_a_run_that_starts_from_weights_and_learns_nothing_ends_with_them(
    trained, weights, world, tmp_path
):
    vocabulary = weights[1]
    started = (f"--config.init.weights={tmp_path}", vocabulary, "--config.optim.lr=0.0")
    short = ("--config.steps=2", "--config.optim.warmup=1", "--config.runtime.evaluate_every=2")
    workdir = tmp_path / "run"
    printed = run("train", *SMOKE, *world, *started, *short, "--workdir", workdir).stdout
    assert f"parameters from {tmp_path}" in printed
    assert results(workdir) == results(trained[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "a"], "--config is missing"),
        ([*SMOKE, "--weights", "a", "--workdir", "runs/gram"], "give no --config"),
        ([*SMOKE], "--weights is missing"),
        ([], "--workdir is missing"),
    ],
)
def test_a_model_is_a_run_or_a_config_with_weights(flags, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=words):
        embed.main([*flags, "--clips", "none"])


def test_a_vocabulary_made_elsewhere_is_not_made_up(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="the vocabulary is that of a run's captions"):
        evaluate.main([*SMOKE, "--weights", "none"])


def test_weights_that_do_not_fit_are_refused_before_there_is_a_run(weights, world, tmp_path):
    file, vocabulary = weights
    flags = (vocabulary, f"--config.init.weights={file}", "--config.model.dim=64")
    workdir = tmp_path / "run"
    result = run("train", *SMOKE, *world, *flags, "--workdir", workdir, check=False)
    assert result.returncode == 2
    words = "head/audio/kernel is (32, 128), needed (32, 64); head/text/kernel is (32, 128)"
    assert words in result.stderr.splitlines()[-1]
    assert not workdir.exists()
