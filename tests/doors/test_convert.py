"""`weavejax.convert` as a user runs it: published files in, and back, exactly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from door import run
from ml_collections import ConfigDict
from published_keys import SMALL, audio, gram, numbers, small_gram, vision

from weavejax import convert, systems
from weavejax.errors import UserError
from weavejax.runs import initial
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out
from weavejax.runtime.workdir import open_workdir
from weavejax.weights.safe import open_safetensors, save_safetensors


@pytest.fixture(scope="module")
def state():
    return numbers(gram(SMALL))


@pytest.fixture
def file(state, tmp_path):
    save_safetensors(tmp_path / "gram.safetensors", state, {"format": "pt"})
    return tmp_path / "gram.safetensors"


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(np.asarray(found[key]), array, strict=True, err_msg=key)


def test_a_file_goes_in_and_comes_back(file, state, tmp_path):
    out = tmp_path / "converted"
    printed = run("convert", "--from", file, "--out", out).stdout
    keys = len(state)
    assert f"{keys} of {keys} keys accounted for" in printed
    assert "| kept | dead tower (EVA-CLIP's text encoder) | 149 |" in printed
    page = (out / "coverage.md").read_text()
    assert printed.split("| |")[1].split("written")[0].strip() in page
    params = open_safetensors(out / "params.safetensors")
    assert params.metadata["weavejax.format"] == '"gram"'
    np.testing.assert_array_equal(
        params["head/audio/kernel"], state["contra_head_a.linear.weight"].T
    )
    run("convert", "--from", out, "--back", "--out", tmp_path / "again.safetensors")
    again = open_safetensors(tmp_path / "again.safetensors")
    same(again, state)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("unknown", "1 unused (named above)"),
        ("missing", "1 missing (named above)"),
        ("stranger", "is of no known format (its keys are a.weight, …): gram would have"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    change, words, state, tmp_path, capsys
):
    changed = dict(state)
    if change == "unknown":
        changed["alpha"] = np.zeros(1, np.float32)
    elif change == "missing":
        del changed["contra_temp"]
    else:
        changed = {"a.weight": np.zeros(3, np.float32)}
    save_safetensors(tmp_path / "a.safetensors", changed)
    flags = ["--from", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=re.escape(words)):
        convert.main(flags)
    assert ("- unused alpha" in capsys.readouterr().out) == (change == "unknown")
    assert not (tmp_path / "out").exists()
    if change != "stranger":
        convert.main([*flags, "--partial", "^alpha$|^contra_temp$"])
        assert (tmp_path / "out/params.safetensors").exists()


@pytest.mark.parametrize(
    ("part", "prefix", "formatted", "path"),
    [
        (vision, "vision_encoder.visual.", "eva", "vision/position"),
        (vision, "vision_encoder.", "eva", "vision/position"),  # EVA-CLIP's own spelling
        (audio, "audio_encoder.", "beats", "audio/relative_bias"),
    ],
)
def test_a_single_tower_is_known_by_its_keys(part, prefix, formatted, path, tmp_path):
    state = {key.removeprefix(prefix): x for key, x in numbers(part(SMALL)).items()}
    save_safetensors(tmp_path / "model.safetensors", state)  # found in a directory by this name
    convert.main(["--from", str(tmp_path), "--out", str(tmp_path / "ours.safetensors")])
    converted = open_safetensors(tmp_path / "ours.safetensors")
    assert path in converted
    assert converted.metadata["weavejax.format"] == f'"{formatted}"'
    again = tmp_path / "again"
    convert.main(["--from", str(tmp_path / "ours.safetensors"), "--back", "--out", str(again)])
    same(open_safetensors(again / "model.safetensors"), state)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--from", "a"], "--out is missing"),
        (["--from", "a", "--out", "b", "--format", "gran"], "--format 'gran' is none of gram, "),
        (["--from", "/no/such", "--out", "b"], "no file of weights /no/such"),
        (["--from", "{file}", "--out", "{file}"], "--out would write over"),
        (["--from", "{file}", "--out", "b", "--back"], "does not say which published file"),
        (
            ["--from", "{file}", "--out", "b", "--format", "bert"],
            "word_embeddings.weight, which is missing",
        ),
    ],
)
def test_mistakes_are_named(flags, words, file):
    with pytest.raises(UserError, match=words):
        convert.main([flag.format(file=file) for flag in flags])


def test_a_run_is_written_back_in_the_published_layout(file, state, tmp_path):
    """What it learnt in the places of the file it started from, the rest as it was."""
    convert.main(["--from", str(file), "--out", str(tmp_path / "ours")])
    config = small_gram(init=ConfigDict({"weights": str(tmp_path / "ours"), "partial": ()}))
    config.runtime = ConfigDict({"mesh": {"data": -1}, "keep": 1})
    workdir = open_workdir(tmp_path / "run", config)
    system = systems.build(config)
    layout = lay_out(system, config, make_mesh({"data": 1}, jax.devices()[:1]))
    started = initial.state(system, layout, config.init, jax.random.key(0))
    learnt = started._replace(params={**started.params, "temperature": jnp.float32(0.5)})
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    checkpoints.save(learnt)
    checkpoints.finish(None)
    checkpoints.close()
    convert.main(["--from", str(workdir), "--back", "--out", str(tmp_path / "a.safetensors")])
    again = open_safetensors(tmp_path / "a.safetensors")
    assert float(again["contra_temp"]) == 0.5 != float(state["contra_temp"])
    same(again, {**state, "contra_temp": np.float32(0.5)[...]})
