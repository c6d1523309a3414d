"""`weavejax.evaluate` and `weavejax.embed` as a user runs them."""

import json
import re
import shutil

import av
import numpy as np
import pytest
from door import run

from weavejax import evaluate
from weavejax.errors import UserError


def test_evaluate_prints_what_training_found(trained):
    workdir, first = trained
    before = json.loads((workdir / "results.json").read_text())["results"]
    printed = run("evaluate", "--workdir", workdir).stdout
    after = json.loads((workdir / "results.json").read_text())["results"]
    assert before == after
    for line in first.splitlines():
        if line.startswith("| volume") or line.startswith("| cos("):
            assert line in printed
    assert "video+audio" in printed
    assert "MdR" in printed


def test_evaluate_takes_the_best_or_a_step(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)  # other tests look at what the run itself left
    for which, steps in (("best", (6, 12)), ("6", (6,))):
        run("evaluate", "--workdir", workdir, "--step", which)
        assert json.loads((workdir / "results.json").read_text())["step"] in steps


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--workdir is missing"),
        (["--workdir", "/no/such"], "/no/such is not a working directory"),
        (["--workdir", "{run}", "--step", "7"], "no checkpoint of step 7; it has [6, 12]"),
        (["--workdir", "{run}", "--step", "last"], "--step 'last' is none of latest, best, 6, 12"),
    ],
)
def test_evaluate_refuses_in_one_line(flags, words, trained):
    flags = [flag.format(run=trained[0]) for flag in flags]
    with pytest.raises(UserError, match=re.escape(words)):
        evaluate.main(flags)


@pytest.fixture
def clips(tmp_path):
    """Three clips: with both streams, without sound, and one that is broken."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, sound in (("red ball", True), ("silent film", False)):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            video = container.add_stream("libx264", rate=10)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
            for number in range(10):
                picture = np.full((64, 64, 3), 20 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode())
            if audio:
                wave = np.sin(np.arange(16000) / 9).astype(np.float32)[None]
                block = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
                block.sample_rate = 16000
                container.mux(audio.encode(block))
                container.mux(audio.encode())
    return folder


def test_embed_writes_vectors_volumes_and_the_nearest_clips(trained, clips, tmp_path):
    out = tmp_path / "clips.npz"
    printed = run(
        "embed",
        "--workdir",
        trained[0],
        "--clips",
        clips,
        "--out",
        out,
        "--query",
        "a red ball is struck",
    ).stdout
    with np.load(out) as found:
        arrays = {name: found[name] for name in found.files}
    assert sorted(arrays["id"]) == ["red ball.mp4", "silent film.mp4"]
    number = {name: i for i, name in enumerate(arrays["id"])}
    assert arrays["audio_mask"][number["red ball.mp4"]]
    assert not arrays["audio_mask"][number["silent film.mp4"]]
    assert arrays["video"].shape == (2, 128)
    np.testing.assert_allclose(np.linalg.norm(arrays["video"], axis=1), 1.0, rtol=1e-5)
    one = number["silent film.mp4"]  # with video alone the volume is the sine of one angle
    cosine = arrays["text"][0] @ arrays["video"][one]
    np.testing.assert_allclose(arrays["volume"][0, one], np.sqrt(1 - cosine**2), atol=1e-5)
    assert "nearest to 'a red ball is struck'" in printed
    assert "red ball.mp4  (video+audio)" in printed
    assert "silent film.mp4  (video)" in printed
    assert "h264" in printed  # it says which streams it used


def test_files_variant_trains_on_a_plain_folder(clips, tmp_path):
    shutil.copy(clips / "red ball.mp4", clips / "really aac.mp3")
    workdir = tmp_path / "run"
    printed = run(
        "train",
        "--config",
        "configs/gram.py:files",
        f"--config.data.root={clips}",
        "--config.batch=2",
        "--config.steps=2",
        "--config.optim.warmup=1",
        "--config.runtime.evaluate_batch=4",
        *(f"--config.model.{tower}.layers=1" for tower in ("vision", "audio", "text")),
        "--workdir",
        workdir,
    ).stdout
    assert "h264" in printed
    assert "not held out" in printed
    assert (workdir / "results.md").exists()


def test_embed_refuses_an_empty_folder_in_one_line(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("embed", "--workdir", trained[0], "--clips", tmp_path / "empty", check=False)
    assert result.returncode == 2
    assert "empty" in result.stderr.splitlines()[-1]
