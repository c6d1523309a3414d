"""`weavejax.train` as a user runs it."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from door import ROOT, SMOKE, run

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runs import assemble
from weavejax.runs.restore import restore
from weavejax.runtime import cli, tree
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import check_batch, make_mesh
from weavejax.runtime.records import read_rows
from weavejax.runtime.workdir import check_workdir


def test_a_run_leaves_what_the_readme_says(trained):
    workdir, printed = trained
    names = {p.name for p in workdir.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "tokenizer.json",
        "parameters.txt",
        "results.json",
        "results.md",
        "plots",
    }
    assert {p.name for p in (workdir / "plots").iterdir()} == {
        "loss.png",
        "evaluation.png",
        "volumes.png",
    }
    assert json.loads((workdir / "config.json").read_text())["steps"] == 12
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 12
    assert 0 <= results["results"]["retrieval/volume/text→video+audio/R@1"] <= 100
    assert "retrieval/volume/video+audio→text/R@1" in results["results"]
    assert "text→clip R@1" in (workdir / "results.md").read_text()
    assert "waiting for data" in printed
    assert "16 evaluation clips (held out)" in printed


def test_metrics_tell_the_course_of_the_run(trained):
    rows = read_rows(trained[0] / "metrics.jsonl")
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == [4, 6, 8, 12]
    assert all(np.isfinite(row["loss"]) for row in train)
    assert [row["loss/blend"] for row in train][-1] == 0.0
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12]


def rows_of(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    return [row for row in rows if row["kind"] != "time"]


def final_state(workdir):
    """Every leaf of the last checkpoint, optimiser included."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2, read_only=True)
    step = checkpoints.steps()[-1]
    found = checkpoints.restore_raw(step)
    checkpoints.close()
    return {path: np.asarray(leaf) for path, leaf in tree.flatten(found).items()}


# Dropout, a moving average, a worker process; of all systems it compiles fastest.
LONGER = (
    "--config=configs/envelope.py:smoke",
    "--config.model.features=('motion',)",
    "--config.steps=24",
    "--config.optim.average=0.9",
    "--config.runtime.workers=1",
    "--config.runtime.log_every=1",
    "--config.runtime.save_every=3",
    "--config.runtime.evaluate_every=12",
)


def test_killed_at_any_step_a_run_ends_bit_for_bit_the_same(world, tmp_path):
    workdir = tmp_path / "killed"
    for kill_after in (4, 14):
        process = subprocess.Popen(
            [sys.executable, "-m", "weavejax.train", *LONGER, *world, "--workdir", str(workdir)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            rows = read_rows(workdir / "metrics.jsonl")
            if rows and rows[-1]["step"] >= kill_after:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed_at = read_rows(workdir / "metrics.jsonl")[-1]["step"]
    assert killed_at < 24, "the run ended before it could be killed"
    last = run("train", *LONGER, *world, "--workdir", workdir)
    assert "resumed from the checkpoint of step" in last.stdout

    whole = tmp_path / "whole"
    run("train", *LONGER, *world, "--workdir", whole)
    assert rows_of(workdir) == rows_of(whole)
    killed, straight = final_state(workdir), final_state(whole)
    assert killed.keys() == straight.keys()
    for part in ("optimiser/", "average/"):
        assert any(path.startswith(part) for path in killed)
    for path, leaf in straight.items():
        np.testing.assert_array_equal(killed[path], leaf, err_msg=path)


def test_a_finished_run_started_again_only_reports(trained, world):
    workdir, first = trained
    again = run("train", *SMOKE, *world, "--workdir", workdir)
    assert "resumed from the checkpoint of step 12" in again.stdout
    table = [line for line in first.splitlines() if line.startswith("| volume")]
    assert table
    assert table == [line for line in again.stdout.splitlines() if line.startswith("| volume")]


def test_a_checkpoint_restores_with_its_config(trained):
    model = restore(trained[0])
    assert model.step == 12
    assert model.config.loss.score == "volume"
    assert set(model.params) == {"vision", "audio", "text", "head", "temperature"}


def test_bad_input_is_one_line_and_leaves_nothing(world, tmp_path):
    flags = ("--config.data.source=files", f"--config.data.root={odd_folder(tmp_path)}")
    result = run("train", *SMOKE, *world, "--workdir", tmp_path / "w", *flags, check=False)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert "colour" in lines[-1]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "w").exists()


def odd_folder(place):
    """A folder whose caption file has a column that means nothing."""
    folder = place / "odd"
    folder.mkdir()
    (folder / "captions.csv").write_text("video,caption,colour\nx.mp4,a ball,red\n")
    return folder


def prepare(argv, workdir):
    """What the trainer does before a run has a directory, on the eight devices of the tests."""
    config = cli.parse(argv, "", {}, takes_config=True).config
    systems.build(config)
    check_batch(config.batch, make_mesh(config.runtime.mesh))
    assemble.open_data(config, check_workdir(workdir, config))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.stepz=3"], "unknown config key 'stepz'; did you mean steps"),
        (["--config.data.source=files", "--config.data.root=/no/such"], "/no/such"),
        (["--config.data.dataset=datasets/absent"], "datasets/absent"),
        (["--config.loss.score=volum"], "'volum' is none of blended_volume"),
        (["--config.batch=4096"], "do not fill a batch of 4096; give --config.batch=24"),
        (["--config.model.text.vocab=8"], "set --config.model.text.vocab"),
        (
            ["--config.model.text.kind=roberta"],
            "is of the kind 'bert', model.text.kind is 'roberta'",
        ),
        (["--config.data.source=files", "--config.data.root={empty}"], "{empty}"),
        (["--config.data.source=files"], "give the folder of clips, --config.data.root=DIR"),
        (["--config.runtime.mesh.data=3"], "does not fit 8 cpu device(s)"),
        (["--config.batch=6"], "a batch of 6 does not divide over 8 batch shards"),
    ],
)
def test_what_is_wrong_is_found_before_the_run_has_a_directory(
    flags, words, trained, world, tmp_path, monkeypatch
):
    del trained  # the data set is there
    monkeypatch.chdir(ROOT)
    empty = tmp_path / "empty"
    empty.mkdir()
    flags = [flag.format(empty=empty) for flag in flags]
    with pytest.raises(UserError, match=re.escape(words.format(empty=empty))):
        prepare([*SMOKE, *world, *flags], tmp_path / "w")


def test_a_working_directory_of_another_config_is_refused(trained, world, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"loss\.score volume there, cosine here"):
        prepare([*SMOKE, *world, "--config.loss.score=cosine"], trained[0])


def test_a_checkpoint_that_does_not_fit_is_refused(trained, world, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(trained[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["dim"] = 64
    (workdir / "config.json").write_text(json.dumps(config))
    result = run(
        "train", *SMOKE, *world, "--workdir", workdir, "--config.model.dim=64", check=False
    )
    assert result.returncode == 2
    assert "params/head/audio/kernel is (32, 128), needed (32, 64)" in result.stderr


def test_a_full_disk_while_rendering_is_one_line_and_finished_clips_stay(small_disk, tmp_path):
    room = small_disk(1)
    flags = (f"--config.data.directory={room}", "--workdir", tmp_path / "w")
    result = run("train", *SMOKE, *flags, check=False)
    finished = list(room.glob(".foley_world-staging/**/*.*"))
    assert result.returncode == 2
    assert "is full" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert finished


def test_help_names_every_key():
    printed = run("train", *SMOKE, "--help").stdout
    for words in ("--workdir", "--config.loss.score='volume'", "--config.runtime.workers=0"):
        assert words in printed
