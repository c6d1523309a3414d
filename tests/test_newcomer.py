"""What the README says a newcomer edits is all there is to edit: each addition, made here."""

import io

import jax
import jax.numpy as jnp
import soundfile

from weavejax import systems
from weavejax.data.sources import open_tfds, prepare_tfds
from weavejax.losses import SCORES
from weavejax.losses.score import pairwise
from weavejax.metrics.report import Report
from weavejax.runtime.loop import Every, Window, train_loop
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.base import System
from weavejax.testing import fake_batch, no_wishes, tiny_gram

DATA_SET = '''
"""Beeps."""
import io
import numpy as np
import soundfile
import tensorflow_datasets as tfds

text, data = tfds.features.Text, tfds.features.Scalar

with tfds.core.registered.skip_registration():

    class Beeps(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            features = {"id": text(), "video": data(np.object_), "audio": data(np.object_),
                        "captions": tfds.features.Sequence(text()), "subtitle": text(),
                        "controls": text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(self.count)}

        def _generate_examples(self, count):
            for i in range(count):
                file = io.BytesIO()
                wave = np.sin(np.arange(8000) * 0.1 * (i + 1))
                soundfile.write(file, wave, 16000, format="FLAC")
                yield i, {"id": f"beep{i}", "video": b"", "audio": file.getvalue(),
                          "captions": [f"beep {i}"], "subtitle": "", "controls": ""}


def builder(data_dir, count=3):
    made = Beeps(data_dir=data_dir, file_format="array_record")
    made.count = count
    return made
'''


def test_a_data_set_is_one_folder(tmp_path, monkeypatch):
    folder = tmp_path / "datasets" / "beeps_of_a_newcomer"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(DATA_SET)
    monkeypatch.syspath_prepend(str(folder.parent))
    source = open_tfds(prepare_tfds(folder, tmp_path / "data", {"count": 4}), "train")
    assert sorted(source.id(i) for i in range(len(source))) == [f"beep{i}" for i in range(4)]
    assert soundfile.info(io.BytesIO(source[0].audio)).samplerate == 16000


class Recorder:
    """The hooks of a loop that only notes what happens."""

    def __init__(self, mesh):
        self.mesh, self.losses, self.evaluations, self.saved, self.told = mesh, [], [], [], []

    def before(self, step, batch):
        return put_batch(batch, batch_sharding(self.mesh)), no_wishes(self.mesh)

    def after(self, step, told):
        self.told.append(told)

    def first(self):
        pass

    def log(self, step, metrics, timing):
        self.losses.append(metrics["loss"])

    def evaluated(self, step):
        return True

    def evaluate(self, state):
        self.evaluations.append(int(state.step))
        return True

    def save(self, state, window, timing):
        self.saved.append(int(state.step))


def train(system, config, steps):
    """`train_loop` as the door runs it; returns the logged losses."""
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    config.steps = steps
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    state = layout.init(jax.random.key(0))
    batch, hooks = fake_batch(system.batch_spec), Recorder(mesh)
    every = Every(log=1, evaluate=4, save=2, steps=steps)
    state, timing, stopped = train_loop(state, step, iter([batch] * steps), every, hooks, Window())
    assert int(state.step) == steps
    assert not stopped
    assert timing.steps == steps - 1
    assert hooks.evaluations == list(range(4, steps + 1, 4))
    assert hooks.saved == list(range(2, steps + 1, 2))
    return hooks.losses


def test_a_score_is_one_function_and_one_entry(monkeypatch):
    nearest = pairwise(lambda anchor, clip, present: (clip @ anchor.T).max(1).T)
    monkeypatch.setitem(SCORES, "nearest", nearest)
    config = tiny_gram()
    config.loss.score, config.loss.warmup_steps, config.optim.lr = "nearest", 0, 3e-3
    losses = train(systems.build(config), config, 8)
    assert losses[-1] < losses[0]


def toy_system(config):
    """Loudness of the sound from the mean colour of the picture: a line, to be learnt."""
    size = config.batch

    def predict(params, batch):
        colour = batch["video"].astype(jnp.float32).mean((1, 2, 3)) / 255.0
        return colour @ params["line"]["kernel"]

    def loss(params, batch, key, step):
        error = jnp.square(predict(params, batch) - batch["audio"].mean((1, 2, 3))[:, None])
        return error.mean(), {"loss": (error.sum(), jnp.float32(size))}

    return System(
        name="toy",
        batch_spec={
            "video": jax.ShapeDtypeStruct((size, 2, 4, 4, 3), jnp.uint8),
            "audio": jax.ShapeDtypeStruct((size, 1, 4, 4), jnp.float32),
        },
        init=lambda key: {"line": {"kernel": jax.random.normal(key, (3, 1))}},
        loss=loss,
        embed=lambda params, batch: {"loudness": predict(params, batch)},
        rules=((r"line/kernel$", ()),),
        evaluators={"mean": lambda out: Report({"loudness": float(out["loudness"].mean())})},
        flops={"line": 6.0},
        headline="mean/loudness",
    )


def test_a_system_is_one_file_and_one_entry(monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "toy", toy_system)
    config = tiny_gram(system="toy")
    config.optim.lr = 0.05
    losses = train(systems.build(config), config, 8)
    assert losses[-1] < 0.9 * losses[0]
