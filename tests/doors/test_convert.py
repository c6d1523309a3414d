"""`weavejax.convert` as a user runs it: published files in, and back, exactly."""

import numpy as np
import pytest
from conftest import run
from published_keys import SMALL, gram, numbers

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
def test_what_does_not_fit_is_refused_in_one_line(change, words, state, tmp_path):
    changed = dict(state)
    if change == "unknown":
        changed["alpha"] = np.zeros(1, np.float32)
    elif change == "missing":
        del changed["contra_temp"]
    else:
        changed = {"a.weight": np.zeros(3, np.float32)}
    save_safetensors(tmp_path / "a.safetensors", changed)
    out = tmp_path / "out"
    result = run("convert", "--from", tmp_path / "a.safetensors", "--out", out, check=False)
    assert result.returncode == 2
    assert words in result.stderr.splitlines()[-1]
    assert ("- unused alpha" in result.stdout) == (change == "unknown")
    assert not out.exists()
