"""A run with the matching loss: two stages side by side, in training's results and in evaluation."""

import json

import pytest
from door import SMOKE, run

MATCHING = (
    "--config.model.fusion=True",
    "--config.model.text.cross_attention=True",
    "--config.model.text.cond_width=32",
    "--config.loss.matching=0.1",
    "--config.loss.candidates=5",
    "--config.steps=6",
)


@pytest.fixture(scope="module")
def matched(world, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("matching") / "run"
    return workdir, run("train", *SMOKE, *world, *MATCHING, "--workdir", workdir).stdout


def scores(workdir):
    return json.loads((workdir / "results.json").read_text())["results"]


def test_both_stages_are_reported(matched):
    workdir, printed = matched
    found = scores(workdir)
    for way in ("text→video+audio", "video+audio→text"):
        first, second = (
            found[f"retrieval/{stage}/{way}/R@5"] for stage in ("volume", "volume, then match")
        )
        # Within the nearest five the second stage only changes the order.
        assert first == second
    assert "| volume, then match | video+audio |" in printed
    assert "| volume | video+audio |" in printed
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/matching" in row and "matched rightly %" in row for row in rows)


def test_evaluate_finds_the_same_and_names_the_gallery(matched):
    workdir, _ = matched
    before = scores(workdir)
    printed = run("evaluate", "--workdir", workdir, devices=2).stdout
    after = scores(workdir)
    assert before.keys() == after.keys()
    for name in before:
        assert after[name] == pytest.approx(before[name], abs=0.51 if "mean" in name else 1e-3)
    assert "sha256 of the evaluation clips' ids" in (workdir / "results.md").read_text()
    assert "matching: 100%" in printed or "| volume, then match |" in printed
