"""From clips and controls to sounds, with a system that is no network: batches, lengths, spans."""

import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from making_media import movie, sound_file, tone

from weavejax.data.decode import decode_audio
from weavejax.dials.controls import Controls, Envelope, Onset, What, When, dump, parse
from weavejax.dials.when import amplitudes
from weavejax.diffusion.samplers import SAMPLERS, set_out
from weavejax.diffusion.schedules import linear
from weavejax.errors import UserError
from weavejax.runs import generation
from weavejax.runs.control_sources import Predictor, check_followed, controls_of
from weavejax.runs.generation import Options, check_span, sounds
from weavejax.runs.outputs import laid_out
from weavejax.runs.requests import find_asks, frames, request
from weavejax.runs.restore import Trained
from weavejax.runtime.mesh import make_mesh
from weavejax.systems.base import Generator, System

RATE = 8000
CONFIG = ConfigDict(
    {
        "inputs": {"seconds": 0.5, "fps": 10.0, "side": 20, "size": 16},
        "runtime": {"evaluate_batch": 8},
    }
)
OPTIONS = Options(seed=0, steps=2, scales=(1.0,))


def begin(params, request, keys, scales, table, *, samples, known):
    """The number of onsets of every clip, and the lightness of its last picture."""
    onsets = (request["onsets"] >= 0).sum(1, dtype=jnp.float32)
    light = request["video"][:, -1].astype(jnp.float32).mean((1, 2, 3)) / 255.0
    prepared = {"keys": keys, "onsets": onsets, "light": light, "scale": scales[0], "known": known}
    return prepared, set_out(jnp.zeros((len(keys), samples, 1)), table)


def advance(params, prepared, course, rows, *, samples):
    """Noise, with the number of onsets as its level and the last picture's lightness before it."""
    made = jax.vmap(lambda key: jax.random.normal(key, (samples, 1)))(prepared["keys"])
    made = made * params["level"] * (1.0 + prepared["onsets"]).reshape(-1, 1, 1)
    made = made.at[:, 0, 0].set(prepared["light"]) * prepared["scale"]
    if prepared["known"] is not None:
        made = jnp.where(prepared["known"][1][..., None], made, prepared["known"][0])
    return course._replace(x=made, done=course.done + len(rows.time))


def finish(params, course, *, samples):
    return course.x


def table(steps):
    return SAMPLERS["ddim"](linear(steps))


def condition(when, samples):
    times = [onset.time for onset in when.onsets]
    return {"onsets": np.float32([*times, *[-1.0] * (4 - len(times))])}


def system_of(name="made_up", **fields):
    spec = {
        "video": jax.ShapeDtypeStruct((8, 5, 16, 16, 3), jnp.uint8),
        "video_mask": jax.ShapeDtypeStruct((8,), jnp.bool_),
    }
    given = {"init": None, "loss": None, "embed": None, "rules": (), "evaluators": {}, "flops": {}}
    return System(name=name, batch_spec=spec, headline="", **{**given, **fields})


@pytest.fixture
def trained():
    parts = (condition, table, begin, advance, finish)
    maker = Generator(RATE, 1, 1, "onsets", ("when",), (1.0,), 2, *parts)
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    return Trained(CONFIG, system_of(generator=maker), {"level": jnp.float32(0.1)}, None, mesh, 0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five clips, two of them of one length, one without a picture; their lights grow."""
    room = tmp_path_factory.mktemp("clips")
    for number, count in enumerate((12, 12, 19, 31)):
        pictures = [np.full((32, 48, 3), 40 * (number + 1), np.uint8)] * count
        sound = tone(count / 15, RATE)
        film = movie(pictures, Fraction(24000, 1001), sound=sound, sound_rate=RATE, form="mov")
        (room / f"clip{number}.mov").write_bytes(film)
    (room / "heard.wav").write_bytes(sound_file(tone(0.7, RATE), RATE, "WAV"))
    return room


def orders_of(where, out, **given):
    controls = Controls(1.0, When((Onset(0.1),)))
    return [(ask, controls) for ask in find_asks(str(where), str(out), **given)]


def made(trained, orders, options=OPTIONS):
    return {ask.media.name: wave for (ask, _), wave in sounds(trained, orders, options, None)}


def test_every_clip_gets_its_samples_alone_as_in_a_folder(trained, clips, tmp_path):
    found = made(trained, orders_of(clips, tmp_path))
    # round(frames · 1001/24000 · 8000)
    lengths = {"clip0.mov": 4004, "clip1.mov": 4004, "clip2.mov": 6340, "clip3.mov": 10344}
    assert {name: len(wave) for name, wave in found.items()} == {**lengths, "heard.wav": 5600}
    assert found["clip0.mov"].shape == (4004, 1)
    for name in ("clip2.mov", "heard.wav"):
        alone = made(trained, orders_of(clips / name, tmp_path / "x.mp4"))
        np.testing.assert_allclose(alone[name], found[name], rtol=1e-6)
    first, second = (found[f"clip{n}.mov"][1:] for n in (0, 1))
    assert np.abs(first - second).max() > 0.1  # each has its own noise
    lights = [found[f"clip{n}.mov"][0, 0] * 255 for n in range(4)]
    np.testing.assert_allclose(lights, [40, 80, 120, 160], atol=4)
    assert found["heard.wav"][0, 0] == 0
    assert np.std(first) == pytest.approx(0.2, rel=0.1)


def test_seed_and_scales_are_heard(trained, clips, tmp_path):
    orders = orders_of(clips / "clip0.mov", tmp_path / "x.mp4")
    one, again, other, double = (
        made(trained, orders, Options(seed, 2, (scale,)))["clip0.mov"]
        for seed, scale in ((0, 1.0), (0, 1.0), (1, 1.0), (0, 2.0))
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(double, 2 * one, rtol=1e-6)
    assert np.abs(one - other)[1:].max() > 0.1


def test_outside_the_span_every_sample_is_the_clips_own(trained, clips, tmp_path):
    orders = orders_of(clips / "clip2.mov", tmp_path / "x.mp4")
    found = made(trained, orders, Options(0, 2, (1.0,), span=(0.25, 0.5)))["clip2.mov"]
    own = decode_audio(clips / "clip2.mov", RATE)[:6340, None]
    own = np.pad(own, ((0, 6340 - len(own)), (0, 0)))
    np.testing.assert_array_equal(found[:2000], own[:2000])
    np.testing.assert_array_equal(found[4000:], own[4000:])
    new = made(trained, orders)["clip2.mov"]
    np.testing.assert_array_equal(found[2080:3920], new[2080:3920])  # within the crossfades
    assert np.abs(new - own)[2080:3920].max() > 0.1


@pytest.mark.parametrize("span", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.2), (0.1, 1.0), (2.0, 3.0)])
def test_a_span_lies_in_the_clip(clips, tmp_path, span):
    ask = find_asks(str(clips / "clip2.mov"), str(tmp_path / "x.mp4"))[0]
    with pytest.raises(UserError, match=r"--span .* which is 0\.792 s long"):
        check_span(ask, span)
    check_span(ask, (0.1, 0.7924))


def test_a_sound_that_is_no_number_is_told(trained, clips, tmp_path):
    broken = trained._replace(params={"level": jnp.float32(np.nan)})
    with pytest.raises(UserError, match=r"clip0\.mov.*not of finite numbers"):
        made(broken, orders_of(clips / "clip0.mov", tmp_path / "x.mp4"))


def test_an_envelope_ends_with_the_clip(trained, clips, tmp_path):
    """Held to the end of the latent that holds the clip's end, silence after it."""

    def level(when, samples):
        return {"envelope": np.full((samples, 2), amplitudes(when.envelope)[-1])}

    maker = replace(trained.system.generator, when="envelope", unit=1000, condition=level)
    run = trained._replace(system=replace(trained.system, generator=maker))
    ask = find_asks(str(clips / "clip2.mov"), str(tmp_path / "x.mp4"))[0]
    controls = Controls(0.792, When(envelope=Envelope(10.0, (-80.0, -20.0))))
    found = request(run, ask, controls, 8000, None, "")
    assert found["envelope"].shape == (8000, 2)
    np.testing.assert_allclose(found["envelope"][:7000], 0.1)  # of 6340 samples
    assert not found["envelope"][7000:].any()
    assert found["video"].shape == (10, 16, 16, 3)
    check_followed(ask, controls, "envelope")
    with pytest.raises(UserError, match="holds no value"):
        check_followed(ask, Controls(0.792, When(envelope=Envelope(10.0, ()))), "envelope")


def test_what_makes_no_sound_is_told(trained):
    with pytest.raises(UserError, match="the system made_up makes no sound"):
        generation.find_generator(trained._replace(system=system_of()))


def flashing(path, hits, count=64):
    """A dark film at 10 frames a second that is light in some of its frames."""
    pictures = [np.full((32, 32, 3), 250 * (n in hits), np.uint8) for n in range(count)]
    path.write_bytes(movie(pictures, Fraction(10), gop=1))
    return path


@pytest.mark.parametrize("name", ["onset", "envelope"])
def test_what_a_network_says_of_windows_is_put_together_in_time(trained, tmp_path, name):
    """The network says how light it is; windows are of 5 frames, the clip has 64."""
    hits = (3, 21, 22, 47, 63)

    def embed(params, batch):
        light = batch["video"].astype(jnp.float32).mean((2, 3, 4)) / 255.0
        steps = jnp.repeat(light, 25, axis=1)[:, ::2] if name == "envelope" else light
        return {"envelope": steps} if name == "envelope" else {"logits": 20.0 * light - 5.0}

    run = trained._replace(system=system_of(name, embed=embed))
    film = flashing(tmp_path / "film.mp4", hits)
    ask = find_asks(str(film), str(tmp_path / "x.mp4"))[0]
    assert frames(ask, CONFIG.inputs, 6.4).shape == (64, 16, 16, 3)
    found = controls_of(ask, Predictor(run), (), "a bell").when
    if name == "onset":
        assert [onset.time for onset in found.onsets] == pytest.approx([0.35, 2.2, 4.75, 6.35])
        assert found.envelope is None
    else:
        db = np.asarray(found.envelope.db)
        assert len(db) == 320
        inside = db.reshape(64, 5)[:, 1:]  # the first value of a frame lies on its edge
        assert set(np.flatnonzero((inside > -6).all(1))) == set(hits)
        assert set(np.flatnonzero((inside > -30).any(1))) == set(hits)


def test_controls_come_from_a_file_before_all_else_or_from_the_sound(clips, tmp_path):
    file = tmp_path / "a.controls.json"
    given = Controls(0.5, When((Onset(0.2),)), What("a drum"))
    file.write_text(dump(given))
    where = (str(clips / "clip0.mov"), str(tmp_path / "x.mp4"))
    ask = find_asks(*where, controls=str(file))[0]
    assert controls_of(ask, None, (), "") == given
    assert controls_of(ask, None, (), "a bell").what.caption == "a bell"
    with pytest.raises(UserError, match="gain=3 edits the envelope"):
        controls_of(ask, None, (("gain", 3.0),), "")
    heard = controls_of(find_asks(*where)[0], None, (("gate", -20.0),), "")
    assert heard.duration == float(Fraction(12 * 1001, 24000))
    assert max(heard.when.envelope.db) == pytest.approx(-9.0, abs=0.2)  # a sine at a half
    assert parse(laid_out_text(heard)) == heard
    with pytest.raises(UserError, match=r"follows envelope, and its controls hold onsets$"):
        check_followed(ask, given, "envelope")
    file.write_text(dump(Controls(2.0, When((Onset(0.2),)))))
    with pytest.raises(
        UserError, match=r"of a clip of 2\.000 s, and .*clip0\.mov is 0\.500 s long"
    ):
        controls_of(ask, None, (), "")
    file.write_text("{")
    with pytest.raises(UserError, match=r"a\.controls\.json: controls: not JSON"):
        controls_of(ask, None, (), "")


def laid_out_text(controls):
    """As the door writes it: an onset or a curve a line, whatever the texts hold."""
    text = laid_out(json.loads(dump(controls)))
    assert json.loads(text) == json.loads(dump(controls))
    return text


def test_a_controls_file_is_for_people():
    when = When((Onset(0.25), Onset(0.5, label="[a  {b}]")), None, Envelope(50.0, (-80.0, -20.5)))
    text = laid_out_text(Controls(1.0, when, What("a  “bell”")))
    assert '      {"time": 0.25, "strength": 1.0},\n' in text
    assert '"db": [-80.0, -20.5]' in text
    assert "“bell”" in text


def test_a_silent_clip_without_controls_names_the_ways(tmp_path):
    film = flashing(tmp_path / "film.mp4", (1,), 8)
    ask = find_asks(str(film), str(tmp_path / "x.mp4"))[0]
    with pytest.raises(UserError, match=r"--controls FILE; .*--when RUN; .*--sound FILE"):
        controls_of(ask, None, (), "")
    with pytest.raises(UserError, match="no sound to keep"):
        check_span(ask, (0.1, 0.2))


def test_names_of_a_folder_are_kept_and_broken_files_left_out(clips, tmp_path, capsys):
    room = tmp_path / "room"
    (room / "sub").mkdir(parents=True)
    for name in ("a.mov", "a.mkv", "sub/b.c.mov"):
        (room / name).write_bytes((clips / "clip0.mov").read_bytes())
    (room / "broken.mp4").write_bytes(b"not a film at all")
    (room / "captions.csv").write_text(
        "video,caption\na.mov,a bell\na.mkv,\nsub/b.c.mov,\nbroken.mp4,\n"
    )
    out = tmp_path / "out"
    asks = find_asks(str(room), str(out))
    names = [str(ask.out.relative_to(out)) for ask in asks]
    assert names == ["a.mov.mp4", "a.mkv.mp4", "sub/b.c.mp4"]
    assert asks[2].beside(".wav") == out / "sub/b.c.wav"
    assert [ask.caption for ask in asks] == ["a bell", "", ""]
    assert "left out: " in capsys.readouterr().out
    parts = [find_asks(str(room), str(out), part=f"{n}/2") for n in range(2)]
    assert [[ask.out.name for ask in part] for part in parts] == [
        ["a.mov.mp4", "b.c.mp4"],
        ["a.mkv.mp4"],
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"video": "nowhere"}, "--video nowhere: there is no such file or folder"),
        ({"out": "x.ogg"}, "its name must end in .mp4"),
        ({"controls": "none.json"}, "there is no controls file none.json"),
        ({"sound": "none.wav"}, "--sound none.wav: there is no such file"),
        ({"part": "0/2"}, "--part is for a folder"),
        ({"out": "/proc/none/x.mp4"}, "nothing can be written to /proc/none"),
    ],
)
def test_what_is_asked_for_must_be_there(clips, tmp_path, given, words):
    usual = {"video": str(clips / "clip0.mov"), "out": str(tmp_path / "x.mp4")}
    with pytest.raises(UserError) as caught:
        find_asks(**{**usual, **given})
    assert words in str(caught.value)


def test_the_clip_is_never_written_over(clips, tmp_path):
    film, heard = str(clips / "clip0.mov"), str(clips / "heard.wav")
    for given, out, sound in (
        (film, film, ""),
        (heard, str(clips / "heard.mp4"), ""),
        (film, str(clips / "heard.mp4"), heard),
        (str(clips), str(clips), ""),
    ):
        with pytest.raises(UserError, match=r"would overwrite .* itself: give another name"):
            find_asks(given, out, sound=sound)
    with pytest.raises(UserError, match=r"--part '2/2' is not K/N"):
        find_asks(str(clips), str(tmp_path), part="2/2")
    with pytest.raises(UserError, match="--controls must be a folder"):
        find_asks(str(clips), str(tmp_path), controls=str(clips / "heard.wav"))
    with pytest.raises(UserError, match="--sound is for one clip"):
        find_asks(str(clips), str(tmp_path), sound=str(clips / "heard.wav"))
