"""`weavejax.generate`: the walk from a clip to its controls, a sound, and a part of it made anew."""

import functools
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from making_media import movie, numbered

from weavejax import generate, systems
from weavejax.data.decode import Media, probe
from weavejax.data.text import train_tokenizer
from weavejax.dials import controls as files
from weavejax.errors import UserError
from weavejax.runs import restore
from weavejax.runtime import cli, tree
from weavejax.runtime.mesh import make_mesh
from weavejax.weights.safe import save_safetensors

RATE, SAMPLES = 8000, 6340  # 19 frames of 24000/1001 a second
SMALL = {
    "inputs.seconds": 0.25,
    "model.unet.channels": "(8,8)",
    "model.unet.factors": "(1,4)",
    "model.unet.items": "(1,1)",
    "model.unet.attentions": "(False,True)",
    "model.unet.context": "(2,8)",
    "model.unet.modulation": 16,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Flags of a model of random weights."""
    room = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["a stick hits metal", "a bell rings"], 200)
    tokenizer.save(str(room / "tokenizer.json"))
    changes = [f"--config.{key}={value}" for key, value in SMALL.items()]
    changes.append(f"--config.inputs.tokenizer={room / 'tokenizer.json'}")
    flags = ["--config", "configs/syncfusion.py:smoke", *changes]
    system = systems.build(cli.parse(flags, "", {}, takes_config=True).config)
    rng = np.random.default_rng(0)
    shapes = tree.flatten(jax.eval_shape(system.init, jax.random.key(0)))
    leaves = {n: rng.normal(size=s.shape).astype(np.float32) * 0.1 for n, s in shapes.items()}
    weights = room / "params.safetensors"
    save_safetensors(weights, leaves)
    return [*flags, "--weights", str(weights)]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """As on a machine with one device."""
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    monkeypatch.setattr(restore, "make_mesh", lambda shape: mesh)
    monkeypatch.setattr(restore, "keep_compiled", lambda place: None)  # it is this process's affair


opening = restore.open_model
opened = functools.cache(lambda *command: opening(restore.parse(command, "", generate.FLAGS)))


@pytest.fixture
def open_already(model, monkeypatch):
    """The model is opened once for all tests that do not ask how."""
    monkeypatch.setattr(restore, "open_model", lambda arguments: opened(*model))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two clicks in 19 frames."""
    sound = np.zeros(SAMPLES)
    for place in (1600, 4800):
        sound[place : place + 400] += 0.5 * np.exp(-np.arange(400) / 60) * (-1) ** np.arange(400)
    path = tmp_path_factory.mktemp("clip") / "clip.mov"
    pictures = [numbered(n) for n in range(19)]
    path.write_bytes(
        movie(pictures, Fraction(24000, 1001), form="mov", sound=sound, sound_rate=RATE)
    )
    return path


@pytest.fixture(scope="module")
def take(clip, tmp_path_factory):
    """The controls of the clip: the first step of the walk, without a model."""
    out = tmp_path_factory.mktemp("take") / "take.mp4"
    generate.main(["--video", str(clip), "--controls_only", "--out", str(out)])
    return out.with_name("take.controls.json")


def read(path):
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return wave


def test_controls_are_there_to_be_read_and_edited(take):
    assert [path.name for path in take.parent.iterdir()] == [take.name]
    when = files.parse(take.read_text()).when
    assert [onset.time for onset in when.onsets] == pytest.approx([0.2, 0.6], abs=0.03)
    assert 38 <= len(when.envelope.db) <= 40


def test_the_walk_from_controls_to_a_sound_and_another_in_a_part(
    model, clip, take, tmp_path, capsys
):
    document = json.loads(take.read_text())
    document["when"]["onsets"].append({"time": 0.7, "strength": 0.5})
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(document))
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    given = [*model, "--video", str(clip), "--controls", str(edited)]
    generate.main([*given, "--prompt", "a bell rings", "--out", str(first)])
    assert "first.mp4: 0.792 s" in capsys.readouterr().out
    files_made = {"first.mp4", "first.wav", "first.png", "first.controls.json", "edited.json"}
    assert {path.name for path in tmp_path.iterdir()} == files_made
    wave = read(tmp_path / "first.wav")
    assert wave.shape == (SAMPLES,)
    assert wave.std() > 0
    used = files.parse((tmp_path / "first.controls.json").read_text())
    assert len(used.when.onsets) == 3
    assert used.what.caption == "a bell rings"
    with av.open(str(clip)) as old, av.open(str(first)) as new:
        packets = [[bytes(p) for p in each.demux(each.streams.video[0])] for each in (old, new)]
    assert packets[0] == packets[1]
    info = probe(first)
    assert (info.audio.rate, info.audio.channels, info.more_audio) == (RATE, 1, 0)
    with Media(first) as media:
        assert media.length() == Fraction(19 * 1001, 24000)

    # Another seed, in a part of what was made: the rest stays, bit by bit.
    where = ["--sound", str(tmp_path / "first.wav"), "--span", "0.2", "0.5", "--seed", "1"]
    generate.main([*given, *where, "--out", str(second)])
    again = read(tmp_path / "second.wav")
    np.testing.assert_array_equal(again[:1600], wave[:1600])
    np.testing.assert_array_equal(again[4000:], wave[4000:])
    assert np.abs(again - wave)[1700:3900].max() > 1e-5


def test_a_folder_with_a_clip_without_picture(model, open_already, clip, tmp_path):
    room, out = tmp_path / "room", tmp_path / "out"
    room.mkdir()
    (room / "seen.mov").write_bytes(clip.read_bytes())
    soundfile.write(room / "heard.wav", np.zeros(2000), RATE)
    command = [*model, "--video", str(room), "--out", str(out), "--envelope=shift=0.1"]
    generate.main([*command, "--scales", "when=2,what=1", "--steps", "1"])
    names = {f"{stem}{end}" for stem in ("seen", "heard") for end in (".wav", ".png", ".mp4")}
    names |= {"seen.controls.json", "heard.controls.json"}
    assert {path.name for path in out.iterdir()} == names
    assert len(read(out / "seen.wav")) == SAMPLES
    assert len(read(out / "heard.wav")) == 2000
    assert probe(out / "heard.mp4").video is None
    when = files.parse((out / "seen.controls.json").read_text()).when
    assert [onset.time for onset in when.onsets] == pytest.approx([0.3, 0.7], abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.mp4"], "--video is missing"),
        (["--video", "CLIP"], "--out is missing"),
        (["--span", "0.5", "0.2"], "it must begin before it ends"),
        (["--span", "0.5"], "--span '0.5' is not two numbers"),
        (["--span=a,b"], "'--span a,b' is not of the form"),
        (["--envelope", "louder=3"], "'louder' is no edit of an envelope"),
        (["--scales", "where=2"], "--scales: no dial 'where'; there are when, what"),
        (["--steps", "0"], "--steps '0' is not a whole number from 1 on"),
        (["--seed", "x"], "--seed 'x' is not a whole number"),
        (["--controls_only=maybe"], "--controls_only 'maybe' is neither true nor false"),
        (
            ["--when", "runs/x", "--controls", "TAKE"],
            "--when predicts what --controls already says",
        ),
        (["--prompt_audio", "CLIP"], "takes its meaning from words"),
        (["--controls", "TAKE", "--envelope=gain=1", "--out", "BESIDE"], "give another --out"),
        (["--workdir", "runs/x"], "give no --config and --weights"),
    ],
)
def test_what_is_asked_for_must_be_possible(
    model, open_already, clip, take, tmp_path, arguments, words
):
    beside = take.with_name("take.mp4")
    places = {"CLIP": str(clip), "TAKE": str(take), "BESIDE": str(beside)}
    arguments = [places.get(each, each) for each in arguments]
    usual = {"--video": str(clip), "--out": str(tmp_path / "x.mp4")}
    if words.startswith(("--video is missing", "--out is missing")):
        usual = {}
    rest = [
        part for name, value in usual.items() if name not in arguments for part in (name, value)
    ]
    with pytest.raises(UserError) as caught:
        generate.main([*model, *rest, *arguments])
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_help_shows_the_walk_and_every_flag(capsys):
    with pytest.raises(SystemExit):
        generate.main(["--help"])
    text = capsys.readouterr().out
    assert "1. see the controls" in text
    for flag in generate.FLAGS:
        assert f"--{flag}   " in text
