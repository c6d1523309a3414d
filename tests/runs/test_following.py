"""Evaluation under controls that another run predicts: which array goes to which clip."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from making_media import sound_file, tone

from weavejax.data.folder import open_folder
from weavejax.data.moments import MomentSpec
from weavejax.errors import UserError
from weavejax.metrics.report import Report
from weavejax.runs import following
from weavejax.runs.assemble import Data
from weavejax.runs.evaluation import make_evaluation
from weavejax.runs.restore import Trained
from weavejax.runtime.mesh import batch_sharding, make_mesh, replicated
from weavejax.systems.base import Generator, System

RATE, CLIPS, BATCH = 8000, 6, 4  # the last batch is filled up


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    room = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        wave = tone(0.5, RATE) * (number + 1) / CLIPS
        (room / f"{number}.wav").write_bytes(sound_file(wave, RATE, "WAV"))
    source = open_folder(room, split="all")
    spec = MomentSpec(seconds=0.5, side=0, rate=RATE, stereo=False, onsets=0)
    return Data(source, source, False, spec, None, "")


def system_of(name="made_up", **fields):
    spec = {"sound": jax.ShapeDtypeStruct((BATCH, 4000, 1), jnp.float32)}
    given = {"init": None, "loss": None, "embed": None, "rules": ()}
    given |= {"evaluators": {}, "flops": {}}
    return System(name=name, batch_spec=spec, headline="", **{**given, **fields})


def embed(params, batch):
    del params
    found = {"loud": jnp.abs(batch["sound"]).max((1, 2))}
    return found | {name: batch[name] for name in batch if name.startswith("told_")}


def correlation(found):
    """Between each clip's level and the number that it was told."""
    valid = found["valid"]
    told, loud = found["told_number"][valid], found["loud"][valid]
    return Report({"n": valid.sum(), "r": np.corrcoef(told, loud)[0, 1]})


def test_every_clip_is_told_what_was_predicted_of_it(data):
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    config = ConfigDict({"runtime": {"evaluate_batch": BATCH}})
    system = system_of(embed=embed, told={"told": correlation})
    placed = replicated(mesh)
    told = {"number": np.arange(CLIPS, dtype=np.float32)}
    reports, _ = make_evaluation(system, config, data, placed, mesh, told)({})
    assert reports["told"].scalars == {"n": CLIPS, "r": pytest.approx(1.0, abs=1e-3)}
    assert not make_evaluation(system, config, data, placed, mesh)({})[0]  # untold, it is not asked


def condition(when, samples):
    """The mean of the curve, and the number of its values, as made for so many samples."""
    return {"level": np.float32([np.mean(when.envelope.db), samples])}


def run_of(name, seconds, embed):
    config = {
        "inputs": {"kind": "moments", "seconds": seconds, "side": 0, "rate": RATE, "fps": 10.0}
    }
    config["inputs"] |= {"stereo": False, "onsets": 0}
    config["runtime"] = {"evaluate_batch": BATCH}
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    spec = {
        "sound": jax.ShapeDtypeStruct((BATCH, 4000, 1), jnp.float32),
        "video": jax.ShapeDtypeStruct((BATCH, 5, 8, 8, 3), jnp.uint8),
    }
    system = system_of(name, embed=embed)
    seen = System(**{**vars(system), "batch_spec": spec})
    return Trained(ConfigDict(config), seen, {}, batch_sharding(mesh), mesh, 0)


def trained_of(seconds):
    maker = Generator(RATE, 1, 1, "envelope", ("when",), (1.0,), 2, condition, *[None] * 4)
    config = ConfigDict({"inputs": {"seconds": seconds}})
    return Trained(config, system_of(generator=maker), {}, None, None, 0)


def test_a_run_that_sees_other_windows_or_predicts_something_else_is_refused(data, monkeypatch):
    run = run_of("envelope", 0.5, None)
    monkeypatch.setattr(following, "restore", lambda place: run)
    with pytest.raises(UserError, match=r"inputs.seconds is 0.5 there, 2.0 here"):
        following.predicted("runs/envelope", trained_of(2.0), data)
    run = run_of("gram", 0.5, None)
    with pytest.raises(UserError, match="the system gram predicts no controls"):
        following.predicted("runs/gram", trained_of(0.5), data)


def test_predictions_become_the_arrays_that_the_system_takes(data, monkeypatch):
    def predict(found):
        level = found["sound"].max((1, 2))
        return {"envelope": np.repeat(np.asarray(level)[:, None], 62, axis=1)}

    run = run_of("envelope", 0.5, None)
    monkeypatch.setattr(following, "restore", lambda place: run)

    def embedding(*_):
        def embed(params, batches):
            return {"envelope": np.concatenate([predict(host)["envelope"] for host in batches])}

        return embed

    monkeypatch.setattr(following, "make_embedding", embedding)
    found = following.predicted("runs/envelope", trained_of(0.5), data)["level"]
    assert found.shape == (CLIPS, 2)
    assert (np.diff(found[:, 0]) > 0).all()  # louder from clip to clip
    assert (found[:, 1] == 4000).all()
