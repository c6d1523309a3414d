"""What `--prompt_audio` adds to what a system is asked for, at the published sizes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from making_media import sound_file, tone

from weavejax import systems
from weavejax.dials.controls import Controls, Envelope, Onset, When
from weavejax.errors import UserError
from weavejax.ops import log_mel
from weavejax.runs.requests import check_hears, find_asks, request
from weavejax.runs.restore import Trained
from weavejax.runtime import cli

CONTROLS = Controls(1.0, When((Onset(0.5),), envelope=Envelope(10.0, (-20.0,) * 10)))


@pytest.fixture(scope="module", params=["syncfusion", "folai"])
def trained(request):
    """Nothing but its specification is looked at here."""
    flags = ["--config", f"configs/{request.param}.py:published"]
    config = cli.parse(flags, "", {}, takes_config=True).config
    return Trained(config, systems.build(config), None, None, None, 0)


@pytest.fixture
def ask(tmp_path):
    (tmp_path / "clip.wav").write_bytes(sound_file(tone(1.0), form="WAV"))
    return find_asks(str(tmp_path / "clip.wav"), str(tmp_path / "made.wav"))[0]


def test_the_sound_is_heard_as_in_training_and_the_words_are_not_read(trained, ask, tmp_path):
    file = tmp_path / "bell.wav"
    wave = np.random.default_rng(0).normal(size=log_mel.RATE).astype(np.float32) * 0.1
    soundfile.write(file, wave, log_mel.RATE, subtype="FLOAT")
    found = request(trained, ask, CONTROLS, ask.samples(48_000), None, str(file))
    spec = trained.system.batch_spec["heard"]
    wanted = log_mel.log_mel(
        log_mel.repeat_pad(wave, (spec.shape[1] - 1) * log_mel.HOP), mels=spec.shape[2]
    )
    np.testing.assert_allclose(found["heard"], wanted, atol=1e-4)
    assert found["heard"].shape == spec.shape[1:]
    assert found["heard_mask"]
    assert not found["text_mask"]
    without = request(trained, ask, CONTROLS, ask.samples(48_000), None, "")
    assert "heard" not in without


def test_a_sound_that_says_nothing_is_refused(trained, ask, tmp_path):
    empty, text = tmp_path / "empty.wav", tmp_path / "text.wav"
    soundfile.write(empty, np.zeros(0), 48_000)
    text.write_text("no sound at all")
    for file, words in ((empty, "is empty|cannot be read"), (text, "cannot be read")):
        with pytest.raises(UserError, match=words):
            request(trained, ask, CONTROLS, 48_000, None, str(file))
    with pytest.raises(UserError, match="there is no such file"):
        check_hears(trained, str(tmp_path / "none.wav"))
    check_hears(trained, str(text))
